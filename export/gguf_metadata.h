#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf_family.h"
#include "checkpoint/gguf_writer.h"
#include "core/log.h"
#include "export/file_type.h"

namespace weft::exporting {

/// What config.json says about sizes, as every exporter needs it.
struct Sizes {
  std::int64_t hidden = 0;
  std::int64_t layers = 0;
  std::int64_t heads = 0;
  std::int64_t key_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t vocabulary = 0;  ///< Rows of the embedding.
};

/// InputError naming config.json and the key that is missing or no positive whole number.
[[nodiscard]] Sizes sizes_of(const checkpoint::Checkpoint& model);

/// How GGUF stores this model. InputError, with the families that are known, for another.
[[nodiscard]] const checkpoint::GgufFamily& family_of(const checkpoint::Checkpoint& model);

/// The rotary scaling "llama3" of config.json, which GGUF keeps as a tensor; nothing without one.
[[nodiscard]] std::optional<checkpoint::Llama3Scaling> llama3_scaling(
    const checkpoint::Checkpoint& model);
/// rope_theta, wherever the version of transformers writes it; 10000 where it does not.
[[nodiscard]] double rope_theta(const nlohmann::json& config);

/// What names the output and cannot be found in the model.
struct MetadataChoices {
  std::string name;                ///< general.name
  std::optional<std::string> pre;  ///< tokenizer.ggml.pre; empty: found or carried over.
};

/// All metadata of the exported model: from a GGUF base everything is carried over but what
/// describes its storage; for a Hugging Face base what llama.cpp's converter writes
/// (conversion/base.py, set_gguf_parameters; conversion/llama.py).
/// InputError for what GGUF cannot say (rotary scaling of an unknown kind).
[[nodiscard]] checkpoint::GgufFields model_fields(const checkpoint::Checkpoint& model,
                                                  const FileType& type,
                                                  const MetadataChoices& choices,
                                                  const core::Log& log);

}  // namespace weft::exporting
