#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/gguf.h"

// What GGUF calls a model, and what Hugging Face calls it. A family is a row of a table: an
// architecture, its tensor names, its metadata keys. Adding one is adding data (gguf_family.cpp).

namespace weft::checkpoint {

/// How the rows of a projection are ordered in the file. llama.cpp's converter interleaves the two
/// halves of each head of q and k for its rotary kernel: with head width h, Hugging Face row
/// head h + j h/2 + i (j = 0, 1) is row head h + 2 i + j of the file.
enum class RowOrder : std::uint8_t { kSame, kInterleavedQuery, kInterleavedKey };

/// One tensor, "{}" standing for the layer's number. Weight and bias have the same rule.
struct TensorRule {
  std::string_view gguf;          ///< "blk.{}.attn_q"
  std::string_view hugging_face;  ///< "model.layers.{}.self_attn.q_proj"; empty: not a weight.
  RowOrder rows = RowOrder::kSame;
  bool weight_required = true;  ///< Whether every layer must have the weight.
};

/// One number of config.json. The GGUF key is "<architecture>.<gguf>".
struct ConfigRule {
  enum class Kind : std::uint8_t { kCount, kReal };
  std::string_view gguf;
  std::string_view config;
  Kind kind = Kind::kCount;
};

/// A key of config.json that says whether projections have biases, and a part of the names of
/// tensors that then exist.
struct BiasRule {
  std::string_view gguf;    ///< ".attn_q."
  std::string_view config;  ///< "attention_bias"
};

struct GgufFamily {
  std::string_view architecture;  ///< general.architecture
  std::string_view model_type;    ///< config.json
  std::string_view class_name;    ///< config.json: architectures
  std::span<const TensorRule> tensors;
  std::span<const ConfigRule> config;  ///< Required keys.
  std::span<const BiasRule> biases;
  /// Whether llama.cpp's converter writes vocab_size and rope.dimension_count for the family.
  bool names_vocabulary_and_rotation = false;
};

/// Null when weft does not know the architecture.
[[nodiscard]] const GgufFamily* find_gguf_family(std::string_view architecture) noexcept;

/// The family of a config.json's model_type; a Mistral is a llama to llama.cpp. Null when weft does
/// not know how GGUF stores it.
[[nodiscard]] const GgufFamily* find_gguf_family_of(std::string_view model_type) noexcept;

/// "llama, ..." for messages.
[[nodiscard]] std::string known_gguf_families();

/// The Hugging Face name of a tensor and the order of its rows.
struct MappedName {
  std::string name;
  RowOrder rows = RowOrder::kSame;
};

/// Nothing when the family has no such tensor; an empty name for what is read but is no weight.
[[nodiscard]] std::optional<MappedName> hugging_face_name(const GgufFamily& family,
                                                          std::string_view gguf_name);

/// The way back: the GGUF name of a Hugging Face tensor, and the order its rows have in the file.
[[nodiscard]] std::optional<MappedName> gguf_name(const GgufFamily& family,
                                                  std::string_view hugging_face_name);

/// Parameters of Llama 3's rotary scaling (config.json, rope_type "llama3").
struct Llama3Scaling {
  double factor = 8;
  double low = 1;   ///< low_freq_factor
  double high = 4;  ///< high_freq_factor
  double original = 8192;
};

/// The factors by which Llama 3 divides its rotary frequencies, [head_dim / 2]: the tensor
/// rope_freqs.weight (ggml-org/llama.cpp, conversion/llama.py, generate_extra_tensors).
[[nodiscard]] std::vector<float> llama3_rope_factors(double theta, std::int64_t head_dim,
                                                     const Llama3Scaling& scaling);

/// config.json of the file, with the values that transformers derives from the same metadata, plus
/// what it leaves out: rotary scaling (from the metadata, or recovered from rope_freqs.weight),
/// biases and the numbers' type.
/// Throws InputError for missing or contradictory metadata and for what the family cannot express
/// (experts, partial rotary, scaling factors of an unknown kind).
[[nodiscard]] nlohmann::json gguf_config(const Gguf& file, const GgufFamily& family);

/// Throws InputError naming the first tensor that a layer lacks.
void check_gguf_layers(const Gguf& file, const GgufFamily& family, std::int64_t layers);

}  // namespace weft::checkpoint
