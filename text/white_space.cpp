#include "text/white_space.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <system_error>

namespace weft::text {
namespace {

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
