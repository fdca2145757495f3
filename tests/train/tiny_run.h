#pragma once

#include <atomic>
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
    core::Origins given;
    auto config = core::parse_config<train::TrainConfig>(
        yaml(changes), {.name = "tiny.yaml", .directory = folder().path()}, overrides, {}, &given);
    return train::prepare(std::move(config), given, {});
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
    struct Listener : train::Observer {
      explicit Listener(const std::function<void(std::int64_t)>& call) : after(call) {}
      void on_update(const train::UpdateReport& report) override { after(report.update); }
      const std::function<void(std::int64_t)>& after;
    };
    const train::Prepared prepared = prepare(changes, overrides);
    train::RunFolder claimed(prepared.config.output_dir, start);
    claimed.claim();
    train::require_sound(prepared);
    Listener listener(after_update);
    interrupted = false;
    return train::train(prepared, claimed, listener, interrupted, {});
  }

  std::atomic<bool> interrupted{false};
};

}  // namespace weft::tests
