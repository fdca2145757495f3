#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "core/error.h"
#include "lora/targets.h"
#include "merge/fold.h"

namespace weft::merge {
namespace {

using checkpoint::Storage;
using checkpoint::TensorInfo;

bool is_block_format(Storage storage) {
  return storage != Storage::kF32 && storage != Storage::kF16 && storage != Storage::kBF16 &&
         storage != Storage::kOther;
}

core::DType own_dtype(Storage storage) {
  return storage == Storage::kF16    ? core::DType::kF16
         : storage == Storage::kBF16 ? core::DType::kBF16
                                     : core::DType::kF32;
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
  for (const FoldPlan::Tensor& tensor : tensors) counts[tensor.dtype] += tensor.info->elements();
  const auto most = std::ranges::max_element(counts, {}, [](const auto& c) { return c.second; });
  return most == counts.end() ? core::DType::kF32 : most->first;
}

/// Every layer of the base that the configuration chooses has factors.
void require_complete(const checkpoint::Checkpoint& base, const lora::PeftFile& adapter) {
  std::set<std::string_view> present;
  for (const lora::Target& target : adapter.targets()) present.insert(target.module.path);
  const lora::TargetRule rule(adapter.config());
  for (const lora::Module& module : lora::linear_modules(base)) {
    if (present.contains(module.path) || !rule.selects(module.path)) continue;
    throw InputError(
        "adapter '{}' chooses '{}' in '{}' but has no factors for it; it is incomplete, or "
        "was trained on another model",
        adapter.directory().string(), module.path, base.path().string());
  }
}

}  // namespace

std::map<std::string, std::vector<FoldPlan::Use>> match_adapters(
    const checkpoint::Checkpoint& base, std::span<const WeightedAdapter> adapters) {
  std::map<std::string, std::vector<FoldPlan::Use>> uses;
  for (std::size_t i = 0; i < adapters.size(); ++i) {
    const std::vector<lora::Target>& targets = adapters[i].file->targets();
    for (std::size_t t = 0; t < targets.size(); ++t) {
      uses[lora::base_weight(base, targets[t]).name].push_back({i, t});
    }
    require_complete(base, *adapters[i].file);
  }
  return uses;
}

FoldPlan plan_fold(const checkpoint::Checkpoint& base, std::span<const WeightedAdapter> adapters,
                   std::optional<core::DType> dtype, std::uint64_t max_shard_bytes) {
  std::map<std::string, std::vector<FoldPlan::Use>> uses = match_adapters(base, adapters);
  const bool blocks = std::ranges::any_of(
      base.tensors(), [](const TensorInfo& tensor) { return is_block_format(tensor.storage); });
  FoldPlan plan;
  plan.widened = !dtype && blocks;
  if (plan.widened) dtype = core::DType::kF32;
  std::vector<checkpoint::TensorPlan> outputs;
  for (const TensorInfo& tensor : base.tensors()) {
    require_numbers(tensor);
    const core::DType type = dtype.value_or(own_dtype(tensor.storage));
    plan.tensors.push_back({&tensor, type, uses[tensor.name]});
    outputs.push_back({tensor.name, std::string(core::name_of(type)), tensor.shape});
    plan.bytes += outputs.back().bytes();
  }
  plan.shards = checkpoint::plan_shards(std::move(outputs), max_shard_bytes);
  plan.model_dtype = dtype.value_or(prevailing(plan.tensors));
  return plan;
}

}  // namespace weft::merge
