#include "batch/slurm_task.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "batch/command.h"
#include "batch/lock.h"
#include "batch/progress.h"
#include "batch/retry.h"
#include "batch/task.h"
#include "core/error.h"
#include "core/stop.h"

namespace weft::batch {
namespace {

constexpr std::chrono::seconds kRequeuePatience{60};
/// Between two attempts of a job that found too little memory free.
constexpr std::chrono::seconds kMemoryPatience{60};
constexpr int kInterruptedStatus = static_cast<int>(ExitCode::kInterrupted);

class SlurmTask {
 public:
  SlurmTask(const BatchFolder& folder, const std::string& name, std::string task,
            bool (*near_limit)())
      : folder_(folder),
        job_(read_job(folder.description(name))),
        retries_(folder.read().retries),
        task_(std::move(task)),
        near_limit_(near_limit) {}

  int run() {
    if (!wait_for_others()) return near_limit_() ? requeue() : kInterruptedStatus;
    if (std::filesystem::exists(folder_.cancelled(job_.name))) {
      note("the job was cancelled before it began");
      return kInterruptedStatus;
    }
    if (!begin()) return static_cast<int>(ExitCode::kFailed);
    for (;;) {
      const int status = run_task(folder_, job_.name, task_);
      JobState state = read();
      if (status == 0) return 0;
      if (core::stop_requested()) {
        if (state.status != Status::kInterrupted || !near_limit_()) return status;
        return hand_back(state);
      }
      if (!take_retry(state, retries_)) return status;
      write(state);
      if (state.status == Status::kShortOfMemory && !wait_for_memory()) return kInterruptedStatus;
      note("it is tried again");
    }
  }

 private:
  [[nodiscard]] JobState read() const {
    return read_state(folder_.state(job_.name)).value_or(JobState{});
  }
  void write(const JobState& state) const { write_state(folder_.state(job_.name), state); }

  void note(const std::string& text) const { note_in_log(folder_, job_.name, text); }

  /// Where Slurm has lost sight of a node, the job's process may live on there; nobody else may
  /// write until it ends. False when a stop was asked for before.
  [[nodiscard]] bool wait_for_others() const {
    const auto lock = folder_.job_lock(job_.name);
    if (is_locked(lock)) note("another process still runs the job; this one waits for its end");
    while (is_locked(lock)) {
      if (core::stop_requested()) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
    return !core::stop_requested();
  }

  /// Other programs of the node hold the memory that the job needs. False when a stop was asked for
  /// before it was time to try again; nothing of the job has begun since it saved.
  [[nodiscard]] bool wait_for_memory() const {
    note(fmt::format("it waits {} s for memory", kMemoryPatience.count()));
    const auto until = std::chrono::steady_clock::now() + kMemoryPatience;
    while (std::chrono::steady_clock::now() < until) {
      if (core::stop_requested()) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
    return true;
  }

  /// How far the job is: two turns with the same mark brought it no further.
  [[nodiscard]] std::string mark_of(const JobState& state) const {
    const auto done = std::ranges::count(state.steps, Status::kDone, &StepState::status);
    const auto progress = read_progress(folder_.run(job_.name));
    return fmt::format("{} steps, update {}", done, progress ? progress->update : 0);
  }

  /// Counts a turn that ended without the job being done. False when there were too many that
  /// brought it no further: the state says so then.
  bool may_go_on(JobState& state, const std::string& how) const {
    const std::string mark = mark_of(state);
    state.stalls = mark == state.mark ? state.stalls + 1 : 0;
    if (state.stalls <= retries_.lost) return true;
    const auto current = std::ranges::find_if(job_.steps, [&](const Step& step) {
      const StepState* known = state.find(step.name);
      return known == nullptr || known->status != Status::kDone;
    });
    if (current == job_.steps.end()) return true;
    StepState& step = state.step(current->name);
    step.status = state.status = Status::kFailed;
    step.error = fmt::format("{} turns on Slurm brought it no further ({}); the last {}",
                             state.stalls, mark, how);
    note(step.error);
    return false;
  }

  /// The task begins, perhaps once more after its node was lost.
  bool begin() const {
    JobState state = read();
    const bool is_again = state.slurm == task_;
    if (is_again && state.status == Status::kRunning &&
        !may_go_on(state, "ended without a word, killed or with its node")) {
      write(state);
      return false;
    }
    if (!is_again) state.stalls = 0;
    state.slurm = task_;
    state.requeued = false;
    state.mark = mark_of(state);
    write(state);
    return true;
  }

  int hand_back(JobState state) {
    if (!may_go_on(state, "reached its time limit; resources.time is too short for it")) {
      write(state);
      return static_cast<int>(ExitCode::kFailed);
    }
    // Written first: Slurm may end this process as soon as it hears.
    state.requeued = true;
    write(state);
    if (requeue() == 0) return kInterruptedStatus;
    state.requeued = false;
    write(state);
    return kInterruptedStatus;
  }

  /// 0, or the exit status of the task that could not be given back.
  int requeue() const {
    const CommandResult answer = run_command({"scontrol", "requeue", task_}, kRequeuePatience);
    if (answer.status == 0) {
      note(fmt::format("the time limit is near; Slurm starts {} again", task_));
      return 0;
    }
    note(
        fmt::format("the time limit is near, and Slurm does not take {} back ({}); the job has "
                    "saved, and the next weft batch --slurm goes on with it",
                    task_, answer.error));
    return kInterruptedStatus;
  }

  const BatchFolder& folder_;
  Job job_;
  RetriesSection retries_;
  std::string task_;
  bool (*near_limit_)();
};

}  // namespace

int run_slurm_task(const BatchFolder& folder, const std::string& name, const std::string& task,
                   bool (*near_limit)()) {
  return SlurmTask(folder, name, task, near_limit).run();
}

}  // namespace weft::batch
