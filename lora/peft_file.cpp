#include "lora/peft_file.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <set>
#include <utility>

#include "checkpoint/checkpoint.h"
#include "checkpoint/dequantize.h"
#include "checkpoint/printable.h"
#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/number.h"
#include "lora/config.h"
#include "lora/provenance.h"
#include "lora/targets.h"

namespace weft::lora {
namespace {

using checkpoint::shape_text;

constexpr std::string_view kBaseLayer = ".base_layer";
constexpr std::uint64_t kMaxConfigBytes = std::uint64_t{16} << 20;

/// The parameters of a module that target_parameters names, in the order in which PEFT wraps them:
/// that of the module, where what leads back to the width of the model comes last.
std::vector<std::string> wrapped_parameters(const std::string& module,
                                            const AdapterExtras& extras) {
  std::vector<std::string> names;
  for (const std::string& entry : extras.target_parameters) {
    const std::size_t dot = entry.rfind('.');
    if (dot == std::string::npos || !ends_in_name(module, entry.substr(0, dot))) continue;
    const std::string name = entry.substr(dot + 1);
    if (std::ranges::find(names, name) == names.end()) names.push_back(name);
  }
  std::ranges::stable_partition(
      names, [](const std::string& name) { return name.find("down") == std::string::npos; });
  return names;
}

/// The parameter behind a key such as "mlp.experts.base_layer": each wrapper but the last one made
/// is the base_layer of the next. Empty: the path is no such module.
std::string parameter_path(const std::string& path, const AdapterExtras& extras) {
  std::string module = path;
  std::size_t depth = 0;
  for (; module.ends_with(kBaseLayer); ++depth) {
    module.resize(module.size() - kBaseLayer.size());
  }
  const std::vector<std::string> names = wrapped_parameters(module, extras);
  if (names.size() <= depth) return {};
  return module + "." + names[names.size() - 1 - depth];
}

/// A target whose factors have the shapes that rank and kind ask for.
Target checked_target(const TargetRule& rule, const AdapterConfig& config, const std::string& path,
                      const ModuleKeys& keys, const std::string& where) {
  if (keys.a == nullptr || keys.b == nullptr) {
    const auto* const half = keys.a != nullptr      ? keys.a
                             : keys.b != nullptr    ? keys.b
                             : keys.bias != nullptr ? keys.bias
                                                    : keys.magnitude;
    const bool embedding = keys.kind == TargetKind::kEmbedding;
    const std::string missing =
        fmt::format("{}{}.lora{}_{}{}", kPeftPrefix, path, embedding ? "_embedding" : "",
                    keys.a == nullptr ? "A" : "B", embedding ? "" : ".weight");
    throw InputError("{}: {} has no partner {}", where, checkpoint::printable(half->name),
                     checkpoint::printable(missing));
  }
  const std::string parameter = parameter_path(path, config.extras);
  const bool tied_head = config.extras.ensure_weight_tying && is_embedding_or_head(path);
  if (parameter.empty() && !tied_head && !rule.selects(path)) {
    throw InputError(
        "{}: {} is a tensor of a module that target_modules, exclude_modules and "
        "layers_to_transform of adapter_config.json do not choose",
        where, checkpoint::printable(keys.a->name));
  }
  Target target =
      rule.target({parameter.empty() ? path : parameter, keys.a->shape[1], keys.b->shape[0]});
  target.kind = parameter.empty() ? keys.kind : TargetKind::kExperts;
  if (!parameter.empty())
    target.experts = std::max<std::int64_t>(1, keys.a->shape[0] / target.rank);
  for (const auto* entry : {keys.a, keys.b}) {
    if (entry->shape[entry == keys.a ? 0 : 1] == target.rank * target.experts) continue;
    throw InputError("{}: {} has shape {}; adapter_config.json gives this module rank {}", where,
                     checkpoint::printable(entry->name), shape_text(entry->shape), target.rank);
  }
  return target;
}

/// DoRA's magnitudes and the bias of B are there exactly when the configuration says so.
void check_vectors(const Target& target, const ModuleKeys& keys, const AdapterExtras& extras,
                   const std::string& where) {
  const auto check = [&](const checkpoint::SafetensorsEntry* entry, bool wanted, const char* what,
                         const char* key) {
    if ((entry != nullptr) != wanted) {
      throw InputError("{}: '{}' has {} {}, but adapter_config.json says {} = {}", where,
                       target.module.path, entry != nullptr ? "a" : "no", what, key, wanted);
    }
    if (entry == nullptr || entry->shape[0] == target.module.out) return;
    throw InputError("{}: {} has shape {}, the layer has {} outputs", where,
                     checkpoint::printable(entry->name), shape_text(entry->shape),
                     target.module.out);
  };
  check(keys.magnitude, extras.use_dora, "DoRA magnitude", "use_dora");
  check(keys.bias, extras.lora_bias, "bias of lora_B", "lora_bias");
}

/// Without branches, since whole adapters are looked through.
bool all_finite(std::span<const float> values) {
  std::uint32_t odd = 0;
  for (const float value : values) {
    const std::uint32_t exponent = std::bit_cast<std::uint32_t>(value) & 0x7f800000U;
    odd |= exponent == 0x7f800000U ? 1U : 0U;
  }
  return odd == 0;
}

[[noreturn]] void explain_missing_config(const std::filesystem::path& directory) {
  const std::string where = directory.string();
  if (!std::filesystem::exists(directory)) throw InputError("adapter '{}' does not exist", where);
  if (!std::filesystem::is_directory(directory)) {
    throw InputError("adapter '{}' is a file; give the PEFT folder that holds {}", where,
                     kConfigFile);
  }
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(directory, ignored)) {
    if (std::filesystem::exists(entry.path() / kConfigFile, ignored)) {
      throw InputError("adapter '{}' has no {}; did you mean '{}'?", where, kConfigFile,
                       entry.path().string());
    }
  }
  throw InputError("adapter '{}' has no {}; is it a PEFT folder?", where, kConfigFile);
}

void require_weights(const std::filesystem::path& directory) {
  if (std::filesystem::exists(directory / kWeightsFile)) return;
  if (std::filesystem::exists(directory / "adapter_model.bin")) {
    throw InputError(
        "adapter '{}' holds adapter_model.bin, a pickle, which may run code when read: "
        "load it with PEFT where you trust it and save it again (save_pretrained writes {})",
        directory.string(), kWeightsFile);
  }
  throw InputError("adapter '{}' has no {}", directory.string(), kWeightsFile);
}

}  // namespace

