#pragma once

#include <filesystem>
#include <string>
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
[[nodiscard]] OpenAdapters open_adapters(const std::vector<InputPaths::Adapter>& adapters,
                                         const core::Log& log);

/// Whether the base's weights are hashed and compared with what the adapters record: a pass over
/// them, which an output without them does not need.
enum class CheckWeights { kYes, kNo };

/// The same, opened and found to fit.
struct OpenInputs {
  checkpoint::Checkpoint base;
  std::vector<lora::PeftFile> files;
  std::vector<merge::WeightedAdapter> adapters;  ///< Point into `files`.
  std::string base_digest;                       ///< Empty when no adapter records its base.
};

/// Opens base and adapters; refuses an adapter that was trained on other weights (lora::check_base)
/// unless that is allowed, which is told to `log`, and a base that another program has quantised
/// inside its safetensors (quantization_config), but for MXFP4, which is read.
[[nodiscard]] OpenInputs open_inputs(const InputPaths& paths, const core::Log& log,
                                     CheckWeights check = CheckWeights::kYes);

}  // namespace weft::exporting
