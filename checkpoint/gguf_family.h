#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/family.h"
#include "checkpoint/gguf.h"
#include "checkpoint/gguf_form.h"

// What GGUF calls the tensors of a model, and in which order their rows lie there. Names are
// columns of checkpoint/family.h, the rest of a family is a row of checkpoint/gguf_form.h.

namespace weft::checkpoint {

/// "blk.{}.attn_q"
[[nodiscard]] std::string_view gguf_name(const TensorRow& row) noexcept;

/// The family of a file: by general.architecture, and where several share it, the first that has
/// its tensors. Null when weft does not know the architecture.
[[nodiscard]] const Family* find_gguf_family(const Gguf& file);

/// The family of a config.json's model_type, where llama.cpp has it; else null.
[[nodiscard]] const Family* find_gguf_family_of(std::string_view model_type) noexcept;

/// "llama, ...": architectures, for messages.
[[nodiscard]] std::string known_gguf_families();

/// The value of a key that counts or measures; nothing where neither the configuration nor the
/// family has one. InputError, beginning with `where`, for another kind of value and for a key that
/// must be there.
[[nodiscard]] std::optional<double> gguf_value(const nlohmann::json& config, const GgufForm& form,
                                               const GgufKey& key, std::string_view where);
/// The same for the key with this name in GGUF.
[[nodiscard]] std::optional<double> gguf_value(const nlohmann::json& config, const GgufForm& form,
                                               std::string_view gguf, std::string_view where);

/// What config.json says about sizes.
struct GgufSizes {
  std::int64_t hidden = 0;
  std::int64_t layers = 0;
  std::int64_t heads = 0;
  std::int64_t key_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t experts = 0;  ///< Of a layer; 0: the family has none.
};

/// InputError naming `where` and the key that is missing or no positive whole number, and for heads
/// that do not fit each other.
[[nodiscard]] GgufSizes gguf_sizes(const nlohmann::json& config, const GgufForm& form,
                                   std::string_view where);

/// A tensor of the file, or one matrix of it where it is a stack.
struct GgufPlace {
  std::string name;
  std::int64_t outputs = 0;  ///< Rows of a matrix, elements of a bias.
  /// For each of them, the output of the Hugging Face tensor that it is; empty: every `step`-th
  /// from `first` on.
  std::vector<std::int64_t> rows;
  std::int64_t first = 0;
  std::int64_t step = 1;
};

/// Where a Hugging Face tensor lies in the file.
struct GgufPlaces {
  /// One, or q, k and v of a matrix that the file has apart, or gate and up of a stack.
  std::vector<GgufPlace> tensors;
  bool transposed = false;  ///< The model has [in, out], the file [out, in].
  float shift = 0;          ///< Added to the numbers in the file.
  /// Rows of the file come in groups of so many neighbours of the model; 1: without groups.
  std::int64_t group = 1;
  /// Not 0: the file's tensors are stacks of as many matrices (a bias: of vectors), and `tensors`
  /// tell of each of them.
  std::int64_t experts = 0;
  /// Which of them the model's tensor is; nothing: the model has a stack as well.
  std::optional<std::int64_t> expert{};
};

/// Nothing for a tensor that the family does not have. InputError, naming `shown` (else the
/// tensor), where its shape does not fit the sizes.
[[nodiscard]] std::optional<GgufPlaces> gguf_places(const Family& family, const GgufSizes& sizes,
                                                    std::string_view tensor,
                                                    const std::vector<std::int64_t>& shape,
                                                    std::string_view shown = {});

/// The names alone: "blk.0.attn_q.weight"; empty for a tensor that the family does not have.
[[nodiscard]] std::vector<std::string> gguf_names(const Family& family, std::string_view tensor);
/// Those of a row in a layer, without ".weight".
[[nodiscard]] std::vector<std::string> gguf_names(const Family& family, const TensorRow& row,
                                                  std::int64_t layer);

/// The row of a tensor by its whole name, weight or bias; null for one that the family does not
/// have.
[[nodiscard]] const TensorRow* find_tensor_row(const Family& family, std::string_view tensor);
/// What the model calls the tensor of a row: "model.layers.0.self_attn.q_proj.bias"; a parameter
/// of its own has no ".weight" ("model.layers.0.mlp.experts.down_proj", "..._bias").
[[nodiscard]] std::string tensor_name(const TensorRow& row, std::int64_t layer, std::int64_t expert,
                                      bool bias);

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

/// config.json's query_pre_attn_scalar that llama.cpp computes with in Gemma 2 and 3: the width of
/// a head, but in their largest models `quotient`, hidden_size / num_attention_heads.
[[nodiscard]] std::int64_t gemma_attention_scalar(std::int64_t layers, const GgufForm& form,
                                                  std::int64_t quotient, std::int64_t head_dim);

/// config.json of the file, with the values that transformers derives from the same metadata, plus
/// what it leaves out: rotary scaling (from the metadata, or recovered from rope_freqs.weight),
/// biases and the numbers' type.
/// Throws InputError for missing or contradictory metadata and for what the family cannot express
/// (experts, scaling factors of an unknown kind).
[[nodiscard]] nlohmann::json gguf_config(const Gguf& file, const Family& family);

}  // namespace weft::checkpoint
