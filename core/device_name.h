#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace weft::core {

/// Without a number: for several ranks, a GPU of its own for each.
constexpr std::string_view kAnyGpu = "cuda";

/// The number in "cuda:N", which is less than 128; 0 for "cuda"; nothing for another name.
[[nodiscard]] std::optional<int> gpu_index(std::string_view name);

/// Nothing for "cpu", "cuda" and "cuda:N"; else what is wrong: "'tpu' is not cpu, cuda or cuda:N (a
/// GPU's number)".
[[nodiscard]] std::optional<std::string> device_name_fault(std::string_view name);

}  // namespace weft::core
