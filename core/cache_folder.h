#pragma once

#include <filesystem>
#include <optional>
#include <string_view>

namespace weft::core {

/// Where weft keeps what it can make again: $WEFT_CACHE/NAME, else $XDG_CACHE_HOME/weft/NAME, else
/// ~/.cache/weft/NAME; nothing where none of the three is set.
[[nodiscard]] std::optional<std::filesystem::path> cache_folder(std::string_view name);

}  // namespace weft::core
