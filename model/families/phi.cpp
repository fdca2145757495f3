// Phi-3, 3.5 and 4-mini (fused projections, rotary positions in part and by length); Phi-1.5 and 2
// (one LayerNorm for both branches).
#include "core/error.h"
#include "model/families/families.h"

namespace weft::model::families {

Spec phi3(const Reader& reader) {
  Spec spec = sizes(reader, 4096);
  Block block{.attention = attention(reader, spec),
              .mlp = {.activation = reader.activation({"hidden_act"}, Activation::kSilu),
                      .width = reader.size("intermediate_size")},
              .norm = {.eps = reader.not_negative("rms_norm_eps", 1e-5)}};
  if (!reader.at("sliding_window").is_null())
    block.attention.window = reader.size("sliding_window");
  spec.rotaries = {rope(reader, spec, block.attention.head_dim)};
  return finish(reader, block, reader.size("num_hidden_layers"), std::move(spec));
}

Spec phi(const Reader& reader) {
  Spec spec = sizes(reader, 2048);
  const NormSpec norm{.kind = NormSpec::Kind::kLayer,
                      .eps = reader.not_negative("layer_norm_eps", 1e-5),
                      .bias = true};
  Block block{.attention = attention(reader, spec),
              .mlp = {.gated = false,
                      .activation = reader.activation({"hidden_act"}, Activation::kGeluTanh),
                      .width = reader.size({"intermediate_size", "n_inner"}, 4 * spec.hidden)},
              .norm = norm,
              .qkv_bias = true,
              .o_bias = true,
              .up_bias = true,
              .down_bias = true,
              .parallel = true};
  if (reader.flag("qk_layernorm", false)) block.head_norm = norm;
  spec.rotaries = {rope(reader, spec, block.attention.head_dim, {.partial = 0.5})};
  spec.head.bias = true;
  return finish(reader, block, reader.size("num_hidden_layers"), std::move(spec));
}

}  // namespace weft::model::families
