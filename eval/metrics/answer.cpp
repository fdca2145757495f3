#include "eval/metrics/answer.h"

#include <vector>

namespace weft::eval {

std::vector<std::string> references_of(const Generation& generation) {
  std::vector<std::string> all{generation.reference};
  all.insert(all.end(), generation.more_references.begin(), generation.more_references.end());
  return all;
}

Generation compare_answer(std::string prompt, std::string reference, std::string output,
                          std::vector<std::string> more_references) {
  Generation generation{.prompt = std::move(prompt),
                        .reference = std::move(reference),
                        .output = std::move(output),
                        .more_references = std::move(more_references)};
  const std::vector<std::string> references = references_of(generation);
  generation.chrf = chrf_statistics(generation.output, references, kChrf);
  generation.chrf_plus_plus = chrf_statistics(generation.output, references, kChrfPlusPlus);
  return generation;
}

std::vector<AnswerMetric> metrics_of(const SuiteLabels& labels) {
  std::vector<AnswerMetric> metrics;
  for (const std::string& spec : labels.metrics.empty() ? default_answer_metrics() : labels.metrics)
    metrics.push_back(answer_metric(spec, labels.references));
  return metrics;
}

void score_answers(SuiteResult& suite) {
  const std::vector<AnswerMetric> metrics = metrics_of(suite.labels);
  for (Generation& generation : suite.generations) {
    generation.scores.clear();
    std::vector<std::vector<double>> scores;
    for (std::size_t i = 0; i < metrics.size(); ++i)
      scores.push_back(answer_sums(generation, metrics[i], i));
    generation.scores = std::move(scores);
  }
}

std::vector<double> answer_sums(const Generation& generation, const AnswerMetric& metric,
                                std::size_t place) {
  if (place < generation.scores.size()) return generation.scores[place];
  return metric.statistics(generation.output, references_of(generation));
}

}  // namespace weft::eval
