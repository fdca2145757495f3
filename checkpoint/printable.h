#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace weft::checkpoint {

/// A name from a file as it may stand in a one-line message: quotes around it, control characters
/// and malformed bytes as \xNN, cut after 120 bytes.
[[nodiscard]] std::string printable(std::string_view name);

/// "[16, 576]"
[[nodiscard]] std::string shape_text(std::span<const std::int64_t> shape);

}  // namespace weft::checkpoint
