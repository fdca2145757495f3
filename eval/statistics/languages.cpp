#include "eval/statistics/languages.h"

#include <algorithm>
#include <set>

#include "eval/statistics/statistics_of.h"

namespace weft::eval {
namespace {

/// The places of the suites that a row sums up.
struct Stratum {
  std::string language;
  std::string_view name;
  std::vector<std::size_t> suites;
};

std::vector<Stratum> strata_of(const StageResult& first) {
  std::vector<Stratum> strata;
  const auto add = [&](const std::string& language, std::string_view name, std::size_t place) {
    auto found = std::ranges::find_if(strata, [&](const Stratum& stratum) {
      return stratum.language == language && stratum.name == name;
    });
    if (found == strata.end()) found = strata.insert(strata.end(), {language, name, {}});
    found->suites.push_back(place);
  };
  std::set<std::string> languages;
  for (std::size_t i = 0; i < first.suites.size(); ++i) {
    const std::string& language = first.suites[i].labels.language;
    if (language.empty()) continue;
    languages.insert(language);
    add(language, main_figure(first.suites[i]), i);
  }
  if (languages.size() < 2) return strata;
  for (std::size_t i = 0; i < first.suites.size(); ++i) add("all", main_figure(first.suites[i]), i);
  return strata;
}

/// The mean over the suites of a stratum, and its resamples. Nothing when one was not measured.
std::optional<MainDraws> mean_of(const StageResult& stage, const std::vector<MainDraws>& main,
                                 const StageResult& first, const Stratum& stratum) {
  MainDraws mean;
  bool spread = true;
  const auto share = 1.0 / static_cast<double>(stratum.suites.size());
  for (const std::size_t place : stratum.suites) {
    const SuiteResult* suite = suite_named(stage, first.suites[place].name);
    if (suite == nullptr) return std::nullopt;
    const MainDraws& of_suite = main[static_cast<std::size_t>(suite - stage.suites.data())];
    if (of_suite.units == 0) return std::nullopt;
    mean.value += share * of_suite.value;
    mean.units = mean.units == 0 ? of_suite.units : std::min(mean.units, of_suite.units);
    if (of_suite.draws.empty()) spread = false;
    if (!spread) continue;
    mean.draws.resize(of_suite.draws.size());
    for (std::size_t i = 0; i < mean.draws.size(); ++i) mean.draws[i] += share * of_suite.draws[i];
  }
  if (!spread) mean.draws.clear();
  return mean;
}

Measured compare(const MainDraws& here, const MainDraws* first, std::string_view name, bool paired,
                 double confidence) {
  Measured measured;
  measured.name = name;
  measured.figure = {here.value, interval(here.draws, confidence, here.units)};
  if (first == nullptr) return measured;
  std::vector<double> difference, relative;
  if (paired && here.draws.size() == first->draws.size()) {
    for (std::size_t i = 0; i < here.draws.size(); ++i) {
      difference.push_back(here.draws[i] - first->draws[i]);
      relative.push_back(here.draws[i] / first->draws[i] - 1);
    }
  }
  measured.difference = {here.value - first->value,
                         interval(std::move(difference), confidence, here.units)};
  measured.relative = {here.value / first->value - 1,
                       interval(std::move(relative), confidence, here.units)};
  return measured;
}

}  // namespace

std::vector<std::vector<LanguageFigure>> language_figures(
    const Evaluation& evaluation, const std::vector<std::vector<MainDraws>>& main,
    const BootstrapOptions& options) {
  std::vector<std::vector<LanguageFigure>> all;
  if (evaluation.stages.empty()) return all;
  const StageResult& first = evaluation.stages.front();
  const std::vector<Stratum> strata = strata_of(first);
  for (std::size_t s = 0; s < evaluation.stages.size(); ++s) {
    const StageResult& stage = evaluation.stages[s];
    auto& row = all.emplace_back();
    for (const Stratum& stratum : strata) {
      const auto here = mean_of(stage, main[s], first, stratum);
      if (!here) continue;
      const auto base = s == 0 ? std::nullopt : mean_of(first, main[0], first, stratum);
      const bool paired = std::ranges::all_of(stratum.suites, [&](std::size_t place) {
        const SuiteResult* suite = suite_named(stage, first.suites[place].name);
        return suite != nullptr && same_items(*suite, first.suites[place]);
      });
      row.push_back(
          {stratum.language, stratum.suites.size(), stratum.name,
           compare(*here, base ? &*base : nullptr, stratum.name, paired, options.confidence)});
    }
  }
  return all;
}

std::vector<SourceFigure> source_figures(const SuiteResult& suite) {
  std::vector<SourceFigure> all;
  const SuiteLabels& labels = suite.labels;
  if (labels.source_names.empty() || labels.sources.size() != suite.items.size()) return all;
  std::vector<SuiteResult> parts(labels.source_names.size());
  for (std::size_t i = 0; i < suite.items.size(); ++i) {
    SuiteResult& part = parts[labels.sources[i]];
    part.items.push_back(suite.items[i]);
    if (!suite.choices.empty()) part.choices.push_back(suite.choices[i]);
  }
  for (std::size_t i = 0; i < parts.size(); ++i) {
    parts[i].other_tokenizer = suite.other_tokenizer;
    const auto sampled = sampled_figure(parts[i], main_figure(suite));
    if (!sampled) continue;
    all.push_back(
        {labels.source_names[i], parts[i].items.size(), main_figure(suite), sampled->figure({})});
  }
  return all;
}

}  // namespace weft::eval
