#pragma once

#include <span>
#include <string>
#include <vector>

#include "eval/statistics/analysis.h"
#include "eval/statistics/gates.h"

namespace weft::eval {

/// What came of it in short: the last stage beside the first.
struct Headline {
  enum class Answer : std::uint8_t { kYes, kNo, kUnclear };
  Answer answer = Answer::kUnclear;  ///< Whether the last stage is fit to ship.
  std::string verdict;               ///< The same with its reason, one or two sentences.
  std::vector<std::string> learned;  ///< Sentences on what was to be learned.
  std::vector<std::string> kept;     ///< Sentences on what must be kept.
};

/// Fit to ship is what is measurably better on something that was to be learned, measurably worse
/// on nothing, has measurably forgotten nothing that must be kept, and has passed every gate. Empty
/// without a second stage.
[[nodiscard]] Headline headline(const Evaluation& evaluation, const Analysis& analysis,
                                std::span<const GateResult> gates, const BootstrapOptions& options);

}  // namespace weft::eval
