#include <algorithm>
#include <map>

#include "core/error.h"
#include "merge/fold.h"

namespace weft::merge {
namespace {

using checkpoint::Storage;
using checkpoint::TensorInfo;

bool is_block_format(Storage storage) {
  return storage != Storage::kF32 && storage != Storage::kF16 && storage != Storage::kBF16 &&
         storage != Storage::kOther;
}

void require_numbers(const TensorInfo& tensor) {
  if (tensor.storage != Storage::kOther) return;
  throw InputError(
      "'{}': tensor '{}' is stored as {}, which weft cannot read as numbers; merge into "
      "the model before it was quantised or converted",
      tensor.file.string(), tensor.name, tensor.storage_name);
}

/// The type that most numbers of the output have.
core::DType prevailing(const std::vector<FoldPlan::Tensor>& tensors) {
  std::map<core::DType, std::int64_t> counts;
  for (const FoldPlan::Tensor& tensor : tensors) {
    if (tensor.copied.empty()) counts[tensor.dtype] += tensor.info->elements();
  }
  const auto most = std::ranges::max_element(counts, {}, [](const auto& c) { return c.second; });
  return most == counts.end() ? core::DType::kF32 : most->first;
}

/// Every tensor of the output with what it starts from, in order of name.
std::vector<FoldPlan::Tensor> outputs_of(const checkpoint::Checkpoint& base, Changes& changes) {
  std::map<std::string, FoldPlan::Tensor> outputs;
  for (const TensorInfo& tensor : base.tensors()) {
    outputs[tensor.name] = {&tensor, core::DType::kF32, {}, tensor.name, &base, {}};
  }
  for (auto& [name, change] : changes.tensors) {
    outputs[name] = {change.info, core::DType::kF32, std::move(change.uses),
                     name,        change.source,     {}};
  }
  std::vector<FoldPlan::Tensor> tensors;
  for (auto& [name, tensor] : outputs) tensors.push_back(std::move(tensor));
  return tensors;
}

/// The type that a tensor has when its own is kept: the base's, also where an adapter's takes its
/// place.
Storage kept_storage(const checkpoint::Checkpoint& base, const FoldPlan::Tensor& tensor) {
  if (tensor.source == &base) return tensor.info->storage;
  const TensorInfo* own = base.find(tensor.name);
  if (own == nullptr) own = embedding_of(base);
  return own == nullptr ? tensor.info->storage : own->storage;
}

}  // namespace

core::DType own_dtype(Storage storage) noexcept {
  return storage == Storage::kF16    ? core::DType::kF16
         : storage == Storage::kBF16 ? core::DType::kBF16
                                     : core::DType::kF32;
}

FoldPlan plan_fold(const checkpoint::Checkpoint& base, std::span<const WeightedAdapter> adapters,
                   std::optional<core::DType> dtype, std::uint64_t max_shard_bytes) {
  Changes changes = match_changes(base, adapters);
  const bool blocks = std::ranges::any_of(
      base.tensors(), [](const TensorInfo& tensor) { return is_block_format(tensor.storage); });
  FoldPlan plan;
  plan.widened = !dtype && blocks;
  if (plan.widened) dtype = core::DType::kF32;
  plan.tied = changes.tied;
  plan.untied = changes.untied;
  plan.untied_because = changes.why;
  plan.vocabulary = changes.vocabulary;
  plan.without_effect = std::move(changes.without_effect);
  plan.tensors = outputs_of(base, changes);
  std::vector<checkpoint::TensorPlan> outputs;
  for (FoldPlan::Tensor& tensor : plan.tensors) {
    if (tensor.uses.empty() && is_copied_buffer(*tensor.info)) {
      tensor.copied = tensor.info->storage_name;
    } else {
      require_numbers(*tensor.info);
    }
    tensor.dtype = dtype.value_or(own_dtype(kept_storage(base, tensor)));
    outputs.push_back(
        {tensor.name,
         tensor.copied.empty() ? std::string(core::name_of(tensor.dtype)) : tensor.copied,
         tensor.info->shape});
    plan.bytes += outputs.back().bytes();
  }
  plan.shards = checkpoint::plan_shards(std::move(outputs), max_shard_bytes);
  plan.model_dtype = dtype.value_or(prevailing(plan.tensors));
  return plan;
}

}  // namespace weft::merge
