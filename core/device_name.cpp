#include "core/device_name.h"

#include <fmt/format.h>

#include <charconv>

namespace weft::core {

std::optional<int> gpu_index(std::string_view name) {
  if (!name.starts_with(kAnyGpu)) return std::nullopt;
  name.remove_prefix(kAnyGpu.size());
  if (name.empty()) return 0;
  int index = -1;
  const char* const end = name.data() + name.size();
  if (name.front() != ':') return std::nullopt;
  const auto parsed = std::from_chars(name.data() + 1, end, index);
  const bool whole = parsed.ec == std::errc() && parsed.ptr == end;
  return whole && index >= 0 && index < 128 ? std::optional(index) : std::nullopt;
}

std::optional<std::string> device_name_fault(std::string_view name) {
  if (name == "cpu" || gpu_index(name)) return std::nullopt;
  return fmt::format("'{}' is not cpu, cuda or cuda:N (a GPU's number)", name);
}

}  // namespace weft::core
