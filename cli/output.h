#pragma once

#include <fmt/format.h>

#include <string_view>
#include <utility>

#include "core/error.h"

/// The one place through which commands write to standard output and standard error.
namespace weft::cli {

/// Appends to standard output, which is buffered. A device that refuses is remembered for
/// finish_output(), so that a full disk never looks like success; nothing is thrown.
void write_output(std::string_view text) noexcept;

/// Writes to standard error at once, after what standard output holds back, so that the two stand
/// in order where they share a file. What cannot be written is dropped: messages end no work.
void write_message(std::string_view text) noexcept;

template <typename... Args>
void print(fmt::format_string<Args...> text, Args&&... args) {
  write_output(fmt::format(text, std::forward<Args>(args)...));
}

template <typename... Args>
void tell(fmt::format_string<Args...> text, Args&&... args) {
  write_message(fmt::format(text, std::forward<Args>(args)...));
}

/// From here on nothing is written any more: another process speaks for this one.
void be_silent() noexcept;

/// Shows what standard output holds back (an answer while it is written).
void flush_output() noexcept;

/// Writes out what is held back, and gives the exit status of a command that ended with `status`:
/// kFailed, told in one line, when a part of its results could not be written. A reader that went
/// away (`| head`) has what it wanted and changes nothing.
[[nodiscard]] int finish_output(std::string_view command, int status) noexcept;

}  // namespace weft::cli
