#include "merge/extract.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "core/error.h"
#include "core/output_claim.h"
#include "lora/targets.h"
#include "merge/model_folder.h"
#include "merge/tensor_input.h"

namespace weft::merge {
namespace {

using checkpoint::Checkpoint;
using checkpoint::TensorInfo;

/// model - base, row by row.
class Difference final : public RowDeltas {
 public:
  Difference(TensorInput model, TensorInput base)
      : model_(std::move(model)), base_(std::move(base)) {}

  [[nodiscard]] std::int64_t stride() const noexcept override { return base_.columns(); }
  void compute(std::int64_t begin, std::span<double> out) const override {
    read_difference(model_, base_, begin, std::min(begin + kRowBlock, base_.rows()), out);
  }
  [[nodiscard]] RowMatrix matrix() const { return {this, base_.rows(), base_.columns()}; }

  /// True when any number differs.
  [[nodiscard]] bool any() const {
    std::vector<double> rows(static_cast<std::size_t>(kRowBlock * stride()));
    for (std::int64_t begin = 0; begin < base_.rows(); begin += kRowBlock) {
      std::ranges::fill(rows, 0.0);
      compute(begin, rows);
      if (std::ranges::any_of(rows, [](double value) { return value != 0; })) return true;
    }
    return false;
  }
  void release() const {
    model_.release(0, model_.rows());
    base_.release(0, base_.rows());
  }

