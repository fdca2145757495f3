#include "text/utf8.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <system_error>
#include <utility>

namespace weft::text {
namespace {

/// What may follow a lead byte (Unicode 15, table 3-7): how many bytes in all, and the range of the
/// second; later ones are 80..BF. A length of 0 marks a byte that cannot lead.
struct Lead {
  std::size_t length;
  std::uint8_t second_low;
  std::uint8_t second_high;
};

Lead lead_of(std::uint8_t byte) {
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

/// Bytes of the longest valid beginning of a character at `text`, and whether it is a whole one.
std::pair<std::size_t, bool> scan(std::string_view text) {
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

/// Unicode's White_Space characters.
constexpr std::array<std::string_view, 25> kWhiteSpace{
    "\t",           "\n",           "\v",           "\f",           "\r",           " ",
    "\xC2\x85",     "\xC2\xA0",     "\xE1\x9A\x80", "\xE2\x80\x80", "\xE2\x80\x81", "\xE2\x80\x82",
    "\xE2\x80\x83", "\xE2\x80\x84", "\xE2\x80\x85", "\xE2\x80\x86", "\xE2\x80\x87", "\xE2\x80\x88",
    "\xE2\x80\x89", "\xE2\x80\x8A", "\xE2\x80\xA8", "\xE2\x80\xA9", "\xE2\x80\xAF", "\xE2\x81\x9F",
    "\xE3\x80\x80"};

/// Bytes of white space at one end of `text`; `touches` tells whether a character stands there.
template <typename Touches>
std::size_t white_space(std::string_view text, Touches touches) {
  std::size_t size = 0;
  while (true) {
    const auto found = std::ranges::find_if(
        kWhiteSpace, [&](std::string_view space) { return touches(text, size, space); });
    if (found == kWhiteSpace.end()) return size;
    size += found->size();
  }
}

}  // namespace

std::string replace_invalid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const auto [size, whole] = scan(text);
    out += whole ? text.substr(0, size) : kReplacement;
    text.remove_prefix(size);
  }
  return out;
}

std::size_t count_characters(std::string_view text) {
  return static_cast<std::size_t>(std::ranges::count_if(
      text, [](char c) { return (static_cast<std::uint8_t>(c) & 0xC0) != 0x80; }));
}

std::size_t leading_white_space(std::string_view text) {
  return white_space(text, [](std::string_view all, std::size_t taken, std::string_view space) {
    return all.substr(taken).starts_with(space);
  });
}

std::size_t trailing_white_space(std::string_view text) {
  return white_space(text, [](std::string_view all, std::size_t taken, std::string_view space) {
    return all.substr(0, all.size() - taken).ends_with(space);
  });
}

std::optional<std::uint8_t> byte_token(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return std::nullopt;
  std::uint8_t value = 0;
  const auto [end, error] = std::from_chars(token.data() + 3, token.data() + 5, value, 16);
  if (error != std::errc() || end != token.data() + 5) return std::nullopt;
  return value;
}

}  // namespace weft::text
