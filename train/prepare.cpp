#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/terminal.h"
#include "train/job.h"

namespace weft::train {
namespace {
namespace fs = std::filesystem;

/// Keys of `adapter:` that say what an adapter is; those of an existing one are given by it.
constexpr const char* kShapeKeys[] = {"adapter.r",
                                      "adapter.lora_alpha",
                                      "adapter.target_modules",
                                      "adapter.use_rslora",
                                      "adapter.rank_pattern",
                                      "adapter.exclude_modules",
                                      "adapter.alpha_pattern",
                                      "adapter.layers_to_transform"};

std::vector<std::string> words_of(const lora::Targets& targets) {
  return targets.pattern ? std::vector<std::string>{*targets.pattern} : targets.names;
}

/// What was written about the adapter has to agree with the adapter that training starts from.
void require_agreement(const TrainConfig& config, const lora::Adapter& adapter,
                       const std::vector<lora::Module>& modules, const core::Origins& given) {
  const auto* const key =
      std::ranges::find_if(kShapeKeys, [&](const char* name) { return given.contains(name); });
  if (key == std::ranges::end(kShapeKeys)) return;
  const auto fail = [&](const std::string& what) {
    throw ConfigError(
        "{}: {}: adapter.init_from starts from {}, and what is written here asks for "
        "another adapter: {}; remove the key to take over that adapter's",
        given.at(*key), *key, config.adapter.init_from.string(), what);
  };
  const std::vector<lora::Target> wanted = lora::resolve_targets(adapter_config(config), modules);
  for (std::size_t i = 0; i < std::min(wanted.size(), adapter.factors.size()); ++i) {
    const lora::Target& there = adapter.factors[i].target;
    if (wanted[i].module.path != there.module.path) {
      fail(fmt::format("'{}' instead of '{}'", wanted[i].module.path, there.module.path));
    }
    if (wanted[i].rank != there.rank || wanted[i].scale != there.scale) {
      fail(fmt::format("rank {} and scale {} instead of {} and {} of '{}'", wanted[i].rank,
                       wanted[i].scale, there.rank, there.scale, there.module.path));
    }
  }
  if (wanted.size() != adapter.factors.size()) {
    fail(fmt::format("{} layers instead of {}", wanted.size(), adapter.factors.size()));
  }
}

/// Writes the settings of an existing adapter into the configuration, so that config.yaml tells
/// what was trained.
void take_over(const lora::AdapterConfig& from, AdapterSection& into) {
  into.r = from.r;
  into.lora_alpha = from.lora_alpha;
  into.use_rslora = from.use_rslora;
  into.target_modules = words_of(from.target_modules);
  into.exclude_modules = words_of(from.exclude_modules);
  into.layers_to_transform = from.layers_to_transform;
  into.rank_pattern = {from.rank_pattern.begin(), from.rank_pattern.end()};
  into.alpha_pattern = {from.alpha_pattern.begin(), from.alpha_pattern.end()};
}

lora::Adapter initial_adapter(TrainConfig& config, const checkpoint::Checkpoint& base,
                              const model::Spec& spec, const lora::PromptDigests& prompts,
                              const core::Origins& given, const core::Log& log) {
  const std::vector<lora::Module> modules = model::linear_modules(spec);
  if (config.adapter.init_from.empty()) {
    lora::AdapterConfig adapter = adapter_config(config);
    std::vector<lora::Target> targets = lora::resolve_targets(adapter, modules);
    return lora::make_adapter(std::move(adapter), std::move(targets),
                              static_cast<std::uint64_t>(config.seed));
  }
  lora::Adapter adapter = lora::read_peft(config.adapter.init_from, log);
  if (!config.adapter.allow_other_base) {
    lora::check_base(adapter, base);
    lora::check_prompts(adapter.provenance, prompts, base.path(), log);
  }
  require_agreement(config, adapter, modules, given);
  take_over(adapter.config, config.adapter);
  adapter.config.lora_dropout = config.adapter.lora_dropout;
  adapter.config.base_model_name_or_path = config.base_model.string();
  return adapter;
}

std::optional<text::ChatTemplate> load_template(const TrainConfig& config,
                                                const checkpoint::Checkpoint& base,
                                                const text::Tokenizer& tokenizer) {
  if (config.chat_template.empty()) return text::ChatTemplate::load(base);
  return text::ChatTemplate(core::read_text(config.chat_template), tokenizer.special_tokens(),
                            config.chat_template.string());
}

void add_files(const data::DatasetConfig& dataset, const std::string& place,
               nlohmann::ordered_json& files) {
  for (const fs::path& path : data::resolve_files(dataset.path)) {
    files[place].push_back({{"path", path.string()},
                            {"bytes", fs::file_size(path)},
                            {"sha256", core::sha256_file(path)}});
  }
}

void require_vocabulary(const data::Examples& data, std::int64_t vocabulary) {
  for (const data::Example& example : data.examples) {
    const auto largest = std::ranges::max_element(example.tokens);
    if (largest != example.tokens.end() && *largest >= vocabulary) {
      throw InputError(
          "{}: the tokenizer gives id {}, and the model has {} embeddings: are they of "
          "the same model?",
          example.origin.text(), *largest, vocabulary);
    }
  }
}

LoadedData load_data(const TrainConfig& config, const text::Tokenizer& tokenizer,
                     const text::ChatTemplate* chat_template, std::int64_t vocabulary,
                     const core::Log& log) {
  const data::PromptBuilder builder(tokenizer, chat_template, prompt_options(config));
  LoadedData loaded;
  loaded.train = data::load_examples(config.datasets, builder, log);
  for (std::size_t i = 0; i < config.datasets.size(); ++i) {
    add_files(config.datasets[i], fmt::format("datasets.{}", i), loaded.files);
  }
  loaded.preflight = data::inspect_examples(loaded.train, tokenizer, config.preflight);
  require_vocabulary(loaded.train, vocabulary);
  if (!config.validation) return loaded;
  loaded.validation = data::load_examples({*config.validation}, builder, log);
  add_files(*config.validation, "validation", loaded.files);
  if (loaded.validation.examples.empty()) {
    throw InputError("validation: no example is left to measure; see over_length and sequence_len");
  }
  loaded.validation_preflight =
      data::inspect_examples(loaded.validation, tokenizer, config.preflight);
  require_vocabulary(loaded.validation, vocabulary);
  return loaded;
}

std::int64_t parameters_of(const lora::Adapter& adapter) {
  std::int64_t parameters = 0;
  for (const lora::Factors& factors : adapter.factors) parameters += factors.target.parameters();
  return parameters;
}

MemoryPlan plan_of(const Prepared& prepared) {
  std::vector<lora::Target> targets;
  for (const lora::Factors& factors : prepared.initial.factors) targets.push_back(factors.target);
  const LoadedData& data = prepared.data;
  std::int64_t longest = data.preflight.longest;
  if (data.validation_preflight) longest = std::max(longest, data.validation_preflight->longest);
  return plan_memory(prepared.config, {.spec = prepared.spec,
                                       .targets = targets,
                                       .compute = prepared.compute,
                                       .longest_example = longest,
                                       .data_tokens = data.preflight.tokens});
}

}  // namespace

Prepared prepare(TrainConfig config, const core::Origins& given, const core::Log& log) {
  auto base = checkpoint::Checkpoint::open(config.base_model);
  model::Spec spec = model::read_spec(base.config(), config.base_model.string());
  if (config.sequence_len > spec.max_positions) {
    throw ConfigError(
        "{}sequence_len: {} is more than the {} positions that {} was made for; lower it",
        given.contains("sequence_len") ? given.at("sequence_len") + ": " : "", config.sequence_len,
        spec.max_positions, config.base_model.string());
  }
  auto tokenizer = text::Tokenizer::load(base);
  auto chat_template = load_template(config, base, tokenizer);
  const lora::PromptDigests prompts{.tokenizer = tokenizer.digest(),
                                    .chat_template = chat_template ? chat_template->digest() : ""};
  lora::Adapter initial = initial_adapter(config, base, spec, prompts, given, log);
  LoadedData data =
      load_data(config, tokenizer, chat_template ? &*chat_template : nullptr, spec.vocabulary, log);
  const model::Compute compute = compute_of(config.dtype);
  Prepared prepared{.config = std::move(config),
                    .base = std::move(base),
                    .spec = std::move(spec),
                    .compute = compute,
                    .tokenizer = std::move(tokenizer),
                    .chat_template = std::move(chat_template),
                    .initial = std::move(initial),
                    .data = std::move(data),
                    .plan = {},
                    .first_epoch = {}};
  prepared.plan = plan_of(prepared);
  if (!prepared.data.train.examples.empty()) {
    prepared.stream.emplace(prepared.data.train.examples, prepared.updates());
    prepared.total_updates = prepared.stream->total();
    prepared.first_epoch = prepared.stream->first_epoch();
  }
  return prepared;
}

std::string describe_plan(const Prepared& prepared) {
  const TrainConfig& config = prepared.config;
  std::set<std::string> storage;
  std::uint64_t base_parameters = 0;
  for (const checkpoint::TensorInfo& tensor : prepared.base.tensors()) {
    storage.insert(tensor.storage_name);
    base_parameters += static_cast<std::uint64_t>(tensor.elements());
  }
  std::uint64_t need = 0;
  std::string parts;
  for (const MemoryPart& part : prepared.plan.parts) {
    need += part.bytes;
    parts +=
        fmt::format("{}{} {}", parts.empty() ? "" : ", ", part.what, core::human_bytes(part.bytes));
  }
  const UpdateStream::Tokens& tokens = prepared.first_epoch;
  const std::int64_t once = tokens.example_tokens - tokens.computed_tokens;
  const std::string shared =
      once == 0
          ? ""
          : fmt::format(
                "; {:.0f} % of the tokens are beginnings that are computed once for "
                "several examples",
                100.0 * static_cast<double>(once) / static_cast<double>(tokens.example_tokens));
  const std::string savings = describe_savings(prepared.plan, config, prepared.spec.layers);
  std::string text = fmt::format(
      "base        {} ({}, {} parameters as {}, computed in {}{})\n"
      "adapter     rank {}, {} layers, {} parameters\n"
      "updates     {}, of at most {} tokens each{}\n"
      "memory      about {} ({}); {} available{}\n",
      config.base_model.string(), prepared.spec.architecture, core::human_count(base_parameters),
      fmt::join(storage, ", "), prepared.compute == model::Compute::kBF16 ? "bfloat16" : "float32",
      config.base_quantization == model::BaseFormat::kDense
          ? ""
          : fmt::format(", layers kept as {}", model::name_of(config.base_quantization)),
      config.adapter.r, prepared.initial.factors.size(),
      core::human_count(static_cast<std::uint64_t>(parameters_of(prepared.initial))),
      prepared.total_updates, config.tokens_per_update, shared, core::human_bytes(need), parts,
      core::human_bytes(prepared.plan.available),
      savings.empty() ? "" : "\n            " + savings);
  text += "\ntraining data\n" + data::to_text(prepared.data.preflight);
  if (prepared.data.validation_preflight) {
    text += "\nvalidation data\n" + data::to_text(*prepared.data.validation_preflight);
  }
  return text;
}

void require_sound(const Prepared& prepared) {
  std::vector<std::string> violations = prepared.data.preflight.violations;
  if (prepared.data.validation_preflight) {
    for (const std::string& one : prepared.data.validation_preflight->violations) {
      violations.push_back("validation: " + one);
    }
  }
  if (!violations.empty()) {
    throw Refused("the data breaks limits of `preflight`: {}", fmt::join(violations, "; "));
  }
  if (prepared.total_updates == 0) throw InputError("datasets: no example is left to learn from");
  require_memory(prepared.plan.parts, prepared.plan.available);
}

}  // namespace weft::train
