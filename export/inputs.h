#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "core/log.h"
#include "lora/peft_file.h"
#include "merge/fold.h"

namespace weft::exporting {

/// A base and what is folded into it, as every exporter is given them.
struct InputPaths {
  struct Adapter {
    std::filesystem::path directory;
    double weight = 1;
  };
  std::filesystem::path model;    ///< Hugging Face directory or GGUF file.
  std::vector<Adapter> adapters;  ///< None: the model as it is.
  bool allow_other_base = false;  ///< Take a base whose digest is not the recorded one.
  /// Files that are read besides, such as an importance matrix or the text of the verification.
  std::vector<std::filesystem::path> also_reads{};
};

/// All that is read: what an output may not replace (core::claim_outputs).
[[nodiscard]] std::vector<std::filesystem::path> all_paths(const InputPaths& paths);

/// Adapters, opened.
struct OpenAdapters {
  std::vector<lora::PeftFile> files;
  std::vector<merge::WeightedAdapter> weighted;  ///< Point into `files`.
};
/// InputError where one has more than pairs of factors (lora::PeftFile::require_plain); `stacks`
/// says whether those of stacks of experts are taken. `who` is named then.
[[nodiscard]] OpenAdapters open_adapters(const std::vector<InputPaths::Adapter>& adapters,
                                         std::string_view who, lora::PeftFile::Stacks stacks,
                                         const core::Log& log);

/// What is made of base and adapters. An adapter holds none of the base's weights, so that these
/// are not hashed and compared with what the adapters record (a pass over them); and nothing that
/// reads it takes adapters of stacks of experts.
enum class Output { kModel, kAdapter };

/// The same, opened and found to fit.
struct OpenInputs {
  checkpoint::Checkpoint base;
  std::vector<lora::PeftFile> files;
  std::vector<merge::WeightedAdapter> adapters;  ///< Point into `files`.
  std::string base_digest;                       ///< Empty when no adapter records its base.
};

/// Opens base and adapters; refuses an adapter that was trained on other weights (lora::check_base)
/// unless that is allowed, which is told to `log`, and a base that another program has quantised
/// inside its safetensors (quantization_config), but for MXFP4, which is read. Errors of
/// open_adapters().
[[nodiscard]] OpenInputs open_inputs(const InputPaths& paths, const core::Log& log, Output output);

}  // namespace weft::exporting
