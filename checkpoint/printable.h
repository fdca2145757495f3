#pragma once

#include <string>
#include <string_view>

namespace weft::checkpoint {

/// Whether `text` is well-formed UTF-8 (no overlong forms, no surrogates, at most U+10FFFF).
[[nodiscard]] bool is_utf8(std::string_view text) noexcept;

/// A name from a file as it may stand in a one-line message: quotes around it, control characters
/// and malformed bytes as \xNN, cut after 120 bytes.
[[nodiscard]] std::string printable(std::string_view name);

}  // namespace weft::checkpoint
