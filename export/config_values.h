#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>

// Numbers of a config.json; nothing where the key is absent or holds something else.

namespace weft::exporting {

[[nodiscard]] inline std::optional<std::int64_t> whole(const nlohmann::json& config,
                                                       const char* key) {
  const auto found = config.find(key);
  if (found == config.end() || !found->is_number_integer()) return std::nullopt;
  return found->get<std::int64_t>();
}

[[nodiscard]] inline std::optional<double> real(const nlohmann::json& config, const char* key) {
  const auto found = config.find(key);
  if (found == config.end() || !found->is_number()) return std::nullopt;
  return found->get<double>();
}

}  // namespace weft::exporting
