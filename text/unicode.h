#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace weft::text {

/// Lower case in Unicode's rules for any language, as Python's str.lower. Invalid UTF-8 becomes
/// U+FFFD.
[[nodiscard]] std::string lower(std::string_view utf8);

/// Python's string.punctuation: what of ASCII is printed and no letter, digit or space.
[[nodiscard]] constexpr bool is_ascii_punctuation(char32_t c) noexcept {
  return (c >= 0x21 && c <= 0x2F) || (c >= 0x3A && c <= 0x40) || (c >= 0x5B && c <= 0x60) ||
         (c >= 0x7B && c <= 0x7E);
}

/// Normal form C: what is written as a letter and marks becomes one code point where there is one.
/// Invalid UTF-8 becomes U+FFFD.
[[nodiscard]] std::string compose(std::string_view utf8);

/// The code points of a general category. Built once for each category; any thread may ask.
class UnicodeCategory {
 public:
  /// "P" punctuation, "S" symbols, "N" numbers, "L" letters, or one of two letters such as "Mn".
  /// Throws ConfigError for a name that Unicode does not have.
  explicit UnicodeCategory(std::string_view name);

  [[nodiscard]] bool has(char32_t c) const;

 private:
  std::vector<std::uint32_t> bounds_;  ///< First and last code point of each run, ascending.
};

[[nodiscard]] const UnicodeCategory& letters();
[[nodiscard]] const UnicodeCategory& numbers();
[[nodiscard]] const UnicodeCategory& punctuation();
[[nodiscard]] const UnicodeCategory& symbols();

}  // namespace weft::text
