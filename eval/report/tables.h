#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "eval/statistics/analysis.h"
#include "eval/statistics/languages.h"

// What the terminal and the JSON show beyond the main table of a suite (eval/report/report.h).

namespace weft::eval {

/// Sum of a number of the suite's items.
[[nodiscard]] std::int64_t total(const SuiteResult& suite, std::int64_t Item::*member);

/// What a suite is, in a line, and what each score of its answers is, in lines of their own:
/// "nahuatl: 100 examples, 5371 tokens, 11313 bytes; language nah; 95 % intervals by bootstrap over
/// examples".
[[nodiscard]] std::string suite_heading(const SuiteResult& suite, const BootstrapOptions& options);

/// How far each stage is from the reference stage; empty without distances.
[[nodiscard]] std::string distribution_table(const Evaluation& evaluation, const Analysis& analysis,
                                             std::string_view suite);
/// The mean of each language's suites, a line per stage and language; empty where that says
/// nothing new.
[[nodiscard]] std::string languages_table(const Evaluation& evaluation, const Analysis& analysis);

/// {"language", "must_keep", "sources": [{"source", "items", FIGURE}], "distribution": {...},
/// "other_tokenizer"}: what is there.
[[nodiscard]] nlohmann::ordered_json details_json(const SuiteResult& suite,
                                                  std::string_view reference);
/// Per question: answer, log_p, log_p_alone, characters, bytes, flipped.
[[nodiscard]] nlohmann::ordered_json choices_json(const SuiteResult& suite);
/// [{"stage", "other", "suite", "figure", "difference", "interval", "p", "p_holm", "sentence"}]
[[nodiscard]] nlohmann::ordered_json comparisons_json(const Evaluation& evaluation,
                                                      const Analysis& analysis,
                                                      const BootstrapOptions& options);
/// Of one stage: [{"language", "suites", FIGURE, "interval", "difference": {...}}]
[[nodiscard]] nlohmann::ordered_json languages_json(const std::vector<LanguageFigure>& figures);

/// null where the number is not finite.
[[nodiscard]] nlohmann::ordered_json json_number(double value);
[[nodiscard]] nlohmann::ordered_json json_bounds(const std::optional<Interval>& interval);

}  // namespace weft::eval
