#pragma once

#include <functional>
#include <span>
#include <string>

#include "cli/options.h"
#include "core/log.h"

namespace weft::cli {

/// Runs a command whose options have been parsed; returns the exit status (core/error.h, ExitCode).
/// Failures are thrown as weft::Error.
using Run = std::function<int()>;

/// One command of the program: `add` declares its options on `app` and returns what runs it.
struct Command {
  const char* name;  ///< As listed in cli/catalog.h.
  Run (*add)(CommandLine& app);
};

/// Finds `name` in `commands`, parses `arguments` (without program and command name), runs it, and
/// turns every exception into one line on standard error and an exit status.
int run_command(std::span<const Command> commands, const std::string& name,
                std::span<char* const> arguments);

/// Prints library messages as lines on standard error: "weft merge: warning: ...".
core::Log stderr_log(std::string command);

}  // namespace weft::cli
