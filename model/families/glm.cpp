// GLM-4 in the spelling of transformers (glm, glm4) and ChatGLM2, ChatGLM3 and GLM-4 in that of
// their own repositories: half of a head turns, in planes of neighbouring elements.
#include <cmath>

#include "core/error.h"
#include "model/families/families.h"

namespace weft::model::families {

Spec glm(const Reader& reader) {
  Spec spec = sizes(reader, 131072);
  Block block{.attention = attention(reader, spec, {.kv_heads = 2, .head_dim = 128}),
              .mlp = {.activation = reader.activation({"hidden_act"}, Activation::kSilu),
                      .width = reader.size("intermediate_size")},
              .norm = {.eps = reader.not_negative("rms_norm_eps", 1.5625e-7)}};
  block.qkv_bias = reader.flag("attention_bias", true);
  spec.rotaries = {
      rope(reader, spec, block.attention.head_dim, {.partial = 0.5, .interleaved = true})};
  return finish(reader, block, reader.size("num_hidden_layers"), std::move(spec));
}

/// modeling_chatglm.py of THUDM's repositories.
Spec chatglm(const Reader& reader) {
  reader.require("rmsnorm", true);
  reader.require("post_layer_norm", true);
  reader.require("apply_residual_connection_post_layernorm", false);
  reader.require("original_rope", true);
  reader.require("pre_seq_len", nullptr);
  Spec spec;
  spec.architecture = reader.family().architecture;
  spec.vocabulary = reader.size({"padded_vocab_size", "vocab_size"});
  spec.hidden = reader.size("hidden_size");
  spec.max_positions = reader.size("seq_length", 2048);
  AttentionSpec a;
  a.heads = reader.size("num_attention_heads");
  a.kv_heads = reader.flag("multi_query_attention", false) ? reader.size("multi_query_group_num", 1)
                                                           : a.heads;
  a.head_dim = reader.size("kv_channels", 128);
  if (a.heads % a.kv_heads != 0)
    reader.refuse("multi_query_group_num", a.kv_heads, "a divisor of num_attention_heads");
  a.scale = 1 / std::sqrt(static_cast<double>(a.head_dim));
  const bool biased = reader.flag("add_bias_linear", false);
  Block block;
  block.attention = a;
  block.mlp.width = reader.size("ffn_hidden_size");
  block.norm.eps = reader.not_negative("layernorm_epsilon", 1e-5);
  block.qkv_bias = biased || reader.flag("add_qkv_bias", false);
  block.o_bias = block.up_bias = block.down_bias = biased;
  // Longer contexts of the family raise the base (rope_ratio); a GGUF file says what it became.
  const double theta = reader.number("rope_theta", 10000 * reader.number("rope_ratio", 1));
  const double partial = reader.number("partial_rotary_factor", 0.5);
  if (partial <= 0 || partial > 1)
    reader.refuse("partial_rotary_factor", partial, "more than 0, at most 1");
  Rope rope{.theta = theta,
            .dim = static_cast<std::int64_t>(static_cast<double>(a.head_dim) * partial)};
  if (theta <= 0) reader.refuse("rope_ratio", reader.at("rope_ratio"), "more than 0");
  if (rope.dim < 2 || rope.dim % 2 != 0)
    reader.refuse("kv_channels", a.head_dim, "a head of which half is even");
  reader.require("rope_scaling", nullptr);
  rope.interleaved = true;
  spec.rotaries = {rope};
  return finish(reader, block, reader.size("num_layers"), std::move(spec));
}

}  // namespace weft::model::families
