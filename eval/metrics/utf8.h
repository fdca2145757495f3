#pragma once

#include <string>
#include <string_view>

namespace weft::eval {

/// Code points of UTF-8 text; invalid bytes become U+FFFD (core/utf8.h).
[[nodiscard]] std::u32string decode_utf8(std::string_view text);

/// Appends a code point as UTF-8.
void append_utf8(std::string& text, char32_t c);

/// What Python's str.isspace() and str.split() take for whitespace.
[[nodiscard]] bool is_python_space(char32_t c);

}  // namespace weft::eval
