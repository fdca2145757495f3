#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "batch/job.h"
#include "batch/jobs_file.h"
#include "batch/state.h"

namespace weft::batch {

/// What batch.json keeps of a batch.
struct BatchRecord {
  std::string file;               ///< The JOBS.yaml that the folder belongs to.
  std::vector<std::string> jobs;  ///< Names, in order.
  std::int64_t threads = 0;       ///< Of jobs that do not say it: the same bits on every machine.
  RetriesSection retries{};       ///< For jobs that no weft batch looks after.
};

/// The folder of a batch (docs/batch.md): where its files are. Nothing is written but by write().
class BatchFolder {
 public:
  explicit BatchFolder(std::filesystem::path path) : path_(std::move(path)) {}

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::filesystem::path record() const { return path_ / "batch.json"; }
  [[nodiscard]] std::filesystem::path lock() const { return path_ / "batch.lock"; }
  [[nodiscard]] std::filesystem::path job(const std::string& name) const {
    return path_ / "jobs" / name;
  }
  [[nodiscard]] std::filesystem::path run(const std::string& name) const {
    return job(name) / "run";
  }
  [[nodiscard]] std::filesystem::path log(const std::string& name) const {
    return job(name) / "log.txt";
  }
  [[nodiscard]] std::filesystem::path state(const std::string& name) const {
    return job(name) / "state.json";
  }
  [[nodiscard]] std::filesystem::path description(const std::string& name) const {
    return job(name) / "job.json";
  }
  [[nodiscard]] std::filesystem::path job_lock(const std::string& name) const {
    return job(name) / "lock";
  }
  /// There while the job is not wanted (weft batch cancel); the next weft batch removes it.
  [[nodiscard]] std::filesystem::path cancelled(const std::string& name) const {
    return job(name) / "cancelled";
  }

  /// What was submitted to Slurm: records, scripts, and what Slurm itself says of its tasks.
  [[nodiscard]] std::filesystem::path slurm() const { return path_ / "slurm"; }

  /// Nothing where the folder holds no batch yet. InputError when it holds that of another file,
  /// something else, or a record that cannot be read.
  [[nodiscard]] std::optional<BatchRecord> read(const std::string& jobs_file) const;
  /// The record, whosever the batch is. InputError where there is none that can be read.
  [[nodiscard]] BatchRecord read() const;
  /// Writes the record, a copy of the jobs file, and for each job its folder, configurations and
  /// description.
  void write(const BatchRecord& record, const std::vector<Job>& jobs) const;
  void write_job(const Job& job) const;

  /// The job's state as it is now: one that says running while no process has the job's lock is
  /// lost, unless it runs on Slurm, perhaps on another machine (slurm_queue.h). InputError as
  /// read_state().
  [[nodiscard]] JobState state_now(const std::string& name) const;

  /// "process 4711 on node3" where it runs the job and the weft batch that runs now, if any, has
  /// not started it; empty where that is not so. Jobs on Slurm are not looked at.
  [[nodiscard]] std::string other_runner(const std::string& name) const;

 private:
  std::filesystem::path path_;
};

}  // namespace weft::batch
