#include "eval/run/live_suites.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "eval/metrics/answer_metric.h"
#include "eval/run/stage_runner.h"

namespace weft::eval {

LiveSuites::LiveSuites(EvalConfig config, const text::Tokenizer& tokenizer,
                       const text::ChatTemplate* chat_template, Hooks hooks)
    : config_(std::move(config)), tokenizer_(tokenizer), hooks_(std::move(hooks)) {
  validate(config_);
  inputs_ = read_suites(config_, tokenizer, chat_template, config_.sequence_len.value(),
                        Suites::kAll, hooks_.log);
}

Evaluation LiveSuites::measure(const std::string& stage, model::Decoder& decoder) const {
  StageWork work;
  work.stage.name = stage;
  work.stage.model = config_.base_model;
  for (const SuiteInput& input : inputs_) work.suites.push_back({.input = &input});
  StageRunner(config_, hooks_).run(work, tokenizer_, &decoder);
  Evaluation evaluation;
  evaluation.sequence_len = *config_.sequence_len;
  evaluation.dtype = config_.dtype == DType::kBFloat16 ? "bfloat16" : "float32";
  evaluation.decoding = decoding_of(config_);
  evaluation.reference = stage;
  evaluation.stages.push_back(std::move(work.stage));
  return evaluation;
}

std::vector<std::string_view> LiveSuites::figures_of(std::string_view suite) const {
  const auto found = std::ranges::find(inputs_, suite, &SuiteInput::name);
  if (found == inputs_.end()) {
    std::vector<std::string> names;
    for (const SuiteInput& input : inputs_) names.push_back(input.name);
    throw ConfigError("there is no suite '{}', only {}", suite, fmt::join(names, ", "));
  }
  if (found->choices) return {"acc", "acc_norm", "acc_bytes", "acc_mutual_info"};
  std::vector<std::string_view> figures{"loss", "perplexity", "bits_per_byte"};
  if (found->data && config_.generate) {
    for (const std::string& metric : found->labels.metrics)
      figures.push_back(answer_metric(metric).name);
  }
  return figures;
}

}  // namespace weft::eval
