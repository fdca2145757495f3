#include "core/cache_folder.h"

#include <cstdlib>
#include <utility>

namespace weft::core {

std::optional<std::filesystem::path> cache_folder(std::string_view name) {
  const std::pair<const char*, const char*> places[] = {
      {"WEFT_CACHE", ""}, {"XDG_CACHE_HOME", "weft"}, {"HOME", ".cache/weft"}};
  for (const auto& [variable, below] : places) {
    const char* value = std::getenv(variable);
    if (value != nullptr && *value != '\0') return std::filesystem::path(value) / below / name;
  }
  return std::nullopt;
}

}  // namespace weft::core
