#include "checkpoint/printable.h"

#include <fmt/format.h>

#include <cstddef>
#include <iterator>

namespace weft::checkpoint {
namespace {

/// Bytes of the well-formed UTF-8 character at the start of `text`; 0 when there is none.
std::size_t character_length(std::string_view text) noexcept {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  const std::size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0U) != 0x80) return 0;
  }
  const unsigned second = byte(1);
  const bool overlong = (lead == 0xe0 && second < 0xa0) || (lead == 0xf0 && second < 0x90);
  const bool surrogate = lead == 0xed && second >= 0xa0;
  const bool beyond = lead == 0xf4 && second >= 0x90;
  return overlong || surrogate || beyond ? 0 : length;
}

}  // namespace

bool is_utf8(std::string_view text) noexcept {
  while (!text.empty()) {
    const std::size_t length = character_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

std::string printable(std::string_view name) {
  static constexpr std::size_t kLongest = 120;
  std::string text = "'";
  while (!name.empty() && text.size() < kLongest) {
    const auto lead = static_cast<unsigned char>(name[0]);
    const std::size_t length = character_length(name);
    // C1 controls (U+0080 to U+009F) reach terminals as the two bytes c2 80 .. c2 9f.
    const bool control = lead < 0x20 || lead == 0x7f ||
                         (lead == 0xc2 && length == 2 && static_cast<unsigned char>(name[1]) < 0xa0);
    if (length == 0 || control) {
      fmt::format_to(std::back_inserter(text), "\\x{:02x}", lead);
      name.remove_prefix(1);
    } else {
      text += name.substr(0, length);
      name.remove_prefix(length);
    }
  }
  return text + (name.empty() ? "'" : "...'");
}

}  // namespace weft::checkpoint
