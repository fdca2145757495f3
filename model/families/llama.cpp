// Llama, and the families that differ from it in a few values: Mistral, Qwen, SmolLM3, Granite.
#include <fmt/format.h>

#include <cmath>

#include "core/error.h"
#include "model/families/families.h"

namespace weft::model::families {
namespace {

using nlohmann::json;

/// One Llama: sizes, RMS norms before attention and MLP, SwiGLU, one rotary.
struct Plain {
  Spec spec;
  Block block;
  std::int64_t layers = 0;
};

Plain plain(const Reader& reader, std::int64_t default_positions, const HeadDefaults& heads = {},
            const RopeDefaults& rotary = {}) {
  Plain p;
  p.spec = sizes(reader, default_positions);
  p.layers = reader.size("num_hidden_layers");
  p.block.attention = attention(reader, p.spec, heads);
  p.block.norm = {.eps = reader.not_negative("rms_norm_eps", 1e-6)};
  p.block.mlp = {.activation = reader.activation({"hidden_act"}, Activation::kSilu),
                 .width = reader.size("intermediate_size")};
  p.spec.rotaries = {rope(reader, p.spec, p.block.attention.head_dim, rotary)};
  return p;
}

void take_llama_biases(const Reader& reader, Block& block) {
  block.qkv_bias = block.o_bias = reader.flag("attention_bias", false);
  block.up_bias = block.down_bias = reader.flag("mlp_bias", false);
}

Spec finish(const Reader& reader, Plain p, const std::vector<bool>& slides = {},
            std::int64_t window = 0) {
  for (std::int64_t i = 0; i < p.layers; ++i) {
    p.block.attention.window = !slides.empty() && slides[static_cast<std::size_t>(i)] ? window : 0;
    add_layer(reader, p.block, p.spec);
  }
  set_ends(reader, p.block.norm, p.spec);
  return std::move(p.spec);
}

/// sliding_window; 0 where the file says null.
std::int64_t read_window(const Reader& reader, std::optional<std::int64_t> fallback) {
  if (reader.names("sliding_window") && reader.at("sliding_window").is_null()) return 0;
  return reader.size("sliding_window", fallback);
}

/// A list that contradicts what the family computes is refused rather than ignored.
void refuse_contradictions(const Reader& reader, const std::vector<bool>& slides,
                           std::int64_t window, bool all_slide) {
  if (reader.at("layer_types").is_null()) return;
  for (std::size_t i = 0; i < slides.size(); ++i) {
    if ((slides[i] && window == 0) || (!slides[i] && all_slide && window > 0)) {
      reader.refuse("layer_types", reader.at("layer_types")[i],
                    fmt::format("what {} does in every layer", reader.family().architecture));
    }
  }
}

/// Windows in the layers from max_window_layers on, where use_sliding_window says so.
Spec qwen(const Reader& reader, Plain p) {
  const std::int64_t window =
      reader.flag("use_sliding_window", false) ? read_window(reader, 4096) : 0;
  const std::int64_t first =
      window > 0 && reader.at("layer_types").is_null() ? reader.count("max_window_layers", 28) : 0;
  const std::vector<bool> slides =
      sliding_layers(reader, p.layers, [&](std::int64_t i) { return window > 0 && i >= first; });
  refuse_contradictions(reader, slides, window, false);
  return finish(reader, std::move(p), slides, window);
}

}  // namespace

Spec llama(const Reader& reader) {
  Plain p = plain(reader, 2048);
  take_llama_biases(reader, p.block);
  const std::vector<bool> slides =
      sliding_layers(reader, p.layers, [](std::int64_t) { return false; });
  refuse_contradictions(reader, slides, 0, false);
  return finish(reader, std::move(p));
}

Spec mistral(const Reader& reader) {
  Plain p = plain(reader, 131072, {.kv_heads = 8});
  const std::int64_t window = read_window(reader, 4096);
  const std::vector<bool> slides =
      sliding_layers(reader, p.layers, [&](std::int64_t) { return window > 0; });
  refuse_contradictions(reader, slides, window, reader.family().model_type == "mistral");
  return finish(reader, std::move(p), slides, window);
}

Spec qwen2(const Reader& reader) {
  Plain p = plain(reader, 32768, {.kv_heads = 32});
  p.block.qkv_bias = true;
  return qwen(reader, std::move(p));
}

Spec qwen3(const Reader& reader) {
  Plain p = plain(reader, 32768, {.kv_heads = 32, .head_dim = 128});
  reader.require("use_qk_norm", true);
  p.block.qkv_bias = p.block.o_bias = reader.flag("attention_bias", false);
  p.block.head_norm = p.block.norm;
  return qwen(reader, std::move(p));
}

Spec smollm3(const Reader& reader) {
  Plain p = plain(reader, 32768, {.kv_heads = 4}, {.theta = 2e6});
  take_llama_biases(reader, p.block);
  const json& listed = reader.at("no_rope_layers");
  if (!listed.is_null() && (!listed.is_array() || std::ssize(listed) != p.layers))
    reader.refuse("no_rope_layers", listed, "one entry a layer");
  const std::int64_t interval = reader.size("no_rope_layer_interval", 4);
  const auto turns = [&](std::int64_t i) {
    return listed.is_null() ? (i + 1) % interval != 0 : listed[static_cast<std::size_t>(i)] != 0;
  };
  const std::int64_t window = reader.flag("use_sliding_window", false) ? read_window(reader, 0) : 0;
  const std::vector<bool> slides =
      sliding_layers(reader, p.layers, [&](std::int64_t i) { return window > 0 && !turns(i); });
  refuse_contradictions(reader, slides, window, false);
  for (std::int64_t i = 0; i < p.layers; ++i) {
    p.block.attention.window = slides[static_cast<std::size_t>(i)] ? window : 0;
    p.block.attention.rotary = turns(i) ? 0 : AttentionSpec::kNoRotary;
    add_layer(reader, p.block, p.spec);
  }
  set_ends(reader, p.block.norm, p.spec);
  return std::move(p.spec);
}

Spec granite(const Reader& reader) {
  Plain p = plain(reader, 2048);
  take_llama_biases(reader, p.block);
  p.block.attention.scale = reader.number("attention_multiplier", 1);
  if (p.block.attention.scale <= 0)
    reader.refuse("attention_multiplier", p.block.attention.scale, "more than 0");
  p.block.residual_scale = reader.number("residual_multiplier", 1);
  p.spec.embedding.scale = reader.number("embedding_multiplier", 1);
  const double divisor = reader.number("logits_scaling", 1);
  if (divisor == 0) reader.refuse("logits_scaling", divisor, "anything but 0");
  p.spec.head.scale = 1 / divisor;
  return finish(reader, std::move(p));
}

}  // namespace weft::model::families
