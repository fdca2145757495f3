#include <algorithm>
#include <cstdint>

#include "core/terminal.h"
#include "eval/html.h"
#include "eval/utf8.h"

namespace weft::eval {
namespace {

constexpr std::size_t kMostUnits = 4000;
constexpr char32_t kJoiner = 0x200D;

/// Letters of these change their shape or place with their neighbours.
bool joins(char32_t c) {
  return (c >= 0x0600 && c <= 0x08FF) || (c >= 0x0900 && c <= 0x109F) ||
         (c >= 0x1780 && c <= 0x18AF) || (c >= 0x1A20 && c <= 0x1CFF) ||
         (c >= 0xFB50 && c <= 0xFDFF) || (c >= 0xFE70 && c <= 0xFEFF);
}

/// What is marked as a whole: a letter with its marks, or a word of a joining script.
std::vector<std::string> units(std::string_view text) {
  std::vector<std::string> result;
  char32_t before = 0;
  for (const char32_t c : decode_utf8(text)) {
    std::string letter;
    append_utf8(letter, c);
    const bool is_mark = core::display_width(letter) == 0 && c >= 0x300;
    const bool goes_on =
        before != 0 && (is_mark || before == kJoiner || (joins(before) && joins(c)));
    if (goes_on) {
      result.back() += letter;
    } else {
      result.push_back(letter);
    }
    before = c;
  }
  return result;
}

}  // namespace

std::vector<DiffPart> character_diff(std::string_view text, std::string_view reference) {
  const std::vector<std::string> a = units(text);
  const std::vector<std::string> b = units(reference);
  if (a.empty()) return {};
  if (a.size() > kMostUnits || b.size() > kMostUnits) return {{std::string(text), true}};
  // longest[i][j]: of a from i on and b from j on.
  const std::size_t width = b.size() + 1;
  std::vector<std::uint16_t> longest((a.size() + 1) * width, 0);
  for (std::size_t i = a.size(); i-- > 0;) {
    for (std::size_t j = b.size(); j-- > 0;) {
      longest[i * width + j] =
          a[i] == b[j] ? static_cast<std::uint16_t>(longest[(i + 1) * width + j + 1] + 1)
                       : std::max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
    }
  }
  std::vector<DiffPart> parts;
  const auto add = [&](const std::string& unit, bool common) {
    if (parts.empty() || parts.back().common != common) parts.push_back({{}, common});
    parts.back().text += unit;
  };
  std::size_t i = 0, j = 0;
  while (i < a.size()) {
    if (j < b.size() && a[i] == b[j]) {
      add(a[i++], true);
      ++j;
    } else if (j < b.size() && longest[i * width + j + 1] > longest[(i + 1) * width + j]) {
      ++j;
    } else {
      add(a[i++], false);
    }
  }
  return parts;
}

}  // namespace weft::eval
