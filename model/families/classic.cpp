// GPT-2, GPT-NeoX (Pythia, OpenChatKit), BLOOM, Falcon and OPT: LayerNorm with bias and an MLP
// without gate.
#include <fmt/format.h>

#include "core/error.h"
#include "model/families/families.h"

namespace weft::model::families {
namespace {

NormSpec layer_norm(double eps, bool bias = true) {
  return {.kind = NormSpec::Kind::kLayer, .eps = eps, .bias = bias};
}

/// Biases everywhere, attention and MLP one after the other.
Block classic_block(const Reader& reader, const Spec& spec, const MlpSpec& mlp, double eps) {
  return {.attention = attention(reader, spec),
          .mlp = mlp,
          .norm = layer_norm(eps),
          .qkv_bias = true,
          .o_bias = true,
          .up_bias = true,
          .down_bias = true};
}

void set_positions(const Reader& reader, std::int64_t rows, std::int64_t first, Spec& spec) {
  spec.embedding.positions = reader.path(checkpoint::Part::kPositions);
  spec.embedding.position_rows = rows;
  spec.embedding.first_position = first;
}

}  // namespace

Spec gpt2(const Reader& reader) {
  Spec spec = sizes(reader, 1024);
  const MlpSpec mlp{.gated = false,
                    .activation = reader.activation({"activation_function"}, Activation::kGeluTanh),
                    .width = reader.size("n_inner", 4 * spec.hidden)};
  Block block = classic_block(reader, spec, mlp, reader.not_negative("layer_norm_epsilon", 1e-5));
  block.attention.rotary = AttentionSpec::kNoRotary;
  reader.require("add_cross_attention", false);
  reader.require("scale_attn_by_inverse_layer_idx", false);
  if (!reader.flag("scale_attn_weights", true)) block.attention.scale = 1;
  set_positions(reader, spec.max_positions, 0, spec);
  return finish(reader, block, reader.size({"n_layer", "num_hidden_layers"}), std::move(spec));
}

Spec gpt_neox(const Reader& reader) {
  Spec spec = sizes(reader, 2048);
  const MlpSpec mlp{.gated = false,
                    .activation = reader.activation({"hidden_act"}, Activation::kGelu),
                    .width = reader.size("intermediate_size")};
  Block block = classic_block(reader, spec, mlp, reader.not_negative("layer_norm_eps", 1e-5));
  block.qkv_bias = block.o_bias = reader.flag("attention_bias", true);
  block.parallel = reader.flag("use_parallel_residual", true);
  const double theta = reader.number("rotary_emb_base", 10000);
  spec.rotaries = {rope(reader, spec, block.attention.head_dim, {.theta = theta, .partial = 0.25})};
  return finish(reader, block, reader.size("num_hidden_layers"), std::move(spec));
}

Spec bloom(const Reader& reader) {
  Spec spec = sizes(reader, 2048);
  const MlpSpec mlp{.gated = false, .activation = Activation::kGeluTanh, .width = 4 * spec.hidden};
  Block block = classic_block(reader, spec, mlp, reader.not_negative("layer_norm_epsilon", 1e-5));
  block.attention.rotary = AttentionSpec::kNoRotary;
  block.attention.alibi = true;
  reader.require("apply_residual_connection_post_layernorm", false);
  Spec result =
      finish(reader, block, reader.size({"n_layer", "num_hidden_layers"}), std::move(spec));
  NormSpec first = block.norm;
  first.path = reader.path(checkpoint::Part::kEmbeddingNorm);
  first.width = first.weights = result.hidden;
  result.embedding.norm = first;
  return result;
}

/// Three kinds: one head of keys for all (7B), groups with two norms (40B, 180B), or as many heads
/// of keys as of queries, one branch after the other (RW, with ALiBi).
Spec falcon(const Reader& reader) {
  Spec spec = sizes(reader, 2048);
  const bool grouped = reader.flag("new_decoder_architecture", false);
  const bool one_head = reader.flag("multi_query", true);
  Block block{.attention = attention(reader, spec),
              .mlp = {.gated = false,
                      .activation = reader.activation({"activation"}, Activation::kGelu),
                      .width = reader.size("ffn_hidden_size", 4 * spec.hidden)},
              .norm = layer_norm(reader.not_negative("layer_norm_epsilon", 1e-5))};
  AttentionSpec& a = block.attention;
  a.kv_heads = grouped    ? reader.size({"num_kv_heads", "n_head_kv"}, a.heads)
               : one_head ? 1
                          : a.heads;
  if (a.heads % a.kv_heads != 0)
    reader.refuse("num_kv_heads", a.kv_heads, fmt::format("a divisor of {} heads", a.heads));
  block.qkv_bias = block.o_bias = block.up_bias = block.down_bias = reader.flag("bias", false);
  const bool parallel = reader.flag("parallel_attn", true);
  block.parallel = grouped || parallel;
  if (reader.flag("alibi", false)) {
    a.alibi = a.alibi_in_bf16 = true;
    a.rotary = AttentionSpec::kNoRotary;
  } else {
    spec.rotaries = {rope(reader, spec, a.head_dim)};
  }
  // Of its norms' names, those that this kind has.
  const std::int64_t norms = reader.size("num_ln_in_parallel_attn", grouped ? 2 : 1);
  const std::int64_t layers = reader.size({"num_hidden_layers", "n_layer"});
  for (std::int64_t i = 0; i < layers; ++i) {
    add_layer(reader, block, spec);
    LayerSpec& layer = spec.layers.back();
    const std::string of_layer = "transformer.h." + std::to_string(i) + ".";
    const bool two = grouped && norms == 2;
    layer.input_norm->path = of_layer + (two ? "ln_attn" : "input_layernorm");
    layer.mlp_norm = layer.input_norm;
    if (two) layer.mlp_norm->path = of_layer + "ln_mlp";
    if (!block.parallel) layer.mlp_norm->path = of_layer + "post_attention_layernorm";
  }
  set_ends(reader, block.norm, spec);
  return spec;
}

Spec opt(const Reader& reader) {
  Spec spec = sizes(reader, 2048);
  const MlpSpec mlp{.gated = false,
                    .activation = reader.activation({"activation_function"}, Activation::kRelu),
                    .width = reader.size("ffn_dim")};
  Block block = classic_block(reader, spec, mlp, 1e-5);
  block.attention.rotary = AttentionSpec::kNoRotary;
  if (!reader.flag("enable_bias", true))
    block.qkv_bias = block.o_bias = block.up_bias = block.down_bias = false;
  reader.require("do_layer_norm_before", true);
  reader.require("_remove_final_layer_norm", false);
  reader.require("layer_norm_elementwise_affine", true);
  reader.require("word_embed_proj_dim", spec.hidden);
  constexpr std::int64_t kFirst = 2;  // modeling_opt.py: OPTLearnedPositionalEmbedding.offset
  set_positions(reader, spec.max_positions + kFirst, kFirst, spec);
  return finish(reader, block, reader.size("num_hidden_layers"), std::move(spec));
}

}  // namespace weft::model::families
