#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "eval/metrics/result.h"
#include "eval/run/config.h"
#include "eval/run/suites.h"

namespace weft::eval {

/// A figure that a suite will have, and how many units it will be drawn from.
struct ComingFigure {
  std::string_view name;
  std::int64_t units = 0;
};

/// What is known of a stage before it is measured.
struct ComingStage {
  std::string_view name;
  bool is_reference = false;
  std::span<const SuiteInput> suites;  ///< Those that it will be measured on.
  bool other_tokenizer = false;
};

/// The figures that the suite will have in the stage.
[[nodiscard]] std::vector<ComingFigure> coming_figures(const SuiteInput& suite,
                                                       const ComingStage& stage,
                                                       const EvalConfig& config);

/// Throws ConfigError for a gate whose figure will not be measured, or with gate_confidence from
/// too few units, so that it is told before the work. `inputs`: the suites of the base's tokenizer;
/// `earlier`: the evaluation whose stages are named STAGE@against, or null.
void require_gate_figures(const EvalConfig& config, std::span<const ComingStage> stages,
                          std::span<const SuiteInput> inputs, const Evaluation* earlier);

}  // namespace weft::eval
