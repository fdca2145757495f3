#pragma once

#include <atomic>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "core/log.h"
#include "core/schema.h"
#include "data/preflight.h"
#include "data/prompt.h"
#include "lora/adapter.h"
#include "model/spec.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"
#include "train/config.h"
#include "train/plan.h"
#include "train/run_folder.h"
#include "train/trainer.h"

namespace weft::train {

/// Data as the model will see it.
struct LoadedData {
  data::Examples train;
  data::Examples validation;
  data::Preflight preflight;
  std::optional<data::Preflight> validation_preflight;
  /// Path, bytes and SHA-256 of every file, by its place in the configuration.
  nlohmann::ordered_json files;
};

/// A run that is described, read and counted, and has written nothing yet. Only the weights are not
/// loaded.
struct Prepared {
  TrainConfig config;
  checkpoint::Checkpoint base;
  model::Spec spec;
  model::Compute compute;
  text::Tokenizer tokenizer;
  std::optional<text::ChatTemplate> chat_template;
  lora::Adapter initial;  ///< What training starts from.
  LoadedData data;
  std::int64_t total_updates = 0;
  MemoryPlan plan;
  UpdateStream::Tokens first_epoch;
  std::optional<UpdateStream> stream{};  ///< At its beginning; nothing without examples.

  /// How the examples become updates.
  [[nodiscard]] UpdateStreamOptions updates() const {
    return update_options(config, spec, plan.row_tokens);
  }
};

/// Reads everything but the weights. `given` tells which keys the user wrote (core::load_config).
/// Throws ConfigError and InputError for what does not fit together.
[[nodiscard]] Prepared prepare(TrainConfig config, const core::Origins& given,
                               const core::Log& log);

/// What is about to happen, for people: base, adapter, data, updates, memory, one example with its
/// learned parts marked. Ends in a newline.
[[nodiscard]] std::string describe_plan(const Prepared& prepared);

/// Throws Refused when the data breaks a limit of `preflight:`, InputError when memory will not
/// suffice.
void require_sound(const Prepared& prepared);

/// Loads the weights, trains, and leaves everything in `folder` (claimed by the caller).
/// Throws InputError when a checkpoint in the folder is of another run, naming what differs.
[[nodiscard]] Outcome train(const Prepared& prepared, RunFolder& folder, Observer& observer,
                            const std::atomic<bool>& interrupted, const core::Log& log);

}  // namespace weft::train
