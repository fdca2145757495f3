#pragma once

#include <cstdint>

namespace weft::core {

/// Bytes that this process may still take: the smaller of the machine's available memory
/// (/proc/meminfo, MemAvailable) and what is left below the control group's limit.
[[nodiscard]] std::uint64_t available_memory();

/// Bytes that it could take if no other program held any: the smaller of the machine's memory
/// (MemTotal) and the control group's limit.
[[nodiscard]] std::uint64_t total_memory();

}  // namespace weft::core
