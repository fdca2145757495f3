#include "eval/stages.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <optional>

#include "checkpoint/checkpoint.h"
#include "core/error.h"
#include "eval/answer.h"
#include "eval/distribution.h"
#include "eval/gates.h"
#include "eval/quantised_stage.h"
#include "eval/statistics_of.h"
#include "eval/suites.h"
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

void require_gate_names(const EvalConfig& config) {
  GateNames names;
  for (const StagePlan& plan : stage_plans(config)) names.stages.push_back(plan.name);
  for (const SuiteSection& suite : suite_plans(config)) names.suites.push_back(suite.name);
  for (const std::string& gate : config.gates) require_names(parse_gate(gate), names);
}

std::string template_digest(const Source& source) {
  return source.chat_template ? source.chat_template->digest() : "none";
}

bool uses_template(const EvalConfig& config) {
  return std::ranges::any_of(suite_plans(config),
                             [](const SuiteSection& suite) { return suite.data.has_value(); });
}

bool same_tokenizer(const Source& base, const Source& other) {
  return base.tokenizer.digest() == other.tokenizer.digest();
}

/// The items are the base's; a model whose template differs would be measured on what its users
/// never see. One with another tokenizer reads the same texts as other tokens: bits per byte can be
/// compared, nothing else.
void require_same_prompts(const Source& base, const Source& other, const EvalConfig& config,
                          const core::Log& log) {
  const std::string of_base = base.checkpoint.path().string();
  const std::string of_other = other.checkpoint.path().string();
  if (!same_tokenizer(base, other)) {
    const bool has_text = std::ranges::any_of(
        suite_plans(config), [](const SuiteSection& suite) { return !suite.text.empty(); });
    if (!has_text) {
      throw InputError(
          "'{}' and '{}' differ in their tokenizer ({} and {}), so that only bits per byte of "
          "plain "
          "text can be compared, and there is none; give a text suite, or the second the first's "
          "tokenizer, as weft merge does",
          of_base, of_other, base.tokenizer.digest(), other.tokenizer.digest());
    }
    core::tell(log, core::Level::kWarning,
               fmt::format("'{}' has another tokenizer than '{}': only bits per byte of plain text "
                           "are compared",
                           of_other, of_base));
    return;
  }
  // Plain text and choices go through no template.
  if (!uses_template(config) || template_digest(base) == template_digest(other)) return;
  throw InputError(
      "'{}' and '{}' differ in their chat template ({} and {}), so that their figures could not "
      "be compared; give the second the first's chat template, as weft merge does",
      of_base, of_other, template_digest(base), template_digest(other));
}

/// Runs the suites of one stage after another on models that the caller holds.
class StageRunner {
 public:
  StageRunner(const EvalConfig& config, const Hooks& hooks) : config_(config), hooks_(hooks) {}

  /// `is_reference`: what it predicts is kept for the stages that follow.
  StageResult run(const std::string& name, const std::vector<SuiteInput>& inputs,
                  const text::Tokenizer& tokenizer, bool is_reference, bool other_tokenizer,
                  model::Decoder& decoder) {
    StageResult stage{.name = name};
    stage_ = stage.name;
    const auto begun = std::chrono::steady_clock::now();
    for (const SuiteInput& input : inputs) {
      SuiteResult suite{.name = input.name, .labels = input.labels};
      suite.other_tokenizer = other_tokenizer;
      const auto compared = !input.distribution || other_tokenizer ? Compared::kNot
                            : is_reference                         ? Compared::kReference
                                                                   : Compared::kWithReference;
      if (input.text) text_suite(input, compared, decoder, suite);
      if (input.data) instruction_suite(input, compared, tokenizer, decoder, suite);
      if (input.choices) choice_suite(input, compared, decoder, suite);
      stage.suites.push_back(std::move(suite));
    }
    stage.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
    return stage;
  }

 private:
  enum class Compared : std::uint8_t { kNot, kReference, kWithReference };

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

