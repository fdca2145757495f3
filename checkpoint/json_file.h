#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>

namespace weft::checkpoint {

/// Parses JSON from outside: no duplicate keys, at most 64 levels, nothing after the value.
/// Throws InputError that begins with `where` and gives line and column.
[[nodiscard]] nlohmann::json parse_json(std::string_view text, std::string_view where);

/// The same with the keys of objects in their order, which chat templates show.
[[nodiscard]] nlohmann::ordered_json parse_ordered_json(std::string_view text,
                                                        std::string_view where);

/// parse_json() of a file of at most 256 MiB.
[[nodiscard]] nlohmann::json read_json(const std::filesystem::path& path);

/// read_json() where the value must be an object.
[[nodiscard]] nlohmann::json read_json_object(const std::filesystem::path& path);

}  // namespace weft::checkpoint
