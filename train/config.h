#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/pack.h"
#include "data/preflight.h"
#include "data/prompt.h"
#include "data/suite.h"
#include "lora/adapter.h"
#include "model/decoder.h"
#include "model/quantised.h"
#include "schema/schema.h"
#include "train/guard.h"
#include "train/schedule.h"
#include "train/state.h"
#include "train/update_stream.h"

/// The configuration of `weft train`: one YAML file, described once (schema/schema.h).
namespace weft::train {

/// `adapter:`, in PEFT's words.
struct AdapterSection {
  std::int64_t r = 8;
  double lora_alpha = 16;
  double lora_dropout = 0;
  std::vector<std::string> target_modules{"all-linear"};
  std::vector<std::string> exclude_modules;
  std::vector<std::string> target_parameters;
  bool use_rslora = false;
  std::map<std::string, std::int64_t> rank_pattern;
  std::map<std::string, double> alpha_pattern;
  std::vector<std::int64_t> layers_to_transform;
  std::filesystem::path init_from;
  bool allow_other_base = false;
};

struct EvalSection {
  std::optional<schema::Duration> every = schema::Duration{1, schema::Duration::Unit::kEpochs};
  bool at_start = true;
};

/// `evaluate:`: the suites of weft eval, on the weights in training.
struct EvaluateSection {
  std::optional<schema::Duration> every = schema::Duration{1, schema::Duration::Unit::kEpochs};
  bool at_start = true;
  std::vector<data::SuiteSection> suites;
  std::optional<data::GenerateSection> generate;
  std::optional<std::string> keep_best_by;  ///< FIGURE.SUITE
  std::optional<std::int64_t> sequence_len;
  std::optional<std::int64_t> limit;
  std::optional<std::filesystem::path> ledger;
  bool record = true;
};

struct SaveSection {
  schema::Duration every{100, schema::Duration::Unit::kUpdates};
  std::int64_t keep = 2;
};

struct EarlyStoppingSection {
  std::int64_t patience = 3;
  double min_delta = 0;
};

/// Which layers keep only their input for the backward and are computed again.
enum class Checkpointing { kAuto, kAll, kNone };

enum class DTypeChoice { kAuto, kFloat32, kBFloat16 };

struct TrainConfig {
  std::filesystem::path base_model;
  std::filesystem::path output_dir;
  std::int64_t seed = 42;
  std::vector<data::DatasetConfig> datasets;
  std::optional<data::DatasetConfig> validation;
  std::optional<schema::Share> validation_share;
  std::int64_t sequence_len = 1024;
  bool packing = true;
  bool share_prefixes = true;
  bool shuffle = true;
  data::OverLength over_length = data::OverLength::kDrop;
  bool train_on_inputs = false;
  data::Turns train_on_turns = data::Turns::kAll;
  bool allow_answerless = false;
  std::filesystem::path chat_template;
  std::string date;  ///< "2026-11-29": what the template prints as today's; empty: to be taken.
  std::map<std::string, std::string> special_tokens;  ///< That the model has to have as its own.
  schema::FolderSwitch token_cache;
  data::PreflightLimits preflight;
  AdapterSection adapter;
  std::vector<std::string> runs_on;  ///< Names of exporting::known_readers()
  std::string device = "cpu";        ///< model::open_device
  DTypeChoice dtype = DTypeChoice::kAuto;
  model::BaseFormat base_quantization = model::BaseFormat::kDense;
  std::int64_t tokens_per_update = 4096;
  std::optional<std::int64_t> examples_per_update;
  double learning_rate = 2e-4;
  SchedulerKind lr_scheduler = SchedulerKind::kCosine;
  schema::Share warmup{0.03, true};
  double weight_decay = 0;
  double adam_beta1 = 0.9;
  double adam_beta2 = 0.999;
  double adam_epsilon = 1e-8;
  double max_grad_norm = 1;
  std::optional<double> num_epochs;
  std::optional<std::int64_t> max_updates;
  EvalSection eval;
  std::optional<EvaluateSection> evaluate;
  SaveSection save;
  std::optional<EarlyStoppingSection> early_stopping;
  DivergenceOptions divergence;
  std::int64_t log_every = 10;
  std::int64_t threads = 0;
  std::optional<schema::Bytes> memory_limit;
  Checkpointing gradient_checkpointing = Checkpointing::kAuto;
};

void describe(schema::Schema<AdapterSection>& schema);
void describe(schema::Schema<EvalSection>& schema);
void describe(schema::Schema<EvaluateSection>& schema);
void describe(schema::Schema<SaveSection>& schema);
void describe(schema::Schema<EarlyStoppingSection>& schema);
void describe(schema::Schema<DivergenceOptions>& schema);
void describe(schema::Schema<TrainConfig>& schema);

/// The runs that a file describes: one, or one for each of `adapters`, which has its folder below
/// output_dir. Throws ConfigError as schema::load_variants, and for a name that no folder can have.
[[nodiscard]] std::vector<schema::Variant<TrainConfig>> load_runs(
    const std::filesystem::path& file, const std::vector<std::string>& overrides,
    const core::Log& log);

/// `adapter:` as lora/ reads it. A target list of one entry with characters that no module name has
/// is a regular expression.
[[nodiscard]] lora::AdapterConfig adapter_config(const TrainConfig& config);

/// How samples become tokens, and how these become updates of rows of at most `row_tokens`.
[[nodiscard]] data::PromptOptions prompt_options(const TrainConfig& config);
[[nodiscard]] UpdateStreamOptions update_options(const TrainConfig& config, const model::Spec& spec,
                                                 std::int64_t row_tokens);

/// What `dtype` means on a device.
[[nodiscard]] model::Compute compute_of(DTypeChoice dtype, const model::ComputeDevice& device);
/// What to tell whoever asks for `dtype` where `best` is what the processor is good at; empty where
/// there is nothing to say.
[[nodiscard]] std::string dtype_note(DTypeChoice dtype, model::Compute best);

/// Every key of the configuration with its value as text, for comparing two runs; paths of inputs
/// are left out.
[[nodiscard]] Fingerprint flatten(const TrainConfig& config);

/// Keys that a resumed run may change: they do not touch what was computed so far.
[[nodiscard]] const std::vector<std::string>& resumable_keys();

}  // namespace weft::train
