#include "batch/local.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <map>
#include <memory>
#include <set>
#include <thread>

#include "batch/held.h"
#include "batch/lock.h"
#include "batch/process.h"
#include "batch/progress.h"
#include "batch/retry.h"
#include "batch/task.h"
#include "core/cores.h"
#include "core/error.h"
#include "core/memory.h"
#include "core/stop.h"
#include "core/terminal.h"

namespace weft::batch {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

bool has_ended(const JobView& view) {
  return view.reused || view.left_alone || view.status == Status::kDone ||
         view.status == Status::kInterrupted || is_failure(view.status);
}

/// Runs what a survey found to be missing.
class Runner {
 public:
  Runner(Batch& batch, std::vector<JobView> jobs, const Engine& engine, Watcher& watcher,
         const MemoryWait& wait)
      : batch_(batch),
        views_(std::move(jobs)),
        engine_(engine),
        watcher_(watcher),
        wait_(wait),
        free_memory_(core::available_memory()) {}

  ~Runner() {
    // Whatever ends the batch: all are asked before one is waited for.
    for (const auto& [name, child] : running_) child->signal(SIGTERM);
  }
  Runner(const Runner&) = delete;
  Runner& operator=(const Runner&) = delete;

  std::vector<JobView> run() {
    bool asked = false;
    Clock::time_point ticked{};
    for (;;) {
      const bool stopping = core::stop_requested();
      if (stopping && !asked) {
        for (auto& [name, child] : running_) child->signal(SIGTERM);
        asked = true;
      }
      look_at_children(stopping);
      if (!stopping) start_what_can();
      if (running_.empty() && (stopping || std::ranges::all_of(views_, has_ended))) break;
      if (Clock::now() - ticked > std::chrono::milliseconds(500)) {
        note_steps();
        watcher_.on_tick(views_);
        ticked = Clock::now();
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return std::move(views_);
  }

 private:
  JobView& view(const std::string& name) {
    return *std::ranges::find_if(views_, [&](const JobView& v) { return v.job->name == name; });
  }

  /// What goes wrong with one job ends that job, and no other.
  template <typename Work>
  void alone(JobView& job, const Work& work) {
    try {
      work(job);
    } catch (const Error& problem) {
      if (problem.exit_code() == ExitCode::kInterrupted) throw;
      give_up(job, problem.what());
    } catch (const std::exception& problem) {
      give_up(job, problem.what());
    }
  }

  void give_up(JobView& job, const std::string& why) {
    job.status = Status::kFailed;
    job.step.clear();
    job.note = why;
    watcher_.on_change(job, why);
  }

  void look_at_children(bool stopping) {
    for (auto at = running_.begin(); at != running_.end();) {
      if (!at->second->poll()) {
        ++at;
        continue;
      }
      const std::string name = at->first;
      at = running_.erase(at);
      alone(view(name), [&](JobView& ended) { conclude(ended, stopping); });
    }
  }

  void conclude(JobView& ended, bool stopping) {
    const std::string& name = ended.job->name;
    JobState state = batch_.folder.state_now(name);
    if (state.status == Status::kRunning || state.status == Status::kWaiting)
      state.status = Status::kLost;
    ended.status = state.status;
    ended.step.clear();
    ended.note = state.error();
    ++ended_jobs_;
    const bool is_short = state.status == Status::kShortOfMemory;
    // What the other jobs of the batch hold they give back.
    const bool others_hold_it = is_short && !running_.empty();
    if (is_failure(state.status) && !stopping &&
        (others_hold_it || take_retry(state, batch_.file.retries))) {
      if (is_short) short_[name] = {.ended_jobs = ended_jobs_, .since = Clock::now()};
      write_state(batch_.folder.state(name), state);
      ended.status = Status::kWaiting;
      watcher_.on_change(ended, fmt::format("{}; it is tried again{}", ended.note,
                                            is_short ? " when there is more memory free" : ""));
      return;
    }
    if (is_failure(state.status)) write_state(batch_.folder.state(name), state);
    watcher_.on_change(ended, ended.note.empty() ? std::string(word(ended.status)) : ended.note);
  }

  void start_what_can() {
    for (JobView& next : views_) {
      if (has_ended(next) || running_.contains(next.job->name)) continue;
      if (fs::exists(batch_.folder.cancelled(next.job->name))) {
        next.left_alone = true;
        next.note = "cancelled";
        continue;
      }
      alone(next, [&](JobView& one) {
        if (may_start(one)) start(one);
      });
    }
  }

  bool may_start(JobView& next) {
    for (const std::string& name : next.job->after) {
      const JobView& before = view(name);
      if (before.reused || before.status == Status::kDone) continue;
      if (has_ended(before)) {
        next.left_alone = true;
        next.note = fmt::format("waits for {}, which is {}", name,
                                before.left_alone ? "left out" : word(before.status));
        watcher_.on_change(next, next.note);
      }
      return false;
    }
    // The process of an earlier batch that was killed may still be saving.
    if (is_locked(batch_.folder.job_lock(next.job->name))) {
      tell_of_lock(next);
      return false;
    }
    return plan(next) && may_try_again(*next.job) && fits(*next.job);
  }

  void tell_of_lock(JobView& next) {
    const std::string other = batch_.folder.other_runner(next.job->name);
    if (other.empty() || !told_of_lock_.insert(next.job->name).second) return;
    next.note = fmt::format("{} runs it already; this one waits for its end", other);
    watcher_.on_change(next, next.note);
  }

  /// Whether a job that is short of memory has waited for long enough.
  bool may_try_again(const Job& job) {
    auto found = short_.find(job.name);
    if (found == short_.end()) {
      if (!running_.empty() || core::available_memory() >= job.memory_bytes) return true;
      found = short_.emplace(job.name, Shortage{ended_jobs_, Clock::now()}).first;
    }
    const Shortage& shortage = found->second;
    const auto waited = Clock::now() - shortage.since;
    if (!running_.empty() && ended_jobs_ == shortage.ended_jobs) return false;
    if (running_.empty() && waited < wait_.least) return false;
    if (running_.empty() && waited < wait_.most && core::available_memory() < job.memory_bytes)
      return false;
    short_.erase(found);
    return true;
  }

  /// What waits for other jobs can be planned when these are done.
  bool plan(JobView& next) {
    if (next.job->updates > 0) return true;
    Job& job = *std::ranges::find(batch_.jobs, next.job->name, &Job::name);
    try {
      plan_jobs({&job}, engine_);
      batch_.folder.write_job(job);
      return true;
    } catch (const ConfigError& error) {
      next.status = Status::kWrongInput;
      next.note = error.what();
      watcher_.on_change(next, next.note);
      return false;
    }
  }

  bool fits(const Job& job) const {
    if (running_.empty()) return true;
    std::int64_t threads = job.threads;
    std::uint64_t memory = job.memory_bytes;
    for (const JobView& other : views_) {
      if (!running_.contains(other.job->name)) continue;
      threads += other.job->threads;
      memory += other.job->memory_bytes;
    }
    const std::optional<std::int64_t> most = concurrency_of(batch_.file);
    if (most && static_cast<std::int64_t>(running_.size()) >= *most) return false;
    return (most || threads <= core::allowed_cores()) && memory <= free_memory_;
  }

  void start(JobView& next) {
    const std::string& name = next.job->name;
    running_[name] = std::make_unique<Child>(
        std::vector<std::string>{"batch", "task", batch_.folder.path().string(), name},
        batch_.folder.log(name), /*own_group=*/true);
    next.status = Status::kRunning;
    next.note.clear();
  }

  void note_steps() {
    for (JobView& shown : views_) {
      if (!running_.contains(shown.job->name)) continue;
      JobState state;
      try {
        state = batch_.folder.state_now(shown.job->name);
      } catch (const Error&) {
        continue;  // Told when the job ends.
      }
      for (const StepState& step : state.steps) {
        if (step.status != Status::kRunning || step.name == shown.step) continue;
        shown.step = step.name;
        watcher_.on_change(shown, step.name);
      }
    }
  }

  /// When it was found that a job has too little memory.
  struct Shortage {
    int ended_jobs = 0;  ///< ended_jobs_ at that time.
    Clock::time_point since;
  };

  Batch& batch_;
  std::vector<JobView> views_;
  const Engine& engine_;
  Watcher& watcher_;
  MemoryWait wait_;
  int ended_jobs_ = 0;
  std::map<std::string, Shortage> short_;
  std::set<std::string> told_of_lock_;
  std::uint64_t free_memory_;
  std::map<std::string, std::unique_ptr<Child>> running_;
};

}  // namespace

std::vector<JobView> survey(const Batch& batch, const RunOptions& options) {
  std::vector<JobView> views;
  InputDigests digests;
  for (const Job& job : batch.jobs) {
    JobView& view = views.emplace_back(JobView{.job = &job});
    JobState state = batch.folder.state_now(job.name);
    const std::vector<std::string> missing = missing_steps(job, state, digests);
    if (missing.empty()) {
      view.status = Status::kDone;
      view.reused = true;
      continue;
    }
    if (const QueueEntry* entry = options.queue.find(job.name); options.queue.is_live(job.name)) {
      view.status = stand(batch.folder, job.name, options.queue).state.status;
      view.live = view.left_alone = true;
      view.note = "with Slurm as " + entry->task;
      continue;
    }
    if (options.wanted && !options.wanted(job)) {
      view.left_alone = true;
      view.note = "not asked for";
      continue;
    }
    view.note = missing.front();
    view.replaces = replacement(job, state, batch.folder.run(job.name), digests);
    const StepState* first = state.find(missing.front());
    const auto step = std::ranges::find(job.steps, missing.front(), &Step::name);
    // What is wrong with the same input is wrong still; another input is another attempt.
    const bool same = first != nullptr && first->key == key_of(*step, digests);
    const bool may_have_passed =
        state.status == Status::kLost || state.status == Status::kShortOfMemory;
    if (same && is_failure(state.status) && !may_have_passed && !options.retry_failed) {
      view.status = state.status;
      view.left_alone = true;
      view.note = state.error();
    }
  }
  return views;
}

std::vector<JobView> run_locally(Batch& batch, std::vector<JobView> jobs, const Engine& engine,
                                 Watcher& watcher, const MemoryWait& wait) {
  return Runner(batch, std::move(jobs), engine, watcher, wait).run();
}

}  // namespace weft::batch
