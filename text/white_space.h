#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace weft::text {

/// U+2581, which stands for a space in SentencePiece's vocabularies.
inline constexpr std::string_view kSentencePieceSpace = "\xE2\x96\x81";

/// Unicode's White_Space.
[[nodiscard]] bool is_white_space(char32_t c) noexcept;
/// What Python's str.isspace(), str.split() and str.strip() take for white space.
[[nodiscard]] bool is_python_space(char32_t c) noexcept;

/// Whether there is nothing but white space in `text`.
[[nodiscard]] bool is_blank(std::string_view text);

/// Bytes of white space (Unicode's White_Space) that `text` begins or ends with.
[[nodiscard]] std::size_t leading_white_space(std::string_view text);
[[nodiscard]] std::size_t trailing_white_space(std::string_view text);

/// The byte that a token such as "<0x0A>" stands for; nothing for other tokens.
[[nodiscard]] std::optional<std::uint8_t> byte_token(std::string_view token);

}  // namespace weft::text
