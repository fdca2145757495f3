// Gemma 1, 2 and 3: norms whose weight is 1 + w, GeGLU, embeddings times sqrt(hidden).
#include <cmath>

#include "core/error.h"
#include "model/families/families.h"

namespace weft::model::families {
namespace {

struct GemmaStart {
  Spec spec;
  Block block;
};

GemmaStart gemma_start(const Reader& reader, const HeadDefaults& defaults,
                       std::int64_t positions = 8192, std::int64_t vocabulary = 256000) {
  GemmaStart s;
  s.spec = sizes(reader, positions, vocabulary);
  s.block.norm = {.eps = reader.not_negative("rms_norm_eps", 1e-6),
                  .plus_one = true,
                  .rounds_before_weight = false};
  s.block.attention = attention(reader, s.spec, defaults);
  s.block.qkv_bias = s.block.o_bias = reader.flag("attention_bias", false);
  // "gelu" in the files of the first generation means its approximation, as it was trained.
  const bool older = reader.at("hidden_act") == "gelu" && reader.at("hidden_activation").is_null();
  s.block.mlp = {.activation = older ? Activation::kGeluTanh
                                     : reader.activation({"hidden_activation", "hidden_act"},
                                                         Activation::kGeluTanh),
                 .width = reader.size("intermediate_size")};
  s.spec.embedding.scale = std::sqrt(static_cast<double>(s.spec.hidden));
  s.spec.embedding.rounds_scale = true;
  return s;
}

void read_caps(const Reader& reader, double attention_cap, double logit_cap, GemmaStart& s) {
  const auto cap = [&](const char* key, double fallback) {
    if (reader.names(key) && reader.at(key).is_null()) return 0.0;
    return reader.not_negative(key, fallback);
  };
  s.block.attention.soft_cap = cap("attn_logit_softcapping", attention_cap);
  s.spec.head.soft_cap = cap("final_logit_softcapping", logit_cap);
  const double scalar = reader.number("query_pre_attn_scalar", 256);
  if (scalar <= 0) reader.refuse("query_pre_attn_scalar", scalar, "more than 0");
  s.block.attention.scale = 1 / std::sqrt(scalar);
}

}  // namespace

Spec gemma(const Reader& reader) {
  GemmaStart s = gemma_start(reader, {.kv_heads = 16, .head_dim = 256, .heads = 16});
  s.spec.rotaries = {rope(reader, s.spec, s.block.attention.head_dim)};
  return finish(reader, s.block, reader.size("num_hidden_layers"), std::move(s.spec));
}

/// Every other layer looks at a window, the first one too.
Spec gemma2(const Reader& reader) {
  GemmaStart s = gemma_start(reader, {.kv_heads = 4, .head_dim = 256, .heads = 8});
  read_caps(reader, 50, 30, s);
  s.spec.rotaries = {rope(reader, s.spec, s.block.attention.head_dim)};
  const std::int64_t layers = reader.size("num_hidden_layers");
  const std::int64_t window = reader.size("sliding_window", 4096);
  const std::vector<bool> slides =
      sliding_layers(reader, layers, [](std::int64_t i) { return i % 2 == 0; });
  for (const bool slide : slides) {
    s.block.attention.window = slide ? window : 0;
    add_layer(reader, s.block, s.spec);
  }
  set_ends(reader, s.block.norm, s.spec);
  return std::move(s.spec);
}

/// Five layers with a window, which turn by a base of their own, to one without.
Spec gemma3(const Reader& reader) {
  // The files of models of text and images leave out what is the default.
  GemmaStart s = gemma_start(reader, {.kv_heads = 4, .head_dim = 256, .heads = 8}, 131072, 262208);
  read_caps(reader, 0, 0, s);
  s.block.head_norm = s.block.norm;
  const std::int64_t dim = s.block.attention.head_dim;
  Rope local{.theta = reader.number("rope_local_base_freq", 10000), .dim = dim};
  if (local.theta <= 0) reader.refuse("rope_local_base_freq", local.theta, "more than 0");
  const auto& parameters = reader.at("rope_parameters");
  if (parameters.is_object() && parameters.contains("sliding_attention"))
    local = rope(reader, s.spec, dim, {}, "sliding_attention");
  s.spec.rotaries = {rope(reader, s.spec, dim, {.theta = 1e6}, "full_attention"), local};
  const std::int64_t layers = reader.size("num_hidden_layers");
  const std::int64_t pattern =
      reader.size({"sliding_window_pattern", "_sliding_window_pattern"}, 6);
  const std::int64_t window = reader.size("sliding_window", 4096);
  const std::vector<bool> slides =
      sliding_layers(reader, layers, [&](std::int64_t i) { return (i + 1) % pattern != 0; });
  for (const bool slide : slides) {
    s.block.attention.window = slide ? window : 0;
    s.block.attention.rotary = slide ? 1 : 0;
    add_layer(reader, s.block, s.spec);
  }
  set_ends(reader, s.block.norm, s.spec);
  return std::move(s.spec);
}

}  // namespace weft::model::families
