#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "batch/compose.h"
#include "batch/slurm_queue.h"

namespace weft::batch {

/// How a job stands while the batch runs.
struct JobView {
  const Job* job = nullptr;
  Status status = Status::kWaiting;
  bool reused = false;      ///< It was done before the batch began.
  bool left_alone = false;  ///< It failed before, or is cancelled, and is not tried now.
  bool live = false;        ///< Slurm has it already; it is left alone as well.
  std::string step{};       ///< That runs now.
  std::string replaces{};   ///< What is lost when it runs: a run of other keys or inputs.
  std::string note{};       ///< Why it does not run, or did not end well.
};

/// Who hears of a batch that runs.
class Watcher {
 public:
  virtual ~Watcher() = default;
  /// Something happened to a job: it began, goes on with another step, ended, is tried again.
  virtual void on_change(const JobView& job, const std::string& what) = 0;
  /// Now and then.
  virtual void on_tick(const std::vector<JobView>& jobs) = 0;
};

struct RunOptions {
  bool retry_failed = false;
  SlurmQueue queue{};  ///< Of the batch; jobs that wait or run there are not run twice.
  std::function<bool(const Job&)> wanted{};  ///< Empty: all.
};

/// How a job waits that found too little memory free (exit status 75).
struct MemoryWait {
  std::chrono::milliseconds least{2000};    ///< Between two attempts.
  std::chrono::milliseconds most{300'000};  ///< Then it is tried whatever is free.
};

/// Which jobs of the batch are to be run, and why the others are not.
[[nodiscard]] std::vector<JobView> survey(const Batch& batch, const RunOptions& options);

/// Runs jobs as child processes of this machine, as many at once as threads, memory and
/// `concurrency` allow, each when those that it waits for are done. A stop is passed on, and all
/// jobs save. A job that found too little memory free is run again when another job of the batch
/// has ended, which does not count as a retry, or else when its plan's memory is free. Returns how
/// all jobs stand in the end. The folder is written and locked by the caller.
[[nodiscard]] std::vector<JobView> run_locally(Batch& batch, std::vector<JobView> jobs,
                                               const Engine& engine, Watcher& watcher,
                                               const MemoryWait& wait = {});

}  // namespace weft::batch
