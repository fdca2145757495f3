#include "eval/metrics/utf8.h"

#include <cstdint>

#include "core/utf8.h"

namespace weft::eval {

std::u32string decode_utf8(std::string_view text) {
  const std::string valid = core::replace_invalid_utf8(text);
  std::u32string codes;
  codes.reserve(core::count_characters(valid));
  for (std::size_t at = 0; at < valid.size();) {
    const auto lead = static_cast<std::uint8_t>(valid[at]);
    const std::size_t length = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    // A lead byte of n > 1 bytes begins with n ones and a zero.
    char32_t code = length == 1 ? lead : lead & (0x7FU >> length);
    for (std::size_t i = 1; i < length; ++i) {
      code = (code << 6) | (static_cast<std::uint8_t>(valid[at + i]) & 0x3FU);
    }
    codes += code;
    at += length;
  }
  return codes;
}

void append_utf8(std::string& text, char32_t c) {
  const auto byte = [&](char32_t bits) { text += static_cast<char>(bits); };
  if (c < 0x80) {
    byte(c);
  } else if (c < 0x800) {
    byte(0xC0 | c >> 6);
    byte(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    byte(0xE0 | c >> 12);
    byte(0x80 | (c >> 6 & 0x3F));
    byte(0x80 | (c & 0x3F));
  } else {
    byte(0xF0 | c >> 18);
    byte(0x80 | (c >> 12 & 0x3F));
    byte(0x80 | (c >> 6 & 0x3F));
    byte(0x80 | (c & 0x3F));
  }
}

bool is_python_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

}  // namespace weft::eval
