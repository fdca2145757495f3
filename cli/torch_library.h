#pragma once

#include <string>

#include "core/error.h"

namespace weft::cli {

/// A symbol of the library with the commands that compute, beside the program in ../lib, built or
/// installed; opened at the first call. IoError when it cannot be loaded or is of another version,
/// ConfigError in a build without LibTorch.
[[nodiscard]] void* torch_symbol(const char* name);

/// How a function of that library says that it failed: exceptions stay on their side.
struct EngineFailure {
  std::string message;
  ExitCode exit_code = ExitCode::kDone;  ///< kDone: it did not fail.

  /// Throws what failed, if anything did.
  void rethrow() const {
    if (exit_code != ExitCode::kDone) throw Error(message, exit_code);
  }
};

/// Runs `work` and turns every exception into a failure.
template <typename Work>
[[nodiscard]] EngineFailure caught(const Work& work) {
  try {
    work();
    return {};
  } catch (const Error& error) {
    return {error.what(), error.exit_code()};
  } catch (const std::exception& error) {
    return {error.what(), ExitCode::kFailed};
  }
}

}  // namespace weft::cli
