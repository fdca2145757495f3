#pragma once

#include <string>
#include <vector>

#include "batch/compose.h"
#include "batch/local.h"

namespace weft::batch {

/// Jobs that are submitted together: one sbatch, one array.
struct SlurmArray {
  std::vector<const Job*> jobs;
  std::vector<std::string> after;      ///< Tasks that have to be done before, as "17_3".
  std::vector<std::string> after_any;  ///< Arrays that have to end before, however they end.
};

/// ConfigError, with what to do, where this machine cannot submit anything.
void require_slurm();

/// Asks sbatch whether it would take the jobs (sbatch --test-only). ConfigError with the place of
/// what Slurm refuses; IoError when it does not answer. Nothing is submitted or written.
void check_slurm(const Batch& batch, std::vector<JobView>& jobs, const SlurmQueue& queue);

/// The sbatch commands that submit() would run.
[[nodiscard]] std::vector<std::string> sbatch_commands(const Batch& batch,
                                                       std::vector<JobView>& jobs,
                                                       const SlurmQueue& queue);

/// Submits every job that is to be run: those that wait for no other as one array, those that wait
/// for the same jobs as an array each, which Slurm begins when these are done. A job that waits for
/// one that is neither done nor with Slurm is left alone. Throws as check_slurm(). The folder is
/// written and locked by the caller.
[[nodiscard]] std::vector<Submission> submit(const Batch& batch, std::vector<JobView>& jobs,
                                             const SlurmQueue& queue);

}  // namespace weft::batch
