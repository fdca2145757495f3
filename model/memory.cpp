#include "model/memory.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <set>
#include <string>

#include "model/head.h"

namespace weft::model {
namespace {

std::uint64_t bytes(std::int64_t elements, std::int64_t size) {
  return static_cast<std::uint64_t>(elements) * static_cast<std::uint64_t>(size);
}

/// Layers below the lowest one with an adapter, which keep nothing.
std::int64_t lowest_layer(const Spec& spec, std::span<const lora::Target> targets) {
  const std::vector<lora::Module> modules = linear_modules(spec);
  const auto is_target = [&](const lora::Module& module) {
    return std::ranges::any_of(targets,
                               [&](const auto& t) { return t.module.path == module.path; });
  };
  const auto first = std::ranges::find_if(modules, is_target) - modules.begin();
  return first * spec.layers / std::max<std::int64_t>(1, std::ssize(modules));
}

/// Bytes that a token takes on its way, at most, and for which the order of layer.cpp is followed.
class Activations {
 public:
  Activations(const Spec& spec, const Workload& load, std::int64_t ranks)
      : d_(spec.hidden),
        q_(spec.q_width()),
        qkv_(spec.q_width() + 2 * spec.kv_width()),
        f_(spec.intermediate),
        element_(load.compute == Compute::kBF16 ? 2 : 4),
        ranks_(ranks),
        dropped_(load.dropout ? std::max({d_, q_, f_}) : 0),
        statistics_(4 * (2 + spec.heads)) {}

  /// A layer's forward that keeps nothing: input, sum after attention, and the widest of what
  /// follows.
  [[nodiscard]] std::int64_t forward() const {
    return element_ * (2 * d_ + std::max(d_ + qkv_ + q_, 2 * f_ + std::max(d_, f_)) + dropped_);
  }
  /// LayerState: x, y, qkv, attended, gate and up, ranks; the norms' and attention's statistics.
  [[nodiscard]] std::int64_t state() const {
    return element_ * (2 * d_ + qkv_ + q_ + 2 * f_ + ranks_) + statistics_;
  }
  [[nodiscard]] std::int64_t input() const { return element_ * d_; }
  /// The end of a forward that keeps its state: the last activation and the output.
  [[nodiscard]] std::int64_t forward_end() const { return element_ * (f_ + d_); }
  /// Last hidden states and their gradient, and for the supervised positions both norms' sides with
  /// gradients.
  [[nodiscard]] std::int64_t head() const { return element_ * 6 * d_; }
  /// The residual stream's gradient and the widest of a layer's others, beside its state.
  [[nodiscard]] std::int64_t backward() const {
    return element_ * (d_ + 2 * ranks_ + std::max({2 * f_, 2 * d_, q_ + qkv_ - 2 * f_}) + dropped_);
  }

 private:
  std::int64_t d_, q_, qkv_, f_, element_, ranks_;
  std::int64_t dropped_;  ///< An adapter's input after dropout, beside the input itself.
  std::int64_t statistics_;
};

}  // namespace

MemoryNeed memory_need(const Spec& spec, std::span<const lora::Target> targets,
                       const Workload& load) {
  const std::int64_t element = load.compute == Compute::kBF16 ? 2 : 4;
  constexpr std::int64_t kMaster = 4;
  MemoryNeed need;
  std::set<std::string> linear;
  for (const lora::Module& module : linear_modules(spec)) linear.insert(module.path + ".weight");
  for (const WeightShape& one : weight_shapes(spec)) {
    const auto columns = one.shape.back();
    const auto rows = std::accumulate(one.shape.begin(), one.shape.end() - 1, std::int64_t{1},
                                      std::multiplies<>());
    const bool is_linear = linear.contains(one.name);
    need.weights +=
        frozen_bytes(is_linear ? load.base : BaseFormat::kDense, rows, columns, element);
  }
  std::int64_t parameters = 0;
  std::int64_t ranks = 0;
  for (const lora::Target& target : targets) {
    parameters += target.parameters();
    ranks += target.rank;
  }
  constexpr std::int64_t kMasterGradientAndMoments = 4;
  need.adapter = bytes(parameters, kMaster * (load.training ? kMasterGradientAndMoments : 1)) +
                 bytes(parameters, element);

  const std::int64_t trained = spec.layers - lowest_layer(spec, targets);
  const Activations token(spec, load, trained > 0 ? (ranks + trained - 1) / trained : 0);
  std::int64_t most = token.forward();
  if (load.training) {
    const std::int64_t again = std::min(load.recomputed_layers, trained);
    const std::int64_t kept = (trained - again) * token.state() + again * token.input();
    // The layers that are computed again are the lowest: when their turn comes, the others are
    // done.
    const std::int64_t last = again * token.input() + token.state() + token.backward();
    most = std::max({kept + token.forward_end(), kept + token.head(), kept + token.backward(),
                     again > 0 ? last : 0, again * token.input() + token.forward()});
  } else {
    most = std::max(most, token.head() / 2);
  }
  const std::int64_t logits =
      std::min(Head::chunk_rows(spec.vocabulary), load.row_tokens) * spec.vocabulary;
  const std::int64_t angles = 2 * kMaster * spec.head_dim / 2;  // cosines and sines
  need.activations = bytes(load.row_tokens, most + angles) + bytes(logits, element);
  return need;
}

}  // namespace weft::model