  /// Scores the passes; with a reference, `item_of` says whose a pass is (-1: not compared).
  template <typename ItemOf>
  std::vector<PassLoss> losses(const SuiteInput& input, const std::vector<Pass>& passes,
                               Compared compared, const ItemOf& item_of, model::Decoder& decoder,
                               SuiteResult& suite) {
    check_stop();
    const auto done = [&](std::int64_t count) {
      report(input.name, "scored", count, passes.size());
    };
    if (compared == Compared::kNot) {
      return score(
          passes, input.row_tokens, [&](const data::Row& row) { return decoder.token_losses(row); },
          done);
    }
    ReferenceStates& reference = references_.try_emplace(input.name, decoder.head()).first->second;
    if (compared == Compared::kReference) {
      return score(
          passes, input.row_tokens,
          [&](const data::Row& row) { return reference.record(decoder, row); }, done);
    }
    std::size_t rows = 0, placed = 0;
    std::vector<TokenDistance> all;
    const auto scored = score(
        passes, input.row_tokens,
        [&](const data::Row& row) { return reference.compare(decoder, row, rows++, all); }, done,
        [&](std::span<const std::uint32_t> owners) {
          for (const std::uint32_t owner : owners) {
            const std::int64_t item = item_of(owner);
            TokenDistance distance = all[placed++];
            if (item < 0) continue;
            distance.item = static_cast<std::uint32_t>(item);
            suite.distances.push_back(distance);
          }
        });
    return scored;
  }

  void text_suite(const SuiteInput& input, Compared compared, model::Decoder& decoder,
                  SuiteResult& suite) {
    const RollingText& rolling = *input.text;
    suite.kind = SuiteKind::kText;
    suite.unit = rolling.unit;
    const auto item_of = [&](std::uint32_t pass) {
      return static_cast<std::int64_t>(rolling.item_of_pass[pass]);
    };
    suite.items = items_with_losses(
        rolling, losses(input, rolling.passes, compared, item_of, decoder, suite));
  }

  void instruction_suite(const SuiteInput& input, Compared compared,
                         const text::Tokenizer& tokenizer, model::Decoder& decoder,
                         SuiteResult& suite) {
    suite.kind = SuiteKind::kInstruction;
    suite.unit = Unit::kExample;
    suite.items = input.data->items;
    const auto item_of = [](std::uint32_t pass) { return std::int64_t{pass}; };
    const auto scored = losses(input, input.data->passes, compared, item_of, decoder, suite);
    for (std::size_t i = 0; i < scored.size(); ++i) {
      suite.items[i].tokens = scored[i].tokens;
      suite.items[i].loss = scored[i].loss;
    }
    answer(input.data->questions, tokenizer, decoder, suite);
  }

  void choice_suite(const SuiteInput& input, Compared compared, model::Decoder& decoder,
                    SuiteResult& suite) {
    const ChoiceData& data = *input.choices;
    suite.kind = SuiteKind::kChoice;
    suite.unit = Unit::kQuestion;
    // Compared are the tokens of the choices after their contexts.
    const auto item_of = [&](std::uint32_t pass) {
      return data.places[pass].alone ? std::int64_t{-1} : std::int64_t{data.places[pass].question};
    };
    ScoredChoices scored =
        choices_with_scores(data, losses(input, data.passes, compared, item_of, decoder, suite));
    suite.items = std::move(scored.items);
    suite.choices = std::move(scored.questions);
  }

  void answer(const std::vector<Question>& questions, const text::Tokenizer& tokenizer,
              model::Decoder& decoder, SuiteResult& suite) const {
    model::GenerateOptions options;  // greedy
    if (config_.generate) {
      options.max_tokens = config_.generate->max_tokens;
      options.sampling.repetition_penalty = config_.generate->repetition_penalty;
    }
    options.stop_ids = tokenizer.stop_ids();
    std::vector<std::vector<std::int32_t>> prompts;
    for (const Question& question : questions) prompts.push_back(question.tokens);
    const model::BatchOptions batch{.sequences = config_.generate ? config_.generate->batch : 1,
                                    .progress = [&](std::int64_t done) {
                                      report(suite.name, "answered", done, questions.size());
                                    }};
    const auto answers = model::generate_batch(decoder, prompts, options, batch);
    for (std::size_t i = 0; i < questions.size(); ++i) {
      const std::string output = tokenizer.decode(answers[i].ids, text::Tokenizer::Specials::kSkip);
      suite.generations.push_back(
          compare_answer(questions[i].text, questions[i].reference, output));
    }
  }

