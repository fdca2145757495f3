#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/eval_ledger.h"
#include "core/communicator.h"
#include "core/log.h"
#include "eval/run/live_suites.h"
#include "train/job.h"

// `evaluate:` of weft train: weft eval's suites on the weights in training.

namespace weft::cli {

/// Measures together with the other ranks; the first of them records one evaluation of the run in
/// the ledger, whose stages are the updates, so that each is compared with the first. A ledger that
/// fails is told of and ends no training.
class TrainSuites : public train::SuiteEvaluator {
 public:
  /// Reads the suites. The run, the ranks and `interrupted` must outlive it. Throws ConfigError,
  /// with the key, for what `evaluate:` cannot mean; InputError for its files and its ledger.
  TrainSuites(const train::Prepared& run, core::Communicator& ranks,
              const std::atomic<bool>& interrupted, const core::Log& log);

  std::optional<std::vector<train::SuiteFigure>> measure(std::int64_t update,
                                                         model::Decoder& decoder) override;
  [[nodiscard]] std::map<std::string, std::string> digests() const override;
  [[nodiscard]] std::optional<train::ChosenFigure> chosen() const override { return chosen_; }

 private:
  void record(eval::Evaluation evaluation);
  /// The first record of this process: a new evaluation, or that of the run which it goes on with.
  void begin_record(const eval::Recorded& recorded);
  void add_to_record(eval::StageResult stage, const eval::Recorded& recorded);

  core::Communicator& ranks_;
  std::string folder_;  ///< Of the run.
  eval::EvalConfig config_;
  core::Log log_;
  eval::LiveSuites suites_;
  model::ComputeDevice device_;
  std::optional<train::ChosenFigure> chosen_;
  EvalRecord record_;
  std::optional<std::int64_t> recorded_id_;  ///< Of the run's evaluation in the ledger.
  eval::StageResult first_;  ///< Its first stage, which the others are compared with.
  double seconds_ = 0;       ///< Of its stages so far.
};

/// Nothing where the configuration has no `evaluate:`.
[[nodiscard]] std::unique_ptr<TrainSuites> train_suites(const train::Prepared& run,
                                                        core::Communicator& ranks,
                                                        const std::atomic<bool>& interrupted,
                                                        const core::Log& log);

}  // namespace weft::cli
