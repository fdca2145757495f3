#include "text/white_space.h"

#include <charconv>
#include <system_error>

#include "core/utf8.h"

namespace weft::text {

bool is_white_space(char32_t c) noexcept {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_python_space(char32_t c) noexcept {
  return is_white_space(c) || (c >= 0x1C && c <= 0x1F);  // the separators of ASCII
}

std::size_t leading_white_space(std::string_view text) {
  std::size_t size = 0;
  while (size < text.size()) {
    const auto [bytes, is_well_formed] = core::first_character(text.substr(size));
    if (!is_well_formed || !is_white_space(core::code_point(text.substr(size, bytes)))) break;
    size += bytes;
  }
  return size;
}

std::size_t trailing_white_space(std::string_view text) {
  constexpr std::size_t kLongest = 3;  // bytes of a white space
  std::size_t begin = text.size();
  while (begin > 0) {
    std::size_t bytes = 1;
    const auto is_inside = [&] {
      return (static_cast<std::uint8_t>(text[begin - bytes]) & 0xC0U) == 0x80;
    };
    while (bytes < kLongest && bytes < begin && is_inside()) ++bytes;
    const std::string_view last = text.substr(begin - bytes, bytes);
    const auto [size, is_well_formed] = core::first_character(last);
    if (!is_well_formed || size != bytes || !is_white_space(core::code_point(last))) break;
    begin -= bytes;
  }
  return text.size() - begin;
}

bool is_blank(std::string_view text) { return leading_white_space(text) == text.size(); }

std::optional<std::uint8_t> byte_token(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return std::nullopt;
  std::uint8_t value = 0;
  const auto [end, error] = std::from_chars(token.data() + 3, token.data() + 5, value, 16);
  if (error != std::errc() || end != token.data() + 5) return std::nullopt;
  return value;
}

}  // namespace weft::text
