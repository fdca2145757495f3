#pragma once

#include <ATen/ATen.h>

#include <cmath>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "data/row.h"
#include "lora/adapter.h"
#include "model/decoder.h"
#include "model/spec.h"
#include "tests/support/kernels.h"

// Tiny models, adapters and rows with random numbers that depend on a seed only.
namespace weft::tests {

/// config.json of a Llama: widths that differ from each other, grouped queries, a head_dim that is
/// not hidden / heads.
inline nlohmann::json tiny_config(const nlohmann::json& changes = nlohmann::json::object()) {
  nlohmann::json config = {{"architectures", {"LlamaForCausalLM"}},
                           {"vocab_size", 37},
                           {"hidden_size", 20},
                           {"num_hidden_layers", 3},
                           {"num_attention_heads", 4},
                           {"num_key_value_heads", 2},
                           {"head_dim", 6},
                           {"intermediate_size", 28},
                           {"max_position_embeddings", 64},
                           {"rms_norm_eps", 1e-5},
                           {"tie_word_embeddings", false}};
  if (!changes.is_null()) config.update(changes);
  return config;
}

inline model::Spec tiny_spec(const nlohmann::json& changes = nlohmann::json::object()) {
  return model::read_spec(tiny_config(changes), "tiny");
}

/// Every layer looks at a window; 0: none does.
inline void set_windows(model::Spec& spec, std::int64_t window) {
  for (model::LayerSpec& layer : spec.layers) layer.attention.window = window;
}

inline at::Tensor random_tensor(at::IntArrayRef shape, double spread, std::mt19937_64& random) {
  at::Tensor result = at::empty(shape, at::kDouble);
  std::normal_distribution<double> normal(0, spread);
  double* data = result.mutable_data_ptr<double>();
  // Representable in fp32, so that models of either type have the same weights.
  for (std::int64_t i = 0; i < result.numel(); ++i) data[i] = static_cast<float>(normal(random));
  return result;
}

using TensorMap = std::map<std::string, at::Tensor>;

/// Weights of all tensors of the spec, double, of a size that keeps activations near 1.
inline TensorMap random_weights(const model::Spec& spec, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  TensorMap weights;
  for (const model::WeightShape& tensor : model::weight_shapes(spec)) {
    const bool norm = tensor.shape.size() == 1 && tensor.name.ends_with(".weight");
    const double spread =
        tensor.shape.size() >= 2 ? 1.2 / std::sqrt(static_cast<double>(tensor.shape.back())) : 0.2;
    at::Tensor value = random_tensor(tensor.shape, spread, random);
    weights[tensor.name] = norm ? value + 1 : value;
  }
  return weights;
}

/// Factors for the linear layers and stacks of experts that `wanted` accepts; neither A nor B is
/// zero.
template <typename Wanted>
lora::Adapter random_adapter(const model::Spec& spec, std::int64_t rank, double scale,
                             std::uint64_t seed, const Wanted& wanted) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, 0.3F);
  lora::Adapter adapter;
  const auto add = [&](const lora::Module& module, lora::TargetKind kind, std::int64_t experts) {
    if (!wanted(module.path)) return;
    lora::Factors factors;
    factors.target = {.module = module,
                      .rank = rank,
                      .alpha = scale * static_cast<double>(rank),
                      .scale = scale,
                      .kind = kind,
                      .experts = experts};
    const std::int64_t ranks = factors.target.ranks();
    factors.a.resize(static_cast<std::size_t>(ranks * module.in));
    factors.b.resize(static_cast<std::size_t>(ranks * module.out));
    for (float& value : factors.a) value = normal(random);
    for (float& value : factors.b) value = normal(random);
    adapter.factors.push_back(std::move(factors));
  };
  for (const lora::Module& module : model::linear_modules(spec))
    add(module, lora::TargetKind::kLinear, 1);
  for (const lora::Stack& stack : model::expert_stacks(spec)) {
    add(stack.module, lora::TargetKind::kExperts, stack.experts);
    if (wanted(stack.module.path))
      adapter.config.extras.target_parameters.push_back(stack.module.path);
  }
  return adapter;
}

inline lora::Adapter random_adapter(const model::Spec& spec, std::int64_t rank, double scale,
                                    std::uint64_t seed) {
  return random_adapter(spec, rank, scale, seed, [](const std::string&) { return true; });
}

/// A row of segments with the given lengths; about two thirds of the positions are supervised.
inline data::Row random_row(const model::Spec& spec, const std::vector<int>& lengths,
                            std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_int_distribution<std::int32_t> token(0,
                                                    static_cast<std::int32_t>(spec.vocabulary) - 1);
  data::Row row;
  for (const int length : lengths) {
    const auto begin = static_cast<std::int32_t>(row.tokens.size());
    for (int i = 0; i < length; ++i) {
      row.tokens.push_back(token(random));
      row.positions.push_back(i);
    }
    for (int i = 0; i + 1 < length; ++i) {
      row.targets.push_back(random() % 3 == 0
                                ? data::kNoTarget
                                : row.tokens[static_cast<std::size_t>(begin + i + 1)]);
    }
    row.targets.push_back(data::kNoTarget);
    row.segments.push_back({begin, begin + length});
  }
  return row;
}

/// One segment of a row as a row of its own.
inline data::Row segment_row(const data::Row& row, std::size_t index) {
  const data::Segment s = row.segments[index];
  const auto cut = [&](const std::vector<std::int32_t>& all) {
    return std::vector<std::int32_t>(all.begin() + s.begin, all.begin() + s.end);
  };
  return {cut(row.tokens), cut(row.positions), cut(row.targets), {{0, s.end - s.begin}}};
}

/// Largest |a - b| relative to the largest |b|.
inline double relative_difference(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.cpu().to(at::kDouble);
  const at::Tensor y = b.cpu().to(at::kDouble);
  const double most = y.abs().max().item<double>();
  return (x - y).abs().max().item<double>() / (most > 0 ? most : 1);
}

}  // namespace weft::tests
