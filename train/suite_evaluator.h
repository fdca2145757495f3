#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "model/decoder.h"

namespace weft::train {

/// A figure of a suite of `evaluate:`.
struct SuiteFigure {
  std::string suite;
  std::string name;  ///< "bits_per_byte"
  double value = 0;
  bool is_main = false;  ///< The figure that the suite is judged by.
};

/// The figure that chooses the adapter (`evaluate.keep_best_by`).
struct ChosenFigure {
  std::string suite;
  std::string name;
  bool more_is_better = false;

  [[nodiscard]] std::string text() const { return name + "." + suite; }
};

/// Measures the suites of `evaluate:` on the weights in training. Given by the command line, since
/// training does not know evaluation (docs/architecture.md).
class SuiteEvaluator {
 public:
  virtual ~SuiteEvaluator() = default;

  /// The figures of every suite with the adapter as it is after `update` updates; nothing when it
  /// was interrupted. Leaves the decoder's numbers as they are. Every rank calls it, and they may
  /// share the work; figures are there in all of them or in none. Throws NumericError.
  [[nodiscard]] virtual std::optional<std::vector<SuiteFigure>> measure(
      std::int64_t update, model::Decoder& decoder) = 0;
  /// What is measured, to the token: suite -> digest. A run resumes only with the same.
  [[nodiscard]] virtual std::map<std::string, std::string> digests() const = 0;
  /// Nothing: the validation loss chooses.
  [[nodiscard]] virtual std::optional<ChosenFigure> chosen() const = 0;
};

}  // namespace weft::train
