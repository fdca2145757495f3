#include "eval/statistics/figures.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <map>
#include <numbers>

#include "eval/statistics/quantile.h"
#include "eval/statistics/statistics_of.h"

namespace weft::eval {
namespace {

constexpr FigureKind kKinds[] = {
    {"loss", "loss", 4, -1},
    {"perplexity", "perplexity", 2, -1},
    {"bits_per_byte", "bits/byte", 4, -1},
    {"acc", "acc", 4, 1},
    {"acc_norm", "acc_norm", 4, 1},
    {"acc_bytes", "acc_bytes", 4, 1},
    {"acc_mutual_info", "acc_mi", 4, 1},
    {"flips", "flips", 4, -1},
    {"chrf", "chrF", 2, 1},
    {"chrf++", "chrF++", 2, 1},
    {"chrf++_unicode", "chrF++ Unicode", 2, 1},
    {"bleu", "BLEU", 2, 1},
    {"ter", "TER", 2, -1},
    {"exact_match", "exact", 4, 1},
    {"f1", "F1", 4, 1},
    {"kl", "KL mean", 6, -1},
    {"kl_median", "KL median", 6, -1},
    {"kl_p90", "90 %", 5, -1},
    {"kl_p95", "95 %", 5, -1},
    {"kl_p99", "99 %", 5, -1},
    {"kl_p999", "99.9 %", 5, -1},
    {"kl_max", "KL max", 5, -1},
    {"same_top", "same top", 4, 1},
    {"perplexity_ratio", "PPL ratio", 5, -1},
    {"delta_p_rms", "RMS dp", 5, -1},
};

struct Loss {
  double tokens = 0, bytes = 0, loss = 0;
  explicit Loss(std::span<const Item> items) {
    for (const Item& item : items) {
      tokens += static_cast<double>(item.tokens);
      bytes += static_cast<double>(item.bytes);
      loss += item.loss;
    }
  }
};

constexpr std::pair<std::string_view, double> kPercentiles[] = {
    {"kl_median", 0.5}, {"kl_p90", 0.9},    {"kl_p95", 0.95},
    {"kl_p99", 0.99},   {"kl_p999", 0.999}, {"kl_max", 1}};

/// A percentile of the tokens' KL; units are the items or their source documents.
Sampled percentile_of(const SuiteResult& suite, double share,
                      std::span<const std::uint32_t> groups) {
  std::vector<WeightedValue> values;
  std::uint32_t units = static_cast<std::uint32_t>(suite.items.size());
  if (!groups.empty()) units = 1 + *std::ranges::max_element(groups);
  for (const TokenDistance& token : suite.distances)
    values.push_back({token.kl, groups.empty() ? token.item : groups[token.item]});
  std::ranges::stable_sort(values, {}, &WeightedValue::value);
  return {units, [values = std::move(values), share](std::span<const std::uint32_t> times) {
            return quantile(values, times, share);
          }};
}

Measured alone(std::string_view name, const Estimate& figure) {
  Measured measured;
  measured.name = name;
  measured.figure = figure;
  return measured;
}

/// `p`: left for measure().
Measured beside(const FigureDraws& here, std::size_t place, const FigureDraws& first,
                std::size_t other, bool paired, const BootstrapOptions& options) {
  const Statistic& statistic = here.statistics[place].statistic;
  const std::vector<double>& values = here.draws[place];
  const std::int64_t units = statistic.units();
  Measured measured = alone(here.statistics[place].name,
                            {value(statistic), interval(values, options.confidence, units)});
  const double first_value = value(first.statistics[other].statistic);
  std::vector<double> difference, relative;
  if (paired && values.size() == first.draws[other].size()) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      difference.push_back(values[i] - first.draws[other][i]);
      relative.push_back(values[i] / first.draws[other][i] - 1);
    }
  }
  measured.difference = {measured.figure.value - first_value,
                         interval(std::move(difference), options.confidence, units)};
  measured.relative = {measured.figure.value / first_value - 1,
                       interval(std::move(relative), options.confidence, units)};
  return measured;
}