  const EvalConfig& config_;
  const Hooks& hooks_;
  std::string stage_;
  std::map<std::string, ReferenceStates> references_;  ///< By suite.
};

lora::Adapter read_adapter(const std::filesystem::path& file, const Source& base,
                           const EvalConfig& config, const core::Log& log) {
  lora::Adapter adapter = lora::read_peft(file, log);
  if (config.allow_other_base) return adapter;
  const std::filesystem::path& path = base.checkpoint.path();
  lora::PromptDigests prompts{.tokenizer = base.tokenizer.digest()};
  // Plain text goes through no template.
  if (uses_template(config)) {
    prompts.chat_template = base.chat_template ? base.chat_template->digest() : "";
  }
  lora::check_prompts(adapter.provenance, prompts, path, log);
  lora::check_base(adapter, base.checkpoint);
  return adapter;
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

/// Whether the reference stage's choice of each question is another one here.
void count_flips(Evaluation& evaluation, std::size_t reference) {
  const StageResult& from = evaluation.stages[reference];
  for (StageResult& stage : evaluation.stages) {
    if (&stage == &from) continue;
    for (SuiteResult& suite : stage.suites) {
      const auto same = std::ranges::find(from.suites, suite.name, &SuiteResult::name);
      if (same == from.suites.end() || same->choices.size() != suite.choices.size()) continue;
      for (std::size_t i = 0; i < suite.choices.size(); ++i) {
        suite.choices[i].flipped = choose(suite.choices[i], ChoiceRule::kPlain) !=
                                   choose(same->choices[i], ChoiceRule::kPlain);
      }
    }
  }
}

/// The models of the stages, opened and found to fit, and their adapters.
struct Opened {
  Source base;
  std::map<std::filesystem::path, Source> others;
  std::vector<std::vector<lora::Adapter>> adapters;  ///< Of each stage; folded ones are not read.

  [[nodiscard]] const Source& of(const StagePlan& plan) const {
    const auto other = others.find(plan.model);
    return other == others.end() ? base : other->second;
  }
};

Opened open_all(const EvalConfig& config, const std::vector<StagePlan>& plans,
                const core::Log& log) {
  Opened opened{open_source(config.base_model), {}, {}};
  for (const StagePlan& plan : plans) {
    if (plan.model == config.base_model || opened.others.contains(plan.model)) continue;
    const Source& other = opened.others.emplace(plan.model, open_source(plan.model)).first->second;
    require_same_prompts(opened.base, other, config, log);
  }
  for (const StagePlan& plan : plans) {
    auto& adapters = opened.adapters.emplace_back();
    for (const std::filesystem::path& file : plan.adapters)
      adapters.push_back(read_adapter(file, opened.of(plan), config, log));
  }
  return opened;
}

/// Holds one model at a time.
class Loader {
 public:
  Loader(const EvalConfig& config, const Opened& opened, model::Compute compute,
         std::int64_t sequence_len, const Hooks& hooks)
      : config_(config),
        opened_(opened),
        compute_(compute),
        sequence_len_(sequence_len),
        hooks_(hooks) {}

  /// The model of a stage, with its adapters; weights that are there already are kept.
  model::Decoder& load(const StagePlan& plan, const std::vector<lora::Adapter>& adapters) {
    const bool same =
        decoder_ && plan.quantise.empty() && held_.quantise.empty() && plan.model == held_.model;
    if (!same) {
      decoder_.reset();
      tell_need(plan);
      decoder_ = plan.quantise.empty()
                     ? model::Decoder::load(opened_.of(plan).checkpoint, compute_)
                     : load_quantised({.model = plan.model,
                                       .adapters = plan.adapters,
                                       .type = plan.quantise,
                                       .allow_other_base = config_.allow_other_base},
                                      compute_, hooks_.log);
      held_ = plan;
    }
    decoder_->detach_all();
    if (!plan.quantise.empty()) return *decoder_;  // Its adapters are folded in.
    for (const lora::Adapter& adapter : adapters)
      decoder_->attach(adapter, model::Decoder::Use::kInference);
    return *decoder_;
  }

 private:
  void tell_need(const StagePlan& plan) const {
    if (!hooks_.before_load) return;
    const model::MemoryNeed need = model::memory_need(
        opened_.of(plan).spec, {}, {.compute = compute_, .row_tokens = sequence_len_});
    hooks_.before_load("'" + plan.name + "'", need.weights, need.activations);
  }

  const EvalConfig& config_;
  const Opened& opened_;
  model::Compute compute_;
  std::int64_t sequence_len_;
  const Hooks& hooks_;
  StagePlan held_;
  std::optional<model::Decoder> decoder_;
};

/// The reference stage first, since the others are compared with it; then in the given order.
std::vector<std::size_t> order_of_stages(std::size_t count, std::size_t reference) {
  std::vector<std::size_t> order{reference};
  for (std::size_t i = 0; i < count; ++i) {
    if (i != reference) order.push_back(i);
  }
  return order;
}

}  // namespace

