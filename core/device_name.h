#pragma once

#include <optional>
#include <string_view>

namespace weft::core {

/// Without a number: for several ranks, a GPU of its own for each.
constexpr std::string_view kAnyGpu = "cuda";

/// The number in "cuda:N", which is less than 128; 0 for "cuda"; nothing for another name.
[[nodiscard]] std::optional<int> gpu_index(std::string_view name);

/// Whether `name` is "cpu", "cuda" or "cuda:N".
[[nodiscard]] bool is_device_name(std::string_view name);

}  // namespace weft::core
