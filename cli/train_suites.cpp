#include "cli/train_suites.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "core/error.h"
#include "eval/ledger/training_evaluation.h"
#include "eval/report/training_run.h"
#include "eval/statistics/analysis.h"
#include "eval/statistics/statistics_of.h"

namespace weft::cli {
namespace {

/// `evaluate:` in weft eval's words.
eval::EvalConfig eval_config(const train::Prepared& run) {
  const train::EvaluateSection& section = *run.config.evaluate;
  eval::EvalConfig config;
  config.base_model = run.config.base_model;
  config.suites = section.suites;
  config.generate = section.generate;
  config.sequence_len = section.sequence_len.value_or(run.config.sequence_len);
  config.limit = section.limit;
  config.device = run.config.device;
  config.dtype =
      run.compute == model::Compute::kBF16 ? eval::DType::kBFloat16 : eval::DType::kFloat32;
  config.ledger = section.ledger;
  config.record = section.record;
  return config;
}

/// "bits_per_byte.nahuatl": the name of a figure has no dot, that of a suite may.
std::optional<train::ChosenFigure> chosen_figure(const std::optional<std::string>& text,
                                                 const eval::LiveSuites& suites) {
  if (!text) return std::nullopt;
  const std::size_t dot = text->find('.');
  if (dot == std::string::npos) {
    throw ConfigError("'{}' is no FIGURE.SUITE; write bits_per_byte.{}", *text,
                      suites.inputs().front().name);
  }
  train::ChosenFigure chosen{.suite = text->substr(dot + 1), .name = text->substr(0, dot)};
  const std::vector<std::string_view> known = suites.figures_of(chosen.suite);
  if (std::ranges::find(known, chosen.name) == known.end()) {
    throw ConfigError("suite '{}' has no figure '{}', only {}", chosen.suite, chosen.name,
                      fmt::join(known, ", "));
  }
  chosen.more_is_better = eval::figure_kind(chosen.name)->better > 0;
  return chosen;
}

/// Whether the run in the folder has measured its suites before `update`: it was resumed.
bool goes_on(const std::string& folder, std::int64_t update) {
  if (update == 0 || !eval::is_training_run(folder)) return false;
  for (const eval::SuiteCurve& curve : eval::read_training_run(folder).suites) {
    for (const eval::ChartPoint& point : curve.series.points) {
      if (point.x < static_cast<double>(update)) return true;
    }
  }
  return false;
}

/// What is recorded goes on quietly; what is not is told.
core::Log warnings_of(const core::Log& log) {
  return [log](core::Level level, std::string_view line) {
    if (level != core::Level::kInfo) core::tell(log, level, line);
  };
}

}  // namespace

TrainSuites::TrainSuites(const train::Prepared& run, core::Communicator& ranks,
                         const std::atomic<bool>& interrupted, const core::Log& log)
    : ranks_(ranks),
      folder_(std::filesystem::weakly_canonical(run.config.output_dir).string()),
      config_(eval_config(run)),
      log_(warnings_of(log)),
      suites_(config_, run.base->tokenizer, run.chat_template ? &*run.chat_template : nullptr,
              {.log = log, .stop = &interrupted, .ranks = &ranks}),
      device_(run.device),
      chosen_(chosen_figure(run.config.evaluate->keep_best_by, suites_)),
      record_(config_, run.config.output_dir.filename().string(), log) {}

std::optional<std::vector<train::SuiteFigure>> TrainSuites::measure(std::int64_t update,
                                                                    model::Decoder& decoder) {
  record_.begin(device_);
  eval::Evaluation evaluation;
  try {
    evaluation = suites_.measure(fmt::format("update {}", update), decoder);
  } catch (const Error& problem) {  // in one rank or another
    if (problem.exit_code() != ExitCode::kInterrupted) throw;
    return std::nullopt;  // the trainer saves, and goes on with this evaluation
  }
  std::vector<train::SuiteFigure> figures;
  for (const eval::SuiteResult& suite : evaluation.stages.front().suites) {
    const std::string_view main = eval::main_figure(suite);
    for (const eval::NamedStatistic& known : eval::statistics_of(suite)) {
      figures.push_back({.suite = suite.name,
                         .name = std::string(known.name),
                         .value = eval::value(known.statistic),
                         .is_main = known.name == main});
    }
  }
  record(std::move(evaluation));
  return figures;
}

void TrainSuites::record(eval::Evaluation evaluation) {
  if (!ranks_.is_first() || record_.ledger() == nullptr || !config_.record) return;
  eval::Recorded recorded = record_.recorded(std::move(evaluation), {});
  recorded.circumstances.run = folder_;
  seconds_ += recorded.circumstances.seconds;
  try {
    if (!recorded_id_) begin_record(recorded);
    if (recorded_id_) add_to_record(recorded.evaluation.stages.front(), recorded);
  } catch (const Error& error) {
    core::tell(log_, core::Level::kWarning, fmt::format("not recorded: {}", error.what()));
  }
}

void TrainSuites::begin_record(const eval::Recorded& recorded) {
  eval::Ledger& ledger = *record_.ledger();
  const eval::StageResult& stage = recorded.evaluation.stages.front();
  if (goes_on(folder_, *eval::update_of(stage.name)))
    recorded_id_ = eval::training_evaluation_to_go_on(ledger, folder_, stage);
  if (recorded_id_) {
    eval::Recorded begun = ledger.read(*recorded_id_);
    seconds_ += begun.circumstances.seconds;
    first_ = std::move(begun.evaluation.stages.front());
    return;
  }
  // With its only stage; add_to_record() puts the same in its place.
  first_ = stage;
  recorded_id_ = ledger.record(recorded, eval::analyse(recorded.evaluation, recorded.bootstrap));
}

void TrainSuites::add_to_record(eval::StageResult stage, const eval::Recorded& recorded) {
  if (stage.name == first_.name) return;
  eval::Evaluation pair;
  pair.stages = {first_, std::move(stage)};
  const eval::Analysis analysis = eval::analyse(pair, recorded.bootstrap);
  record_.ledger()->add_stage(*recorded_id_, pair.stages.back(), analysis.figures.back(), seconds_);
}

std::map<std::string, std::string> TrainSuites::digests() const {
  std::map<std::string, std::string> digests;
  for (const eval::SuiteInput& input : suites_.inputs())
    digests[input.name] = input.digest + input.asked_digest;
  return digests;
}

std::unique_ptr<TrainSuites> train_suites(const train::Prepared& run, core::Communicator& ranks,
                                          const std::atomic<bool>& interrupted,
                                          const core::Log& log) {
  if (!run.config.evaluate) return nullptr;
  try {
    return std::make_unique<TrainSuites>(run, ranks, interrupted, log);
  } catch (const ConfigError& problem) {
    throw ConfigError("evaluate: {}", problem.what());
  }
}

}  // namespace weft::cli
