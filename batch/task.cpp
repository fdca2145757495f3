#include "batch/task.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <fstream>
#include <thread>

#include "batch/held.h"
#include "batch/lock.h"
#include "batch/process.h"
#include "batch/progress.h"
#include "core/error.h"
#include "core/stop.h"

namespace weft::batch {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

bool outputs_exist(const Step& step) {
  std::error_code error;
  for (const std::string& output : step.outputs) {
    if (!fs::exists(output, error)) return false;
  }
  return true;
}

bool is_training(const Step& step) { return step.name == "train"; }

/// The folder of a training run, whose adapter is the step's output.
fs::path run_of(const Step& step) { return fs::path(step.outputs.front()).parent_path(); }

bool is_done(const Step& step, const JobState& state, InputDigests& digests) {
  const StepState* known = state.find(step.name);
  if (known == nullptr || !outputs_exist(step)) return false;
  if (is_training(step)) {
    const HeldRun held = held_run(*known, run_of(step));
    return held.done && held.key == key_of(step, digests);
  }
  return known->status == Status::kDone && known->key == key_of(step, digests);
}

/// How a child's end is meant.
Status status_of(const Ending& ending, const std::string& last_line) {
  if (ending.by_signal || ending.is_unknown) return Status::kLost;
  switch (ending.status) {
    case 0: return Status::kDone;
    case static_cast<int>(ExitCode::kBadInput): return Status::kWrongInput;
    case static_cast<int>(ExitCode::kRefused): return Status::kRefused;
    case static_cast<int>(ExitCode::kNotNow): return Status::kShortOfMemory;
    case static_cast<int>(ExitCode::kInterrupted): return Status::kInterrupted;
    default: break;
  }
  return last_line.find("out of memory") != std::string::npos ? Status::kOutOfMemory
                                                              : Status::kFailed;
}

class Task {
 public:
  Task(const BatchFolder& folder, const std::string& name, const std::string& slurm)
      : folder_(folder),
        job_(read_job(folder.description(name))),
        // A step whose task was killed still writes: until it has ended, nobody else may begin.
        lock_(folder.job_lock(name), FileLock::Children::kShare),
        state_(read_state(folder.state(name)).value_or(JobState{})) {
    if (!lock_.held()) {
      throw InputError("another process runs the job {} ({})", name, folder.job(name).string());
    }
    state_.slurm = slurm;
  }

  int run() {
    // What is no step any more says nothing.
    std::erase_if(state_.steps, [&](const StepState& known) {
      return std::ranges::none_of(job_.steps,
                                  [&](const Step& step) { return step.name == known.name; });
    });
    state_.status = Status::kRunning;
    state_.host = host_name();
    state_.pid = ::getpid();
    state_.parent = ::getppid();
    state_.started = utc_now();
    state_.ended.clear();
    write();
    int status = 0;
    std::string current = job_.steps.front().name;
    try {
      for (const Step& step : job_.steps) {
        current = step.name;
        if (is_done(step, state_, digests_)) {
          note_done(step);
          continue;
        }
        status = run_step(step);
        if (status != 0) break;
      }
    } catch (const Interrupted& stop) {  // while inputs were hashed
      leave(current, Status::kInterrupted, stop.what());
      return static_cast<int>(ExitCode::kInterrupted);
    } catch (const std::exception& problem) {
      leave(current, Status::kFailed, problem.what());
      throw;
    }
    if (status == 0) state_.status = Status::kDone;
    state_.ended = utc_now();
    state_.pid = 0;
    write();
    return status;
  }

 private:
  /// The task itself cannot go on: else its state would say for ever that it runs.
  void leave(const std::string& step, Status status, const std::string& why) {
    StepState& state = state_.step(step);
    state.status = state_.status = status;
    state.error = why;
    state_.ended = utc_now();
    state_.pid = 0;
    write();
  }

  void write() { write_state(folder_.state(job_.name), state_); }

  /// What was attempted since a step was done, and came to nothing, is forgotten.
  void note_done(const Step& step) {
    StepState& state = state_.step(step.name);
    if (is_training(step)) {
      state.held = held_run(state, run_of(step));
      state.attempted = state.held.ingredients;
      state.replacing.clear();
    }
    state.key = key_of(step, digests_);
    state.status = Status::kDone;
    state.error.clear();
  }

