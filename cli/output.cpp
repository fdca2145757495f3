#include "cli/output.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace weft::cli {
namespace {

bool is_silent = false;
int output_error = 0;  ///< errno of the first write to standard output that failed.

void note_failure() noexcept {
  if (output_error == 0) output_error = errno != 0 ? errno : EIO;
}

}  // namespace

void be_silent() noexcept { is_silent = true; }

void write_output(std::string_view text) noexcept {
  if (is_silent) return;
  errno = 0;
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) note_failure();
}

void flush_output() noexcept {
  errno = 0;
  if (std::fflush(stdout) != 0) note_failure();
}

void write_message(std::string_view text) noexcept {
  if (is_silent) return;
  flush_output();
  while (!text.empty()) {
    const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

int finish_output(std::string_view command, int status) noexcept {
  flush_output();
  if (output_error == 0 && std::ferror(stdout) != 0) output_error = EIO;
  if (output_error == 0 || output_error == EPIPE) return status;
  // Of fixed size: a message about a full disk needs no memory.
  char line[256];
  const auto end = fmt::format_to_n(line, sizeof line,
                                    "weft {}: standard output cannot be written: {}; its results "
                                    "are incomplete\n",
                                    command, std::strerror(output_error));
  write_message({line, static_cast<std::size_t>(end.out - line)});
  return status == static_cast<int>(ExitCode::kDone) ? static_cast<int>(ExitCode::kFailed) : status;
}

}  // namespace weft::cli
