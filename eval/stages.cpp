#include "eval/stages.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <optional>
#include <set>

#include "checkpoint/checkpoint.h"
#include "core/error.h"
#include "eval/gates.h"
#include "eval/instruction.h"
#include "eval/text.h"
#include "lora/adapter.h"
#include "model/decode_batch.h"
#include "model/decoder.h"
#include "model/memory.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace weft::eval {
namespace {

constexpr std::int64_t kDefaultSequenceLen = 2048;  // lm-eval's fallback

/// A model file without its weights in memory.
struct Source {
  checkpoint::Checkpoint checkpoint;
  model::Spec spec;
  text::Tokenizer tokenizer;
  std::optional<text::ChatTemplate> chat_template;
};

Source open_source(const std::filesystem::path& path) {
  checkpoint::Checkpoint checkpoint = checkpoint::Checkpoint::open(path);
  model::Spec spec = model::read_spec(checkpoint.config(), path.string());
  text::Tokenizer tokenizer = text::Tokenizer::load(checkpoint);
  auto chat_template = text::ChatTemplate::load(checkpoint);
  return {std::move(checkpoint), std::move(spec), std::move(tokenizer), std::move(chat_template)};
}

/// "corpus" of corpus.jsonl.gz; a name that is taken gets a number.
std::string suite_name(const std::filesystem::path& path, std::set<std::string>& taken) {
  const std::string stem =
      path.filename().string().substr(0, path.filename().string().find('.', 1));
  std::string name = stem;
  for (int number = 2; !taken.insert(name).second; ++number) {
    name = fmt::format("{}-{}", stem, number);
  }
  return name;
}

/// What is the same for all stages: items are made once, by the base's tokenizer and chat template,
/// so that the differences between stages are of pairs.
struct Inputs {
  struct Text {
    std::string name;
    RollingText rolling;
  };
  struct Data {
    std::string name;
    InstructionData examples;
  };
  std::vector<Text> texts;
  std::vector<Data> data;
};

Inputs read_inputs(const EvalConfig& config, const Source& base, std::int64_t sequence_len,
                   const core::Log& log) {
  Inputs inputs;
  std::set<std::string> taken;
  const auto special = config.special_tokens ? text::AddSpecial::kYes : text::AddSpecial::kNo;
  for (const std::filesystem::path& path : config.text) {
    const std::vector<std::string> documents = read_documents(path, config.limit);
    inputs.texts.push_back(
        {suite_name(path, taken), rolling_text(documents, base.tokenizer, sequence_len, special)});
  }
  const InstructionLimits limits{.max_tokens = sequence_len,
                                 .limit = config.limit,
                                 .generate = config.generate ? config.generate->examples : 0};
  const text::ChatTemplate* chat_template = base.chat_template ? &*base.chat_template : nullptr;
  for (const data::DatasetConfig& dataset : config.data) {
    inputs.data.push_back({suite_name(dataset.path.front(), taken),
                           instruction_data(dataset, base.tokenizer, chat_template, limits, log)});
  }
  return inputs;
}

void require_gate_names(const EvalConfig& config, const Inputs& inputs) {
  GateNames names;
  for (const StagePlan& plan : stage_plans(config)) names.stages.push_back(plan.name);
  for (const Inputs::Text& text : inputs.texts) names.suites.push_back(text.name);
  for (const Inputs::Data& data : inputs.data) names.suites.push_back(data.name);
  for (const std::string& gate : config.gates) require_names(parse_gate(gate), names);
}

std::string template_digest(const Source& source) {
  return source.chat_template ? source.chat_template->digest() : "none";
}

/// The items are the base's; a model that reads text otherwise would be measured on what its users
/// never see.
void require_same_prompts(const Source& base, const Source& other, const EvalConfig& config) {
  const auto require_same = [&](const char* what, const std::string& of_base,
                                const std::string& of_other) {
    if (of_base == of_other) return;
    throw InputError(
        "'{}' and '{}' differ in their {} ({} and {}), so that their figures could not "
        "be compared; give the second the first's {}, as weft merge does",
        base.checkpoint.path().string(), other.checkpoint.path().string(), what, of_base, of_other,
        what);
  };
  require_same("tokenizer", base.tokenizer.digest(), other.tokenizer.digest());
  // Plain text goes through no template.
  if (config.data.empty()) return;
  require_same("chat template", template_digest(base), template_digest(other));
}

/// Runs the suites of one stage after another on models that the caller holds.
class StageRunner {
 public:
  StageRunner(const EvalConfig& config, const Inputs& inputs, const text::Tokenizer& tokenizer,
              const Hooks& hooks, std::int64_t sequence_len)
      : config_(config),
        inputs_(inputs),
        tokenizer_(tokenizer),
        hooks_(hooks),
        sequence_len_(sequence_len) {}

