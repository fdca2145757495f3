#pragma once

#include <atomic>
#include <deque>
#include <exception>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "model/runtime.h"
#include "tests/train/tiny_job.h"
#include "train/job.h"

namespace weft::tests {

/// Runs a TinyJob in this process.
class TinyRun : public TinyJob {
 public:
  explicit TinyRun(const TinyModel& model = {}) : TinyJob(model) {
    // Such small matrices are not worth a second thread's waiting.
    model::prepare_runtime(1);
  }

  [[nodiscard]] train::Prepared prepare(const std::string& changes = "",
                                        const std::vector<std::string>& overrides = {}) const {
    return std::move(prepare_all(changes, overrides).front());
  }

  [[nodiscard]] std::vector<train::Prepared> prepare_all(
      const std::string& changes, const std::vector<std::string>& overrides = {}) const {
    folder().write("tiny.yaml", yaml(changes));
    return train::prepare(train::load_runs(folder() / "tiny.yaml", overrides, {}), {});
  }

  train::Outcome run(const std::string& changes = "",
                     const std::vector<std::string>& overrides = {},
                     train::Start start = train::Start::kReplace) {
    return run_observed(changes, overrides, start, [](std::int64_t) {});
  }

  /// `after_update` may set `interrupted`.
  train::Outcome run_observed(const std::string& changes, const std::vector<std::string>& overrides,
                              train::Start start,
                              const std::function<void(std::int64_t)>& after_update) {
    const train::Result result = run_all(changes, overrides, start, after_update).front();
    if (result.failure) std::rethrow_exception(result.failure);
    return result.outcome;
  }

  /// Every run that the configuration describes.
  std::vector<train::Result> run_all(
      const std::string& changes, const std::vector<std::string>& overrides = {},
      train::Start start = train::Start::kReplace,
      const std::function<void(std::int64_t)>& after_update = [](std::int64_t) {}) {
    folder().write("tiny.yaml", yaml(changes));
    auto described = train::load_runs(folder() / "tiny.yaml", overrides, {});
    std::deque<train::RunFolder> folders;
    for (const auto& run : described) folders.emplace_back(run.config.output_dir, start).claim();
    auto resumed = train::last_states(folders, log);
    auto runs = train::prepare(std::move(described), log, std::move(resumed));
    return run_in(folders, runs, after_update);
  }

  std::vector<train::Result> run_prepared(
      std::vector<train::Prepared> runs, train::Start start = train::Start::kReplace,
      const std::function<void(std::int64_t)>& after_update = [](std::int64_t) {}) {
    std::deque<train::RunFolder> folders;
    for (train::Prepared& run : runs) folders.emplace_back(run.config.output_dir, start).claim();
    return run_in(folders, runs, after_update);
  }

  std::atomic<bool> interrupted{false};
  std::vector<std::string> told;  ///< Lines of the log.
  core::Log log = [this](core::Level, std::string_view line) { told.emplace_back(line); };

 private:
  std::vector<train::Result> run_in(std::deque<train::RunFolder>& folders,
                                    std::vector<train::Prepared>& runs,
                                    const std::function<void(std::int64_t)>& after_update) {
    Listener listener(after_update);
    std::vector<train::Job> jobs;
    for (std::size_t i = 0; i < runs.size(); ++i) {
      train::require_sound(runs[i]);
      train::require_memory(runs[i]);
      jobs.push_back({runs[i], folders[i], listener});
    }
    interrupted = false;
    return train::train(jobs, interrupted, log);
  }

  struct Listener : train::Observer {
    explicit Listener(const std::function<void(std::int64_t)>& call) : after(call) {}
    void on_update(const train::UpdateReport& report) override { after(report.update); }
    const std::function<void(std::int64_t)>& after;
  };
};

}  // namespace weft::tests
