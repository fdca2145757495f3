#pragma once

#include <string>

#include "batch/folder.h"

namespace weft::batch {

/// run_task() as the task `task` ("17_3") of an array: steps that failed are tried again as the
/// batch's `retries` say, since nobody looks after the job here. When a stop was asked for and
/// `near_limit` says that its time is nearly over, the job gives itself back to Slurm once it has
/// saved, and goes on in its next turn; after some turns that brought it no further it fails
/// instead. Returns the exit status.
int run_slurm_task(const BatchFolder& folder, const std::string& name, const std::string& task,
                   bool (*near_limit)());

}  // namespace weft::batch
