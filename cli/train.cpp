#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <deque>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/config_question.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/ranks.h"
#include "cli/runs_on.h"
#include "cli/train_progress.h"
#include "cli/train_suites.h"
#include "core/error.h"
#include "core/ranks.h"
#include "core/terminal.h"
#include "model/device.h"
#include "model/runtime.h"
#include "schema/schema.h"
#include "train/job.h"

namespace weft::cli {

Run add_train(CommandLine& app);

namespace {

struct TrainOptions {
  std::string config;
  std::vector<std::string> overrides;
  ConfigQuestion question;
  bool check = false;
  bool resume = false;
  bool force = false;
};

void print_outcome(const train::Outcome& outcome, const train::RunFolder& folder) {
  print("{} after {} updates, {} tokens, {}\n",
        outcome.ending == train::Ending::kEarlyStopping
            ? fmt::format("stopped early: {} no more", outcome.chosen
                                                           ? outcome.chosen->text() + " got better"
                                                           : "the validation loss fell")
            : "done",
        outcome.updates, core::human_count(outcome.tokens), core::human_duration(outcome.seconds));
  if (outcome.best_validation_loss) {
    print("validation loss {}{:.4f}, the lowest, at update {}\n",
          outcome.first_validation_loss
              ? fmt::format("{:.4f} at first, ", *outcome.first_validation_loss)
              : "",
          *outcome.best_validation_loss, outcome.adapter_update);
  }
  if (outcome.best_figure) {
    print("{} {}{:.4f}, the best, at update {}\n", outcome.chosen->text(),
          outcome.first_figure ? fmt::format("{:.4f} at first, ", *outcome.first_figure) : "",
          *outcome.best_figure, outcome.adapter_update);
  }
  print("adapter {}\n", folder.adapter().string());
}

void claim(train::RunFolder& folder, const core::Log& log) {
  try {
    folder.claim(log);
  } catch (const InputError& problem) {
    throw InputError("{}{}", problem.what(), hint_of_lost_ranks());
  }
}

/// The folders of the runs, looked at and, where the runs are to be made, claimed.
std::deque<train::RunFolder> open_folders(
    const std::vector<schema::Variant<train::TrainConfig>>& runs, const TrainOptions& options,
    bool is_first, const core::Log& log) {
  const train::Start start = options.resume  ? train::Start::kResume
                             : options.force ? train::Start::kReplace
                                             : train::Start::kFresh;
  std::deque<train::RunFolder> folders;
  for (const auto& run : runs) {
    const std::filesystem::path around = run.config.output_dir.parent_path();
    if (!run.name.empty() && std::filesystem::exists(around / "config.yaml")) {
      throw InputError("output_dir {} holds a run of one adapter; choose another for several",
                       around.string());
    }
    folders.emplace_back(run.config.output_dir, start);
    if (!options.check && is_first) claim(folders.back(), log);
  }
  return folders;
}

bool answer_about_runs(const ConfigQuestion& question,
                       const std::vector<schema::Variant<train::TrainConfig>>& runs) {
  bool answered = false;
  for (const auto& run : runs) {
    if (!question.dump.empty() && !run.name.empty()) print("--- # {}\n", run.name);
    answered = answer_about_values(question, run.config);
  }
  return answered;
}

/// What was trained, and how it ended: throws when a run was interrupted or failed.
void conclude(const std::vector<train::Prepared>& runs, const std::deque<train::RunFolder>& folders,
              const std::vector<train::Result>& results) {
  std::vector<std::string> failed;
  bool interrupted = false;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const train::Outcome& outcome = results[i].outcome;
    interrupted = interrupted || outcome.ending == train::Ending::kInterrupted;
    if (results[i].failure) {
      if (runs.size() == 1) std::rethrow_exception(results[i].failure);
      failed.push_back(runs[i].name);
    } else if (outcome.ending != train::Ending::kInterrupted) {
      if (!runs[i].name.empty()) print("{}: ", runs[i].name);
      print_outcome(outcome, folders[i]);
    }
  }
  if (interrupted && std::ranges::any_of(folders, &train::RunFolder::replaces)) {
    throw Interrupted("interrupted before the first update; the run in {} is as it was",
                      folders.front().path().string());
  }
  if (interrupted) {
    throw Interrupted(
        "interrupted{}; the state is saved, --resume goes on from there",
        runs.size() > 1 ? "" : fmt::format(" after update {}", results.front().outcome.updates));
  }
  if (!failed.empty()) {
    throw NumericError("{} of {} adapters ended early: {}", failed.size(), runs.size(),
                       fmt::join(failed, ", "));
  }
}

/// Reads, counts and checks everything; shows the plans.
std::vector<train::Prepared> prepare_runs(
    std::vector<schema::Variant<train::TrainConfig>> described,
    const std::deque<train::RunFolder>& folders, std::vector<std::unique_ptr<TrainSuites>>& suites,
    const TrainOptions& options, core::Communicator& ranks, const train::Share& share,
    const std::atomic<bool>& interrupted, const core::Log& log) {
  std::vector<std::optional<train::TrainState>> resumed = train::last_states(folders, log);
  std::vector<train::Prepared> runs =
      train::prepare(std::move(described), log, std::move(resumed), share);
  for (const train::Prepared& run : runs)
    suites.push_back(train_suites(run, ranks, interrupted, log));
  for (const train::Prepared& run : runs) {
    const std::string plan = train::describe_plan(run);
    if (options.check) {
      print("{}{}", plan, &run == &runs.back() ? "" : "\n");
    } else {
      tell("{}\n", plan);
    }
  }
  for (const train::Prepared& run : runs) {
    train::require_sound(run);
    train::require_memory(run);
    require_readers(run);
  }
  return runs;
}

int train_as_one_of(core::Communicator& ranks, const TrainOptions& options) {
  const core::Log log = stderr_log("train");
  std::vector<schema::Variant<train::TrainConfig>> described;
  core::together(ranks, [&] {
    described = train::load_runs(options.config, options.overrides, log);
    require_known_readers(described);
  });
  if (answer_about_runs(options.question, described)) return 0;
  const std::atomic<bool>& interrupted = catch_interrupts();
  model::prepare_runtime(static_cast<int>(described.front().config.threads));
  const train::Share share{.ranks = ranks.size(),
                           .ranks_here = core::ranks_on_this_machine(ranks),
                           .device = model::open_device(described.front().config.device, ranks)};
  // The first rank claims the folders, and the others look at them when it has.
  std::deque<train::RunFolder> folders;
  core::on_first(ranks, [&] { folders = open_folders(described, options, true, log); });
  std::vector<std::unique_ptr<TrainSuites>> suites;
  std::vector<train::Prepared> runs;
  core::together(ranks, [&] {
    if (!ranks.is_first()) folders = open_folders(described, options, false, log);
    runs = prepare_runs(std::move(described), folders, suites, options, ranks, share, interrupted,
                        log);
  });
  if (options.check) return static_cast<int>(ExitCode::kDone);

  TrainProgress progress;
  std::deque<TrainProgress::OfRun> observers;
  std::vector<train::Job> jobs;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    observers.emplace_back(progress, runs[i].name, runs[i].config.log_every);
    jobs.push_back({runs[i], folders[i], observers.back(), suites[i].get()});
  }
  const std::vector<train::Result> results = train::train(jobs, ranks, interrupted, log);
  progress.clear();
  conclude(runs, folders, results);
  return static_cast<int>(ExitCode::kDone);
}