/// Figures that are differences from the reference stage already.
bool is_distance(std::string_view name) {
  return name == "flips" || name == "kl" || name == "same_top" || name == "perplexity_ratio" ||
         name == "delta_p_rms";
}

std::vector<Measured> percentiles_of(const SuiteResult& suite, const BootstrapOptions& options) {
  std::vector<Measured> all;
  if (suite.distances.empty() || suite.other_tokenizer) return all;
  for (const auto& [name, share] : kPercentiles) {
    const Sampled sampled = percentile_of(suite, share, groups_of(suite));
    // The bootstrap tells nothing of an extreme.
    const bool drawn = name != "kl_max" && sampled.items >= kFewestUnits;
    std::vector<double> draws;
    if (drawn) draws = resample(sampled.items, sampled.figure, options);
    all.push_back(alone(
        name, {sampled.figure({}), interval(std::move(draws), options.confidence, sampled.items)}));
  }
  return all;
}

}  // namespace

double mean_loss(std::span<const Item> items) {
  const Loss sums(items);
  return sums.loss / sums.tokens;
}
double perplexity(std::span<const Item> items) { return std::exp(mean_loss(items)); }
double bits_per_byte(std::span<const Item> items) {
  const Loss sums(items);
  return sums.loss / (sums.bytes * std::numbers::ln2);
}

std::span<const FigureKind> figure_kinds() { return kKinds; }

const FigureKind* figure_kind(std::string_view name) {
  const auto* found = std::ranges::find(kKinds, name, &FigureKind::name);
  return found == std::end(kKinds) ? nullptr : found;
}

std::optional<Sampled> sampled_figure(const SuiteResult& suite, std::string_view name) {
  std::vector<NamedStatistic> all = statistics_of(suite);
  for (NamedStatistic& known : all) {
    if (known.name != name) continue;
    const std::int64_t units = known.statistic.units();
    return Sampled{units,
                   [statistic = std::move(known.statistic)](std::span<const std::uint32_t> times) {
                     return figure_of(statistic)(times);
                   }};
  }
  if (suite.distances.empty() || suite.other_tokenizer) return std::nullopt;
  for (const auto& [known, share] : kPercentiles) {
    if (known == name) return percentile_of(suite, share, all.front().groups);
  }
  return std::nullopt;
}

std::vector<FigureDraws> draw_figures(std::span<const SuiteResult* const> suites,
                                      const BootstrapOptions& options) {
  std::vector<FigureDraws> all;
  std::map<std::int64_t, std::vector<std::pair<std::size_t, std::size_t>>> by_units;
  for (const SuiteResult* suite : suites) {
    BootstrapOptions of_suite = options;
    of_suite.stream = stream_of(suite->name);
    FigureDraws& draws = all.emplace_back(FigureDraws{.suite = suite});
    draws.statistics = statistics_of(*suite);
    draws.draws.resize(draws.statistics.size());
    draws.percentiles = percentiles_of(*suite, of_suite);
    for (std::size_t i = 0; i < draws.statistics.size(); ++i)
      by_units[draws.statistics[i].statistic.units()].emplace_back(all.size() - 1, i);
  }
  for (const auto& [units, places] : by_units) {
    if (units < 2) continue;  // One unit says nothing about how units vary.
    std::vector<const Statistic*> statistics;
    for (const auto& [stage, i] : places) statistics.push_back(&all[stage].statistics[i].statistic);
    BootstrapOptions of_suite = options;
    of_suite.stream = stream_of(suites.front()->name);
    auto values = resample(statistics, of_suite);
    for (std::size_t k = 0; k < places.size(); ++k)
      all[places[k].first].draws[places[k].second] = std::move(values[k]);
  }
  return all;
}

