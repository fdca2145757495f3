#pragma once

#include "batch/folder.h"
#include "batch/job.h"

namespace weft::batch {

/// The steps of a job that are not done: their keys differ from those of the state, or what they
/// wrote is gone. The first of them decides whether the later ones can be: they read what it
/// writes.
[[nodiscard]] std::vector<std::string> missing_steps(const Job& job, const JobState& state,
                                                     InputDigests& digests);

/// Runs the steps of a job that are missing, each as a child of this process, and keeps state.json.
/// A stop (core/stop.h) is passed on to the child, which saves. Returns the exit status of `weft
/// batch task`: 0 done, else that of the step that ended it (1 where a signal did). InputError when
/// another process runs the job. `slurm`: the task of an array that this is, if any.
int run_task(const BatchFolder& folder, const std::string& name, const std::string& slurm = {});

/// The name of this machine, as state.json has it.
[[nodiscard]] std::string host_name();

/// A line of the batch itself in the job's log.
void note_in_log(const BatchFolder& folder, const std::string& name, std::string_view text);

}  // namespace weft::batch
