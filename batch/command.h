#pragma once

#include <chrono>
#include <string>
#include <vector>

namespace weft::batch {

/// What another program left behind.
struct CommandResult {
  int status = 0;  ///< Exit status; 128 + signal where one ended it.
  std::string out;
  std::string error;  ///< What it wrote to standard error, as one line.
};

/// Whether a program of this name can be started.
[[nodiscard]] bool has_command(const std::string& name);

/// Runs a program that PATH has, without input, and waits for it; after `patience` it is killed,
/// and `error` says so. Signals from the terminal do not reach it. IoError when it cannot be
/// started.
[[nodiscard]] CommandResult run_command(const std::vector<std::string>& words,
                                        std::chrono::seconds patience);

}  // namespace weft::batch
