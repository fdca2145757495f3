#pragma once

#include <string>
#include <vector>

#include "eval/metrics/answer_metric.h"
#include "eval/metrics/result.h"

namespace weft::eval {

/// A generated answer with all that its scores are made of.
[[nodiscard]] Generation compare_answer(std::string prompt, std::string reference,
                                        std::string output,
                                        std::vector<std::string> more_references = {});
/// The reference and those beside it.
[[nodiscard]] std::vector<std::string> references_of(const Generation& generation);

/// What a suite's answers are scored by: its labels' metrics, or the default.
[[nodiscard]] std::vector<AnswerMetric> metrics_of(const SuiteLabels& labels);
/// Fills Generation::scores, so that figures are made of them without comparing texts again.
void score_answers(SuiteResult& suite);
/// The sums of the metric at `place` of metrics_of(): those filled in, or computed.
[[nodiscard]] std::vector<double> answer_sums(const Generation& generation,
                                              const AnswerMetric& metric, std::size_t place);

}  // namespace weft::eval