  StageResult run(std::string name, const std::filesystem::path& model, model::Decoder& decoder) {
    StageResult stage{.name = std::move(name), .model = model};
    stage_ = stage.name;
    const auto begun = std::chrono::steady_clock::now();
    for (const Inputs::Text& text : inputs_.texts) {
      stage.suites.push_back(text_suite(text, decoder));
    }
    for (const Inputs::Data& data : inputs_.data) {
      stage.suites.push_back(instruction_suite(data, decoder));
    }
    stage.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
    return stage;
  }

 private:
  void check_stop() const {
    if (hooks_.stop != nullptr && hooks_.stop->load()) {
      throw Interrupted("stopped while measuring '{}'; nothing was written", stage_);
    }
  }

  void report(std::string_view suite, std::string_view what, std::int64_t done,
              std::size_t total) const {
    check_stop();
    if (hooks_.progress) {
      hooks_.progress({stage_, suite, what, done, static_cast<std::int64_t>(total)});
    }
  }

  std::vector<PassLoss> losses(const std::string& suite, const std::vector<Pass>& passes,
                               model::Decoder& decoder) const {
    check_stop();
    return score(
        passes, sequence_len_, [&](const data::Row& row) { return decoder.token_losses(row); },
        [&](std::int64_t done) { report(suite, "scored", done, passes.size()); });
  }

  SuiteResult text_suite(const Inputs::Text& text, model::Decoder& decoder) const {
    const RollingText& rolling = text.rolling;
    return {.name = text.name,
            .kind = SuiteKind::kText,
            .unit = rolling.unit,
            .items = items_with_losses(rolling, losses(text.name, rolling.passes, decoder))};
  }

  SuiteResult instruction_suite(const Inputs::Data& data, model::Decoder& decoder) const {
    SuiteResult suite{.name = data.name,
                      .kind = SuiteKind::kInstruction,
                      .unit = Unit::kExample,
                      .items = data.examples.items};
    const std::vector<PassLoss> scored = losses(data.name, data.examples.passes, decoder);
    for (std::size_t i = 0; i < scored.size(); ++i) {
      suite.items[i].tokens = scored[i].tokens;
      suite.items[i].loss = scored[i].loss;
    }
    answer(data.examples.questions, decoder, suite);
    return suite;
  }

  void answer(const std::vector<Question>& questions, model::Decoder& decoder,
              SuiteResult& suite) const {
    model::GenerateOptions options;  // greedy
    if (config_.generate) {
      options.max_tokens = config_.generate->max_tokens;
      options.sampling.repetition_penalty = config_.generate->repetition_penalty;
    }
    options.stop_ids = tokenizer_.stop_ids();
    std::vector<std::vector<std::int32_t>> prompts;
    for (const Question& question : questions) prompts.push_back(question.tokens);
    const model::BatchOptions batch{.sequences = config_.generate ? config_.generate->batch : 1,
                                    .progress = [&](std::int64_t done) {
                                      report(suite.name, "answered", done, questions.size());
                                    }};
    const auto answers = model::generate_batch(decoder, prompts, options, batch);
    for (std::size_t i = 0; i < questions.size(); ++i) {
      const std::vector<std::string> references{questions[i].reference};
      Generation generation{
          .prompt = questions[i].text,
          .reference = questions[i].reference,
          .output = tokenizer_.decode(answers[i].ids, text::Tokenizer::Specials::kSkip)};
      generation.chrf = chrf_statistics(generation.output, references, kChrf);
      generation.chrf_plus_plus = chrf_statistics(generation.output, references, kChrfPlusPlus);
      suite.generations.push_back(std::move(generation));
    }
  }

