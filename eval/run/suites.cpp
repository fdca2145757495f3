#include "eval/run/suites.h"

#include <algorithm>
#include <map>

#include "core/error.h"
#include "eval/metrics/answer_metric.h"
#include "eval/run/suite_digest.h"
#include "eval/statistics/spread.h"

namespace weft::eval {
namespace {

constexpr std::int64_t kLlamaChunk = 512;

/// Numbers the sources in the order in which they first occur.
void label_sources(std::vector<std::string> of_items, SuiteLabels& labels) {
  std::map<std::string, std::uint32_t> numbers;
  for (std::string& source : of_items) {
    const auto next = static_cast<std::uint32_t>(numbers.size());
    const auto [place, is_new] = numbers.try_emplace(source, next);
    if (is_new) labels.source_names.push_back(source);
    labels.sources.push_back(place->second);
  }
}

/// Of all files together, so that a suite has as many documents as it is told.
void limit_documents(SourcedDocuments& all, std::optional<std::int64_t> limit) {
  SourcedDocuments chosen;
  for (const std::size_t i : spread(all.texts.size(), limit)) {
    chosen.texts.push_back(std::move(all.texts[i]));
    if (!all.sources.empty()) chosen.sources.push_back(std::move(all.sources[i]));
  }
  all = std::move(chosen);
}

void read_text(const SuiteSection& plan, const EvalConfig& config, const text::Tokenizer& tokenizer,
               const core::Log& log, SuiteInput& suite) {
  SourcedDocuments all;
  if (plan.data) all.texts = data_documents(*plan.data, plan.limit, log);
  const bool by_file = plan.source.empty() && plan.text.size() > 1;
  for (const std::filesystem::path& path : plan.text) {
    SourcedDocuments documents = read_sourced_documents(path, {}, plan.source);
    if (by_file) documents.sources.assign(documents.texts.size(), path.filename().string());
    std::ranges::move(documents.texts, std::back_inserter(all.texts));
    std::ranges::move(documents.sources, std::back_inserter(all.sources));
  }
  if (!plan.text.empty()) limit_documents(all, plan.limit);
  if (plan.windows == Windows::kLlama) {
    suite.row_tokens = plan.window_tokens.value_or(std::min(kLlamaChunk, suite.row_tokens));
    suite.text = chunked_text(all.texts, tokenizer, suite.row_tokens);
  } else {
    suite.row_tokens = plan.window_tokens.value_or(suite.row_tokens);
    const auto special = config.special_tokens ? text::AddSpecial::kYes : text::AddSpecial::kNo;
    suite.text = rolling_text(all.texts, tokenizer, suite.row_tokens, special, plan.stride);
  }
  if (suite.text->passes.empty())
    throw InputError("suite '{}': there is no token to score in it", plan.name);
  if (all.sources.empty()) return;
  std::vector<std::string> of_items;
  for (const std::uint32_t document : suite.text->document_of_item)
    of_items.push_back(all.sources[document]);
  label_sources(std::move(of_items), suite.labels);
}

}  // namespace

std::vector<SuiteInput> read_suites(const EvalConfig& config, const text::Tokenizer& tokenizer,
                                    const text::ChatTemplate* chat_template,
                                    std::int64_t sequence_len, Suites which, const core::Log& log) {
  std::vector<SuiteInput> suites;
  for (const SuiteSection& plan : suite_plans(config)) {
    if (which == Suites::kText && !plan.plain_text()) continue;
    SuiteInput& suite = suites.emplace_back();
    suite.name = plan.name;
    suite.labels.language = plan.language;
    suite.labels.must_keep = plan.must_keep;
    for (const std::string& metric : plan.metrics)
      suite.labels.metrics.push_back(recorded_answer_metric(metric));
    suite.row_tokens = sequence_len;
    suite.distribution =
        config.distribution && (config.distribution->suites.empty() ||
                                std::ranges::find(config.distribution->suites, plan.name) !=
                                    config.distribution->suites.end());
    if (plan.plain_text()) {
      read_text(plan, config, tokenizer, log, suite);
    } else if (plan.data) {
      const InstructionLimits limits{.max_tokens = sequence_len,
                                     .limit = plan.limit,
                                     .generate = config.generate ? config.generate->examples : 0,
                                     .references = plan.references};
      suite.data = instruction_data(*plan.data, tokenizer, chat_template, limits, log);
      if (!suite.data->questions.empty())
        suite.labels.references = 1 + suite.data->questions.front().more_references.size();
    } else {
      suite.choices = choice_data(plan, tokenizer, sequence_len, log);
      label_sources(std::move(suite.choices->sources), suite.labels);
    }
    suite.digest = suite_digest(suite);
    suite.asked_digest = asked_digest(suite, decoding_of(config));
  }
  return suites;
}

}  // namespace weft::eval
