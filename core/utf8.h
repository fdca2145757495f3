#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace weft::core {

/// The character that `text`, which is not empty, begins with. Well-formed as in Unicode 15, table
/// 3-7: nothing overlong, no surrogates, at most U+10FFFF.
struct Utf8Character {
  std::size_t bytes = 1;  ///< Malformed: those of the longest beginning of a character, 1 to 3.
  bool is_well_formed = true;
};
[[nodiscard]] Utf8Character first_character(std::string_view text) noexcept;

/// The code point of a well-formed character, `character` being all of its bytes.
[[nodiscard]] char32_t code_point(std::string_view character) noexcept;

/// The code points of `text`; each maximal invalid subpart becomes U+FFFD.
[[nodiscard]] std::u32string decode_utf8(std::string_view text);

/// Appends a code point as UTF-8.
void append_utf8(std::string& text, char32_t c);

/// Whether all of `text` is well-formed UTF-8.
[[nodiscard]] bool is_utf8(std::string_view text) noexcept;

/// Bytes before the first malformed one; text.size() where there is none.
[[nodiscard]] std::size_t well_formed_prefix(std::string_view text) noexcept;

/// `text` with each maximal invalid subpart replaced by U+FFFD, as Python's
/// bytes.decode("utf-8", errors="replace") does (Unicode 15, section 3.9, "best practice").
/// Valid text comes back as it is.
[[nodiscard]] std::string replace_invalid_utf8(std::string_view text);

/// Characters in valid UTF-8.
[[nodiscard]] std::size_t count_characters(std::string_view text) noexcept;

inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD
inline constexpr char32_t kReplacementCode = 0xFFFD;

}  // namespace weft::core