Evaluation evaluate(const EvalConfig& config, const Hooks& hooks) {
  validate(config);
  const auto compute =
      config.dtype == DType::kBFloat16 ? model::Compute::kBF16 : model::Compute::kF32;
  // Everything that can be wrong with the files is found before the first long computation.
  const std::vector<StagePlan> plans = stage_plans(config);
  const std::size_t reference = reference_stage(config);
  require_gate_names(config);
  const Opened opened = open_all(config, plans, hooks.log);
  const Source& base = opened.base;
  if (!same_tokenizer(base, opened.of(plans[reference]))) {
    throw InputError(
        "the reference stage '{}' has another tokenizer than base_model; name a reference that "
        "shares it",
        plans[reference].name);
  }
  const std::int64_t sequence_len = choose_sequence_len(config, base.spec, hooks);
  const text::ChatTemplate* chat_template = base.chat_template ? &*base.chat_template : nullptr;
  const std::vector<SuiteInput> inputs =
      read_suites(config, base.tokenizer, chat_template, sequence_len, Suites::kAll, hooks.log);

  Evaluation evaluation;
  evaluation.sequence_len = sequence_len;
  evaluation.dtype = compute == model::Compute::kF32 ? "float32" : "bfloat16";
  evaluation.reference = plans[reference].name;
  if (config.generate) {
    evaluation.decoding = {config.generate->max_tokens, config.generate->repetition_penalty};
  }
  evaluation.stages.resize(plans.size());
  StageRunner runner(config, hooks);
  Loader loader(config, opened, compute, sequence_len, hooks);
  for (const std::size_t i : order_of_stages(plans.size(), reference)) {
    const StagePlan& plan = plans[i];
    const Source& source = opened.of(plan);
    const bool other = !same_tokenizer(base, source);
    std::vector<SuiteInput> own;
    if (other) {
      own = read_suites(config, source.tokenizer, nullptr, sequence_len, Suites::kText, hooks.log);
    }
    model::Decoder& decoder = loader.load(plan, opened.adapters[i]);
    StageResult stage = runner.run(plan.name, other ? own : inputs, source.tokenizer,
                                   i == reference, other, decoder);
    stage.model = source.checkpoint.path();
    stage.adapters = plan.adapters;
    stage.quantise = plan.quantise;
    evaluation.stages[i] = std::move(stage);
  }
  count_flips(evaluation, reference);
  return evaluation;
}

}  // namespace weft::eval
