#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "cli/options.h"
#include "cli/torch_library.h"
#include "core/log.h"
#include "merge/verification.h"

// `--verify TEXT` of commands that write models: they run without LibTorch, comparing predictions
// needs it. The program asks the library with LibTorch (verification.cpp, verify_engine.cpp).

namespace weft::cli {

struct VerificationOptions {
  std::string text;  ///< Empty: nothing is verified.
  std::optional<double> limit;
  std::int64_t tokens = 8192;
  std::string device = "cpu";  ///< model::open_device

  [[nodiscard]] bool wanted() const { return !text.empty(); }
};

/// Declares --verify, --verify-limit, --verify-tokens and --verify-device.
void declare_verification(CommandLine& app, VerificationOptions& options);

struct VerificationRequest {
  std::string model;
  std::vector<std::string> adapters;  ///< DIR or DIR:WEIGHT
  VerificationOptions options;
  int threads = 0;
  std::atomic<bool>* stop = nullptr;  ///< What the other side polls: core::use_stop_flag().
};

/// Computes what base and adapters predict on the text, so that whatever is wrong with them is
/// found before anything is written; returns what measures an output. Nothing when no verification
/// is wanted. `default_limit`: where the user gives none.
/// ConfigError in a build without LibTorch; errors of reading models, adapters and texts.
[[nodiscard]] merge::Verify start_verification(VerificationRequest request,
                                               std::optional<double> default_limit,
                                               const core::Log& log);

/// The same on the other side.
using EngineVerify =
    std::function<EngineFailure(const std::filesystem::path& written, merge::Verification& found)>;
using StartVerification = EngineFailure (*)(const VerificationRequest& request,
                                            const core::Log& log, EngineVerify& verify);

}  // namespace weft::cli
