#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <utility>

#include "core/cache_folder.h"
#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/stop.h"
#include "core/terminal.h"
#include "data/holdout.h"
#include "data/token_cache.h"
#include "lora/targets.h"
#include "train/job.h"

namespace weft::train {
namespace {
namespace fs = std::filesystem;

/// What ordering and packing an epoch takes for each example (data::Prefix, its place in the order,
/// its share of a planned row).
constexpr std::uint64_t kOrderBytes = 64;

/// What a tokenizer takes for each entry of its vocabulary, with its merges.
constexpr std::uint64_t kTokenBytes = 512;

/// Keys of `adapter:` that say what an adapter is; those of an existing one are given by it.
constexpr const char* kShapeKeys[] = {"adapter.r",
                                      "adapter.lora_alpha",
                                      "adapter.target_modules",
                                      "adapter.use_rslora",
                                      "adapter.rank_pattern",
                                      "adapter.exclude_modules",
                                      "adapter.target_parameters",
                                      "adapter.alpha_pattern",
                                      "adapter.layers_to_transform"};

std::vector<std::string> words_of(const lora::Targets& targets) {
  return targets.pattern ? std::vector<std::string>{*targets.pattern} : targets.names;
}

std::vector<lora::Target> targets_of(const lora::AdapterConfig& adapter, const model::Spec& spec) {
  return lora::resolve_targets(adapter, model::linear_modules(spec), model::expert_stacks(spec));
}

/// What was written about the adapter has to agree with the adapter that training starts from.
void require_agreement(const TrainConfig& config, const lora::Adapter& adapter,
                       const model::Spec& spec, const schema::Origins& given) {
  const auto* const key =
      std::ranges::find_if(kShapeKeys, [&](const char* name) { return given.contains(name); });
  if (key == std::ranges::end(kShapeKeys)) return;
  const auto fail = [&](const std::string& what) {
    throw ConfigError(
        "{}: {}: adapter.init_from starts from {}, and what is written here asks for "
        "another adapter: {}; remove the key to take over that adapter's",
        given.at(*key), *key, config.adapter.init_from.string(), what);
  };
  const std::vector<lora::Target> wanted = targets_of(adapter_config(config), spec);
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
  into.target_parameters = from.extras.target_parameters;
  into.layers_to_transform = from.layers_to_transform;
  into.rank_pattern = {from.rank_pattern.begin(), from.rank_pattern.end()};
  into.alpha_pattern = {from.alpha_pattern.begin(), from.alpha_pattern.end()};
}

lora::Adapter initial_adapter(TrainConfig& config, const checkpoint::Checkpoint& base,
                              const model::Spec& spec, const lora::PromptDigests& prompts,
                              const schema::Origins& given,
                              const std::optional<TrainState>& resumed, const core::Log& log) {
  if (config.adapter.init_from.empty()) {
    lora::AdapterConfig adapter = adapter_config(config);
    std::vector<lora::Target> targets = targets_of(adapter, spec);
    // What PEFT calls a layer whose matrix is stored [in, out].
    adapter.fan_in_fan_out = std::ranges::any_of(targets, [&](const lora::Target& target) {
      return lora::stores_input_first(base, target.module.path);
    });
    return lora::make_adapter(std::move(adapter), std::move(targets),
                              static_cast<std::uint64_t>(config.seed));
  }
  // A checkpoint holds all that the adapter gave; it may be gone since.
  lora::Adapter adapter =
      resumed ? resumed->adapter : lora::read_peft(config.adapter.init_from, log);
  if (!resumed && !config.adapter.allow_other_base) {
    lora::check_base(adapter, base);
    lora::check_prompts(adapter.provenance, prompts, base.path(), log);
  }
  require_agreement(config, adapter, spec, given);
  take_over(adapter.config, config.adapter);
  adapter.config.lora_dropout = config.adapter.lora_dropout;
  lora::require_no_dropout_on_stacks(adapter.config);
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

/// One day for the whole run, where the template prints it: the one that is given, that of the
/// checkpoint, or today's. The configuration says which it was.
void set_date(TrainConfig& config, std::optional<text::ChatTemplate>& chat_template,
              const std::optional<TrainState>& resumed, const core::Log& log) {
  if (!chat_template || !chat_template->prints_date()) {
    if (!config.date.empty()) {
      core::tell(log, core::Level::kWarning,
                 "date has no effect: the chat template prints no date");
    }
    return;
  }
  if (config.date.empty() && resumed) {
    const auto then = resumed->fingerprint.find(kTemplateDate);
    if (then != resumed->fingerprint.end()) config.date = then->second;
  }
  if (!config.date.empty()) chat_template->set_date(config.date);
  config.date = chat_template->date();
}

/// Files with their hashes, and the same as the run's record has them.
std::vector<data::SourceFile> list_files(const data::DatasetConfig& dataset,
                                         const std::string& place, nlohmann::ordered_json& record) {
  std::vector<data::SourceFile> files = data::source_files(dataset);
  for (const data::SourceFile& file : files) {
    record[place].push_back(
        {{"path", file.path.string()}, {"bytes", file.bytes}, {"sha256", file.sha256}});
  }
  return files;
}

data::TokenCache open_cache(const schema::FolderSwitch& choice) {
  if (!choice.on) return data::TokenCache(std::nullopt);
  if (!choice.path.empty()) return data::TokenCache(choice.path);
  return data::TokenCache(core::cache_folder("tokens"));
}

void require_vocabulary(const data::TokenisedData& data, std::int64_t vocabulary) {
  if (data.largest_id < vocabulary) return;
  throw InputError(
      "{}: the tokenizer gives id {}, and the model has {} embeddings: are they of "
      "the same model?",
      data.largest_origin, data.largest_id, vocabulary);
}

/// How text becomes tokens, and who hears of it.
struct Reading {
  const Base& base;
  const text::ChatTemplate* chat_template;
  data::TokenCache& cache;
  const core::Log& log;
};

data::TokenisedData load_part(const TrainConfig& config,
                              const std::vector<data::DatasetConfig>& datasets,
                              const std::vector<std::vector<data::SourceFile>>& files,
                              const Reading& reading) {
  const data::TokenSource source{.datasets = datasets,
                                 .files = files,
                                 .tokenizer = reading.base.tokenizer,
                                 .chat_template = reading.chat_template,
                                 .options = prompt_options(config)};
  data::TokenisedData part = reading.cache.tokenise(source, reading.log);
  data::judge(part.preflight, config.preflight);
  require_vocabulary(part, reading.base.spec.vocabulary);
  return part;
}

/// Takes `validation_share` out of the training data.
void hold_out(const TrainConfig& config, LoadedData& loaded) {
  const auto seed = static_cast<std::uint64_t>(config.seed);
  const std::size_t all = loaded.train.size();
  data::HeldOut sides = data::hold_out(loaded.train, config.validation_share->value, seed);
  if (all > 0 && (sides.kept.empty() || sides.learned.empty())) {
    throw InputError(
        "validation_share: {} of {} examples leaves {}; choose another share, or name a file for "
        "`validation`",
        schema::to_string(*config.validation_share), all,
        sides.kept.empty() ? "none to measure" : "none to learn from");
  }
  LoadedData::HeldOut held;
  held.examples = static_cast<std::int64_t>(sides.kept.size());
  for (std::size_t i = 0; i < sides.kept.size(); ++i) {
    held.tokens += static_cast<std::int64_t>(sides.kept[i].tokens.size());
  }
  loaded.held_out = held;
  loaded.train = std::move(sides.learned);
  loaded.validation = std::move(sides.kept);
}

/// What is learned says nothing about what a model can do with what it has not seen.
void tell_learned(const LoadedData& loaded, const core::Log& log) {
  const std::int64_t learned = data::count_learned(loaded.validation, loaded.train);
  if (learned == 0) return;
  core::tell(log, core::Level::kWarning,
             fmt::format("validation: {} of {} examples are training examples as well, token for "
                         "token: their loss says what was memorised. Remove them from one of the "
                         "two, or use validation_share",
                         learned, loaded.validation.size()));
}

LoadedData load_data(const TrainConfig& config, const Reading& reading) {
  LoadedData loaded;
  std::vector<std::vector<data::SourceFile>> files;
  for (std::size_t i = 0; i < config.datasets.size(); ++i) {
    files.push_back(list_files(config.datasets[i], fmt::format("datasets.{}", i), loaded.files));
  }
  data::TokenisedData part = load_part(config, config.datasets, files, reading);
  loaded.train = std::move(part.examples);
  loaded.preflight = std::move(part.preflight);
  if (config.validation_share) hold_out(config, loaded);
  if (!config.validation) return loaded;
  files = {list_files(*config.validation, "validation", loaded.files)};
  part = load_part(config, {*config.validation}, files, reading);
  if (part.examples.empty()) {
    throw InputError("validation: no example is left to measure; see over_length and sequence_len");
  }
  loaded.validation = std::move(part.examples);
  loaded.validation_preflight = std::move(part.preflight);
  tell_learned(loaded, reading.log);
  return loaded;
}

std::int64_t parameters_of(const lora::Adapter& adapter) {
  std::int64_t parameters = 0;
  for (const lora::Factors& factors : adapter.factors) parameters += factors.target.parameters();
  return parameters;
}

std::vector<lora::Target> targets_of(const lora::Adapter& adapter) {
  std::vector<lora::Target> targets;
  for (const lora::Factors& factors : adapter.factors) targets.push_back(factors.target);
  return targets;
}

MemoryDemand demand_of(const Prepared& prepared, const std::vector<lora::Target>& targets) {
  const LoadedData& data = prepared.data;
  std::int64_t longest = data.preflight.longest;
  if (data.validation_preflight) longest = std::max(longest, data.validation_preflight->longest);
  return {
      .spec = prepared.base->spec,
      .targets = targets,
      .device = prepared.device,
      .compute = prepared.compute,
      .longest_example = longest,
      .data_tokens = data.preflight.tokens,
      .examples = static_cast<std::int64_t>(data.train.size()),
      .data_bytes = data.train.mapped_bytes() + data.validation.mapped_bytes() +
                    (data.train.size() + data.validation.size()) * kOrderBytes,
      .vocabulary_bytes = static_cast<std::uint64_t>(prepared.base->spec.vocabulary) * kTokenBytes,
      .row_tokens = prepared.resumed ? prepared.resumed->row_tokens : 0};
}

std::shared_ptr<const Base> open_base(const TrainConfig& config) {
  auto checkpoint = checkpoint::Checkpoint::open(config.base_model);
  model::Spec spec = model::read_spec(checkpoint);
  auto tokenizer = text::Tokenizer::load(checkpoint);
  return std::make_shared<const Base>(
      Base{std::move(checkpoint), std::move(spec), std::move(tokenizer)});
}

void require_positions(const TrainConfig& config, const model::Spec& spec,
                       const schema::Origins& given) {
  if (config.sequence_len <= spec.max_positions) return;
  throw ConfigError(
      "{}sequence_len: {} is more than the {} positions that {} was made for; lower it",
      given.contains("sequence_len") ? given.at("sequence_len") + ": " : "", config.sequence_len,
      spec.max_positions, config.base_model.string());
}

/// The model's own tokens are used; a file that asks for others would be learned differently.
void require_special_tokens(const TrainConfig& config, const text::Tokenizer& tokenizer,
                            const schema::Origins& given) {
  const nlohmann::json own = tokenizer.special_tokens();
  for (const auto& [name, token] : config.special_tokens) {
    const auto found = own.find(name);
    const bool is_text = found != own.end() && found->is_string();
    if (is_text && found->get<std::string>() == token) continue;
    const std::string key = "special_tokens";
    throw ConfigError(
        "{}special_tokens: the {} of {} is {}, and '{}' is asked for; remove it here to use the "
        "model's own, or write it into the model's tokenizer_config.json",
        given.contains(key) ? given.at(key) + ": " : "", name, config.base_model.string(),
        is_text ? fmt::format("'{}'", found->get<std::string>()) : "not set", token);
  }
}

/// Everything but plan and stream.
Prepared read_run(schema::Variant<TrainConfig> run, std::shared_ptr<const Base> base,
                  const model::ComputeDevice& device, data::TokenCache& cache,
                  std::optional<TrainState> resumed, const core::Log& log) {
  auto& [name, config, given] = run;
  Prepared prepared;
  prepared.resumed = std::move(resumed);
  prepared.chat_template = load_template(config, base->checkpoint, base->tokenizer);
  set_date(config, prepared.chat_template, prepared.resumed, log);
  const text::ChatTemplate* chat_template =
      prepared.chat_template ? &*prepared.chat_template : nullptr;
  const lora::PromptDigests prompts{
      .tokenizer = base->tokenizer.digest(),
      .legacy_tokenizer = base->tokenizer.legacy_digest(),
      .chat_template = chat_template != nullptr ? chat_template->digest() : ""};
  prepared.initial =
      initial_adapter(config, base->checkpoint, base->spec, prompts, given, prepared.resumed, log);
  prepared.data = load_data(config, {*base, chat_template, cache, log});
  prepared.device = device;
  prepared.compute = compute_of(config.dtype, device);
  prepared.name = std::move(name);
  prepared.config = std::move(config);
  prepared.base = std::move(base);
  return prepared;
}

}  // namespace

std::vector<std::optional<TrainState>> last_states(const std::deque<RunFolder>& folders,
                                                   const core::Log& log) {
  std::vector<std::optional<TrainState>> states;
  for (const RunFolder& folder : folders) {
    states.emplace_back();
    if (!folder.continues()) continue;
    states.back() = Checkpoints(folder.checkpoints()).load_last();
    if (states.back()) continue;
    core::tell(log, core::Level::kInfo,
               "no checkpoint was written yet: starting from the beginning");
  }
  return states;
}

std::vector<Prepared> prepare(std::vector<schema::Variant<TrainConfig>> runs, const core::Log& log,
                              std::vector<std::optional<TrainState>> resumed, const Share& share) {
  resumed.resize(runs.size());
  const std::shared_ptr<const Base> base = open_base(runs.front().config);
  for (const auto& run : runs) {
    require_positions(run.config, base->spec, run.origins);
    require_special_tokens(run.config, base->tokenizer, run.origins);
  }
  const model::ComputeDevice device =
      share.device ? *share.device : model::open_device(runs.front().config.device);
  const std::string note =
      device.is_gpu() ? "" : dtype_note(runs.front().config.dtype, model::best_compute());
  if (!note.empty()) core::tell(log, core::Level::kWarning, note);
  if (const auto& dropouts = base->spec.dropouts; !dropouts.empty()) {
    core::tell(log, core::Level::kInfo,
               fmt::format("dropout inside the base ({} of its config.json) is not applied; for "
                           "the adapter's inputs set adapter.lora_dropout",
                           fmt::join(dropouts, ", ")));
  }
  data::TokenCache cache = open_cache(runs.front().config.token_cache);
  std::vector<Prepared> all;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    auto& run = runs[i];
    core::leave_if_stopped("reading the data");
    const std::string name = run.name;
    const core::Log named = [&](core::Level level, std::string_view line) {
      core::tell(log, level, name.empty() ? std::string(line) : fmt::format("{}: {}", name, line));
    };
    all.push_back(read_run(std::move(run), base, device, cache, std::move(resumed[i]), named));
  }
  give_back_heap();  // what is in use now counts in the plans
  std::uint64_t adapters = 0;
  for (const Prepared& one : all) {
    adapters += adapter_memory(demand_of(one, targets_of(one.initial)));
  }
  for (Prepared& one : all) {
    core::leave_if_stopped("planning the run");
    const std::vector<lora::Target> targets = targets_of(one.initial);
    MemoryDemand demand = demand_of(one, targets);
    demand.ranks = share.ranks;
    demand.ranks_here = share.ranks_here;
    demand.other_adapters = adapters - adapter_memory(demand);
    one.plan = plan_memory(one.config, demand);
    if (one.data.train.empty()) continue;
    one.stream.emplace(one.data.train, one.updates());
    one.total_updates = one.stream->total();
    one.first_epoch = one.stream->first_epoch();
  }
  return all;
}

std::string describe_plan(const Prepared& prepared) {
  const TrainConfig& config = prepared.config;
  std::set<std::string> storage;
  std::uint64_t base_parameters = 0;
  for (const checkpoint::TensorInfo& tensor : prepared.base->checkpoint.tensors()) {
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
  const std::string savings = describe_savings(prepared.plan, config, prepared.base->spec.depth());
  std::string text = fmt::format(
      "base        {} ({}, {} parameters as {}, computed in {}{}{})\n"
      "adapter     rank {}, {} layers, {} parameters\n"
      "updates     {}, {}{}\n"
      "memory      about {} ({}); {} available{}{}\n",
      config.base_model.string(), prepared.base->spec.architecture,
      core::human_count(base_parameters), fmt::join(storage, ", "),
      prepared.compute == model::Compute::kBF16 ? "bfloat16" : "float32",
      prepared.device.is_gpu() ? " on " + prepared.device.description : "",
      config.base_quantization == model::BaseFormat::kDense
          ? ""
          : fmt::format(", layers kept as {}", model::name_of(config.base_quantization)),
      config.adapter.r, prepared.initial.factors.size(),
      core::human_count(static_cast<std::uint64_t>(parameters_of(prepared.initial))),
      prepared.total_updates,
      config.examples_per_update
          ? fmt::format("of {} examples each", *config.examples_per_update)
          : fmt::format("of at most {} tokens each", config.tokens_per_update),
      shared, core::human_bytes(need), parts, core::human_bytes(prepared.plan.room.now),
      prepared.plan.room.sharers > 1
          ? fmt::format(" for each of the {} ranks on this machine", prepared.plan.room.sharers)
          : "",
      savings.empty() ? "" : "\n            " + savings);
  if (!prepared.name.empty()) text = fmt::format("{}\n{}", prepared.name, text);
  text += "\ntraining data\n" + data::to_text(prepared.data.preflight);
  if (const auto& held = prepared.data.held_out) {
    text += fmt::format(
        "held out    {} of these examples ({} tokens) by validation_share {}; {} are learned\n",
        held->examples, held->tokens, schema::to_string(*config.validation_share),
        prepared.data.train.size());
  }
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
}

void require_memory(const Prepared& prepared) {
  require_memory(prepared.plan.parts, prepared.plan.room);
}

}  // namespace weft::train
