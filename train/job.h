#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "core/log.h"
#include "data/example_table.h"
#include "data/preflight.h"
#include "data/prompt.h"
#include "lora/adapter.h"
#include "model/spec.h"
#include "schema/schema.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"
#include "train/config.h"
#include "train/plan.h"
#include "train/run_folder.h"
#include "train/trainer.h"

namespace weft::train {

/// Data as the model will see it.
struct LoadedData {
  data::ExampleTable train;
  data::ExampleTable validation;
  data::Preflight preflight;
  std::optional<data::Preflight> validation_preflight;
  /// With validation_share: what of the training data it took, which preflight still counts.
  struct HeldOut {
    std::int64_t examples = 0;
    std::int64_t tokens = 0;
  };
  std::optional<HeldOut> held_out{};
  /// Path, bytes and SHA-256 of every file, by its place in the configuration.
  nlohmann::ordered_json files;
};

/// The model that runs start from, opened but not loaded.
struct Base {
  checkpoint::Checkpoint checkpoint;
  model::Spec spec;
  text::Tokenizer tokenizer;
};

/// A run that is described, read and counted, and has written nothing yet. Only the weights are not
/// loaded.
struct Prepared {
  std::string name;  ///< Among several; empty where there is one.
  TrainConfig config;
  std::shared_ptr<const Base> base;  ///< The same for all that were prepared together.
  model::ComputeDevice device;
  model::Compute compute = model::Compute::kF32;
  std::optional<text::ChatTemplate> chat_template;
  lora::Adapter initial;  ///< What training starts from.
  LoadedData data;
  std::int64_t total_updates = 0;
  MemoryPlan plan;
  UpdateStream::Tokens first_epoch;
  std::optional<UpdateStream> stream{};  ///< At its beginning; nothing without examples.
  std::optional<TrainState> resumed{};   ///< The checkpoint that the run goes on from.

  /// How the examples become updates.
  [[nodiscard]] UpdateStreamOptions updates() const {
    return update_options(config, base->spec, plan.row_tokens);
  }
};

/// The last checkpoint of each run that is to continue (RunFolder::continues), in their order.
/// InputError when one is damaged.
[[nodiscard]] std::vector<std::optional<TrainState>> last_states(
    const std::deque<RunFolder>& folders, const core::Log& log);

/// Which part of the work is this process's.
struct Share {
  int ranks = 1;       ///< That share each update
  int ranks_here = 1;  ///< Of them on this machine
  /// What this one computes on, where it was opened; nothing: that of the configuration.
  std::optional<model::ComputeDevice> device{};
};

/// Reads everything but the weights of runs on one base (as load_runs() gives them), `resumed` from
/// their last checkpoints, if they have any. Throws ConfigError and InputError for what does not
/// fit together, and Interrupted when a stop is asked for (core/stop.h); nothing was written then.
[[nodiscard]] std::vector<Prepared> prepare(std::vector<schema::Variant<TrainConfig>> runs,
                                            const core::Log& log,
                                            std::vector<std::optional<TrainState>> resumed = {},
                                            const Share& share = {});

/// What is about to happen, for people: base, adapter, data, updates, memory, one example with its
/// learned parts marked. Ends in a newline.
[[nodiscard]] std::string describe_plan(const Prepared& prepared);

/// Throws Refused when the data breaks a limit of `preflight:`, InputError when nothing is left to
/// learn from.
void require_sound(const Prepared& prepared);
/// Throws what require_memory() of its plan throws.
void require_memory(const Prepared& prepared);

/// A run and those who take part in it.
struct Job {
  Prepared& prepared;  ///< Spent: the adapter's factors and the stream go over to the run.
  RunFolder& folder;   ///< Claimed; everything is left there.
  Observer& observer;
  SuiteEvaluator* suites = nullptr;  ///< Where the configuration has `evaluate:`.
};

struct Result {
  Outcome outcome;
  std::exception_ptr failure;  ///< What ended it early; the other runs went on.
};

/// Loads the weights once and trains, the runs taking turns, an update each. A run gives the same
/// bits as alone.
/// Throws InputError when a checkpoint in a folder is of another run, naming what differs, and
/// Interrupted when a stop is asked for before the first update is due; then nothing has begun.
[[nodiscard]] std::vector<Result> train(const std::vector<Job>& jobs,
                                        const std::atomic<bool>& interrupted, const core::Log& log);

/// The same as one of several ranks, which all call it with the same jobs. Only the first writes:
/// the folders of the others are neither claimed nor begun. What is thrown is thrown in all.
[[nodiscard]] std::vector<Result> train(const std::vector<Job>& jobs, core::Communicator& ranks,
                                        const std::atomic<bool>& interrupted, const core::Log& log);

}  // namespace weft::train
