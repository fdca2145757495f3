#include <algorithm>
#include <cstdint>

#include "core/terminal.h"
#include "core/utf8.h"
#include "eval/report/html.h"

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
  for (const char32_t c : core::decode_utf8(text)) {
    std::string letter;
    core::append_utf8(letter, c);
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

/// Words, each with the white space behind it.
std::vector<std::string> words(std::string_view text) {
  std::vector<std::string> result;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t end = std::min(text.find_first_of(" \t\r\n", at), text.size());
    end = std::min(text.find_first_not_of(" \t\r\n", end), text.size());
    result.emplace_back(text.substr(at, end - at));
    at = end;
  }
  return result;
}

bool same_unit(std::string_view a, std::string_view b) {
  const auto bare = [](std::string_view unit) {
    const std::size_t last = unit.find_last_not_of(" \t\r\n");
    return last == std::string_view::npos ? unit : unit.substr(0, last + 1);
  };
  return bare(a) == bare(b);
}

std::vector<DiffPart> diff(const std::vector<std::string>& a, const std::vector<std::string>& b,
                           std::string_view text) {
  if (a.empty()) return {};
  if (a.size() > kMostUnits || b.size() > kMostUnits) return {{std::string(text), true}};
  // longest[i][j]: of a from i on and b from j on.
  const std::size_t width = b.size() + 1;
  std::vector<std::uint16_t> longest((a.size() + 1) * width, 0);
  for (std::size_t i = a.size(); i-- > 0;) {
    for (std::size_t j = b.size(); j-- > 0;) {
      longest[i * width + j] =
          same_unit(a[i], b[j])
              ? static_cast<std::uint16_t>(longest[(i + 1) * width + j + 1] + 1)
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
    if (j < b.size() && same_unit(a[i], b[j])) {
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

}  // namespace

std::vector<DiffPart> character_diff(std::string_view text, std::string_view reference) {
  return diff(units(text), units(reference), text);
}

std::vector<DiffPart> word_diff(std::string_view text, std::string_view reference) {
  return diff(words(text), words(reference), text);
}

std::vector<DiffPart> answer_diff(std::string_view text, std::string_view reference) {
  std::vector<DiffPart> parts = character_diff(text, reference);
  std::size_t common = 0, all = 0;
  for (const DiffPart& part : parts) {
    all += part.text.size();
    common += part.common ? part.text.size() : 0;
  }
  return 3 * common >= 2 * all ? parts : word_diff(text, reference);
}

}  // namespace weft::eval
