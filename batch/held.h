#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "batch/job.h"
#include "batch/state.h"

namespace weft::batch {

/// What tells the run that lies in a folder from others: empty without a run. Of a run that is
/// being replaced it is the same, wherever weft train has put it, until the new one has taken its
/// place for good (train/run_folder.h).
[[nodiscard]] std::string mark_of_run(const std::filesystem::path& run);

/// What lies in the folder of a training run, whatever was attempted since: StepState::held, made
/// certain by a look at the folder.
[[nodiscard]] HeldRun held_run(const StepState& state, const std::filesystem::path& run);

/// What differs between the run that is held and that which a step would make now: names of keys,
/// "the contents of FILE". Empty: the run can be continued.
[[nodiscard]] std::vector<std::string> changes_since(const HeldRun& held,
                                                     const std::vector<std::string>& ingredients);

/// "its finished run is replaced, because seed has changed"; empty where nothing is replaced.
/// `run`: the folder of the job's training run.
[[nodiscard]] std::string replacement(const Job& job, const JobState& state,
                                      const std::filesystem::path& run, InputDigests& digests);

}  // namespace weft::batch
