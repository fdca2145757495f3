#include "batch/task.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <fstream>
#include <thread>

#include "batch/lock.h"
#include "batch/process.h"
#include "batch/progress.h"
#include "core/error.h"
#include "core/stop.h"

namespace weft::batch {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

std::string host_name() {
  std::array<char, 256> name{};
  ::gethostname(name.data(), name.size() - 1);
  return name.data();
}

bool outputs_exist(const Step& step) {
  std::error_code error;
  for (const std::string& output : step.outputs) {
    if (!fs::exists(output, error)) return false;
  }
  return true;
}

bool is_done(const Step& step, const JobState& state, InputDigests& digests) {
  const StepState* known = state.find(step.name);
  return known != nullptr && known->status == Status::kDone && outputs_exist(step) &&
         known->key == key_of(step, digests);
}

/// How a child's end is meant.
Status status_of(const Ending& ending, const std::string& last_line) {
  if (ending.by_signal) return Status::kLost;
  switch (ending.status) {
    case 0: return Status::kDone;
    case static_cast<int>(ExitCode::kBadInput): return Status::kWrongInput;
    case static_cast<int>(ExitCode::kRefused): return Status::kRefused;
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
    state_.started = utc_now();
    state_.ended.clear();
    write();
    int status = 0;
    for (const Step& step : job_.steps) {
      if (is_done(step, state_, digests_)) continue;
      status = run_step(step);
      if (status != 0) break;
    }
    if (status == 0) state_.status = Status::kDone;
    state_.ended = utc_now();
    state_.pid = 0;
    write();
    return status;
  }

 private:
  void write() { write_state(folder_.state(job_.name), state_); }

  /// How training begins: goes on with the run that is there if it is of this configuration, and
  /// else replaces it.
  std::vector<std::string> arguments_of(const Step& step, const std::string& key) {
    std::vector<std::string> arguments = step.arguments;
    if (step.name != "train") return arguments;
    const StepState* known = state_.find(step.name);
    const bool is_other = known != nullptr && !known->key.empty() && known->key != key;
    const bool is_there = fs::exists(folder_.run(job_.name) / "config.yaml");
    arguments.emplace_back(is_other && is_there ? "--force" : "--resume");
    return arguments;
  }

  int run_step(const Step& step) {
    const std::string key = key_of(step, digests_);
    const std::vector<std::string> arguments = arguments_of(step, key);
    StepState& state = state_.step(step.name);
    if (state.key != key) state = {.name = step.name};
    state.key = key;
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
      state.error = ending.by_signal
                        ? fmt::format("ended by signal {}{}", ending.status - 128,
                                      ending.status == 128 + SIGKILL
                                          ? " (killed; perhaps the machine was out of memory)"
                                          : "")
                        : last;
    }
    for (const std::string& output : step.outputs) digests_.forget(output);
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

void note_in_log(const BatchFolder& folder, const std::string& name, std::string_view text) {
  std::ofstream(folder.log(name), std::ios::app)
      << fmt::format("{} weft batch: {}\n", utc_now(), text);
}

int run_task(const BatchFolder& folder, const std::string& name, const std::string& slurm) {
  return Task(folder, name, slurm).run();
}

}  // namespace weft::batch
