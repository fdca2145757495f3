#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace weft::text {

/// `text` with each maximal invalid subpart replaced by U+FFFD, as Python's
/// bytes.decode("utf-8", errors="replace") does (Unicode 15, section 3.9, "best practice").
/// Valid text comes back as it is.
[[nodiscard]] std::string replace_invalid_utf8(std::string_view text);

/// Characters in valid UTF-8.
[[nodiscard]] std::size_t count_characters(std::string_view text);

/// Bytes of white space (Unicode's White_Space) that `text` begins or ends with.
[[nodiscard]] std::size_t leading_white_space(std::string_view text);
[[nodiscard]] std::size_t trailing_white_space(std::string_view text);

/// The byte that a token such as "<0x0A>" stands for; nothing for other tokens.
[[nodiscard]] std::optional<std::uint8_t> byte_token(std::string_view token);

inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace weft::text