std::string key_of_a(std::string_view path) {
  return fmt::format("{}{}.lora_A.weight", kPeftPrefix, path);
}
std::string key_of_b(std::string_view path) {
  return fmt::format("{}{}.lora_B.weight", kPeftPrefix, path);
}

std::string key_path(const Target& target, const AdapterExtras& extras) {
  const std::string& path = target.module.path;
  if (target.kind != TargetKind::kExperts) return path;
  const std::size_t dot = path.rfind('.');
  std::string wrapper = path.substr(0, dot);
  const std::vector<std::string> names = wrapped_parameters(wrapper, extras);
  const auto at = std::ranges::find(names, path.substr(dot + 1));
  if (at == names.end())
    throw std::logic_error(fmt::format("target_parameters does not name '{}'", path));
  for (auto outer = std::next(at); outer != names.end(); ++outer) wrapper += kBaseLayer;
  return wrapper;
}

std::string weight_name(const Target& target) {
  return target.kind == TargetKind::kExperts ? target.module.path : target.module.path + ".weight";
}
std::string bias_name(const Target& target) { return target.module.path + ".bias"; }

PeftFile::PeftFile(std::filesystem::path directory, AdapterConfig config,
                   checkpoint::Safetensors weights)
    : directory_(std::move(directory)), config_(std::move(config)), weights_(std::move(weights)) {}

PeftFile PeftFile::open(const std::filesystem::path& directory, const core::Log& log) {
  const std::filesystem::path config_file = directory / kConfigFile;
  if (!std::filesystem::exists(config_file)) explain_missing_config(directory);
  std::vector<std::string> training_methods;
  AdapterConfig config = parse_config(core::read_text(config_file, kMaxConfigBytes),
                                      config_file.string(), &training_methods);
  require_weights(directory);
  PeftFile file(directory, std::move(config),
                checkpoint::Safetensors::open(directory / kWeightsFile));
  file.pair_up(training_methods, log);
  file.provenance_ = read_provenance(directory);
  return file;
}

