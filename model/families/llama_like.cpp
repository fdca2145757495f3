// Families with Llama's block and other norms or other spellings of its tensors: OLMo 2, InternLM2,
// Orion, YAYI 2, Baichuan.
#include "core/error.h"
#include "model/families/families.h"

namespace weft::model::families {
namespace {

Block plain_block(const Reader& reader, const Spec& spec, const NormSpec& norm) {
  return {.attention = attention(reader, spec),
          .mlp = {.activation = reader.activation({"hidden_act"}, Activation::kSilu),
                  .width = reader.size("intermediate_size")},
          .norm = norm};
}

Spec finish(const Reader& reader, const Block& block, Spec spec) {
  spec.rotaries = {rope(reader, spec, block.attention.head_dim)};
  return families::finish(reader, block, reader.size("num_hidden_layers"), std::move(spec));
}

}  // namespace

/// Norms after attention and MLP only; queries and keys are normalised over all heads.
Spec olmo2(const Reader& reader) {
  Spec spec = sizes(reader, 2048);
  Block block = plain_block(
      reader, spec,
      {.eps = reader.not_negative("rms_norm_eps", 1e-5), .rounds_before_weight = false});
  block.qkv_bias = block.o_bias = reader.flag("attention_bias", false);
  block.head_norm = block.norm;
  block.head_norm_kind = Block::HeadNorm::kWhole;
  return finish(reader, block, std::move(spec));
}

/// modeling_internlm2.py of InternLM2's repositories: Llama with the queries of a group, their key
/// and their value side by side.
Spec internlm2(const Reader& reader) {
  Spec spec = sizes(reader, 2048);
  Block block = plain_block(reader, spec, {.eps = reader.not_negative("rms_norm_eps", 1e-6)});
  block.qkv_bias = block.o_bias = reader.flag("bias", true);
  return finish(reader, block, std::move(spec));
}

/// modeling_orion.py of Orion-14B: Llama with LayerNorm.
Spec orion(const Reader& reader) {
  Spec spec = sizes(reader, 2048);
  const Block block = plain_block(reader, spec,
                                  {.kind = NormSpec::Kind::kLayer,
                                   .eps = reader.not_negative("rms_norm_eps", 1e-5),
                                   .bias = true});
  return finish(reader, block, std::move(spec));
}

/// modeling_yayi.py of YAYI 2: one head of keys and values unless the file says otherwise.
Spec yayi(const Reader& reader) {
  Spec spec = sizes(reader, 2048);
  Block block = plain_block(reader, spec, {.eps = reader.not_negative("rms_norm_eps", 1e-6)});
  block.attention.kv_heads = reader.size("num_key_value_heads", 1);
  return finish(reader, block, std::move(spec));
}

/// modeling_baichuan.py of Baichuan2: q, k and v in W_pack. The second generation divides the rows
/// of its head by their length; the first has 64000 tokens. The models of 40 layers add ALiBi
/// instead of turning.
Spec baichuan(const Reader& reader) {
  constexpr std::int64_t kFirstVocabulary = 64000;
  Spec spec = sizes(reader, 4096);
  Block block = plain_block(reader, spec, {.eps = reader.not_negative("rms_norm_eps", 1e-6)});
  constexpr std::int64_t kLargeLayers = 40;
  const bool names_no_positions =
      !reader.names("max_position_embeddings") && reader.names("model_max_length");
  if (names_no_positions || reader.size("num_hidden_layers") == kLargeLayers) {
    block.attention.alibi = true;
    block.attention.rotary = AttentionSpec::kNoRotary;
  }
  spec.head.normalised = reader.flag("norm_head", spec.vocabulary != kFirstVocabulary);
  return finish(reader, block, std::move(spec));
}

}  // namespace weft::model::families
