#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/schema.h"
#include "data/dataset.h"
#include "eval/bootstrap.h"

/// The configuration of `weft eval`: one YAML file, or the same values from options.
namespace weft::eval {

/// `generate:`: answers written by the model, for chrF and for reading.
struct GenerateSection {
  std::int64_t examples = 50;
  std::int64_t max_tokens = 128;
  double repetition_penalty = 1;
  std::int64_t show = 5;
  std::int64_t batch = 64;
};

/// `stages[]`: a model, perhaps with adapters.
struct StageSection {
  std::string name;
  std::optional<std::filesystem::path> model;  ///< Without it the base.
  std::vector<std::filesystem::path> adapter;  ///< Several add up.
};

struct BootstrapSection {
  std::int64_t resamples = 2000;
  std::int64_t seed = 12345;
};

enum class DType { kFloat32, kBFloat16 };

struct EvalConfig {
  std::filesystem::path base_model;
  std::optional<std::filesystem::path> adapter;
  std::optional<std::filesystem::path> merged;
  std::vector<StageSection> stages;
  std::vector<std::filesystem::path> text;
  std::vector<data::DatasetConfig> data;
  std::optional<GenerateSection> generate;
  std::optional<std::int64_t> sequence_len;
  bool special_tokens = false;
  std::optional<std::int64_t> limit;
  DType dtype = DType::kFloat32;
  BootstrapSection bootstrap;
  std::vector<std::string> gates;
  std::optional<core::Share> gate_confidence;
  std::optional<std::filesystem::path> output;
  std::optional<std::filesystem::path> report;
  bool allow_other_base = false;
  std::int64_t threads = 0;
};

void describe(core::Schema<GenerateSection>& schema);
void describe(core::Schema<StageSection>& schema);
void describe(core::Schema<BootstrapSection>& schema);
void describe(core::Schema<EvalConfig>& schema);

/// What is measured one after another. Of the short form: base, base+adapter, merged.
struct StagePlan {
  std::string name;
  std::filesystem::path model;
  std::vector<std::filesystem::path> adapters;
};
[[nodiscard]] std::vector<StagePlan> stage_plans(const EvalConfig& config);

/// Throws ConfigError when there is no base model, neither text nor data, or no data to generate
/// for.
void validate(const EvalConfig& config);

[[nodiscard]] BootstrapOptions bootstrap_options(const EvalConfig& config);

}  // namespace weft::eval