int run_train(const TrainOptions& options) {
  if (answer_about_keys<train::TrainConfig>(options.question, "weft train")) return 0;
  if (options.config.empty()) {
    throw ConfigError("expected CONFIG.yaml, the description of the run (docs/training.md)");
  }
  core::Communicator& ranks = communicator();
  if (!ranks.is_first()) be_silent();
  // What ends one rank ends all (core/ranks.h), so that all come to finish().
  try {
    const int status = train_as_one_of(ranks, options);
    ranks.finish();
    return status;
  } catch (...) {
    ranks.finish();
    throw;
  }
}

}  // namespace

Run add_train(CommandLine& app) {
  const auto options = std::make_shared<TrainOptions>();
  app.description("Trains an adapter as CONFIG.yaml describes (docs/training.md).");
  app.option("CONFIG.yaml", options->config, "Description of the run");
  app.option("--set", options->overrides, "Changes a key: adapter.r=16; may be repeated")
      .type("PATH=VALUE")
      .repeated();  // one each, so that it may stand before CONFIG.yaml
  const CommandOption resume = app.flag("--resume", options->resume,
                                        "Goes on from the last checkpoint of output_dir, exactly");
  app.flag("--force", options->force, "Replaces the run in output_dir").excludes(resume);
  app.flag("--check", options->check,
           "Reads and counts everything, shows the plan, and does not train");
  declare_question(app, options->question, "docs/config.md");
  return [options] { return run_train(*options); };
}

}  // namespace weft::cli
