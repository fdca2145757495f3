#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cli/options.h"
#include "cli/verification.h"
#include "core/file.h"
#include "merge/fold.h"

namespace weft::cli {

/// What the commands have in common that write a base with adapters as a model.
struct ModelOutputOptions {
  std::string model;
  std::vector<std::string> adapters;  ///< DIR or DIR:WEIGHT
  std::string out;
  VerificationOptions verify;
  bool force = false;
  bool allow_other_base = false;
  bool json = false;
  int threads = 0;

  [[nodiscard]] core::Overwrite overwrite() const {
    return force ? core::Overwrite::kReplace : core::Overwrite::kRefuse;
  }
};

/// Declares --model and --adapter.
void declare_model_input(CommandLine& app, ModelOutputOptions& options);
/// Declares --out, as `what`, and what goes with it: --verify and its limits, --force,
/// --allow-other-base, --json, --threads.
CommandOption declare_model_output(CommandLine& app, ModelOutputOptions& options, const char* what);

/// start_verification() of these options.
[[nodiscard]] merge::Verify start_verification(const ModelOutputOptions& options,
                                               std::optional<double> default_limit,
                                               const core::Log& log);

/// A line on the terminal that is redrawn at every whole per cent; nothing elsewhere.
[[nodiscard]] std::function<void(merge::FoldProgress)> progress_line();

}  // namespace weft::cli
