#include "core/memory.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>

namespace weft::core {
namespace {
namespace fs = std::filesystem;

constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();

/// The number a control-group file holds; nothing for "max" and for files that are not there.
std::optional<std::uint64_t> number_in(const fs::path& file) {
  std::ifstream stream(file);
  std::uint64_t value = 0;
  if (stream >> value) return value;
  return std::nullopt;
}

/// A line of /proc/meminfo in bytes.
std::uint64_t machine_memory(std::string_view wanted) {
  std::ifstream stream("/proc/meminfo");
  std::string line;
  while (std::getline(stream, line)) {
    std::istringstream words(line);
    std::string key;
    std::uint64_t kibibytes = 0;
    if (words >> key >> kibibytes && key == wanted) return kibibytes * 1024;
  }
  return kUnlimited;
}

struct Room {
  std::uint64_t left = kUnlimited;
  std::uint64_t limit = kUnlimited;
};

/// Clean pages of files count as used by a group, and are given up when memory is short.
std::uint64_t reclaimable(const fs::path& stat_file) {
  std::ifstream stream(stat_file);
  std::string key;
  std::uint64_t value = 0;
  while (stream >> key >> value) {
    if (key == "inactive_file" || key == "total_inactive_file") return value;
  }
  return 0;
}

Room room_in(const fs::path& group, const char* limit_name, const char* usage_name) {
  const auto limit = number_in(group / limit_name);
  const auto usage = number_in(group / usage_name);
  if (!limit || !usage) return {};
  const std::uint64_t used = *usage - std::min(*usage, reclaimable(group / "memory.stat"));
  return {.left = *limit - std::min(*limit, used), .limit = *limit};
}

/// What this process's control group and those around it (versions 2 and 1) leave and allow.
Room group_room() {
  Room least;
  std::ifstream stream("/proc/self/cgroup");
  std::string line;
  while (std::getline(stream, line)) {
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool is_v1 = controllers.find("memory") != std::string::npos;
    if (!is_v1 && !controllers.empty()) continue;
    const fs::path root = is_v1 ? "/sys/fs/cgroup/memory" : "/sys/fs/cgroup";
    fs::path inside = fs::path(line.substr(second + 1)).relative_path();
    for (;; inside = inside.parent_path()) {
      const fs::path group = inside.empty() ? root : root / inside;
      const Room room = is_v1 ? room_in(group, "memory.limit_in_bytes", "memory.usage_in_bytes")
                              : room_in(group, "memory.max", "memory.current");
      least.left = std::min(least.left, room.left);
      least.limit = std::min(least.limit, room.limit);
      if (inside.empty()) break;
    }
  }
  return least;
}

}  // namespace

std::uint64_t available_memory() {
  return std::min(machine_memory("MemAvailable:"), group_room().left);
}

std::uint64_t total_memory() { return std::min(machine_memory("MemTotal:"), group_room().limit); }

}  // namespace weft::core
