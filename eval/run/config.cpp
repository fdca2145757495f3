#include "eval/run/config.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "core/device_name.h"
#include "core/error.h"
#include "core/terminal.h"
#include "eval/metrics/answer_metric.h"
#include "eval/statistics/gates.h"
#include "export/file_type.h"

namespace weft::eval {

void describe(schema::Schema<StageSection>& s) {
  s.field("name", &StageSection::name, "what tables and gates call it").required().non_empty();
  s.field("model", &StageSection::model,
          "Hugging Face directory or GGUF file with the base's tokenizer; default: base_model");
  s.field("adapter", &StageSection::adapter, "PEFT directories attached to it; several add up")
      .alias("adapters");
  s.field("quantise", &StageSection::quantise,
          "a type of weft export, e.g. q4_k_m: the numbers are rounded as in a GGUF file of that "
          "type, after adapters were folded in; no file is written")
      .alias("quantize")
      .non_empty();
}

void describe(schema::Schema<DistributionSection>& s) {
  s.field("suites", &DistributionSection::suites, "names of suites; default: all");
}

void describe(schema::Schema<BootstrapSection>& s) {
  s.field("resamples", &BootstrapSection::resamples, "resamples behind each interval")
      .range(100, 1000000);
  s.field("permutations", &BootstrapSection::permutations,
          "random exchanges behind each p; all of them are counted where there are fewer")
      .range(100, 10000000);
  s.field("seed", &BootstrapSection::seed, "seed of resamples and exchanges").at_least(0);
}

void describe(schema::Schema<EvalConfig>& s) {
  s.field("base_model", &EvalConfig::base_model,
          "Hugging Face directory or GGUF file; stage 'base'")
      .required()
      .alias("model");
  s.field("adapter", &EvalConfig::adapter, "PEFT directory; stage 'base+adapter'");
  s.field("merged", &EvalConfig::merged,
          "the model that the adapter was folded into; stage 'merged'");
  s.list("stages", &EvalConfig::stages,
         "any ladder of models instead of adapter and merged; all are compared with the first");
  s.field(
      "text", &EvalConfig::text,
      "plain text to score: a .jsonl file holds one document ({\"text\": ...}) a line, any other "
      "file is one document");
  s.list("data", &EvalConfig::data, "instruction data whose answers are scored");
  s.list("suites", &EvalConfig::suites,
         "suites with a name, a language and a kind, besides those of text and data");
  s.section("generate", &EvalConfig::generate,
            "write answers to the instruction data too, and compare them with the data's");
  s.field("reference", &EvalConfig::reference,
          "the stage that flips and distributions are compared with; default: the first");
  s.section("distribution", &EvalConfig::distribution,
            "compare the stages' predictions, token by token, with the reference stage's: KL "
            "divergence, same most likely token, perplexity ratio");
  s.field("sequence_len", &EvalConfig::sequence_len,
          "tokens read at once; default: the smaller of 2048 and the model's limit")
      .at_least(1);
  s.field("special_tokens", &EvalConfig::special_tokens,
          "let the tokenizer add its own BOS/EOS to plain text, and score them, as lm-eval does "
          "unless told add_bos_token=False");
  s.field("limit", &EvalConfig::limit,
          "documents or examples per suite at most, spread evenly over the file")
      .at_least(1);
  s.field("device", &EvalConfig::device,
          "what is computed on: cpu, cuda (the first GPU) or cuda:N (docs/gpu.md)");
  s.choice("dtype", &EvalConfig::dtype,
           {{"float32", DType::kFloat32},
            {"bfloat16", DType::kBFloat16},
            {"f32", DType::kFloat32},
            {"fp32", DType::kFloat32},
            {"bf16", DType::kBFloat16}},
           "precision of weights and matrix products");
  s.section("bootstrap", &EvalConfig::bootstrap, "how the intervals are made");
  s.field("gates", &EvalConfig::gates,
          "what has to hold, e.g. bits_per_byte.merged - bits_per_byte.adapter <= 0.001; exit "
          "status 3 when one does not");
  s.field("gate_confidence", &EvalConfig::gate_confidence,
          "gates have to hold in this share of bootstrap resamples, too; by default the figures "
          "alone decide");
  s.field("report", &EvalConfig::report,
          "HTML page with a chart, tables and answers side by side; one file, no scripts");
  s.field("ledger", &EvalConfig::ledger,
          "record of all evaluations; default: the nearest weft.db in the current folder or one "
          "above it, else a new one there");
  s.field("record", &EvalConfig::record, "write this evaluation into the ledger");
  s.field("tag", &EvalConfig::tag, "name of this evaluation in the ledger, e.g. v1.2");
  s.field("against", &EvalConfig::against,
          "an earlier evaluation in the ledger (its tag, number, or latest) to compare with: what "
          "was measured on the same files and items has to give the same bits");
  s.field("output", &EvalConfig::output,
          "JSON file for the figures, each item's loss and the generated answers");
  s.field("allow_other_base", &EvalConfig::allow_other_base,
          "measure an adapter on a base with other weights or another tokenizer than it was "
          "trained with");
  s.field("threads", &EvalConfig::threads, "threads; 0: the cores that the process may use")
      .at_least(0);
  s.field("date", &EvalConfig::date,
          "the day that chat templates print as today's, as 2026-11-29; by default that of "
          "SOURCE_DATE_EPOCH, or today: to compare with an evaluation of another day, give its");
  s.check([](const EvalConfig& c, schema::CheckReport& report) {
    if (auto fault = core::device_name_fault(c.device)) report.problem("device", *std::move(fault));
  });
}

std::vector<StagePlan> stage_plans(const EvalConfig& config) {
  std::vector<StagePlan> plans;
  for (const StageSection& stage : config.stages)
    plans.push_back({stage.name, stage.model.value_or(config.base_model), stage.adapter,
                     stage.quantise.value_or("")});
  if (!plans.empty()) return plans;
  plans.push_back({"base", config.base_model, {}});
  if (config.adapter) plans.push_back({"base+adapter", config.base_model, {*config.adapter}});
  if (config.merged) plans.push_back({"merged", *config.merged, {}});
  return plans;
}

namespace {
std::string plain_name(std::string_view name) { return core::one_line(name, '_'); }
}  // namespace

std::vector<SuiteSection> suite_plans(const EvalConfig& config) {
  std::set<std::string> taken;
  for (const SuiteSection& suite : config.suites) taken.insert(suite.name);
  const auto name_of = [&](const std::filesystem::path& path) {
    const std::string file = plain_name(path.filename().string());
    const std::string stem = file.substr(0, file.find('.', 1));
    std::string name = stem;
    for (int number = 2; !taken.insert(name).second; ++number)
      name = fmt::format("{}-{}", stem, number);
    return name;
  };
  std::vector<SuiteSection> plans;
  for (const std::filesystem::path& path : config.text) {
    SuiteSection& plan = plans.emplace_back();
    plan.name = name_of(path);
    plan.text = {path};
  }
  for (const data::DatasetConfig& dataset : config.data) {
    SuiteSection& plan = plans.emplace_back();
    plan.name = dataset.path.empty() ? "data" : name_of(dataset.path.front());
    plan.data = dataset;
  }
  plans.insert(plans.end(), config.suites.begin(), config.suites.end());
  for (SuiteSection& plan : plans) {
    if (!plan.limit) plan.limit = config.limit;
    if (plan.metrics.empty() && plan.data && config.generate)
      plan.metrics = config.generate->metrics;
  }
  return plans;
}

std::size_t reference_stage(const EvalConfig& config) {
  if (!config.reference) return 0;
  const std::vector<StagePlan> plans = stage_plans(config);
  const auto found = std::ranges::find(plans, *config.reference, &StagePlan::name);
  if (found == plans.end()) {
    std::vector<std::string> names;
    for (const StagePlan& plan : plans) names.push_back(plan.name);
    throw ConfigError("reference: there is no stage '{}', only {}", *config.reference,
                      fmt::join(names, ", "));
  }
  return static_cast<std::size_t>(found - plans.begin());
}

namespace {
/// Names are printed on terminals.
void require_plain_name(std::string_view what, const std::string& name) {
  if (plain_name(name) == name) return;
  throw ConfigError("{} '{}' has a control character in its name (shown as _); leave it out", what,
                    plain_name(name));
}

void validate_suites(const EvalConfig& config) {
  std::set<std::string> names;
  for (const SuiteSection& suite : config.suites) {
    require_plain_name("suite", suite.name);
    if (!names.insert(suite.name).second)
      throw ConfigError("two suites are called '{}': give each a name of its own", suite.name);
    const int kinds = (suite.text.empty() ? 0 : 1) + (suite.data ? 1 : 0) + (suite.choices ? 1 : 0);
    if (kinds != 1) {
      throw ConfigError("suite '{}' has {} of text, data and choices: give it one", suite.name,
                        kinds == 0 ? "none" : "more than one");
    }
    const std::string where = fmt::format("metrics of suite '{}'", suite.name);
    if (!suite.metrics.empty() && (!suite.data || suite.plain_text() || !config.generate))
      throw ConfigError("{}: only answers have them: give it data, and generate", where);
    require_answer_metrics(suite.metrics, where);
    if (!suite.references.empty() && (!suite.data || suite.plain_text() || !config.generate))
      throw ConfigError(
          "references of suite '{}': only answers have them: give it data, and generate",
          suite.name);
    if (suite.data && !suite.source.empty())
      throw ConfigError("suite '{}': source is for text and choices", suite.name);
    if (!suite.plain_text() &&
        (suite.windows != Windows::kRolling || suite.window_tokens || suite.stride))
      throw ConfigError("suite '{}': windows, window_tokens and stride are for text", suite.name);
    if (suite.stride && suite.windows == Windows::kLlama)
      throw ConfigError("suite '{}': windows: llama has a stride of its own; leave stride out",
                        suite.name);
    if (suite.stride && suite.window_tokens && *suite.stride > *suite.window_tokens)
      throw ConfigError("suite '{}': stride {} is more than window_tokens {}", suite.name,
                        *suite.stride, *suite.window_tokens);
  }
  if (!config.distribution) return;
  for (const SuiteSection& suite : suite_plans(config)) names.insert(suite.name);
  for (const std::string& name : config.distribution->suites) {
    if (!names.contains(name))
      throw ConfigError("distribution.suites: there is no suite '{}', only {}", name,
                        fmt::join(names, ", "));
  }
}

void validate_stages(const EvalConfig& config) {
  if (!config.stages.empty() && (config.adapter || config.merged)) {
    throw ConfigError(
        "stages list everything that is measured: put adapter and merged (--adapter, --merged) "
        "there, or leave stages out");
  }
  std::set<std::string> names;
  for (const StageSection& stage : config.stages) {
    if (stage.quantise) (void)exporting::find_file_type(*stage.quantise);
    require_plain_name("stage", stage.name);
    if (!names.insert(stage.name).second)
      throw ConfigError("two stages are called '{}': give each a name of its own", stage.name);
  }
}
}  // namespace

void validate(const EvalConfig& config) {
  if (config.base_model.empty()) {
    throw ConfigError("no model: give --model PATH, or base_model in a YAML file");
  }
  const std::vector<SuiteSection> suites = suite_plans(config);
  if (suites.empty()) {
    throw ConfigError(
        "nothing to measure: give text (--text FILE), instruction data (--data FILE) or suites");
  }
  const bool has_data =
      std::ranges::any_of(suites, [](const SuiteSection& suite) { return suite.data.has_value(); });
  if (config.generate && !has_data) {
    throw ConfigError(
        "generate (--generate) needs instruction data: give data (--data FILE), or "
        "leave it out");
  }
  if (config.generate) {
    require_answer_metrics(config.generate->metrics, "generate.metrics");
    if (std::ranges::any_of(config.generate->stop, &std::string::empty))
      throw ConfigError("generate.stop: an empty text would end every answer at once");
  }
  validate_stages(config);
  validate_suites(config);
  (void)reference_stage(config);
  for (const std::string& text : config.gates) (void)parse_gate(text);
  if (const auto& share = config.gate_confidence;
      share && !(share->relative && share->value >= 0.5 && share->value < 1)) {
    throw ConfigError("gate_confidence is {:g}{}, expected 50% to less than 100%",
                      share->relative ? 100 * share->value : share->value,
                      share->relative ? "%" : "");
  }
}

BootstrapOptions bootstrap_options(const EvalConfig& config) {
  return {.resamples = static_cast<int>(config.bootstrap.resamples),
          .seed = static_cast<std::uint64_t>(config.bootstrap.seed),
          .permutations = config.bootstrap.permutations};
}

std::optional<Decoding> decoding_of(const EvalConfig& config) {
  if (!config.generate) return std::nullopt;
  return Decoding{config.generate->max_tokens, config.generate->repetition_penalty,
                  config.generate->stop};
}

}  // namespace weft::eval
