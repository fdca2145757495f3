#include "model/memory.h"

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <string>

#include "model/attention.h"
#include "model/head.h"

namespace weft::model {
namespace {

/// Elements of one token in the tensors of a layer.
struct Widths {
  std::int64_t d;     // hidden
  std::int64_t q;     // all heads
  std::int64_t qkv;   // q, k and v
  std::int64_t f;     // intermediate
};

/// The joined matrix that a module is part of: "model.layers.0.self_attn.qkv" for q_proj.
std::string joined(const std::string& path) {
  const std::size_t dot = path.rfind('.') + 1;
  const std::string name = path.substr(dot);
  if (name == "q_proj" || name == "k_proj" || name == "v_proj") return path.substr(0, dot) + "qkv";
  if (name == "gate_proj" || name == "up_proj") return path.substr(0, dot) + "gate_up";
  return path;
}

std::uint64_t bytes(std::int64_t elements, std::int64_t size) {
  return static_cast<std::uint64_t>(elements) * static_cast<std::uint64_t>(size);
}

/// Elements of the adapters as they are computed with: A stacked, B block-diagonal.
std::int64_t computed_elements(const Spec& spec, std::span<const lora::Target> targets) {
  struct Joined {
    std::int64_t rank = 0, in = 0, out = 0;
  };
  std::map<std::string, Joined> all;
  for (const lora::Target& target : targets) {
    Joined& one = all[joined(target.module.path)];
    one.rank += target.rank;
    one.in = target.module.in;
  }
  for (const lora::Module& module : linear_modules(spec)) {
    const auto found = all.find(joined(module.path));
    if (found != all.end()) found->second.out += module.out;
  }
  std::int64_t elements = 0;
  for (const auto& [path, one] : all) elements += one.rank * (one.in + one.out);
  return elements;
}

/// Layers below the lowest one with an adapter, which keep nothing.
std::int64_t lowest_layer(const Spec& spec, std::span<const lora::Target> targets) {
  const std::vector<lora::Module> modules = linear_modules(spec);
  const auto is_target = [&](const lora::Module& module) {
    return std::ranges::any_of(targets, [&](const auto& t) { return t.module.path == module.path; });
  };
  const auto first = std::ranges::find_if(modules, is_target) - modules.begin();
  return first * spec.layers / std::max<std::int64_t>(1, std::ssize(modules));
}

}  // namespace

MemoryNeed memory_need(const Spec& spec, std::span<const lora::Target> targets,
                       const Workload& load) {
  const std::int64_t element = load.compute == Compute::kBF16 ? 2 : 4;
  constexpr std::int64_t kMaster = 4;
  const Widths w{.d = spec.hidden, .q = spec.q_width(), .qkv = spec.q_width() + 2 * spec.kv_width(),
                 .f = spec.intermediate};
  const std::int64_t rows = load.row_tokens;

  MemoryNeed need;
  for (const WeightShape& one : weight_shapes(spec)) {
    need.weights += bytes(std::accumulate(one.shape.begin(), one.shape.end(), std::int64_t{1},
                                          std::multiplies<>()), element);
  }
  std::int64_t parameters = 0;
  std::int64_t ranks = 0;
  for (const lora::Target& target : targets) {
    parameters += target.parameters();
    ranks += target.rank;
  }
  constexpr std::int64_t kMasterGradientAndMoments = 4;
  need.adapter = bytes(parameters, kMaster * (load.training ? kMasterGradientAndMoments : 1)) +
                 bytes(computed_elements(spec, targets), element);

  // The scores of one block of queries: softmax, and in the backward their gradient as well.
  const std::int64_t segment = load.longest_segment > 0 ? load.longest_segment : rows;
  const std::int64_t scores = std::min(kQueryBlock, segment) * segment * spec.heads;
  const std::int64_t logits = std::min(Head::chunk_rows(spec.vocabulary), rows) * spec.vocabulary;
  const std::int64_t layer = 2 * w.d + w.q + w.qkv + 2 * w.f;  // LayerState without the ranks
  const std::int64_t forward = rows * (2 * w.d + std::max(w.d + 2 * w.qkv + w.q, w.d + 3 * w.f)) + scores;
  if (!load.training) {
    need.working = bytes(std::max(forward, rows * 2 * w.d) + logits, element);
    return need;
  }
  const std::int64_t trained_layers = spec.layers - lowest_layer(spec, targets);
  const std::int64_t again_layers = std::min(load.recomputed_layers, trained_layers);
  const std::int64_t kept_layers = trained_layers - again_layers;
  const std::int64_t statistics = 2 * kMaster;  // the norms' of a token, fp32
  need.kept = bytes(rows * (kept_layers * layer + ranks * kept_layers / std::max<std::int64_t>(1, spec.layers) +
                            again_layers * w.d), element) +
              bytes(rows * kept_layers, statistics);
  // Backward: the gradient of the residual stream and the last hidden states are there throughout;
  // the rest is the widest of an MLP's, attention's and the head's.
  const std::int64_t down = 2 * w.f;
  const std::int64_t gate_up = 2 * w.d;
  const std::int64_t attention = w.q + 2 * w.qkv + 2 * w.d;
  const std::int64_t again = again_layers > 0 ? rows * (layer + ranks / std::max<std::int64_t>(1, spec.layers)) : 0;
  const std::int64_t backward =
      rows * (2 * w.d + std::max({down, gate_up, attention})) + 3 * scores + again;
  const std::int64_t head = rows * (2 * w.d + 4 * w.d);
  need.working = bytes(std::max({forward, backward, head}) + logits, element);
  return need;
}

}  // namespace weft::model
