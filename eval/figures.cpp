#include "eval/figures.h"

#include <cmath>
#include <numbers>

namespace weft::eval {
namespace {

struct Sums {
  double tokens = 0;
  double bytes = 0;
  double loss = 0;
};

Sums sum(std::span<const Item> items, std::span<const std::uint32_t> times) {
  Sums sums;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const double weight = times.empty() ? 1 : times[i];
    sums.tokens += weight * static_cast<double>(items[i].tokens);
    sums.bytes += weight * static_cast<double>(items[i].bytes);
    sums.loss += weight * items[i].loss;
  }
  return sums;
}

double loss_of(const Sums& sums) { return sums.loss / sums.tokens; }
double perplexity_of(const Sums& sums) { return std::exp(loss_of(sums)); }
double bits_of(const Sums& sums) { return sums.loss / (sums.bytes * std::numbers::ln2); }

using OfSums = double (*)(const Sums&);
constexpr std::pair<std::string_view, OfSums> kOfItems[] = {
    {"loss", loss_of}, {"perplexity", perplexity_of}, {"bits_per_byte", bits_of}};

Figure over_items(const SuiteResult& suite, OfSums figure) {
  return [&suite, figure](std::span<const std::uint32_t> times) {
    return figure(sum(suite.items, times));
  };
}

Figure over_generations(const SuiteResult& suite, ChrfStatistics Generation::*member,
                        const ChrfOptions& options) {
  return [&suite, member, options](std::span<const std::uint32_t> times) {
    ChrfStatistics sums;
    for (std::size_t i = 0; i < suite.generations.size(); ++i) {
      const std::int64_t weight = times.empty() ? 1 : times[i];
      const ChrfStatistics& item = suite.generations[i].*member;
      if (sums.empty()) sums.resize(item.size());
      for (std::size_t order = 0; order < sums.size(); ++order) {
        sums[order].hypothesis += weight * item[order].hypothesis;
        sums[order].reference += weight * item[order].reference;
        sums[order].matches += weight * item[order].matches;
      }
    }
    return chrf_score(sums, options);
  };
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
    if (a.generations[i].reference != b.generations[i].reference) return false;
  }
  return true;
}

/// A figure in this stage and in the one to compare with.
struct Pair {
  std::string_view name;
  std::size_t items = 0;
  Figure here;
  Figure first;  ///< Empty: no stage to compare with.
  bool paired = false;
};

Measured measure_pair(const Pair& pair, const BootstrapOptions& options) {
  // One item says nothing about how items vary.
  const auto draws = [&](const Figure& figure) {
    return pair.items < 2 ? std::vector<double>{}
                          : resample(static_cast<std::int64_t>(pair.items), figure, options);
  };
  const std::vector<double> here = draws(pair.here);
  Measured measured;
  measured.name = pair.name;
  measured.figure = {pair.here({}), interval(here, options.confidence)};
  if (!pair.first) return measured;
  const double first_value = pair.first({});
  std::vector<double> difference, relative;
  if (pair.paired) {
    const std::vector<double> first = draws(pair.first);
    for (std::size_t i = 0; i < first.size(); ++i) {
      difference.push_back(here[i] - first[i]);
      relative.push_back(here[i] / first[i] - 1);
    }
  }
  measured.difference = {measured.figure.value - first_value,
                         interval(std::move(difference), options.confidence)};
  measured.relative = {measured.figure.value / first_value - 1,
                       interval(std::move(relative), options.confidence)};
  return measured;
}

}  // namespace

double mean_loss(std::span<const Item> items) { return loss_of(sum(items, {})); }
double perplexity(std::span<const Item> items) { return perplexity_of(sum(items, {})); }
double bits_per_byte(std::span<const Item> items) { return bits_of(sum(items, {})); }

std::optional<Sampled> sampled_figure(const SuiteResult& suite, std::string_view name) {
  for (const auto& [known, figure] : kOfItems) {
    if (known == name) return Sampled{std::ssize(suite.items), over_items(suite, figure)};
  }
  if (suite.generations.empty()) return std::nullopt;
  const std::int64_t answers = std::ssize(suite.generations);
  if (name == "chrf") return Sampled{answers, over_generations(suite, &Generation::chrf, kChrf)};
  if (name == "chrf++") {
    return Sampled{answers, over_generations(suite, &Generation::chrf_plus_plus, kChrfPlusPlus)};
  }
  return std::nullopt;
}

std::vector<Measured> measure(const SuiteResult& suite, const SuiteResult* first,
                              const BootstrapOptions& options) {
  std::vector<Measured> all;
  const bool paired = first != nullptr && same_items(suite, *first);
  for (const auto& [name, figure] : kOfItems) {
    all.push_back(measure_pair({name, suite.items.size(), over_items(suite, figure),
                                first == nullptr ? Figure{} : over_items(*first, figure), paired},
                               options));
  }
  if (suite.generations.empty()) return all;
  const bool answered = first != nullptr && same_generations(suite, *first);
  const auto add = [&](std::string_view name, ChrfStatistics Generation::*member,
                       const ChrfOptions& chrf) {
    all.push_back(
        measure_pair({name, suite.generations.size(), over_generations(suite, member, chrf),
                      answered ? over_generations(*first, member, chrf) : Figure{}, answered},
                     options));
  };
  add("chrf", &Generation::chrf, kChrf);
  add("chrf++", &Generation::chrf_plus_plus, kChrfPlusPlus);
  return all;
}

}  // namespace weft::eval