  /// How training begins: goes on with the run that is there if it is of this configuration, and
  /// else replaces it. Until the new run stands, the old one may come back.
  std::string begin_training(const Step& step, StepState& state, HeldRun held) {
    state.held = std::move(held);
    state.attempted = ingredients_of(step, digests_);
    state.replacing.clear();
    const std::string there = mark_of_run(run_of(step));
    if (!there.empty() && !changes_since(state.held, state.attempted).empty()) {
      state.replacing = there;
      return "--force";
    }
    // A run of which nothing is known is known when it could be continued.
    if (there.empty() || !state.held.key.empty()) hold_attempt(state);
    return "--resume";
  }

  static void hold_attempt(StepState& state) {
    state.held = {.key = state.key, .ingredients = state.attempted, .done = false};
  }

  static void end_training(const Step& step, StepState& state) {
    if (!state.replacing.empty()) {
      state.held = held_run(state, run_of(step));
    } else if (state.status != Status::kWrongInput) {
      hold_attempt(state);
      state.held.done = state.status == Status::kDone;
    }
    state.replacing.clear();
  }

  int run_step(const Step& step) {
    const std::string key = key_of(step, digests_);
    std::vector<std::string> arguments = step.arguments;
    StepState& state = state_.step(step.name);
    HeldRun held = is_training(step) ? held_run(state, run_of(step)) : HeldRun{};
    if (state.key != key) state = {.name = step.name};
    state.key = key;
    if (is_training(step)) arguments.push_back(begin_training(step, state, std::move(held)));
    state.status = Status::kRunning;
    state.error.clear();
    write();
    const fs::path log = folder_.log(job_.name);
    note_in_log(folder_, job_.name, step.name);
    const Clock::time_point begun = Clock::now();
    const Ending ending = wait_for(arguments, log);
    state.seconds += std::chrono::duration<double>(Clock::now() - begun).count();
    state.peak_bytes = std::max(state.peak_bytes, ending.peak_bytes);
    const std::string last = last_line(log);
    state.status = status_of(ending, last);
    state.exit = ending.status;
    if (is_failure(state.status)) {
      state.error = ending.is_unknown ? "its process ended without a word"
                    : ending.by_signal
                        ? fmt::format("ended by signal {}{}", ending.status - 128,
                                      ending.status == 128 + SIGKILL
                                          ? " (killed; perhaps the machine was out of memory)"
                                          : "")
                        : last;
    }
    for (const std::string& output : step.outputs) digests_.forget(output);
    if (is_training(step)) end_training(step, state);
    state_.status = state.status;
    if (state.status == Status::kDone) state_.status = Status::kRunning;
    write();
    return ending.by_signal ? static_cast<int>(ExitCode::kFailed) : ending.status;
  }

  static Ending wait_for(const std::vector<std::string>& arguments, const fs::path& log) {
    if (core::stop_requested()) return {.status = static_cast<int>(ExitCode::kInterrupted)};
    Child child(arguments, log, /*own_group=*/false);
    bool asked = false;
    for (;;) {
      if (const auto ending = child.poll()) return *ending;
      if (!asked && core::stop_requested()) {
        child.signal(SIGTERM);
        asked = true;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }

  const BatchFolder& folder_;
  Job job_;
  FileLock lock_;
  JobState state_;
  InputDigests digests_;
};

}  // namespace

std::vector<std::string> missing_steps(const Job& job, const JobState& state,
                                       InputDigests& digests) {
  std::vector<std::string> missing;
  for (const Step& step : job.steps) {
    if (!missing.empty() || !is_done(step, state, digests)) missing.push_back(step.name);
  }
  return missing;
}

std::string host_name() {
  std::array<char, 256> name{};
  ::gethostname(name.data(), name.size() - 1);
  return name.data();
}

void note_in_log(const BatchFolder& folder, const std::string& name, std::string_view text) {
  std::ofstream(folder.log(name), std::ios::app)
      << fmt::format("{} weft batch: {}\n", utc_now(), text);
}

int run_task(const BatchFolder& folder, const std::string& name, const std::string& slurm) {
  return Task(folder, name, slurm).run();
}

}  // namespace weft::batch
