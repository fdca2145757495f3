#include "core/cores.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <optional>
#include <string>
#include <thread>

namespace weft::core {
namespace {
namespace fs = std::filesystem;

/// Cores of the quota and period in a group's files; nothing without a limit.
std::optional<double> quota_in(const fs::path& group, bool version_1) {
  double quota = 0;
  double period = 0;
  if (version_1) {
    if (!(std::ifstream(group / "cpu.cfs_quota_us") >> quota) ||
        !(std::ifstream(group / "cpu.cfs_period_us") >> period)) {
      return std::nullopt;
    }
  } else if (std::ifstream file(group / "cpu.max"); !(file >> quota >> period)) {
    return std::nullopt;  // also "max 100000"
  }
  if (quota <= 0 || period <= 0) return std::nullopt;
  return quota / period;
}

int affine_cores() noexcept {
#ifdef __linux__
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  return static_cast<int>(std::thread::hardware_concurrency());
}

}  // namespace

int group_cores(const fs::path& membership, const fs::path& root) {
  std::optional<double> least;
  std::ifstream stream(membership);
  for (std::string line; std::getline(stream, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = fmt::format(",{},", line.substr(first + 1, second - first - 1));
    const bool version_1 = controllers.find(",cpu,") != std::string::npos;
    if (!version_1 && controllers != ",,") continue;
    const fs::path top = version_1 ? root / "cpu" : root;
    fs::path inside = fs::path(line.substr(second + 1)).relative_path();
    for (;; inside = inside.parent_path()) {
      const auto here = quota_in(inside.empty() ? top : top / inside, version_1);
      if (here) least = std::min(least.value_or(*here), *here);
      if (inside.empty()) break;
    }
  }
  return least ? std::max(1, static_cast<int>(std::ceil(*least))) : 0;
}

int allowed_cores() noexcept {
  static const int kCores = [] {
    int cores = std::max(1, affine_cores());
    try {
      const int quota = group_cores("/proc/self/cgroup", "/sys/fs/cgroup");
      if (quota > 0) cores = std::min(cores, quota);
    } catch (const std::exception&) {
      // A file system that cannot be read sets no limit.
    }
    return cores;
  }();
  return kCores;
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown processor";
}

}  // namespace weft::core
