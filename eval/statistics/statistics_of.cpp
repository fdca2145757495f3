#include "eval/statistics/statistics_of.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numbers>

#include "eval/metrics/answer.h"

namespace weft::eval {
namespace {

using Row = std::span<const double>;

double loss_of(Row s) { return s[2] / s[0]; }
double perplexity_of(Row s) { return std::exp(s[2] / s[0]); }
double bits_of(Row s) { return s[2] / (s[1] * std::numbers::ln2); }
double average_of(Row s) { return s[1] / s[0]; }
double root_mean_of(Row s) { return std::sqrt(s[1] / s[0]); }
double ratio_of(Row s) { return std::exp(s[1] / s[0]); }

void add_losses(const SuiteResult& suite, std::vector<NamedStatistic>& all) {
  Statistic losses{.width = 3, .rows = {}, .of = loss_of};
  for (const Item& item : suite.items) {
    losses.rows.insert(losses.rows.end(), {static_cast<double>(item.tokens),
                                           static_cast<double>(item.bytes), item.loss});
  }
  Statistic bits = losses, perplexity = losses;
  perplexity.of = perplexity_of;
  bits.of = bits_of;
  const std::vector<std::uint32_t> groups = groups_of(suite);
  if (!suite.other_tokenizer) {
    all.push_back({"loss", std::move(losses), groups});
    all.push_back({"perplexity", std::move(perplexity), groups});
  }
  all.push_back({"bits_per_byte", std::move(bits), groups});
}

void add_choices(const SuiteResult& suite, std::vector<NamedStatistic>& all) {
  if (suite.choices.empty()) return;
  constexpr std::pair<std::string_view, ChoiceRule> kRules[] = {
      {"acc", ChoiceRule::kPlain},
      {"acc_norm", ChoiceRule::kCharacters},
      {"acc_bytes", ChoiceRule::kBytes},
      {"acc_mutual_info", ChoiceRule::kMutualInformation}};
  for (const auto& [name, rule] : kRules) {
    Statistic share{.width = 2, .rows = {}, .of = average_of};
    for (const ChoiceResult& question : suite.choices)
      share.rows.insert(share.rows.end(),
                        {1.0, choose(question, rule) == question.answer ? 1.0 : 0.0});
    all.push_back({name, std::move(share), groups_of(suite)});
  }
  if (!suite.choices.front().flipped) return;
  Statistic flips{.width = 2, .rows = {}, .of = average_of};
  for (const ChoiceResult& question : suite.choices)
    flips.rows.insert(flips.rows.end(), {1.0, question.flipped.value_or(false) ? 1.0 : 0.0});
  all.push_back({"flips", std::move(flips), groups_of(suite)});
}

void add_answers(const SuiteResult& suite, std::vector<NamedStatistic>& all) {
  if (suite.generations.empty()) return;
  const std::vector<AnswerMetric> metrics = metrics_of(suite.labels);
  for (std::size_t i = 0; i < metrics.size(); ++i) {
    Statistic sums{.width = metrics[i].width, .rows = {}, .of = metrics[i].of};
    for (const Generation& generation : suite.generations)
      std::ranges::copy(answer_sums(generation, metrics[i], i), std::back_inserter(sums.rows));
    all.push_back({metrics[i].name, std::move(sums), {}});
  }
}

void add_distances(const SuiteResult& suite, std::vector<NamedStatistic>& all) {
  if (suite.distances.empty()) return;
  const auto add = [&](std::string_view name, double (*of)(Row),
                       double (*of_token)(const TokenDistance&)) {
    Statistic sums{.width = 2, .rows = std::vector<double>(2 * suite.items.size()), .of = of};
    for (const TokenDistance& token : suite.distances) {
      sums.rows[2 * std::size_t{token.item}] += 1;
      sums.rows[2 * std::size_t{token.item} + 1] += of_token(token);
    }
    all.push_back({name, std::move(sums), groups_of(suite)});
  };
  add("kl", average_of, [](const TokenDistance& t) { return static_cast<double>(t.kl); });
  add("same_top", average_of, [](const TokenDistance& t) { return t.same_top ? 1.0 : 0.0; });
  add("perplexity_ratio", ratio_of, [](const TokenDistance& t) {
    return static_cast<double>(t.loss) - static_cast<double>(t.reference_loss);
  });
  add("delta_p_rms", root_mean_of, [](const TokenDistance& t) {
    const double change =
        std::exp(-static_cast<double>(t.loss)) - std::exp(-static_cast<double>(t.reference_loss));
    return change * change;
  });
}

}  // namespace

std::vector<NamedStatistic> statistics_of(const SuiteResult& suite) {
  std::vector<NamedStatistic> all;
  add_losses(suite, all);
  if (suite.other_tokenizer) return all;
  add_choices(suite, all);
  add_answers(suite, all);
  add_distances(suite, all);
  for (NamedStatistic& named : all)
    named.statistic = clustered(std::move(named.statistic), named.groups);
  return all;
}

std::vector<std::uint32_t> groups_of(const SuiteResult& suite) {
  const bool enough = suite.labels.source_names.size() >= kEnoughDocuments &&
                      suite.labels.sources.size() == suite.items.size();
  return enough ? suite.labels.sources : std::vector<std::uint32_t>{};
}

std::int32_t choose(const ChoiceResult& question, ChoiceRule rule) {
  const auto score = [&](std::size_t i) {
    switch (rule) {
      case ChoiceRule::kPlain: break;
      case ChoiceRule::kCharacters:
        return question.log_p[i] / static_cast<double>(question.characters[i]);
      case ChoiceRule::kBytes: return question.log_p[i] / static_cast<double>(question.bytes[i]);
      case ChoiceRule::kMutualInformation: return question.log_p[i] - question.log_p_alone[i];
    }
    return question.log_p[i];
  };
  std::size_t best = 0;
  for (std::size_t i = 1; i < question.log_p.size(); ++i) {
    if (score(i) > score(best)) best = i;
  }
  return static_cast<std::int32_t>(best);
}

}  // namespace weft::eval
