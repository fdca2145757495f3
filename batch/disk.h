#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "batch/compose.h"
#include "batch/local.h"

namespace weft::batch {

/// A file system, and what is free on it.
struct DiskRoom {
  std::uint64_t device = 0;  ///< The same for all paths on it.
  std::uint64_t free = 0;    ///< Bytes that this user may write.
};

/// Of the path, or of the nearest folder above it that is there. All is free where it cannot be
/// told.
[[nodiscard]] DiskRoom disk_room(const std::filesystem::path& path);

/// Sets Job::disk_bytes of the jobs that are to be run: what their missing steps will write, beyond
/// what they replace. Known are checkpoints and adapter of the plan (plan_jobs() comes first),
/// merged models, and exports; an evaluation is taken to be small.
void plan_disk(Batch& batch, const std::vector<JobView>& views, const Engine& engine);

/// Throws ConfigError, with the place of output_dir, when what the jobs will write together is more
/// than is free on the file system that they lie on.
void require_disk(const Batch& batch, const std::vector<JobView>& views,
                  const std::function<DiskRoom(const std::filesystem::path&)>& room = disk_room);

}  // namespace weft::batch
