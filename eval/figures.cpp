#include "eval/figures.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "eval/quantile.h"
#include "eval/statistics_of.h"

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

bool same_generations(const SuiteResult& a, const SuiteResult& b) {
  if (a.generations.size() != b.generations.size()) return false;
  for (std::size_t i = 0; i < a.generations.size(); ++i) {
    if (a.generations[i].reference != b.generations[i].reference) return false;
  }
  return true;
}

/// One item says nothing about how items vary.
std::vector<double> draws(const Sampled& sampled, const BootstrapOptions& options) {
  return sampled.items < 2 ? std::vector<double>{}
                           : resample(sampled.items, sampled.figure, options);
}

Measured measure_alone(std::string_view name, const Sampled& sampled,
                       const BootstrapOptions& options) {
  Measured measured;
  measured.name = name;
  measured.figure = {sampled.figure({}), interval(draws(sampled, options), options.confidence)};
  return measured;
}

/// `first`: the same figure in the stage to compare with.
Measured measure_pair(const NamedStatistic& here, const NamedStatistic& first, bool paired,
                      const BootstrapOptions& options) {
  const Sampled ours{here.statistic.units(), figure_of(here.statistic)};
  const Sampled theirs{first.statistic.units(), figure_of(first.statistic)};
  Measured measured;
  measured.name = here.name;
  const std::vector<double> values = draws(ours, options);
  measured.figure = {ours.figure({}), interval(values, options.confidence)};
  const double first_value = theirs.figure({});
  std::vector<double> difference, relative;
  if (paired) {
    const std::vector<double> first_values = draws(theirs, options);
    for (std::size_t i = 0; i < first_values.size(); ++i) {
      difference.push_back(values[i] - first_values[i]);
      relative.push_back(values[i] / first_values[i] - 1);
    }
    measured.p = permutation_test(here.statistic, first.statistic,
                                  {.permutations = options.permutations, .seed = options.seed});
  }
  measured.difference = {measured.figure.value - first_value,
                         interval(std::move(difference), options.confidence)};
  measured.relative = {measured.figure.value / first_value - 1,
                       interval(std::move(relative), options.confidence)};
  return measured;
}

/// Figures that are differences from the reference stage already.
bool is_distance(std::string_view name) {
  return name == "flips" || name == "kl" || name == "same_top" || name == "perplexity_ratio" ||
         name == "delta_p_rms";
}

bool of_answers(std::string_view name) {
  return name != "loss" && name != "perplexity" && name != "bits_per_byte" &&
         !name.starts_with("acc");
}

/// What sentences are about.
bool is_shown(const SuiteResult& suite, std::string_view name) {
  return name == main_figure(suite) || name == "chrf";
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

std::vector<Measured> measure(const SuiteResult& suite, const SuiteResult* first,
                              const BootstrapOptions& options) {
  std::vector<Measured> all;
  const std::vector<NamedStatistic> here = statistics_of(suite);
  const std::vector<NamedStatistic> there =
      first == nullptr ? std::vector<NamedStatistic>{} : statistics_of(*first);
  const bool items = first != nullptr && same_items(suite, *first);
  const bool answers = first != nullptr && same_generations(suite, *first);
  for (const NamedStatistic& statistic : here) {
    const auto other = std::ranges::find(there, statistic.name, &NamedStatistic::name);
    const bool answered = of_answers(statistic.name);
    if (other == there.end() || is_distance(statistic.name) || (answered && !answers)) {
      all.push_back(measure_alone(
          statistic.name, {statistic.statistic.units(), figure_of(statistic.statistic)}, options));
    } else {
      all.push_back(measure_pair(statistic, *other, answered ? answers : items, options));
    }
    if (statistic.name != "kl") continue;
    for (const auto& [name, share] : kPercentiles) {
      Sampled sampled = percentile_of(suite, share, statistic.groups);
      // The bootstrap tells nothing of an extreme.
      if (name == "kl_max") sampled.items = 0;
      all.push_back(measure_alone(name, sampled, options));
    }
  }
  return all;
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

const SuiteResult* suite_named(const StageResult& stage, std::string_view name) {
  const auto found = std::ranges::find(stage.suites, name, &SuiteResult::name);
  return found == stage.suites.end() ? nullptr : &*found;
}

const Measured* figure_named(std::span<const Measured> all, std::string_view name) {
  const auto found = std::ranges::find(all, name, &Measured::name);
  return found == all.end() ? nullptr : &*found;
}

Analysis analyse(const Evaluation& evaluation, const BootstrapOptions& options) {
  Analysis analysis;
  for (std::size_t i = 0; i < evaluation.stages.size(); ++i) {
    auto& of_stage = analysis.figures.emplace_back();
    for (const SuiteResult& suite : evaluation.stages[i].suites) {
      const SuiteResult* first =
          i == 0 ? nullptr : suite_named(evaluation.stages.front(), suite.name);
      of_stage.push_back(measure(suite, first, options));
      const auto add = [&](std::size_t other, const std::vector<Measured>& figures) {
        for (const Measured& measured : figures) {
          if (measured.difference && is_shown(suite, measured.name))
            analysis.comparisons.push_back({i, other, suite.name, measured});
        }
      };
      if (i > 0) add(0, of_stage.back());
      const SuiteResult* before =
          i < 2 ? nullptr : suite_named(evaluation.stages[i - 1], suite.name);
      if (before != nullptr) add(i - 1, measure(suite, before, options));
    }
  }
  std::vector<std::optional<double>> p;
  for (const Comparison& comparison : analysis.comparisons) p.push_back(comparison.measured.p);
  const auto corrected = holm(p);
  for (std::size_t i = 0; i < corrected.size(); ++i)
    analysis.comparisons[i].measured.p_holm = corrected[i];
  return analysis;
}

}  // namespace weft::eval
