#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/suite.h"
#include "eval/metrics/result.h"
#include "eval/statistics/bootstrap.h"
#include "schema/schema.h"

/// The configuration of `weft eval`: one YAML file, or the same values from options.
namespace weft::eval {

using data::ChoiceSection;
using data::GenerateSection;
using data::SuiteSection;
using data::Windows;

/// `stages[]`: a model, perhaps with adapters.
struct StageSection {
  std::string name;
  std::optional<std::filesystem::path> model;  ///< Without it the base.
  std::vector<std::filesystem::path> adapter;  ///< Several add up.
  std::optional<std::string> quantise{};       ///< "q4_k_m": as a GGUF file of that type would be.
};

/// `distribution:`: how far the stages' predictions are from those of one of them.
struct DistributionSection {
  std::vector<std::string> suites;  ///< Empty: all.
};

struct BootstrapSection {
  std::int64_t resamples = 2000;
  std::int64_t permutations = 10000;
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
  std::vector<SuiteSection> suites;
  std::optional<GenerateSection> generate;
  std::optional<std::string> reference;
  std::optional<DistributionSection> distribution;
  std::optional<std::int64_t> sequence_len;
  bool special_tokens = false;
  std::optional<std::int64_t> limit;
  std::string device = "cpu";  ///< model::open_device
  DType dtype = DType::kFloat32;
  BootstrapSection bootstrap;
  std::vector<std::string> gates;
  std::optional<schema::Share> gate_confidence;
  std::optional<std::filesystem::path> output;
  std::optional<std::filesystem::path> report;
  std::optional<std::filesystem::path> ledger;
  bool record = true;
  std::optional<std::string> tag;
  std::optional<std::string> against;
  bool allow_other_base = false;
  std::int64_t threads = 0;
  std::string date;  ///< "2026-11-29": what chat templates print as today's; empty: to be taken.
};

void describe(schema::Schema<StageSection>& schema);
void describe(schema::Schema<DistributionSection>& schema);
void describe(schema::Schema<BootstrapSection>& schema);
void describe(schema::Schema<EvalConfig>& schema);

/// What is measured one after another. Of the short form: base, base+adapter, merged.
struct StagePlan {
  std::string name;
  std::filesystem::path model;
  std::vector<std::filesystem::path> adapters;
  std::string quantise{};  ///< Empty: as it is.
};
[[nodiscard]] std::vector<StagePlan> stage_plans(const EvalConfig& config);

/// Every suite in the order in which it is measured: those of `text`, of `data`, of `suites`, each
/// with a name of its own ("corpus" of corpus.jsonl.gz; a name that is taken gets "-2", "-3", ...).
[[nodiscard]] std::vector<SuiteSection> suite_plans(const EvalConfig& config);

/// The place of the reference stage in stage_plans(): the one that is named, or the first.
[[nodiscard]] std::size_t reference_stage(const EvalConfig& config);

/// Throws ConfigError when there is no base model, nothing to measure, no data to generate for, a
/// suite without or with two kinds of data, a name that is taken, a reference that is no stage, or
/// a device of another name than there are.
void validate(const EvalConfig& config);

[[nodiscard]] BootstrapOptions bootstrap_options(const EvalConfig& config);

/// How answers are written; nothing where none are.
[[nodiscard]] std::optional<Decoding> decoding_of(const EvalConfig& config);

}  // namespace weft::eval
