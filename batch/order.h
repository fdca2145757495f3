#pragma once

#include <vector>

#include "batch/matrix.h"
#include "batch/problems.h"

namespace weft::batch {

/// Two jobs of one name would write into one folder.
void check_names(const std::vector<Described>& jobs, Problems& problems);

/// Whether every job of `after` exists, and none waits for itself.
void check_order(const std::vector<Described>& jobs, Problems& problems);

}  // namespace weft::batch
