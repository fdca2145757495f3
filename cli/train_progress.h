#pragma once

#include <cstdint>
#include <string>

#include "train/trainer.h"

namespace weft::cli {

/// Shows runs on standard error: one line that is redrawn on a terminal, otherwise a line every
/// `log_every` updates. Evaluations are lines of their own either way.
class TrainProgress {
 public:
  TrainProgress();
  ~TrainProgress();
  TrainProgress(const TrainProgress&) = delete;
  TrainProgress& operator=(const TrainProgress&) = delete;

  /// One run; its lines begin with its name, if it has one.
  class OfRun : public train::Observer {
   public:
    OfRun(TrainProgress& shown, const std::string& name, std::int64_t log_every);
    void on_update(const train::UpdateReport& report) override;
    void on_evaluation(const train::EvaluationReport& report) override;
    void on_suites(const train::SuitesReport& report) override;

   private:
    /// A line that stays.
    void show(const std::string& line);

    TrainProgress& shown_;
    std::string prefix_;
    std::int64_t log_every_;
  };

  /// Leaves the redrawn line, so that what follows starts on a fresh one.
  void clear();

 private:
  bool is_terminal_;
  bool bar_shown_ = false;
};

}  // namespace weft::cli
