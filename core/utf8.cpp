#include "core/utf8.h"

#include <algorithm>
#include <cstdint>

namespace weft::core {
namespace {

/// What may follow a lead byte (Unicode 15, table 3-7): how many bytes in all, and the range of the
/// second; later ones are 80..BF. A length of 0 marks a byte that cannot lead.
struct Lead {
  std::size_t length;
  std::uint8_t second_low;
  std::uint8_t second_high;
};

Lead lead_of(std::uint8_t byte) noexcept {
  if (byte < 0x80) return {1, 0, 0};
  if (byte >= 0xC2 && byte <= 0xDF) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};  // not the surrogates
  if (byte >= 0xE1 && byte <= 0xEF) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte >= 0xF1 && byte <= 0xF3) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};  // not beyond U+10FFFF
  return {0, 0, 0};
}

}  // namespace

Utf8Character first_character(std::string_view text) noexcept {
  const Lead lead = lead_of(static_cast<std::uint8_t>(text.front()));
  if (lead.length == 0) return {1, false};
  std::size_t size = 1;
  for (; size < lead.length && size < text.size(); ++size) {
    const auto byte = static_cast<std::uint8_t>(text[size]);
    const std::uint8_t low = size == 1 ? lead.second_low : std::uint8_t{0x80};
    const std::uint8_t high = size == 1 ? lead.second_high : std::uint8_t{0xBF};
    if (byte < low || byte > high) break;
  }
  return {size, size == lead.length};
}

char32_t code_point(std::string_view character) noexcept {
  const auto byte = [&](std::size_t at) { return static_cast<std::uint8_t>(character[at]); };
  if (character.size() == 1) return byte(0);
  // A lead byte of n bytes begins with n ones and a zero.
  char32_t code = byte(0) & (0x7FU >> character.size());
  for (std::size_t at = 1; at < character.size(); ++at) code = (code << 6) | (byte(at) & 0x3FU);
  return code;
}

std::u32string decode_utf8(std::string_view text) {
  std::u32string codes;
  codes.reserve(count_characters(text));
  while (!text.empty()) {
    const auto [bytes, is_well_formed] = first_character(text);
    codes += is_well_formed ? code_point(text.substr(0, bytes)) : kReplacementCode;
    text.remove_prefix(bytes);
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

std::size_t well_formed_prefix(std::string_view text) noexcept {
  std::size_t at = 0;
  while (at < text.size()) {
    const Utf8Character next = first_character(text.substr(at));
    if (!next.is_well_formed) break;
    at += next.bytes;
  }
  return at;
}

bool is_utf8(std::string_view text) noexcept { return well_formed_prefix(text) == text.size(); }

std::string replace_invalid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const std::size_t good = well_formed_prefix(text);
    out += text.substr(0, good);
    text.remove_prefix(good);
    if (text.empty()) break;
    out += kReplacement;
    text.remove_prefix(first_character(text).bytes);
  }
  return out;
}

std::size_t count_characters(std::string_view text) noexcept {
  return static_cast<std::size_t>(std::ranges::count_if(
      text, [](char c) { return (static_cast<std::uint8_t>(c) & 0xC0) != 0x80; }));
}

}  // namespace weft::core
