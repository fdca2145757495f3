// Mixtral, Qwen2-MoE, Qwen3-MoE and GPT-OSS: a router chooses experts for each token.
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "model/families/families.h"

namespace weft::model::families {
namespace {

struct ExpertsStart {
  Spec spec;
  Block block;
  std::int64_t layers = 0;
};

ExpertsStart experts_start(const Reader& reader, const HeadDefaults& heads,
                           std::int64_t default_positions, double eps, double theta) {
  ExpertsStart s;
  s.spec = sizes(reader, default_positions);
  s.layers = reader.size("num_hidden_layers");
  s.block.attention = attention(reader, s.spec, heads);
  s.block.norm.eps = reader.not_negative("rms_norm_eps", eps);
  s.block.mlp.activation = reader.activation({"hidden_act"}, Activation::kSilu);
  s.block.mlp.width = reader.size("intermediate_size");
  s.spec.rotaries = {rope(reader, s.spec, s.block.attention.head_dim, {.theta = theta})};
  return s;
}

/// Which layers have experts: every decoder_sparse_step-th that mlp_only_layers does not name.
std::vector<bool> sparse_layers(const Reader& reader, std::int64_t layers) {
  const std::int64_t step = reader.size("decoder_sparse_step", 1);
  std::vector<bool> result(static_cast<std::size_t>(layers));
  for (std::size_t i = 0; i < result.size(); ++i)
    result[i] = (static_cast<std::int64_t>(i) + 1) % step == 0;
  const nlohmann::json& dense = reader.at("mlp_only_layers");
  if (dense.is_null()) return result;
  if (!dense.is_array()) reader.refuse("mlp_only_layers", dense, "a list of layers");
  for (const nlohmann::json& layer : dense) {
    if (!layer.is_number_integer() || layer < 0 || layer >= layers)
      reader.refuse("mlp_only_layers", dense, "layers of the model");
    result[layer.get<std::size_t>()] = false;
  }
  return result;
}

Spec finish(const Reader& reader, ExpertsStart s, const ExpertSizes& experts,
            const std::vector<bool>& sparse, const std::vector<bool>& slides, std::int64_t window) {
  for (std::size_t i = 0; i < sparse.size(); ++i) {
    s.block.attention.window = slides[i] ? window : 0;
    if (sparse[i]) {
      add_expert_layer(reader, s.block, experts, s.spec);
    } else {
      add_layer(reader, s.block, s.spec);
    }
  }
  set_ends(reader, s.block.norm, s.spec);
  return std::move(s.spec);
}

}  // namespace

Spec mixtral(const Reader& reader) {
  ExpertsStart s = experts_start(reader, {.kv_heads = 8}, 131072, 1e-5, 1e6);
  const std::int64_t window =
      reader.at("sliding_window").is_null() ? 0 : reader.size("sliding_window");
  const ExpertSizes experts{.count = reader.size({"num_local_experts", "num_experts"}, 8),
                            .chosen = reader.size("num_experts_per_tok", 2),
                            .width = s.block.mlp.width,
                            .normalised = true};
  const auto count = static_cast<std::size_t>(s.layers);
  return finish(reader, std::move(s), experts, std::vector<bool>(count, true),
                std::vector<bool>(count, window > 0), window);
}

Spec qwen2_moe(const Reader& reader) {
  ExpertsStart s = experts_start(reader, {.kv_heads = 16}, 32768, 1e-6, 10000);
  s.block.qkv_bias = reader.flag("qkv_bias", true);
  const ExpertSizes experts{.count = reader.size("num_experts", 60),
                            .chosen = reader.size("num_experts_per_tok", 4),
                            .width = reader.size("moe_intermediate_size", 1408),
                            .normalised = reader.flag("norm_topk_prob", false),
                            .shared = reader.count("shared_expert_intermediate_size", 5632)};
  const bool uses = reader.flag("use_sliding_window", false);
  const std::int64_t window = uses ? reader.size("sliding_window", 4096) : 0;
  const std::int64_t below = uses ? reader.count("max_window_layers", 28) : 0;
  // configuration_qwen2_moe.py: every other layer, the first too, below max_window_layers.
  const std::vector<bool> slides =
      sliding_layers(reader, s.layers, [&](std::int64_t i) { return i % 2 == 0 && i < below; });
  const std::vector<bool> sparse = sparse_layers(reader, s.layers);
  return finish(reader, std::move(s), experts, sparse, slides, window);
}

Spec qwen3_moe(const Reader& reader) {
  ExpertsStart s = experts_start(reader, {.kv_heads = 4}, 32768, 1e-6, 10000);
  s.block.qkv_bias = s.block.o_bias = reader.flag("attention_bias", false);
  s.block.head_norm = s.block.norm;
  reader.require("use_qk_norm", true);
  const ExpertSizes experts{.count = reader.size({"num_experts", "num_local_experts"}, 128),
                            .chosen = reader.size("num_experts_per_tok", 8),
                            .width = reader.size("moe_intermediate_size", 768),
                            .normalised = reader.flag("norm_topk_prob", false)};
  const std::int64_t window =
      reader.flag("use_sliding_window", false) ? reader.size("sliding_window", 4096) : 0;
  const std::vector<bool> sparse = sparse_layers(reader, s.layers);
  const auto count = static_cast<std::size_t>(s.layers);
  return finish(reader, std::move(s), experts, sparse, std::vector<bool>(count, window > 0),
                window);
}

/// GPT-OSS: sinks, a window in every other layer, biases everywhere, a gate with limits.
Spec gpt_oss(const Reader& reader) {
  Spec spec = sizes(reader, 131072);
  Block block;
  block.attention = attention(reader, spec, {.kv_heads = 8, .head_dim = 64});
  block.norm = {.eps = reader.not_negative("rms_norm_eps", 1e-5), .rounds_before_weight = false};
  block.qkv_bias = block.o_bias = reader.flag("attention_bias", true);
  reader.require("hidden_act", "silu");
  reader.require("swiglu_alpha", 1.702);
  block.mlp.activation = Activation::kClampedSwish;
  block.mlp.width = reader.size("intermediate_size", 2880);
  block.mlp.limit = reader.number("swiglu_limit", 7);
  const ExpertSizes experts{.count = reader.size({"num_local_experts", "num_experts"}, 128),
                            .chosen = reader.size({"num_experts_per_tok", "experts_per_token"}, 4),
                            .width = block.mlp.width,
                            .normalised = true,
                            .bias = true};
  const std::int64_t dim = block.attention.head_dim;
  if (reader.at("rope_scaling").is_null() && reader.at("rope_parameters").is_null()) {
    // What an absent key means; the checks are those of the file's own.
    Rope rope = families::rope(reader, spec, dim, {.theta = 150000});
    rope.kind = RopeKind::kYarn;
    rope.factor = 32;
    rope.original_max_positions = 4096;
    rope.truncate = false;
    spec.rotaries = {rope};
  } else {
    spec.rotaries = {rope(reader, spec, dim, {.theta = 150000})};
  }
  const std::int64_t layers = reader.size("num_hidden_layers");
  const std::int64_t window = reader.size("sliding_window", 128);
  const std::vector<bool> slides =
      sliding_layers(reader, layers, [](std::int64_t i) { return i % 2 == 0; });
  for (const bool slide : slides) {
    block.attention.window = slide ? window : 0;
    add_expert_layer(reader, block, experts, spec);
  }
  set_ends(reader, block.norm, spec);
  return spec;
}

}  // namespace weft::model::families
