#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "core/communicator.h"
#include "core/ranks.h"
#include "data/pack.h"
#include "lora/adapter.h"
#include "model/decoder.h"
#include "model/exchange.h"
#include "train/config.h"
#include "train/guard.h"
#include "train/metrics.h"
#include "train/optimizer.h"
#include "train/progress.h"
#include "train/run_folder.h"
#include "train/schedule.h"
#include "train/state.h"
#include "train/suite_evaluator.h"
#include "train/tensorboard.h"
#include "train/update_stream.h"

namespace weft::train {

/// Hears of a run. Called from the training thread; may take its time, may not throw.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void on_update(const UpdateReport&) {}
  virtual void on_evaluation(const EvaluationReport&) {}
  virtual void on_suites(const SuitesReport&) {}
  virtual void on_checkpoint(const std::filesystem::path&) {}
};

/// Why a run came to its end.
enum class Ending { kAllUpdates, kEarlyStopping, kInterrupted };

struct Outcome {
  Ending ending = Ending::kAllUpdates;
  std::int64_t updates = 0;
  std::uint64_t tokens = 0;
  double seconds = 0;
  double last_loss = 0;  ///< Of the last update of this process.
  std::optional<double> first_validation_loss;
  std::optional<double> best_validation_loss;
  /// Of evaluate.keep_best_by, where it chose the adapter.
  std::optional<ChosenFigure> chosen;
  std::optional<double> first_figure;
  std::optional<double> best_figure;
  std::int64_t adapter_update = 0;  ///< The update that adapter/ is of.
};

/// What a run works with. The references must outlive the trainer.
struct TrainerParts {
  const TrainConfig& config;
  model::Decoder& decoder;  ///< With the adapter attached for training.
  UpdateStream& updates;
  const std::optional<data::RowStream>& validation;  ///< At its beginning; nothing: none.
  std::int64_t row_tokens = 0;         ///< MemoryPlan::row_tokens, kept in the checkpoints
  std::int64_t recomputed_layers = 0;  ///< model::TrainPass::recomputed_layers
  RunFolder& folder;                   ///< Claimed; begun before Trainer::begin().
  lora::Adapter adapter;  ///< Configuration and provenance; factors are taken from the decoder.
  Fingerprint fingerprint;
  Observer& observer;
  /// The ranks that share the rows of an update. Every rank has a trainer, and all are alike: the
  /// same state after the same updates. Only the first rank writes and tells the observer.
  core::Communicator& ranks;
  model::TensorExchange& exchange;       ///< Among those ranks, of what is on the decoder's device.
  SuiteEvaluator* suites = nullptr;      ///< Of `evaluate:`; null: none.
  const std::atomic<bool>& interrupted;  ///< Set from outside: finish the update, save, end.
  core::Log log = {};
};

/// The loop: rows to gradients to updates, with evaluations, checkpoints and an orderly end.
///
/// An update's objective is the sum of the losses of its supervised tokens divided by their number,
/// however they are spread over rows. A step is gradient, guard, clipping, AdamW; the adapter that
/// is written as adapter/ is the one with the lowest validation loss or the best figure of
/// evaluate.keep_best_by, or the last one without either.
class Trainer {
 public:
  /// `resumed`: the checkpoint to go on from. Throws InputError when it does not fit; nothing is
  /// written here.
  Trainer(TrainerParts parts, const std::optional<TrainState>& resumed);

  /// Opens the metrics files, cut to where the checkpoint left them. Call once, before advance().
  void begin();
  /// One update, with the evaluation and the checkpoint that are due before it. False when the run
  /// came to its end instead, also by an interruption: everything is written then, and the trainer
  /// is done. Several trainers may take turns on one base, each with its own adapter attached
  /// whenever it is called (Decoder::exchange).
  /// Throws NumericError (NaN, divergence): the update is not applied, nothing is saved over what
  /// was good. Throws IoError when the disk refuses: the last checkpoint is intact. A run that
  /// replaces another settles its folder when the first update is due; interrupted before that it
  /// saves nothing, so that the old run comes back.
  bool advance();
  /// Of the run so far; complete after its end.
  [[nodiscard]] const Outcome& outcome() const { return outcome_; }

 private:
  using Clock = std::chrono::steady_clock;

  void restore(const TrainState& state);
  bool advance_working();
  void apply(const Update& update);
  /// The gradient and the loss of an update, each rank computing its part of the rows.
  model::LossSum compute(const Update& update);
  /// Throws InputError in all ranks when their factors differ.
  void compare_factors();
  void report(const Update& update, double loss, double norm, double rate);
  /// Measures the validation loss; writes the adapter when it is the best. When interrupted it
  /// leaves off and stays due.
  void evaluate();
  void save();
  void write_checkpoint();
  /// Of the validation rows; nothing when interrupted.
  [[nodiscard]] std::optional<model::LossSum> validation_loss();
  /// Of the suites, which all ranks measure together; nothing when interrupted.
  [[nodiscard]] std::optional<std::vector<SuiteFigure>> suite_figures();
  /// Whether any rank was asked to stop.
  [[nodiscard]] bool is_interrupted() { return any(parts_.ranks, parts_.interrupted.load()); }
  bool end(Ending ending);
  void finish();
  void write_adapter();
  /// NumericError when a number of it is not finite: nothing good is overwritten by it.
  [[nodiscard]] lora::Adapter current_adapter() const;
  void measure_suites();
  /// Whether the figure of evaluate.keep_best_by is the best so far.
  bool observe_figure(const std::vector<SuiteFigure>& figures);
  /// Whether there is something that tells which adapter is the best.
  [[nodiscard]] bool chooses() const { return chosen_ || parts_.validation; }
  [[nodiscard]] bool is_due(const schema::Duration& every) const;
  [[nodiscard]] double seconds() const;

  TrainerParts parts_;
  AdamW optimizer_;
  Schedule schedule_;
  DivergenceGuard guard_;
  EarlyStopping stopping_;  ///< Of the validation loss, or of the chosen figure as a loss.
  std::optional<ChosenFigure> chosen_;
  std::int64_t update_ = 0;
  std::uint64_t tokens_ = 0;
  std::uint64_t supervised_tokens_ = 0;
  std::uint64_t tokens_before_ = 0;  ///< Before the last update, for is_due().
  double epoch_ = 0;
  double epoch_before_ = 0;
  double seconds_before_ = 0;   ///< Of earlier turns, and of earlier processes of this run.
  double seconds_started_ = 0;  ///< Of earlier processes alone.
  Clock::time_point turn_ = Clock::now();  ///< When this turn began.
  Due evaluation_;                         ///< Of the validation loss.
  Due suites_;                             ///< Of `evaluate:`.
  bool changed_ = true;      ///< Since the last checkpoint: by an update or by an evaluation.
  std::int64_t saved_ = -1;  ///< Update of the last checkpoint.
  std::uint64_t metrics_begin_ = 0;
  Outcome outcome_;
  std::optional<MetricsFile> metrics_;
  std::optional<EventFile> events_;
  /// Ends (seconds of work) and tokens of the last updates, for the rate.
  std::deque<std::pair<double, std::uint64_t>> recent_;
};

}  // namespace weft::train
