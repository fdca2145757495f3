#pragma once

#include <atomic>
#include <deque>
#include <exception>
#include <functional>
#include <string>
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
    return run_prepared(prepare_all(changes, overrides), start, after_update);
  }

  std::vector<train::Result> run_prepared(
      std::vector<train::Prepared> runs, train::Start start = train::Start::kReplace,
      const std::function<void(std::int64_t)>& after_update = [](std::int64_t) {}) {
    Listener listener(after_update);
    std::deque<train::RunFolder> folders;
    std::vector<train::Job> jobs;
    for (train::Prepared& run : runs) {
      folders.emplace_back(run.config.output_dir, start).claim();
      train::require_sound(run);
      jobs.push_back({run, folders.back(), listener});
    }
    interrupted = false;
    return train::train(jobs, interrupted, {});
  }

  std::atomic<bool> interrupted{false};

 private:
  struct Listener : train::Observer {
    explicit Listener(const std::function<void(std::int64_t)>& call) : after(call) {}
    void on_update(const train::UpdateReport& report) override { after(report.update); }
    const std::function<void(std::int64_t)>& after;
  };
};

}  // namespace weft::tests
