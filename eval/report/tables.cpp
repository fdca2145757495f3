#include "eval/report/tables.h"

#include <fmt/format.h>

#include <cmath>

#include "core/terminal.h"
#include "eval/metrics/answer.h"
#include "eval/report/sentences.h"
#include "eval/statistics/distribution.h"

namespace weft::eval {
namespace {

using Json = nlohmann::ordered_json;

std::string cell(const Measured* measured) {
  if (measured == nullptr) return "-";
  const FigureKind* kind = figure_kind(measured->name);
  return fmt::format("{:.{}f}", measured->figure.value, kind == nullptr ? 4 : kind->digits);
}

std::string range_cell(const std::optional<Interval>& interval, int digits) {
  return interval ? fmt::format("{:.{}f} .. {:.{}f}", interval->low, digits, interval->high, digits)
                  : "-";
}

/// A line per stage that has the figure `key`; `ranged` gets its interval in a column of its own.
std::string table_of(const Evaluation& evaluation, const Analysis& analysis, std::string_view suite,
                     std::span<const std::string_view> names, std::string_view ranged) {
  std::vector<std::string> header{"stage"};
  for (const std::string_view name : names) {
    header.emplace_back(figure_kind(name)->title);
    if (name == ranged) header.emplace_back("interval");
  }
  core::Table table(header);
  bool any = false;
  for (std::size_t i = 0; i < evaluation.stages.size(); ++i) {
    const StageResult& stage = evaluation.stages[i];
    for (std::size_t j = 0; j < stage.suites.size(); ++j) {
      if (stage.suites[j].name != suite) continue;
      const std::vector<Measured>& figures = analysis.figures[i][j];
      if (figure_named(figures, ranged) == nullptr) continue;
      any = true;
      std::vector<std::string> row{stage.name};
      for (const std::string_view name : names) {
        const Measured* measured = figure_named(figures, name);
        row.push_back(cell(measured));
        if (name == ranged)
          row.push_back(range_cell(measured->figure.interval, figure_kind(name)->digits));
      }
      table.add(std::move(row));
    }
  }
  return any ? table.text() : std::string();
}

Json mean_json(const TokenMean& mean) {
  return {{"value", json_number(mean.value)}, {"standard_error", json_number(mean.standard_error)}};
}

Json distribution_json(const SuiteResult& suite, std::string_view reference) {
  const DistributionSummary s = summarise(suite.distances);
  return {{"reference", reference},
          {"tokens", s.tokens},
          {"perplexity", mean_json(s.perplexity)},
          {"reference_perplexity", mean_json(s.reference_perplexity)},
          {"log_perplexity_correlation", json_number(s.log_perplexity_correlation)},
          {"log_perplexity_ratio", mean_json(s.log_perplexity_ratio)},
          {"perplexity_ratio", mean_json(s.perplexity_ratio)},
          {"kl",
           {{"mean", mean_json(s.kl)},
            {"max", s.kl_max},
            {"99.9%", s.kl_p999},
            {"99%", s.kl_p99},
            {"95%", s.kl_p95},
            {"90%", s.kl_p90},
            {"median", s.kl_median},
            {"10%", s.kl_p10},
            {"5%", s.kl_p5},
            {"1%", s.kl_p1},
            {"0.1%", s.kl_p01},
            {"min", s.kl_min}}},
          {"delta_p",
           {{"mean", mean_json(s.delta_p)},
            {"rms", mean_json(s.delta_p_rms)},
            {"max", s.delta_p_max},
            {"99.9%", s.delta_p_p999},
            {"99%", s.delta_p_p99},
            {"95%", s.delta_p_p95},
            {"90%", s.delta_p_p90},
            {"75%", s.delta_p_p75},
            {"median", s.delta_p_median},
            {"25%", s.delta_p_p25},
            {"10%", s.delta_p_p10},
            {"5%", s.delta_p_p5},
            {"1%", s.delta_p_p1},
            {"0.1%", s.delta_p_p01},
            {"min", s.delta_p_min}}},
          {"same_top", mean_json(s.same_top)}};
}

}  // namespace

std::int64_t total(const SuiteResult& suite, std::int64_t Item::*member) {
  std::int64_t sum = 0;
  for (const Item& item : suite.items) sum += item.*member;
  return sum;
}

std::string suite_heading(const SuiteResult& suite, const BootstrapOptions& options) {
  const std::size_t units = suite.items.size();
  std::string line =
      fmt::format("{}: {} {}{}, {} tokens, {} bytes", suite.name, units, word(suite.unit),
                  units == 1 ? "" : "s", total(suite, &Item::tokens), total(suite, &Item::bytes));
  if (!suite.labels.language.empty()) line += "; language " + suite.labels.language;
  if (suite.labels.must_keep) line += "; must be kept: what changes here was forgotten or kept";
  if (units > 1) {
    line += fmt::format("; {:g} % intervals by bootstrap over {}s", 100 * options.confidence,
                        word(suite.unit));
  }
  if (!suite.generations.empty()) {
    line += fmt::format("; scores of {} generated answers", suite.generations.size());
    for (const AnswerMetric& metric : metrics_of(suite.labels))
      line += fmt::format("\n  {}: {}", figure_kind(metric.name)->title, metric.signature);
  }
  return line;
}

Json json_number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json json_bounds(const std::optional<Interval>& interval) {
  return interval ? Json{json_number(interval->low), json_number(interval->high)} : Json(nullptr);
}

std::string distribution_table(const Evaluation& evaluation, const Analysis& analysis,
                               std::string_view suite) {
  constexpr std::string_view kNames[] = {"kl",     "kl_median", "kl_p90",           "kl_p99",
                                         "kl_max", "same_top",  "perplexity_ratio", "delta_p_rms"};
  return table_of(evaluation, analysis, suite, kNames, "kl");
}

std::string languages_table(const Evaluation& evaluation, const Analysis& analysis) {
  const auto& all = analysis.languages;
  if (all.empty() || all.front().empty()) return {};
  core::Table table({"language", "suites", "figure", "stage", "mean", "interval", "change",
                     "interval of the change"});
  for (const LanguageFigure& row : all.front()) {
    for (std::size_t i = 0; i < all.size(); ++i) {
      for (const LanguageFigure& figure : all[i]) {
        if (figure.language != row.language || figure.name != row.name) continue;
        const auto& difference = figure.measured.difference;
        table.add({figure.language, std::to_string(figure.suites), std::string(figure.name),
                   evaluation.stages[i].name, cell(&figure.measured),
                   range_cell(figure.measured.figure.interval, 4),
                   difference ? fmt::format("{:+.4f}", difference->value) : "-",
                   difference ? range_cell(difference->interval, 4) : "-"});
      }
    }
  }
  return table.text();
}

Json details_json(const SuiteResult& suite, std::string_view reference) {
  Json json = Json::object();
  if (!suite.labels.language.empty()) json["language"] = suite.labels.language;
  if (suite.labels.must_keep) json["must_keep"] = true;
  if (suite.other_tokenizer) json["other_tokenizer"] = true;
  const std::vector<SourceFigure> sources = source_figures(suite);
  for (const SourceFigure& source : sources) {
    json["sources"].push_back({{"source", source.source},
                               {"items", source.items},
                               {std::string(source.name), json_number(source.value)}});
  }
  if (!suite.distances.empty()) json["distribution"] = distribution_json(suite, reference);
  return json;
}

Json choices_json(const SuiteResult& suite) {
  Json all = Json::array();
  for (const ChoiceResult& question : suite.choices) {
    Json entry{{"answer", question.answer},
               {"log_p", question.log_p},
               {"log_p_alone", question.log_p_alone},
               {"characters", question.characters},
               {"bytes", question.bytes}};
    if (question.flipped) entry["flipped"] = *question.flipped;
    all.push_back(std::move(entry));
  }
  return all;
}

Json comparisons_json(const Evaluation& evaluation, const Analysis& analysis,
                      const BootstrapOptions& options) {
  Json all = Json::array();
  for (const Comparison& comparison : analysis.comparisons) {
    const Measured& measured = comparison.measured;
    all.push_back({{"stage", evaluation.stages[comparison.stage].name},
                   {"other", evaluation.stages[comparison.other].name},
                   {"suite", comparison.suite},
                   {"figure", measured.name},
                   {"difference", json_number(measured.difference->value)},
                   {"interval", json_bounds(measured.difference->interval)},
                   {"p", measured.p ? Json(*measured.p) : Json(nullptr)},
                   {"p_holm", measured.p_holm ? Json(*measured.p_holm) : Json(nullptr)},
                   {"sentence", sentence(evaluation, comparison, options)}});
  }
  return all;
}

Json languages_json(const std::vector<LanguageFigure>& figures) {
  Json all = Json::array();
  for (const LanguageFigure& figure : figures) {
    Json entry{{"language", figure.language},
               {"suites", figure.suites},
               {std::string(figure.name), json_number(figure.measured.figure.value)},
               {"interval", json_bounds(figure.measured.figure.interval)}};
    if (const auto& difference = figure.measured.difference) {
      entry["difference"] = {{"value", json_number(difference->value)},
                             {"interval", json_bounds(difference->interval)}};
    }
    all.push_back(std::move(entry));
  }
  return all;
}

}  // namespace weft::eval
