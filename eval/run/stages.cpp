#include "eval/run/stages.h"

#include <algorithm>
#include <map>
#include <optional>

#include "checkpoint/checkpoint.h"
#include "core/error.h"
#include "eval/metrics/answer.h"
#include "eval/report/compare.h"
#include "eval/run/gate_figures.h"
#include "eval/run/quantised_stage.h"
#include "eval/run/stage_runner.h"
#include "eval/run/suites.h"
#include "eval/statistics/gates.h"
#include "eval/statistics/statistics_of.h"
#include "lora/adapter.h"
#include "model/decoder.h"
#include "model/device.h"
#include "model/memory.h"
#include "model/runtime.h"
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

Source open_source(const std::filesystem::path& path, const std::string& date) {
  checkpoint::Checkpoint checkpoint = checkpoint::Checkpoint::open(path);
  model::Spec spec = model::read_spec(checkpoint);
  text::Tokenizer tokenizer = text::Tokenizer::load(checkpoint);
  auto chat_template = text::ChatTemplate::load(checkpoint);
  if (chat_template && !date.empty()) chat_template->set_date(date);
  return {std::move(checkpoint), std::move(spec), std::move(tokenizer), std::move(chat_template)};
}

void require_gate_names(const EvalConfig& config, const Evaluation* earlier) {
  GateNames names;
  if (earlier != nullptr) {
    for (const StageResult& stage : earlier->stages)
      names.stages.push_back(against_name(stage.name));
  }
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
        suite_plans(config), [](const SuiteSection& suite) { return suite.plain_text(); });
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

lora::Adapter read_adapter(const std::filesystem::path& file, const Source& base,
                           const EvalConfig& config, const core::Log& log) {
  lora::Adapter adapter = lora::read_peft(file, log);
  if (config.allow_other_base) return adapter;
  const std::filesystem::path& path = base.checkpoint.path();
  lora::PromptDigests prompts{.tokenizer = base.tokenizer.digest(),
                              .legacy_tokenizer = base.tokenizer.legacy_digest()};
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
  Opened opened{open_source(config.base_model, config.date), {}, {}};
  for (const StagePlan& plan : plans) {
    if (plan.model == config.base_model || opened.others.contains(plan.model)) continue;
    const Source& other =
        opened.others.emplace(plan.model, open_source(plan.model, config.date)).first->second;
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
  Loader(const EvalConfig& config, const Opened& opened, model::Compute compute, at::Device device,
         std::int64_t sequence_len, const Hooks& hooks)
      : config_(config),
        opened_(opened),
        compute_(compute),
        device_(device),
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
                     ? model::Decoder::load(opened_.of(plan).checkpoint, compute_, format_of(plan),
                                            device_)
                     : load_quantised({.model = plan.model,
                                       .adapters = plan.adapters,
                                       .type = plan.quantise,
                                       .allow_other_base = config_.allow_other_base},
                                      compute_, device_, hooks_.log);
      held_ = plan;
    }
    decoder_->detach_all();
    if (!plan.quantise.empty()) return *decoder_;  // Its adapters are folded in.
    for (const lora::Adapter& adapter : adapters)
      decoder_->attach(adapter, model::Decoder::Use::kInference);
    return *decoder_;
  }

 private:
  /// The blocks of a GGUF file give the same numbers as they do widened, in less memory; a GPU has
  /// no products of them.
  [[nodiscard]] model::BaseFormat format_of(const StagePlan& plan) const {
    return device_.is_cpu() && plan.quantise.empty() &&
                   model::stores_blocks(opened_.of(plan).checkpoint)
               ? model::BaseFormat::kStored
               : model::BaseFormat::kDense;
  }

  void tell_need(const StagePlan& plan) const {
    if (!hooks_.before_load) return;
    const checkpoint::Checkpoint& checkpoint = opened_.of(plan).checkpoint;
    const model::MemoryNeed need = model::memory_need(opened_.of(plan).spec, {},
                                                      {.compute = compute_,
                                                       .base = format_of(plan),
                                                       .stored = &checkpoint,
                                                       .row_tokens = sequence_len_});
    hooks_.before_load("'" + plan.name + "'", need.weights, need.activations);
  }

  const EvalConfig& config_;
  const Opened& opened_;
  model::Compute compute_;
  at::Device device_;
  std::int64_t sequence_len_;
  const Hooks& hooks_;
  StagePlan held_;
  std::optional<model::Decoder> decoder_;
};

void add_digests(StageResult& stage, const FileDigest& file_digest) {
  if (!file_digest) return;
  stage.model_digest = content_digest(stage.model, file_digest);
  for (const std::filesystem::path& adapter : stage.adapters)
    stage.adapter_digests.push_back(content_digest(adapter, file_digest));
}