  const EvalConfig& config_;
  const Inputs& inputs_;
  const text::Tokenizer& tokenizer_;
  const Hooks& hooks_;
  std::int64_t sequence_len_;
  std::string stage_;
};

lora::Adapter read_adapter(const std::filesystem::path& file, const Source& base,
                           const EvalConfig& config, const core::Log& log) {
  lora::Adapter adapter = lora::read_peft(file, log);
  if (config.allow_other_base) return adapter;
  const std::filesystem::path& path = base.checkpoint.path();
  lora::PromptDigests prompts{.tokenizer = base.tokenizer.digest()};
  // Plain text goes through no template.
  if (!config.data.empty()) {
    prompts.chat_template = base.chat_template ? base.chat_template->digest() : "";
  }
  lora::check_prompts(adapter.provenance, prompts, path, log);
  lora::check_base(adapter, base.checkpoint);
  return adapter;
}

model::Decoder load(const Source& source, const std::string& what, model::Compute compute,
                    std::int64_t sequence_len, const Hooks& hooks) {
  if (hooks.before_load) {
    const model::MemoryNeed need =
        model::memory_need(source.spec, {}, {.compute = compute, .row_tokens = sequence_len});
    hooks.before_load(what, need.weights, need.activations);
  }
  return model::Decoder::load(source.checkpoint, compute);
}

std::int64_t choose_sequence_len(const EvalConfig& config, const model::Spec& spec,
                                 const Hooks& hooks) {
  const std::int64_t limit = spec.max_positions > 0 ? spec.max_positions : kDefaultSequenceLen;
  if (!config.sequence_len) return std::min(kDefaultSequenceLen, limit);
  if (*config.sequence_len > limit) {
    core::tell(hooks.log, core::Level::kWarning,
               fmt::format("sequence_len {} is more than the {} tokens that the model was made for",
                           *config.sequence_len, limit));
  }
  return *config.sequence_len;
}

}  // namespace

Evaluation evaluate(const EvalConfig& config, const Hooks& hooks) {
  validate(config);
  const auto compute =
      config.dtype == DType::kBFloat16 ? model::Compute::kBF16 : model::Compute::kF32;
  // Everything that can be wrong with the files is found before the first long computation.
  const std::vector<StagePlan> plans = stage_plans(config);
  const Source base = open_source(config.base_model);
  std::map<std::filesystem::path, Source> others;
  for (const StagePlan& plan : plans) {
    if (plan.model == config.base_model || others.contains(plan.model)) continue;
    require_same_prompts(base, others.emplace(plan.model, open_source(plan.model)).first->second,
                         config);
  }
  const auto source_of = [&](const StagePlan& plan) -> const Source& {
    return plan.model == config.base_model ? base : others.at(plan.model);
  };
  const std::int64_t sequence_len = choose_sequence_len(config, base.spec, hooks);
  const Inputs inputs = read_inputs(config, base, sequence_len, hooks.log);
  require_gate_names(config, inputs);
  std::vector<std::vector<lora::Adapter>> adapters(plans.size());
  for (std::size_t i = 0; i < plans.size(); ++i) {
    for (const std::filesystem::path& file : plans[i].adapters)
      adapters[i].push_back(read_adapter(file, source_of(plans[i]), config, hooks.log));
  }

  Evaluation evaluation;
  evaluation.sequence_len = sequence_len;
  evaluation.dtype = compute == model::Compute::kF32 ? "float32" : "bfloat16";
  if (config.generate) {
    evaluation.decoding = {config.generate->max_tokens, config.generate->repetition_penalty};
  }
  StageRunner runner(config, inputs, base.tokenizer, hooks, sequence_len);
  // Stages that follow each other and share a model share its weights in memory.
  std::optional<model::Decoder> decoder;
  for (std::size_t i = 0; i < plans.size(); ++i) {
    const Source& source = source_of(plans[i]);
    if (!decoder || plans[i].model != plans[i - 1].model) {
      decoder.reset();
      decoder = load(source, "'" + plans[i].name + "'", compute, sequence_len, hooks);
    }
    decoder->detach_all();
    for (const lora::Adapter& adapter : adapters[i])
      decoder->attach(adapter, model::Decoder::Use::kInference);
    evaluation.stages.push_back(runner.run(plans[i].name, source.checkpoint.path(), *decoder));
    evaluation.stages.back().adapters = plans[i].adapters;
  }
  return evaluation;
}

}  // namespace weft::eval
