#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "eval/metrics/result.h"
#include "eval/statistics/analysis.h"

namespace weft::eval {

/// How much of the evaluation goes into its JSON.
enum class Detail {
  kFigures,  ///< Figures, intervals and differences.
  kItems     ///< And every item's loss and every generated answer.
};

/// {"stages": [{"name", "model", "suites": [{"name", "kind", "tokens", "bytes", "loss",
/// "perplexity", "bits_per_byte", ...}]}], "settings": {...}}; docs/eval.md lists the keys. Numbers
/// that do not exist (no bytes, division by zero) are null. Strings are valid UTF-8.
/// `analysis`: of the evaluation, with the same options.
[[nodiscard]] nlohmann::ordered_json to_json(const Evaluation& evaluation, const Analysis& analysis,
                                             Detail detail, const BootstrapOptions& options = {});

/// One table per suite, a line per stage, for people.
[[nodiscard]] std::string to_table(const Evaluation& evaluation, const Analysis& analysis,
                                   const BootstrapOptions& options = {});

/// Up to `count` generated answers of each suite, spread evenly: the prompt, what it should have
/// been, and what each stage wrote.
[[nodiscard]] std::string to_samples(const Evaluation& evaluation, std::int64_t count);

}  // namespace weft::eval
