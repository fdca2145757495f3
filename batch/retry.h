#pragma once

#include <string>

#include "batch/jobs_file.h"
#include "batch/state.h"

namespace weft::batch {

/// Whether a job that ended like this is run again; counts the retry then. What failed for a reason
/// that may pass (killed, lost, out of or short of memory) has another limit than what failed by
/// itself; wrong input, a gate that said no and a stop that was asked for are never tried again.
[[nodiscard]] bool take_retry(JobState& state, const RetriesSection& limits);

}  // namespace weft::batch