void PeftFile::require_same(const std::string& copy, const std::string& original) const {
  const auto* const a = weights_.find(copy);
  const auto* const b = weights_.find(original);
  if (a->dtype == b->dtype && a->shape == b->shape &&
      std::ranges::equal(weights_.bytes(*a), weights_.bytes(*b))) {
    return;
  }
  throw InputError("{}: {} and {} differ; one of them must go", weights_.path().string(),
                   checkpoint::printable(copy), checkpoint::printable(original));
}

void PeftFile::pair_up(const std::vector<std::string>& training_methods, const core::Log& log) {
  const std::string where = weights_.path().string();
  AdapterKeys keys = sort_keys(weights_, config_, training_methods, where);
  saved_ = std::move(keys.saved);
  rows_ = std::move(keys.rows);
  for (const auto& [copy, original] : keys.copies) {
    // modules_to_save is what is meant; original_module is what there was before training.
    if (copy.find(".modules_to_save.") != std::string::npos) require_same(copy, original);
    copies_.push_back({copy, fmt::format("(a copy; {} is used)", original)});
  }
  for (const std::string& key : keys.training) {
    copies_.push_back({key, "(of training alone; it changes no weight)"});
  }
  if (!training_methods.empty()) {
    core::tell(
        log, core::Level::kInfo,
        fmt::format("{}: {} says how the factors were trained and {} tensors belong to that "
                    "alone; they change no weight and are left out",
                    directory_.string(), fmt::join(training_methods, ", "), keys.training.size()));
  }
  if (!saved_.empty()) {
    tensors_ = std::make_shared<const checkpoint::Checkpoint>(
        checkpoint::Checkpoint::open_weights(weights_.path()));
  }
  try {
    const TargetRule rule(config_);
    for (const auto& [path, module] : keys.modules) {
      targets_.push_back(checked_target(rule, config_, path, module, where));
      check_vectors(targets_.back(), module, config_.extras, where);
      names_.push_back({module.a->name, module.b->name,
                        module.magnitude == nullptr ? "" : module.magnitude->name,
                        module.bias == nullptr ? "" : module.bias->name});
    }
    for (const std::string& idle : rule.idle_patterns(targets_)) {
      core::tell(log, core::Level::kWarning,
                 fmt::format("{}: {} matches no module of the adapter", directory_.string(), idle));
    }
  } catch (const ConfigError& error) {
    throw InputError("{}: {}", (directory_ / kConfigFile).string(), error.what());
  }
}

std::vector<std::string> PeftFile::features(Stacks stacks) const {
  std::vector<std::string> list;
  const auto add = [&](bool present, const char* name) {
    if (present) list.emplace_back(name);
  };
  const auto any = [&](TargetKind kind) {
    return std::ranges::any_of(targets_, [&](const Target& t) { return t.kind == kind; });
  };
  add(config_.extras.use_dora, "DoRA (use_dora)");
  add(config_.extras.lora_bias, "a bias on lora_B (lora_bias)");
  add(any(TargetKind::kEmbedding), "an adapter on an embedding");
  add(stacks == Stacks::kRefused && any(TargetKind::kExperts),
      "adapters on bare parameters (target_parameters)");
  add(!rows_.empty(), "trained rows of the embedding (trainable_token_indices)");
  add(!saved_.empty(), "tensors saved whole (modules_to_save, bias, resized embeddings)");
  return list;
}

void PeftFile::require_plain(std::string_view who, Stacks stacks) const {
  const std::vector<std::string> found = features(stacks);
  if (found.empty()) return;
  throw InputError(
      "adapter '{}' has {}, which {} does not support; fold it into the model first (weft merge)",
      directory_.string(), fmt::join(found, ", "), who);
}

std::string PeftFile::storage() const {
  std::set<std::string> dtypes;
  for (const auto& entry : weights_.entries()) dtypes.insert(entry.dtype);
  return fmt::format("{}", fmt::join(dtypes, "+"));
}

std::vector<float> PeftFile::numbers(const std::string& key) const {
  const checkpoint::SafetensorsEntry& entry = *weights_.find(key);
  const std::span<const std::byte> bytes = weights_.bytes(entry);
  const auto width = static_cast<std::size_t>(core::size_of(*core::parse_dtype(entry.dtype)));
  std::vector<float> result(bytes.size() / width);
  checkpoint::dequantize(checkpoint::storage_of(entry.dtype), bytes, result);
  if (!all_finite(result)) {
    const auto found =
        std::ranges::find_if(result, [](float value) { return !std::isfinite(value); });
    throw InputError(
        "{}: '{}' holds {} at element {}; the training diverged or the file is damaged",
        weights_.path().string(), key, *found, found - result.begin());
  }
  weights_.release(entry);
  return result;
}

