#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "cli/command.h"
#include "cli/output.h"
#include "core/error.h"
#include "core/file.h"
#include "eval/ledger/ledger.h"
#include "eval/ledger/training_evaluation.h"
#include "eval/report/card.h"
#include "eval/report/report_page.h"

namespace weft::cli {

Run add_report(CommandLine& app);

namespace {

namespace fs = std::filesystem;

struct ReportArguments {
  std::vector<std::string> subjects;
  std::string ledger, out, format = "html", stage, name;
  std::int64_t examples = 12;
  bool force = false;
};

std::optional<eval::Ledger> open_ledger(const ReportArguments& a) {
  std::optional<fs::path> path;
  if (!a.ledger.empty()) {
    path = a.ledger;
  } else {
    path = eval::default_ledger();
    if (path && !fs::exists(*path)) path.reset();
  }
  if (!path) return std::nullopt;
  return eval::Ledger(*path, eval::sqlite::Access::kRead);
}

void add_evaluation(eval::Ledger& ledger, std::int64_t id, std::string name,
                    eval::ReportParts& parts) {
  eval::Recorded recorded = ledger.read(id);
  const std::string& run = recorded.circumstances.run;
  const bool known = std::ranges::any_of(
      parts.runs, [&](const eval::TrainingRun& known_run) { return known_run.folder == run; });
  if (!run.empty() && !known && eval::is_training_run(run))
    parts.runs.push_back(eval::read_training_run(run));
  parts.evaluations.emplace_back(std::move(name), std::move(recorded));
}

/// The newest evaluation of the run's adapter by weft eval.
std::optional<std::int64_t> evaluation_of(eval::Ledger& ledger, const fs::path& run) {
  std::optional<std::int64_t> found;
  for (const eval::LedgerEntry& entry : ledger.entries()) {
    const bool updates = std::ranges::all_of(
        entry.stages, [](const std::string& stage) { return eval::update_of(stage).has_value(); });
    if (entry.circumstances.run == run && !updates) found = entry.id;
  }
  return found;
}

/// The run's evaluations: of its adapter, and of its updates in training.
void add_evaluations_of(eval::Ledger& ledger, const fs::path& run, const std::string& name,
                        eval::ReportParts& parts) {
  const auto id = evaluation_of(ledger, run);
  if (id) add_evaluation(ledger, *id, name, parts);
  if (auto updates = eval::read_training_evaluation(ledger, run.string()))
    parts.evaluations.emplace_back(id ? name + ", in training" : name, std::move(*updates));
}

eval::ReportParts gather(const ReportArguments& a) {
  eval::ReportParts parts{.examples = a.examples};
  std::optional<eval::Ledger> ledger = open_ledger(a);
  for (const std::string& subject : a.subjects) {
    if (fs::is_directory(subject)) {
      eval::TrainingRun run = eval::read_training_run(subject);
      const fs::path folder = run.folder;
      const std::string name = run.name;
      const bool known = std::ranges::any_of(
          parts.runs, [&](const eval::TrainingRun& other) { return other.folder == folder; });
      if (!known) parts.runs.push_back(std::move(run));
      if (ledger) add_evaluations_of(*ledger, folder, name, parts);
    } else if (ledger) {
      add_evaluation(*ledger, ledger->find(subject), subject, parts);
    } else {
      throw InputError(
          "'{}' is no folder of a training run, and there is no ledger in which it could be an "
          "evaluation; name one (--ledger)",
          subject);
    }
  }
  return parts;
}

/// The one evaluation that a model card is about.
const eval::Reported& only_evaluation(const eval::ReportParts& parts, const std::string& format) {
  if (parts.evaluations.size() != 1) {
    throw ConfigError(
        "--format {} is about one evaluation, and there are {}; name its number or tag", format,
        parts.evaluations.size());
  }
  return parts.evaluations.front();
}

std::string text_of(const ReportArguments& a, const eval::ReportParts& parts) {
  if (a.format == "html") return eval::report_page(parts);
  const eval::Reported& reported = only_evaluation(parts, a.format);
  const eval::Recorded& recorded = reported.recorded;
  if (a.format == "markdown") return eval::to_markdown(recorded, reported.analysis);
  if (recorded.evaluation.stages.empty()) throw InputError("the evaluation has no stages");
  const std::string& last = recorded.evaluation.stages.back().name;
  return eval::to_model_index(recorded, a.name.empty() ? recorded.circumstances.name : a.name,
                              a.stage.empty() ? last : a.stage);
}

int run(const ReportArguments& a) {
  const bool to_file = !a.out.empty() || a.format == "html";
  const std::string out = a.out.empty() ? "report.html" : a.out;
  if (to_file) {
    core::require_writable(out, core::OutputKind::kFile,
                           a.force ? core::Overwrite::kReplace : core::Overwrite::kRefuse);
  }
  const std::string text = text_of(a, gather(a));
  if (!to_file) {
    print("{}", text);
  } else {
    core::write_text(out, text);
    tell("weft report: {}\n", out);
  }
  return static_cast<int>(ExitCode::kDone);
}

}  // namespace

Run add_report(CommandLine& app) {
  auto a = std::make_shared<ReportArguments>();
  app.description(
      "Builds one HTML page on training runs and recorded evaluations, or what a model card says "
      "of one (docs/report.md).");
  app.option("RUN", a->subjects,
             "folder of a training run, or an evaluation in the ledger: number, tag, or latest")
      .required();
  app.option("--ledger", a->ledger, "the ledger (default: the nearest weft.db)");
  app.option("--format", a->format,
             "html (default), markdown (a model card's section) or model-index (its metadata)")
      .one_of({"html", "markdown", "model-index"});
  app.option("--stage", a->stage, "stage that model-index is about (default: the last)");
  app.option("--name", a->name, "name of the model in model-index");
  app.option("--examples", a->examples, "answers shown per suite (default 12)").at_least(0);
  app.option("--out", a->out, "file (default: report.html; other formats are printed)");
  app.flag("--force", a->force, "overwrite --out");
  return [a] { return run(*a); };
}

}  // namespace weft::cli