std::vector<Measured> measure(const FigureDraws& here, const FigureDraws* first,
                              const BootstrapOptions& options, Which which) {
  std::vector<Measured> all;
  std::vector<StatisticPair> pairs;
  std::vector<std::size_t> of_pairs;  // Places in `all`.
  const bool items = first != nullptr && same_items(*here.suite, *first->suite);
  const bool answers = first != nullptr && same_generations(*here.suite, *first->suite);
  for (std::size_t i = 0; i < here.statistics.size(); ++i) {
    const auto& [name, statistic, groups] = here.statistics[i];
    if (which == Which::kTold && !is_told(*here.suite, name)) continue;
    std::size_t other = first == nullptr ? 0 : first->statistics.size();
    for (std::size_t k = 0; first != nullptr && k < first->statistics.size(); ++k) {
      if (first->statistics[k].name == name) other = k;
    }
    const bool answered = is_answer_score(name);
    if (first == nullptr || other == first->statistics.size() || is_distance(name) ||
        (answered && !answers)) {
      all.push_back(alone(name, {value(statistic),
                                 interval(here.draws[i], options.confidence, statistic.units())}));
    } else {
      const bool paired = answered ? answers : items;
      all.push_back(beside(here, i, *first, other, paired, options));
      if (paired) {
        pairs.push_back({&statistic, &first->statistics[other].statistic});
        of_pairs.push_back(all.size() - 1);
      }
    }
    if (name == "kl") all.insert(all.end(), here.percentiles.begin(), here.percentiles.end());
  }
  const auto p = permutation_tests(pairs, {.permutations = options.permutations,
                                           .seed = options.seed,
                                           .stream = stream_of(here.suite->name)});
  for (std::size_t i = 0; i < p.size(); ++i) all[of_pairs[i]].p = p[i];
  return all;
}

std::vector<Measured> measure(const SuiteResult& suite, const SuiteResult* first,
                              const BootstrapOptions& options) {
  std::vector<const SuiteResult*> suites{&suite};
  if (first != nullptr) suites.push_back(first);
  const std::vector<FigureDraws> draws = draw_figures(suites, options);
  return measure(draws.front(), first == nullptr ? nullptr : &draws.back(), options);
}

std::string_view main_figure(const SuiteResult& suite) {
  return suite.kind == SuiteKind::kChoice ? "acc" : "bits_per_byte";
}

bool same_items(const SuiteResult& a, const SuiteResult& b) {
  if (a.unit != b.unit || a.items.size() != b.items.size()) return false;
  for (std::size_t i = 0; i < a.items.size(); ++i) {
    if (a.items[i].bytes != b.items[i].bytes) return false;
  }
  return true;
}

bool same_generations(const SuiteResult& a, const SuiteResult& b) {
  if (a.generations.size() != b.generations.size()) return false;
  for (std::size_t i = 0; i < a.generations.size(); ++i) {
    if (a.generations[i].reference != b.generations[i].reference ||
        a.generations[i].more_references != b.generations[i].more_references)
      return false;
  }
  return true;
}

bool is_answer_score(std::string_view name) {
  constexpr std::string_view kScores[] = {"chrf",        "chrf++", "chrf++_unicode", "bleu", "ter",
                                          "exact_match", "f1"};
  return std::ranges::find(kScores, name) != std::end(kScores);
}

bool is_told(const SuiteResult& suite, std::string_view name) {
  return name == main_figure(suite) || is_answer_score(name);
}

const SuiteResult* suite_named(const StageResult& stage, std::string_view name) {
  const auto found = std::ranges::find(stage.suites, name, &SuiteResult::name);
  return found == stage.suites.end() ? nullptr : &*found;
}

const Measured* figure_named(std::span<const Measured> all, std::string_view name) {
  const auto found = std::ranges::find(all, name, &Measured::name);
  return found == all.end() ? nullptr : &*found;
}

}  // namespace weft::eval
