#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf_family.h"
#include "checkpoint/gguf_writer.h"
#include "core/log.h"
#include "export/file_type.h"

namespace weft::exporting {

/// How GGUF stores this model. InputError, with the families that are known, for another; one that
/// llama.cpp lacks is named as such.
[[nodiscard]] const checkpoint::Family& family_of(const checkpoint::Checkpoint& model);
/// What its config.json says about sizes.
[[nodiscard]] checkpoint::GgufSizes sizes_of(const checkpoint::Checkpoint& model);

/// The rotary scaling "llama3" of config.json, which GGUF keeps as a tensor; nothing without one.
[[nodiscard]] std::optional<checkpoint::Llama3Scaling> llama3_scaling(
    const checkpoint::Checkpoint& model);
/// rope_theta, wherever the version of transformers writes it; the family's where it does not.
[[nodiscard]] double rope_theta(const nlohmann::json& config, const checkpoint::GgufForm& form);
/// Phi-3's factors for short or long texts ("short_factor"), which GGUF keeps as tensors; empty
/// where the model has none.
[[nodiscard]] std::vector<float> longrope_factors(const checkpoint::Checkpoint& model,
                                                  const char* key);

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
