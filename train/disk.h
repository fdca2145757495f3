#pragma once

#include <cstdint>

#include "train/job.h"

namespace weft::train {

/// What the folder of a run will take, in bytes.
struct DiskNeed {
  std::uint64_t adapter = 0;  ///< Its factors, in float32.
  /// At most: the checkpoints that are kept (factors and two moments each) and the one that is
  /// written before the oldest goes, the adapter, and the curves.
  std::uint64_t run = 0;
};

[[nodiscard]] DiskNeed disk_need(const Prepared& prepared);

}  // namespace weft::train
