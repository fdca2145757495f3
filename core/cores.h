#pragma once

#include <filesystem>
#include <string>

namespace weft::core {

/// Processor cores that this process may use: those of its affinity mask (taskset, Slurm, mpirun),
/// and no more than the quotas of its control groups give (containers), at least 1. Read once.
[[nodiscard]] int allowed_cores() noexcept;

/// The processor's name as /proc/cpuinfo tells it on x86; "unknown processor" elsewhere.
[[nodiscard]] std::string processor_name();

/// The least quota among the control groups of `membership` (the text of /proc/self/cgroup) below
/// `root` (/sys/fs/cgroup), in whole cores, rounded up; 0 without any. Versions 1 and 2.
[[nodiscard]] int group_cores(const std::filesystem::path& membership,
                              const std::filesystem::path& root);

}  // namespace weft::core
