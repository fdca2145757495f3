#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace weft {

/// What the program's exit status says. The command line maps every outcome to one of these.
enum class ExitCode : int {
  kDone = 0,          ///< The work is done.
  kFailed = 1,        ///< Failed while running: disk, memory, diverged numbers.
  kBadInput = 2,      ///< Wrong command, configuration or input; nothing was written.
  kRefused = 3,       ///< A gate or a pre-flight check said no.
  kNotNow = 75,       ///< Memory that it needs is taken now; the same command may do later.
  kInterrupted = 130  ///< Stopped by a signal; the state is saved.
};

/// Base of everything weft throws on purpose.
///
/// A message is one line: what was wanted, what was found, where (file, tensor, line), what to do.
/// Libraries throw and never print; the command line prints `what()` and exits with `exit_code()`.
class Error : public std::runtime_error {
 public:
  Error(std::string message, ExitCode exit_code)
      : std::runtime_error(std::move(message)), exit_code_(exit_code) {}

  [[nodiscard]] ExitCode exit_code() const noexcept { return exit_code_; }

 private:
  ExitCode exit_code_;
};

/// A configuration or command that cannot be meant: unknown key, wrong type, out of range.
class ConfigError : public Error {
 public:
  template <typename... Args>
  explicit ConfigError(fmt::format_string<Args...> text, Args&&... args)
      : Error(fmt::format(text, std::forward<Args>(args)...), ExitCode::kBadInput) {}
};

/// A file that is not what it says it is, or not what was asked for.
class InputError : public Error {
 public:
  template <typename... Args>
  explicit InputError(fmt::format_string<Args...> text, Args&&... args)
      : Error(fmt::format(text, std::forward<Args>(args)...), ExitCode::kBadInput) {}
};

/// The operating system refused: open, read, write, map, rename.
class IoError : public Error {
 public:
  template <typename... Args>
  explicit IoError(fmt::format_string<Args...> text, Args&&... args)
      : Error(fmt::format(text, std::forward<Args>(args)...), ExitCode::kFailed) {}
};

/// Numbers that left the range in which they mean something: NaN, infinity, divergence.
class NumericError : public Error {
 public:
  template <typename... Args>
  explicit NumericError(fmt::format_string<Args...> text, Args&&... args)
      : Error(fmt::format(text, std::forward<Args>(args)...), ExitCode::kFailed) {}
};

/// A gate or pre-flight check that said no.
class Refused : public Error {
 public:
  template <typename... Args>
  explicit Refused(fmt::format_string<Args...> text, Args&&... args)
      : Error(fmt::format(text, std::forward<Args>(args)...), ExitCode::kRefused) {}
};

/// What fails now and may succeed later, with nothing changed: memory that other programs hold.
class NotNow : public Error {
 public:
  template <typename... Args>
  explicit NotNow(fmt::format_string<Args...> text, Args&&... args)
      : Error(fmt::format(text, std::forward<Args>(args)...), ExitCode::kNotNow) {}
};

/// The user stopped the work; what was reached is saved.
class Interrupted : public Error {
 public:
  template <typename... Args>
  explicit Interrupted(fmt::format_string<Args...> text, Args&&... args)
      : Error(fmt::format(text, std::forward<Args>(args)...), ExitCode::kInterrupted) {}
};

}  // namespace weft