/// What every stage has to do.
std::vector<StageWork> all_work(const EvalConfig& config, const std::vector<StagePlan>& plans,
                                const Opened& opened, const std::vector<SuiteInput>& inputs,
                                std::int64_t sequence_len, const Hooks& hooks) {
  std::vector<StageWork> all(plans.size());
  const std::size_t reference = reference_stage(config);
  for (std::size_t i = 0; i < plans.size(); ++i) {
    StageWork& work = all[i];
    const Source& source = opened.of(plans[i]);
    work.stage = {.name = plans[i].name,
                  .model = source.checkpoint.path(),
                  .adapters = plans[i].adapters,
                  .quantise = plans[i].quantise};
    add_digests(work.stage, hooks.file_digest);
    work.other_tokenizer = !same_tokenizer(opened.base, source);
    if (work.other_tokenizer) {
      work.own_inputs =
          read_suites(config, source.tokenizer, nullptr, sequence_len, Suites::kText, hooks.log);
    }
    for (const SuiteInput& input : work.other_tokenizer ? work.own_inputs : inputs) {
      SuiteWork& part = work.suites.emplace_back(SuiteWork{.input = &input});
      if (input.distribution && !work.other_tokenizer)
        part.compared = i == reference ? Compared::kReference : Compared::kWithReference;
    }
  }
  return all;
}

/// Gates on figures that will not be measured.
void require_gates(const EvalConfig& config, const std::vector<StagePlan>& plans,
                   const std::vector<StageWork>& all, const std::vector<SuiteInput>& inputs,
                   const Evaluation* earlier) {
  std::vector<ComingStage> stages;
  for (std::size_t i = 0; i < plans.size(); ++i) {
    const bool other = all[i].other_tokenizer;
    stages.push_back({.name = plans[i].name,
                      .is_reference = i == reference_stage(config),
                      .suites = other ? all[i].own_inputs : inputs,
                      .other_tokenizer = other});
  }
  require_gate_figures(config, stages, inputs, earlier);
}

/// Looks for what was finished before.
void find_finished(std::vector<StageWork>& all, std::size_t reference, const std::string& dtype,
                   const model::ComputeDevice& device, const Hooks& hooks) {
  if (!hooks.parts.find) return;
  const Circumstances now = circumstances_now(model::kernel_names(device), device.gpu);
  std::size_t found = 0, total = 0;
  for (StageWork& work : all) {
    for (SuiteWork& part : work.suites) {
      const bool compared = part.compared == Compared::kWithReference;
      part.key = part_key({.circumstances = now,
                           .dtype = dtype,
                           .row_tokens = part.input->row_tokens,
                           .stage = work.stage,
                           .suite_digest = part.input->digest,
                           .asked_digest = part.input->asked_digest,
                           .reference = compared ? &all[reference].stage : nullptr});
      ++total;
      if (part.key.empty()) continue;
      part.finished = hooks.parts.find(part.key);
      if (!part.finished) continue;
      // These are not of the numbers, and may have changed.
      part.finished->name = part.input->name;
      part.finished->labels = part.input->labels;
      score_answers(*part.finished);
      ++found;
    }
  }
  if (found == 0) return;
  core::tell(
      hooks.log, core::Level::kInfo,
      fmt::format("{} of {} suites were finished before and are not measured again", found, total));
  for (SuiteWork& part : all[reference].suites) {
    part.states_needed = std::ranges::any_of(all, [&](const StageWork& work) {
      return std::ranges::any_of(work.suites, [&](const SuiteWork& other) {
        return other.input->name == part.input->name &&
               other.compared == Compared::kWithReference && !other.finished;
      });
    });
  }
}

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
  const model::ComputeDevice device = model::open_device(config.device);
  const auto compute =
      config.dtype == DType::kBFloat16 ? model::Compute::kBF16 : model::Compute::kF32;
  // Everything that can be wrong with the files is found before the first long computation.
  const std::vector<StagePlan> plans = stage_plans(config);
  const std::size_t reference = reference_stage(config);
  require_gate_names(config, hooks.earlier);
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
  if (chat_template != nullptr && chat_template->prints_date() && uses_template(config)) {
    core::tell(hooks.log, core::Level::kInfo,
               fmt::format("the chat template prints {} as today's date; figures of another day "
                           "compare with these under the same `date`",
                           chat_template->date()));
  }
  const std::vector<SuiteInput> inputs =
      read_suites(config, base.tokenizer, chat_template, sequence_len, Suites::kAll, hooks.log);

  Evaluation evaluation;
  evaluation.sequence_len = sequence_len;
  evaluation.dtype = compute == model::Compute::kF32 ? "float32" : "bfloat16";
  evaluation.reference = plans[reference].name;
  evaluation.decoding = decoding_of(config);
  evaluation.stages.resize(plans.size());
  std::vector<StageWork> all = all_work(config, plans, opened, inputs, sequence_len, hooks);
  require_gates(config, plans, all, inputs, hooks.earlier);
  find_finished(all, reference, evaluation.dtype, device, hooks);
  StageRunner runner(config, hooks);
  Loader loader(config, opened, compute, device.device, sequence_len, hooks);
  for (const std::size_t i : order_of_stages(plans.size(), reference)) {
    model::Decoder* decoder =
        all[i].is_finished() ? nullptr : &loader.load(plans[i], opened.adapters[i]);
    runner.run(all[i], opened.of(plans[i]).tokenizer, decoder);
    evaluation.stages[i] = std::move(all[i].stage);
  }
  count_flips(evaluation, reference);
  return evaluation;
}

}  // namespace weft::eval
