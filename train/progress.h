#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "train/suite_evaluator.h"

namespace weft::train {

/// What one update was like.
struct UpdateReport {
  std::int64_t update = 0;  ///< Updates done, this one included.
  std::int64_t total_updates = 0;
  double epoch = 0;  ///< Passes over the data so far.
  double loss = 0;   ///< Mean over the update's supervised tokens, nats.
  double learning_rate = 0;
  double gradient_norm = 0;  ///< Before clipping.
  std::uint64_t tokens = 0;  ///< Of this update.
  std::uint64_t supervised_tokens = 0;
  std::uint64_t total_tokens = 0;  ///< Of the run so far.
  double seconds = 0;              ///< Since the run began, interruptions not counted.
  double tokens_per_second = 0;    ///< Over the last updates.
  double remaining_seconds = 0;    ///< Updates only.
  std::uint64_t resident_bytes = 0;
};

/// What an evaluation found.
struct EvaluationReport {
  std::int64_t update = 0;
  double loss = 0;  ///< Mean over the supervised tokens of the validation data, nats.
  std::uint64_t tokens = 0;
  double seconds = 0;  ///< That it took.
  bool best = false;
};

/// What an evaluation of `evaluate:` found.
struct SuitesReport {
  std::int64_t update = 0;
  std::vector<SuiteFigure> figures;
  double seconds = 0;  ///< That it took.
  bool best = false;   ///< By evaluate.keep_best_by.
};

/// The line of a terminal: bar, update, loss, rate, supervised share, memory, remaining time; at
/// most `columns` wide (what fits of the fields, in that order).
[[nodiscard]] std::string progress_bar(const UpdateReport& report, int columns);

/// The line of a log file.
[[nodiscard]] std::string progress_line(const UpdateReport& report);
[[nodiscard]] std::string progress_line(const EvaluationReport& report);
[[nodiscard]] std::string progress_line(const SuitesReport& report);

}  // namespace weft::train
