#pragma once

#include <vector>

#include "batch/engine.h"
#include "batch/folder.h"
#include "batch/job.h"
#include "batch/jobs_file.h"
#include "core/log.h"

namespace weft::batch {

/// A batch as its file describes it, checked as far as that goes without reading data.
struct Batch {
  JobsFile file;
  BatchFolder folder;
  BatchRecord record;
  std::vector<Job> jobs;
};

/// Reads JOBS.yaml, puts together each job's configurations and reads them as weft train and weft
/// eval will. Throws ConfigError with a line, and the place, for each problem; InputError for a
/// folder that is another batch's. Nothing is written.
[[nodiscard]] Batch load_batch(const std::filesystem::path& jobs_file, const Engine& engine,
                               const core::Log& log);

/// Asks for the plan of each job that has none (Job::memory_bytes). Throws ConfigError, with the
/// job's place, for everything that is wrong with any. `planned` hears of each.
void plan_jobs(const std::vector<Job*>& jobs, const Engine& engine,
               const std::function<void(const Job&)>& planned = {});

}  // namespace weft::batch
