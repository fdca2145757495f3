#include "eval/config.h"

#include <set>

#include "core/error.h"
#include "eval/gates.h"

namespace weft::eval {

void describe(core::Schema<GenerateSection>& s) {
  s.field("examples", &GenerateSection::examples,
          "answers generated (greedily) per data set, spread evenly over it")
      .at_least(1);
  s.field("max_tokens", &GenerateSection::max_tokens, "tokens of an answer at most").at_least(1);
  s.field("repetition_penalty", &GenerateSection::repetition_penalty,
          "logits of tokens seen, prompt included, are divided by it if positive, else multiplied; "
          "1: plain greedy; small models seldom leave a loop without it")
      .positive();
  s.field("show", &GenerateSection::show, "answers printed below the table, of every stage")
      .at_least(0);
  s.field("batch", &GenerateSection::batch,
          "answers written at the same time: time and memory, not results, depend on it")
      .range(1, 1024);
}

void describe(core::Schema<StageSection>& s) {
  s.field("name", &StageSection::name, "what tables and gates call it").required().non_empty();
  s.field("model", &StageSection::model,
          "Hugging Face directory or GGUF file with the base's tokenizer; default: base_model");
  s.field("adapter", &StageSection::adapter, "PEFT directories attached to it; several add up")
      .alias("adapters");
}

void describe(core::Schema<BootstrapSection>& s) {
  s.field("resamples", &BootstrapSection::resamples, "resamples behind each interval")
      .range(100, 1000000);
  s.field("seed", &BootstrapSection::seed, "seed of the resamples").at_least(0);
}

void describe(core::Schema<EvalConfig>& s) {
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
  s.section("generate", &EvalConfig::generate,
            "write answers to the instruction data too, and give their chrF and chrF++");
  s.field("sequence_len", &EvalConfig::sequence_len,
          "tokens read at once; default: the smaller of 2048 and the model's limit")
      .at_least(1);
  s.field("special_tokens", &EvalConfig::special_tokens,
          "let the tokenizer add its own BOS/EOS to plain text, and score them, as lm-eval does "
          "unless told add_bos_token=False");
  s.field("limit", &EvalConfig::limit,
          "documents or examples per suite at most, spread evenly over the file")
      .at_least(1);
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
  s.field("output", &EvalConfig::output,
          "JSON file for the figures, each item's loss and the generated answers");
  s.field("allow_other_base", &EvalConfig::allow_other_base,
          "measure an adapter on a base with other weights or another tokenizer than it was "
          "trained with");
  s.field("threads", &EvalConfig::threads, "threads; 0: all cores").at_least(0);
}

std::vector<StagePlan> stage_plans(const EvalConfig& config) {
  std::vector<StagePlan> plans;
  for (const StageSection& stage : config.stages)
    plans.push_back({stage.name, stage.model.value_or(config.base_model), stage.adapter});
  if (!plans.empty()) return plans;
  plans.push_back({"base", config.base_model, {}});
  if (config.adapter) plans.push_back({"base+adapter", config.base_model, {*config.adapter}});
  if (config.merged) plans.push_back({"merged", *config.merged, {}});
  return plans;
}

namespace {
void validate_stages(const EvalConfig& config) {
  if (!config.stages.empty() && (config.adapter || config.merged)) {
    throw ConfigError(
        "stages list everything that is measured: put adapter and merged (--adapter, --merged) "
        "there, or leave stages out");
  }
  std::set<std::string> names;
  for (const StageSection& stage : config.stages) {
    if (!names.insert(stage.name).second)
      throw ConfigError("two stages are called '{}': give each a name of its own", stage.name);
  }
}
}  // namespace

void validate(const EvalConfig& config) {
  if (config.base_model.empty()) {
    throw ConfigError("no model: give --model PATH, or base_model in a YAML file");
  }
  if (config.text.empty() && config.data.empty()) {
    throw ConfigError(
        "nothing to measure: give text (--text FILE) or instruction data (--data FILE)");
  }
  if (config.generate && config.data.empty()) {
    throw ConfigError(
        "generate (--generate) needs instruction data: give data (--data FILE), or "
        "leave it out");
  }
  validate_stages(config);
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
          .seed = static_cast<std::uint64_t>(config.bootstrap.seed)};
}

}  // namespace weft::eval
