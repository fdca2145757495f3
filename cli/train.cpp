#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/config_question.h"
#include "cli/interrupt.h"
#include "cli/train_progress.h"
#include "core/error.h"
#include "core/schema.h"
#include "core/terminal.h"
#include "model/runtime.h"
#include "train/job.h"

namespace weft::cli {

Run add_train(CLI::App& app);

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
  fmt::print("{} after {} updates, {} tokens, {}\n",
             outcome.ending == train::Ending::kEarlyStopping
                 ? "stopped early: the validation loss fell no more"
                 : "done",
             outcome.updates, core::human_count(outcome.tokens),
             core::human_duration(outcome.seconds));
  if (outcome.best_validation_loss) {
    fmt::print("validation loss {}{:.4f}, the lowest, at update {}\n",
               outcome.first_validation_loss
                   ? fmt::format("{:.4f} at first, ", *outcome.first_validation_loss)
                   : "",
               *outcome.best_validation_loss, outcome.adapter_update);
  }
  fmt::print("adapter {}\n", folder.adapter().string());
}

int check(const train::Prepared& prepared) {
  fmt::print("{}", train::describe_plan(prepared));
  train::require_sound(prepared);
  return static_cast<int>(ExitCode::kDone);
}

int run_train(const TrainOptions& options) {
  if (answer_about_keys<train::TrainConfig>(options.question, "weft train")) return 0;
  if (options.config.empty()) {
    throw ConfigError("expected CONFIG.yaml, the description of the run (docs/training.md)");
  }
  const core::Log log = stderr_log("train");
  core::Origins given;
  auto config =
      core::load_config<train::TrainConfig>(options.config, options.overrides, log, &given);
  if (answer_about_values(options.question, config)) return 0;
  const std::atomic<bool>& interrupted = catch_interrupts();
  model::prepare_runtime(static_cast<int>(config.threads));
  train::RunFolder folder(config.output_dir, options.resume  ? train::Start::kResume
                                             : options.force ? train::Start::kReplace
                                                             : train::Start::kFresh);
  if (!options.check) folder.claim();
  const train::Prepared prepared = train::prepare(std::move(config), given, log);
  if (options.check) return check(prepared);
  fmt::print(stderr, "{}\n", train::describe_plan(prepared));
  train::require_sound(prepared);

  TrainProgress progress(prepared.config.log_every);
  const train::Outcome outcome = train::train(prepared, folder, progress, interrupted, log);
  progress.clear();
  if (outcome.ending == train::Ending::kInterrupted) {
    throw Interrupted(
        "interrupted after update {}; the state is saved, --resume goes on from there",
        outcome.updates);
  }
  print_outcome(outcome, folder);
  return static_cast<int>(ExitCode::kDone);
}

}  // namespace

Run add_train(CLI::App& app) {
  const auto options = std::make_shared<TrainOptions>();
  app.description("Trains an adapter as CONFIG.yaml describes (docs/training.md).");
  app.add_option("CONFIG.yaml", options->config, "Description of the run");
  app.add_option("--set", options->overrides, "Changes a key: adapter.r=16; may be repeated")
      ->type_name("PATH=VALUE")
      ->allow_extra_args(false);  // one each, so that it may stand before CONFIG.yaml
  auto* resume = app.add_flag("--resume", options->resume,
                              "Goes on from the last checkpoint of output_dir, exactly");
  app.add_flag("--force", options->force, "Replaces the run in output_dir")->excludes(resume);
  app.add_flag("--check", options->check,
               "Reads and counts everything, shows the plan, and does not train");
  declare_question(app, options->question, "docs/config.md");
  return [options] { return run_train(*options); };
}

}  // namespace weft::cli
