#include "eval/statistics/analysis.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <tuple>

#include "eval/statistics/languages.h"

namespace weft::eval {
namespace {

/// The suites of all stages by name, in the order in which they first occur.
std::vector<std::string> suite_names(const Evaluation& evaluation) {
  std::vector<std::string> names;
  for (const StageResult& stage : evaluation.stages) {
    for (const SuiteResult& suite : stage.suites) {
      if (std::ranges::find(names, suite.name) == names.end()) names.push_back(suite.name);
    }
  }
  return names;
}

std::size_t place_in(const StageResult& stage, std::string_view suite) {
  return static_cast<std::size_t>(std::ranges::find(stage.suites, suite, &SuiteResult::name) -
                                  stage.suites.begin());
}

/// Fills what a suite gave in every stage.
class SuiteAnalysis {
 public:
  SuiteAnalysis(const Evaluation& evaluation, const BootstrapOptions& options,
                const std::string& name)
      : evaluation_(evaluation), options_(options), name_(name) {
    for (std::size_t i = 0; i < evaluation.stages.size(); ++i) {
      const std::size_t place = place_in(evaluation.stages[i], name);
      if (place == evaluation.stages[i].suites.size()) continue;
      stages_.push_back({i, place});
      suites_.push_back(&evaluation.stages[i].suites[place]);
    }
    draws_ = draw_figures(suites_, options);
  }

  void run(Analysis& analysis, std::vector<std::vector<MainDraws>>& main,
           std::vector<Comparison>& comparisons) const {
    const bool has_first = stages_.front().stage == 0;
    const bool updates = is_of_training(evaluation_);
    for (std::size_t k = 0; k < stages_.size(); ++k) {
      const auto [stage, place] = stages_[k];
      const FigureDraws* first = k > 0 && has_first ? &draws_.front() : nullptr;
      std::vector<Measured>& figures = analysis.figures[stage][place];
      figures = measure(draws_[k], first, options_);
      main[stage][place] = main_draws(draws_[k]);
      if (first != nullptr) add(stage, 0, *suites_[k], figures, comparisons);
      if (updates || k < 1 || stage < 2 || stages_[k - 1].stage != stage - 1) continue;
      add(stage, stage - 1, *suites_[k], measure(draws_[k], &draws_[k - 1], options_, Which::kTold),
          comparisons);
    }
  }

 private:
  struct Place {
    std::size_t stage, suite;
  };

  void add(std::size_t stage, std::size_t other, const SuiteResult& suite,
           const std::vector<Measured>& figures, std::vector<Comparison>& comparisons) const {
    for (const Measured& measured : figures) {
      if (measured.difference && is_told(suite, measured.name))
        comparisons.push_back({stage, other, name_, measured});
    }
  }

  static MainDraws main_draws(const FigureDraws& draws) {
    for (std::size_t i = 0; i < draws.statistics.size(); ++i) {
      const Statistic& statistic = draws.statistics[i].statistic;
      if (draws.statistics[i].name == main_figure(*draws.suite))
        return {value(statistic), statistic.units(), draws.draws[i]};
    }
    return {};
  }

