// Command-R and Aya (Cohere, Cohere2): one LayerNorm without bias for both branches, planes of
// neighbouring elements, scaled logits.
#include "core/error.h"
#include "model/families/families.h"

namespace weft::model::families {
namespace {

struct CohereStart {
  Spec spec;
  Block block;
};

CohereStart cohere_start(const Reader& reader, double theta) {
  CohereStart s;
  s.spec = sizes(reader, 8192);
  s.block = {
      .attention = attention(reader, s.spec),
      .mlp = {.activation = reader.activation({"hidden_act"}, Activation::kSilu),
              .width = reader.size("intermediate_size")},
      .norm = {.kind = NormSpec::Kind::kLayer, .eps = reader.not_negative("layer_norm_eps", 1e-5)},
      .parallel = true};
  s.block.qkv_bias = s.block.o_bias = reader.flag("attention_bias", false);
  s.spec.head.scale = reader.number("logit_scale", 0.0625);
  s.spec.rotaries = {
      rope(reader, s.spec, s.block.attention.head_dim, {.theta = theta, .interleaved = true})};
  return s;
}

}  // namespace

Spec cohere(const Reader& reader) {
  CohereStart s = cohere_start(reader, 500000);
  if (reader.flag("use_qk_norm", false)) {
    s.block.head_norm = s.block.norm;
    s.block.head_norm_kind = Block::HeadNorm::kOfItsOwn;
  }
  return finish(reader, s.block, reader.size("num_hidden_layers"), std::move(s.spec));
}

/// Layers with a window turn; every fourth sees everything and does not.
Spec cohere2(const Reader& reader) {
  CohereStart s = cohere_start(reader, 10000);
  const std::int64_t layers = reader.size("num_hidden_layers");
  const std::int64_t pattern =
      reader.size({"sliding_window_pattern", "_sliding_window_pattern"}, 4);
  const std::int64_t window = reader.size("sliding_window", 4096);
  const std::vector<bool> slides =
      sliding_layers(reader, layers, [&](std::int64_t i) { return (i + 1) % pattern != 0; });
  for (const bool slide : slides) {
    s.block.attention.window = slide ? window : 0;
    s.block.attention.rotary = slide ? 0 : AttentionSpec::kNoRotary;
    add_layer(reader, s.block, s.spec);
  }
  set_ends(reader, s.block.norm, s.spec);
  return std::move(s.spec);
}

}  // namespace weft::model::families
