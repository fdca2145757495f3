#pragma once

#include <filesystem>

#include "core/file.h"
#include "core/log.h"
#include "export/adapter_report.h"
#include "export/inputs.h"

namespace weft::exporting {

/// How a PEFT directory is written.
enum class PeftProfile {
  /// For every reader: one rank (padded with zeros), each module's scale folded into B, lora_alpha
  /// the rank as a whole number, no rsLoRA, no patterns. The same update.
  kPortable,
  /// As the adapter is, in PEFT's words; one adapter of weight 1.
  kFaithful,
};

struct PeftRequest {
  std::vector<InputPaths::Adapter> adapters;
  std::filesystem::path out;
  PeftProfile profile = PeftProfile::kPortable;
  core::Overwrite overwrite = core::Overwrite::kRefuse;
};

/// Writes adapters (their sum) as one PEFT directory and compares the updates read back with
/// theirs. ConfigError when the faithful profile is asked for several adapters or a weight; errors
/// as of PeftFile::open.
[[nodiscard]] AdapterReport write_portable_peft(const PeftRequest& request,
                                                const core::Log& log = {});

}  // namespace weft::exporting