  const Evaluation& evaluation_;
  const BootstrapOptions& options_;
  const std::string& name_;
  std::vector<Place> stages_;
  std::vector<const SuiteResult*> suites_;
  std::vector<FigureDraws> draws_;
};

/// By stages, then suites in their order, then the first stage before the one before.
void sort(std::vector<Comparison>& comparisons, const Evaluation& evaluation) {
  std::ranges::stable_sort(comparisons, {}, [&](const Comparison& comparison) {
    return std::tuple(comparison.stage,
                      place_in(evaluation.stages[comparison.stage], comparison.suite),
                      comparison.other);
  });
}

void correct(std::vector<Comparison>& comparisons) {
  std::vector<std::optional<double>> p;
  for (const Comparison& comparison : comparisons) p.push_back(comparison.measured.p);
  const auto corrected = holm(p);
  for (std::size_t i = 0; i < corrected.size(); ++i) comparisons[i].measured.p_holm = corrected[i];
}

void note_few(const SuiteResult& suite, std::int64_t units, std::string_view what,
              std::vector<std::string>& notes) {
  if (units >= kFewUnits || units < 1) return;
  const char* plural = units == 1 ? "" : "s";
  if (units < kFewestUnits) {
    notes.push_back(fmt::format("{}: {} {}{} {} too few for an interval; at least {} show one.",
                                suite.name, units, what, plural, units == 1 ? "is" : "are",
                                kFewestUnits));
  } else {
    notes.push_back(fmt::format(
        "{}: {} {}s are few, so its intervals are rough; {} or more make them reliable.",
        suite.name, units, what, kFewUnits));
  }
}

std::vector<std::string> notes_of(const Evaluation& evaluation, const Analysis& analysis,
                                  const BootstrapOptions& options) {
  std::vector<std::string> notes;
  for (const std::string& name : suite_names(evaluation)) {
    for (const StageResult& stage : evaluation.stages) {
      const SuiteResult* suite = suite_named(stage, name);
      if (suite == nullptr) continue;
      const bool clustered = !groups_of(*suite).empty();
      note_few(*suite,
               static_cast<std::int64_t>(clustered ? suite->labels.source_names.size()
                                                   : suite->items.size()),
               clustered ? "document" : word(suite->unit), notes);
      if (suite->generations.size() != suite->items.size())
        note_few(*suite, static_cast<std::int64_t>(suite->generations.size()), "answer", notes);
      break;
    }
  }
  const auto tested = std::ranges::count_if(
      analysis.comparisons, [](const Comparison& c) { return c.measured.p.has_value(); });
  const double level = 1 - options.confidence;
  if (static_cast<double>(tested) > level * static_cast<double>(options.permutations + 1)) {
    notes.push_back(fmt::format(
        "{} differences are tested together, and {} exchanges show no p below 1 in {}: after the "
        "correction none can be certain. Set bootstrap.permutations to {} or more.",
        tested, options.permutations, options.permutations + 1,
        std::llround(2 * static_cast<double>(tested) / level)));
  }
  return notes;
}

}  // namespace

Analysis analyse(const Evaluation& evaluation, const BootstrapOptions& options) {
  Analysis analysis;
  std::vector<std::vector<MainDraws>> main;
  for (const StageResult& stage : evaluation.stages) {
    analysis.figures.emplace_back(stage.suites.size());
    main.emplace_back(stage.suites.size());
  }
  for (const std::string& name : suite_names(evaluation))
    SuiteAnalysis(evaluation, options, name).run(analysis, main, analysis.comparisons);
  sort(analysis.comparisons, evaluation);
  correct(analysis.comparisons);
  analysis.languages = language_figures(evaluation, main, options);
  analysis.notes = notes_of(evaluation, analysis, options);
  return analysis;
}

bool is_worth_telling(const Evaluation& evaluation, const Comparison& comparison) {
  return !is_of_training(evaluation) || comparison.stage + 1 == evaluation.stages.size();
}

std::optional<std::int64_t> update_of(std::string_view stage) {
  constexpr std::string_view kBegin = "update ";
  if (!stage.starts_with(kBegin)) return std::nullopt;
  std::int64_t update = 0;
  const auto [end, error] =
      std::from_chars(stage.data() + kBegin.size(), stage.data() + stage.size(), update);
  if (error != std::errc() || end != stage.data() + stage.size()) return std::nullopt;
  return update;
}

bool is_of_training(const Evaluation& evaluation) {
  return !evaluation.stages.empty() &&
         std::ranges::all_of(evaluation.stages, [](const StageResult& stage) {
           return update_of(stage.name).has_value();
         });
}

}  // namespace weft::eval