 private:
  TensorInput model_;
  TensorInput base_;
};

const TensorInfo& counterpart(const Checkpoint& model, const TensorInfo& tensor) {
  const TensorInfo* found = model.find(tensor.name);
  if (found == nullptr) {
    throw InputError(
        "'{}' has no tensor '{}', which the base has: they do not have the same "
        "architecture",
        model.path().string(), tensor.name);
  }
  if (found->shape != tensor.shape) {
    throw InputError("tensor '{}' has shape [{}] in '{}' and [{}] in the base", tensor.name,
                     fmt::join(found->shape, ", "), model.path().string(),
                     fmt::join(tensor.shape, ", "));
  }
  return *found;
}

/// Whether PEFT finds a linear layer under that path whatever version of transformers holds the
/// model: routers and experts of a mixture are parameters of other kinds of modules there.
bool is_plain_layer(const Checkpoint& base, const std::string& path) {
  const std::size_t dot = path.rfind('.');
  if (path.find(".experts.") != std::string::npos || dot == std::string::npos) {
    return path.find(".experts.") == std::string::npos;
  }
  const std::string_view name = lora::last_name(path);
  if (name == "router") return false;
  if (name != "gate") return true;
  const std::string experts = path.substr(0, dot) + ".experts";
  return std::ranges::none_of(
      base.tensors(), [&](const TensorInfo& tensor) { return tensor.name.starts_with(experts); });
}

/// The factors of one layer; nothing where the models agree.
std::optional<std::pair<lora::Factors, ModuleError>> extract_layer(const ExtractRequest& request,
                                                                   const Checkpoint& model,
                                                                   const Checkpoint& base,
                                                                   const lora::Module& module) {
  const TensorInfo& tensor = *base.find(module.path + ".weight");
  const Difference difference({&model, &counterpart(model, tensor)}, {&base, &tensor});
  const LowRank low = truncate_rows(difference.matrix(), request.rank, request.svd);
  difference.release();
  if (!std::isfinite(low.norm)) {
    throw InputError("tensor '{}' holds numbers that are not finite", tensor.name);
  }
  if (low.norm == 0) return std::nullopt;
  lora::Factors factors = make_factors(module, low.rank);
  if (!lora::stores_input_first(base, module.path)) {
    factors.a = low.right;
    factors.b = low.left;
  } else {  // D is [in, out]: the update is its transpose.
    for (std::int64_t k = 0; k < low.rank; ++k) {
      for (std::int64_t i = 0; i < module.in; ++i) {
        factors.a[static_cast<std::size_t>(k * module.in + i)] =
            low.left[static_cast<std::size_t>(i * low.rank + k)];
      }
      for (std::int64_t o = 0; o < module.out; ++o) {
        factors.b[static_cast<std::size_t>(o * low.rank + k)] =
            low.right[static_cast<std::size_t>(k * module.out + o)];
      }
    }
  }
  return std::pair{std::move(factors), ModuleError{module.path, low.rank, low.norm, low.error}};
}

/// Tensors besides the linear layers that an adapter leaves as they are in the base.
std::vector<std::string> left_out(const Checkpoint& model, const Checkpoint& base,
                                  const std::vector<lora::Module>& modules) {
  std::set<std::string> held;
  for (const lora::Module& module : modules) held.insert(module.path + ".weight");
  std::vector<std::string> names;
  for (const TensorInfo& tensor : base.tensors()) {
    if (held.contains(tensor.name) || tensor.storage == checkpoint::Storage::kOther) continue;
    const TensorInfo* other = model.find(tensor.name);
    if (other == nullptr || other->shape != tensor.shape) {
      names.push_back(tensor.name);
      continue;
    }
    const Difference difference({&model, other}, {&base, &tensor});
    if (difference.any()) names.push_back(tensor.name);
    difference.release();
  }
  for (const TensorInfo& tensor : model.tensors()) {
    if (base.find(tensor.name) == nullptr) names.push_back(tensor.name);
  }
  return names;
}

}  // namespace

AdapterReport extract_adapter(const ExtractRequest& request, const core::Log& log) {
  if (request.rank < 1) throw ConfigError("--rank {} is no rank; it is at least 1", request.rank);
  const std::array inputs{request.model, request.base};
  core::claim_output({request.out, core::OutputKind::kFolder}, inputs, request.overwrite);
  const Checkpoint model = Checkpoint::open(request.model);
  const Checkpoint base = Checkpoint::open(request.base);
  std::vector<lora::Module> modules = lora::linear_modules(base);
  std::erase_if(modules,
                [&](const lora::Module& module) { return !is_plain_layer(base, module.path); });
  for (const lora::Module& module : modules) {
    [[maybe_unused]] const TensorInfo& fits =
        counterpart(model, *base.find(module.path + ".weight"));
  }
  AdapterReport report;
  report.method = request.svd == Svd::kExact ? "extract (exact svd)" : "extract (randomised svd)";
  report.model = request.model;
  report.base = request.base;
  lora::Adapter adapter;
  adapter.config.base_model_name_or_path = request.base.string();
  for (const lora::Module& module : modules) {
    auto layer = extract_layer(request, model, base, module);
    if (!layer) continue;
    adapter.config.fan_in_fan_out |= lora::stores_input_first(base, module.path);
    adapter.factors.push_back(std::move(layer->first));
    report.modules.push_back(std::move(layer->second));
  }
  if (report.modules.empty()) {
    throw InputError("no linear layer of '{}' differs from '{}': there is nothing to extract",
                     request.model.string(), request.base.string());
  }
  report.left_out = left_out(model, base, modules);
  if (!report.left_out.empty()) {
    core::tell(log, core::Level::kWarning,
               fmt::format("{} tensors differ that are no linear layers, and an adapter does not "
                           "hold them: {}{}",
                           report.left_out.size(),
                           fmt::join(report.left_out.begin(),
                                     report.left_out.begin() +
                                         std::min<std::ptrdiff_t>(3, std::ssize(report.left_out)),
                                     ", "),
                           report.left_out.size() > 3 ? ", ..." : ""));
  }
  adapter.provenance = lora::Provenance{};
  adapter.provenance->base_weights = base.weights_digest();
  adapter.provenance->base_storage = storage_text(base);
  write_adapter(std::move(adapter), report, request.out, request.overwrite);
  return report;
}

}  // namespace weft::merge
