#pragma once

#include <cstdint>
#include <filesystem>

#include "train/trainer.h"

namespace weft::cli {

/// Shows a run on standard error: one line that is redrawn on a terminal, otherwise a line every
/// `log_every` updates. Evaluations are lines of their own either way.
class TrainProgress : public train::Observer {
 public:
  explicit TrainProgress(std::int64_t log_every);
  ~TrainProgress() override;
  TrainProgress(const TrainProgress&) = delete;
  TrainProgress& operator=(const TrainProgress&) = delete;

  void on_update(const train::UpdateReport& report) override;
  void on_evaluation(const train::EvaluationReport& report) override;

  /// Leaves the redrawn line, so that what follows starts on a fresh one.
  void clear();

 private:
  std::int64_t log_every_;
  bool is_terminal_;
  bool bar_shown_ = false;
};

}  // namespace weft::cli
