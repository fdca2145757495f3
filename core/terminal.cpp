#include "core/terminal.h"

#include <fmt/format.h>
#include <locale.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cwchar>
#include <span>
#include <stdexcept>

#include "core/utf8.h"

namespace weft::core {
namespace {

bool is_number(std::string_view cell) {
  return !cell.empty() && cell.find_first_of("0123456789") != std::string_view::npos &&
         cell.find_first_not_of("0123456789.+-%eE ×KMGTiBsmin±[], ") == std::string_view::npos;
}

std::string scaled(double value, double base, std::span<const char* const> units) {
  std::size_t unit = 0;
  while (value >= base && unit + 1 < units.size()) {
    value /= base;
    ++unit;
  }
  if (unit == 0) return fmt::format("{:.0f}{}", value, units[0]);
  return fmt::format("{:.{}f}{}", value, value < 10 ? 2 : 1, units[unit]);
}

}  // namespace

int display_width(std::string_view text) {
  // wcwidth() knows only ASCII in the "C" locale, which programs start in.
  static const locale_t kUtf8 = ::newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);
  const locale_t before = kUtf8 == nullptr ? nullptr : ::uselocale(kUtf8);
  int width = 0;
  for (const char32_t character : decode_utf8(text)) {
    const int columns = ::wcwidth(static_cast<wchar_t>(character));
    width += columns < 0 ? 1 : columns;
  }
  if (before != nullptr) ::uselocale(before);
  return width;
}

std::string one_line(std::string_view text, char instead) {
  std::string line;
  line.reserve(text.size());
  for (const char32_t c : decode_utf8(text)) {
    const bool moves = c < 0x20 || (c >= 0x7f && c < 0xa0);
    append_utf8(line, moves ? static_cast<char32_t>(instead) : c);
  }
  return line;
}

std::string human_bytes(std::uint64_t bytes) {
  static constexpr std::array<const char*, 5> kUnits{" B", " KiB", " MiB", " GiB", " TiB"};
  return scaled(static_cast<double>(bytes), 1024.0, kUnits);
}

std::string human_count(std::uint64_t count) {
  static constexpr std::array<const char*, 5> kUnits{"", " K", " M", " G", " T"};
  return scaled(static_cast<double>(count), 1000.0, kUnits);
}

std::string human_duration(double seconds) {
  if (seconds < 59.95) return fmt::format("{:.1f} s", std::max(0.0, seconds));
  const auto whole = static_cast<std::int64_t>(seconds + 0.5);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole % 3600 / 60);
}

Table::Table(std::vector<std::string> header) { rows_.push_back(std::move(header)); }

void Table::add(std::vector<std::string> cells) {
  if (cells.size() != rows_.front().size()) throw std::logic_error("table row of another width");
  rows_.push_back(std::move(cells));
}

std::string Table::text() const {
  const std::size_t columns = rows_.front().size();
  std::vector<int> widths(columns, 0);
  std::vector<bool> right(columns, rows_.size() > 1);
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    for (std::size_t c = 0; c < columns; ++c) {
      widths[c] = std::max(widths[c], display_width(rows_[i][c]));
      if (i > 0 && rows_[i][c] != "-" && !is_number(rows_[i][c])) right[c] = false;
    }
  }
  std::string text;
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    std::string line;
    for (std::size_t c = 0; c < columns; ++c) {
      const auto gap = static_cast<std::size_t>(widths[c] - display_width(rows_[i][c]));
      const std::string pad(gap, ' ');
      if (c > 0) line += "  ";
      line += right[c] ? pad + rows_[i][c] : rows_[i][c] + pad;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + '\n';
    if (i == 0) {
      int total = 0;
      for (const int width : widths) total += width + 2;
      for (int k = 0; k < total - 2; ++k) text += "─";
      text += '\n';
    }
  }
  return text;
}

bool stderr_is_terminal() noexcept { return ::isatty(STDERR_FILENO) == 1; }

int terminal_columns() noexcept {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

}  // namespace weft::core
