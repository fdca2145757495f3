#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace weft::core {

/// Columns that `text` (UTF-8) takes on a terminal: combining marks none, wide characters two.
[[nodiscard]] int display_width(std::string_view text);

/// `text` without what would move a terminal's cursor: each control character becomes `instead`,
/// malformed UTF-8 U+FFFD.
[[nodiscard]] std::string one_line(std::string_view text, char instead = ' ');

/// "1.2 GiB", "34.5 MiB", "12 B".
[[nodiscard]] std::string human_bytes(std::uint64_t bytes);

/// "134.5 M", "1.1 G", "12.3 K": decimal, for parameters and tokens.
[[nodiscard]] std::string human_count(std::uint64_t count);

/// "1 h 02 min", "3 min 05 s", "12.3 s".
[[nodiscard]] std::string human_duration(double seconds);

/// A table for people: columns padded to their widest cell, numbers right-aligned.
class Table {
 public:
  explicit Table(std::vector<std::string> header);
  void add(std::vector<std::string> cells);  ///< As many cells as the header has.
  [[nodiscard]] std::string text() const;    ///< Ends in a newline.

 private:
  std::vector<std::vector<std::string>> rows_;
};

/// True when standard error is a terminal (progress may redraw its line).
[[nodiscard]] bool stderr_is_terminal() noexcept;

/// Columns of the terminal on standard error; 80 where it is none.
[[nodiscard]] int terminal_columns() noexcept;

}  // namespace weft::core