Factors PeftFile::load(std::size_t index) const {
  return {targets_.at(index), numbers(names_[index].a), numbers(names_[index].b)};
}

Factors PeftFile::load_expert(std::size_t index, std::int64_t expert, std::int64_t first,
                              std::int64_t rows) const {
  Factors own;
  own.target = targets_.at(index);
  const std::int64_t experts = std::exchange(own.target.experts, 1);
  own.target.kind = TargetKind::kLinear;
  own.target.module.out = rows;
  const std::int64_t rank = own.target.rank;
  const std::int64_t in = own.target.module.in;
  const auto read = [&](const std::string& key, std::int64_t count, const auto& place_of) {
    const checkpoint::SafetensorsEntry& entry = *weights_.find(key);
    const std::span<const std::byte> bytes = weights_.bytes(entry);
    const auto storage = checkpoint::storage_of(entry.dtype);
    const auto width = static_cast<std::size_t>(core::size_of(*core::parse_dtype(entry.dtype)));
    std::vector<float> values(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) {
      const auto at = static_cast<std::size_t>(place_of(i)) * width;
      checkpoint::dequantize(storage, bytes.subspan(at, width),
                             std::span(values).subspan(static_cast<std::size_t>(i), 1));
    }
    if (!all_finite(values)) {
      throw InputError(
          "{}: '{}' holds numbers that are not finite; the training diverged or the file is "
          "damaged",
          weights_.path().string(), key);
    }
    return values;
  };
  // A holds the experts one after the other, B has them fastest (TargetKind::kExperts).
  own.a = read(names_[index].a, rank * in, [&](std::int64_t i) { return expert * rank * in + i; });
  own.b = read(names_[index].b, rows * rank, [&](std::int64_t i) {
    return (first + i / rank) * rank * experts + i % rank * experts + expert;
  });
  return own;
}

std::vector<float> PeftFile::magnitude(std::size_t index) const {
  const std::string& key = names_.at(index).magnitude;
  return key.empty() ? std::vector<float>() : numbers(key);
}

std::vector<float> PeftFile::bias(std::size_t index) const {
  const std::string& key = names_.at(index).bias;
  return key.empty() ? std::vector<float>() : numbers(key);
}

std::vector<std::string> PeftFile::pair_keys(std::size_t index) const {
  const Names& names = names_.at(index);
  std::vector<std::string> keys{names.a, names.b};
  if (!names.magnitude.empty()) keys.push_back(names.magnitude);
  return keys;
}

std::vector<KeyUse> PeftFile::keys() const {
  std::vector<KeyUse> uses;
  for (std::size_t i = 0; i < targets_.size(); ++i) {
    const Names& names = names_[i];
    const std::string tensor = weight_name(targets_[i]);
    for (const std::string& key : {names.a, names.b, names.magnitude}) {
      if (!key.empty()) uses.push_back({key, tensor});
    }
    if (!names.bias.empty()) uses.push_back({names.bias, bias_name(targets_[i])});
  }
  for (const SavedTensor& saved : saved_) uses.push_back({saved.key, saved.tensor});
  for (const TrainedRows& rows : rows_) uses.push_back({rows.key, rows.tensor});
  uses.insert(uses.end(), copies_.begin(), copies_.end());
  std::ranges::sort(uses, {}, &KeyUse::key);
  return uses;
}

std::string PeftFile::digest() const {
  core::Sha256 sha;
  const core::MappedFile config(directory_ / kConfigFile);
  sha.update(config.bytes());
  const core::MappedFile weights(directory_ / kWeightsFile);
  // Whole embeddings may be in it: pages are given back as they have been read.
  constexpr std::size_t kPart = std::size_t{4} << 20;
  for (std::size_t at = 0; at < weights.bytes().size(); at += kPart) {
    const auto part = weights.bytes().subspan(at, std::min(kPart, weights.bytes().size() - at));
    sha.update(part);
    weights.release(part);
  }
  return sha.finish();
}

}  // namespace weft::lora
