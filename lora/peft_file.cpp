#include "lora/peft_file.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

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

constexpr std::string_view kPrefix = "base_model.model.";
constexpr std::string_view kSuffixA = ".lora_A.weight";
constexpr std::string_view kSuffixB = ".lora_B.weight";
constexpr std::uint64_t kMaxConfigBytes = std::uint64_t{16} << 20;

/// The pair of one module, as found in the file.
struct Pair {
  const checkpoint::SafetensorsEntry* a = nullptr;
  const checkpoint::SafetensorsEntry* b = nullptr;
};

std::string shape_text(const checkpoint::SafetensorsEntry& entry) {
  return fmt::format("[{}]", fmt::join(entry.shape, ", "));
}

/// What a tensor is that is neither lora_A nor lora_B, with what to do about it.
std::string_view foreign(std::string_view key) {
  const auto has = [&](std::string_view part) { return key.find(part) != std::string_view::npos; };
  if (has(".lora_embedding_")) return "an adapter on an embedding, which is not supported";
  if (has(".lora_magnitude_vector")) return "a DoRA magnitude, which is not supported";
  if (has(".lora_B.bias")) return "a bias on lora_B, which is not supported";
  if (has(".trainable_tokens_")) return "trained token rows, which are not supported";
  if (has(".base_layer.")) {
    return "a weight or bias of the base (of an adapted embedding, or trained), which is not "
           "supported";
  }
  if (has(".lora_A.") || has(".lora_B.")) {
    return "a key with an adapter name inside; save the adapter with PEFT's save_pretrained";
  }
  if (has(".lora_a") || has(".lora_b")) return "a key of mlx-lm; convert the adapter to PEFT first";
  return "neither a lora_A nor a lora_B weight (a fully trained module?), which is not supported";
}

/// Module path of a key "base_model.model.<path><suffix>".
std::string path_of(const checkpoint::SafetensorsEntry& entry, std::string_view suffix) {
  const std::string_view key = entry.name;
  return std::string(key.substr(kPrefix.size(), key.size() - kPrefix.size() - suffix.size()));
}

std::map<std::string, Pair> collect_pairs(const checkpoint::Safetensors& weights,
                                          const std::string& where) {
  std::map<std::string, Pair> pairs;
  for (const checkpoint::SafetensorsEntry& entry : weights.entries()) {
    const std::string_view key = entry.name;
    const bool is_a = key.ends_with(kSuffixA);
    const bool is_b = key.ends_with(kSuffixB);
    if (!is_a && !is_b)
      throw InputError("{}: {} is {}", where, checkpoint::printable(key), foreign(key));
    const std::string_view suffix = is_a ? kSuffixA : kSuffixB;
    if (!key.starts_with(kPrefix) || key.size() <= kPrefix.size() + suffix.size()) {
      throw InputError("{}: {} does not begin with '{}' and a module's path, as PEFT's keys do",
                       where, checkpoint::printable(key), kPrefix);
    }
    if (key.find(".base_layer.") != std::string_view::npos) {
      throw InputError("{}: {} is {}", where, checkpoint::printable(key), foreign(key));
    }
    if (!core::parse_dtype(entry.dtype)) {
      throw InputError("{}: {} is stored as {}; factors are read from F32, F16 and BF16", where,
                       checkpoint::printable(key), entry.dtype);
    }
    if (entry.shape.size() != 2 || entry.shape[0] < 1 || entry.shape[1] < 1) {
      throw InputError("{}: {} must be a matrix, found shape {}", where, checkpoint::printable(key),
                       shape_text(entry));
    }
    Pair& pair = pairs[path_of(entry, suffix)];
    (is_a ? pair.a : pair.b) = &entry;
  }
  if (pairs.empty()) throw InputError("{}: holds no tensors, so there is no adapter", where);
  return pairs;
}

Target checked_target(const TargetRule& rule, const std::string& path, const Pair& pair,
                      const std::string& where) {
  if (pair.a == nullptr || pair.b == nullptr) {
    const auto& half = pair.a != nullptr ? *pair.a : *pair.b;
    throw InputError("{}: {} has no partner {}", where, checkpoint::printable(half.name),
                     checkpoint::printable(pair.a == nullptr ? key_of_a(path) : key_of_b(path)));
  }
  if (!rule.selects(path)) {
    throw InputError(
        "{}: {} is a tensor of a module that target_modules, exclude_modules and "
        "layers_to_transform of adapter_config.json do not choose",
        where, checkpoint::printable(pair.a->name));
  }
  Target target = rule.target({path, pair.a->shape[1], pair.b->shape[0]});
  for (const auto* entry : {pair.a, pair.b}) {
    if (entry->shape[entry == pair.a ? 0 : 1] == target.rank) continue;
    throw InputError("{}: {} has shape {}; adapter_config.json gives this module rank {}", where,
                     checkpoint::printable(entry->name), shape_text(*entry), target.rank);
  }
  return target;
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
  return fmt::format("{}{}{}", kPrefix, path, kSuffixA);
}
std::string key_of_b(std::string_view path) {
  return fmt::format("{}{}{}", kPrefix, path, kSuffixB);
}

PeftFile::PeftFile(std::filesystem::path directory, AdapterConfig config,
                   checkpoint::Safetensors weights)
    : directory_(std::move(directory)), config_(std::move(config)), weights_(std::move(weights)) {}

PeftFile PeftFile::open(const std::filesystem::path& directory, const core::Log& log) {
  const std::filesystem::path config_file = directory / kConfigFile;
  if (!std::filesystem::exists(config_file)) explain_missing_config(directory);
  AdapterConfig config =
      parse_config(core::read_text(config_file, kMaxConfigBytes), config_file.string());
  require_weights(directory);
  PeftFile file(directory, std::move(config),
                checkpoint::Safetensors::open(directory / kWeightsFile));
  file.pair_up(log);
  file.provenance_ = read_provenance(directory);
  return file;
}

void PeftFile::pair_up(const core::Log& log) {
  const std::string where = weights_.path().string();
  const auto pairs = collect_pairs(weights_, where);
  try {
    const TargetRule rule(config_);
    for (const auto& [path, pair] : pairs) {
      targets_.push_back(checked_target(rule, path, pair, where));
    }
    for (const std::string& idle : rule.idle_patterns(targets_)) {
      core::tell(log, core::Level::kWarning,
                 fmt::format("{}: {} matches no module of the adapter", directory_.string(), idle));
    }
  } catch (const ConfigError& error) {
    throw InputError("{}: {}", (directory_ / kConfigFile).string(), error.what());
  }
}

std::string PeftFile::storage() const {
  std::set<std::string> dtypes;
  for (const auto& entry : weights_.entries()) dtypes.insert(entry.dtype);
  return fmt::format("{}", fmt::join(dtypes, "+"));
}

std::vector<float> PeftFile::numbers(const std::string& key) const {
  const checkpoint::SafetensorsEntry& entry = *weights_.find(key);
  const std::span<const std::byte> bytes = weights_.bytes(entry);
  const core::DType dtype = *core::parse_dtype(entry.dtype);
  const auto width = static_cast<std::size_t>(core::size_of(dtype));
  std::vector<float> result(bytes.size() / width);
  for (std::size_t i = 0; i < result.size(); ++i) {
    std::uint16_t half = 0;
    if (dtype == core::DType::kF32) {
      std::memcpy(&result[i], bytes.data() + i * width, width);
    } else {
      std::memcpy(&half, bytes.data() + i * width, width);
      result[i] = dtype == core::DType::kF16 ? core::f16_to_float(half) : core::bf16_to_float(half);
    }
    if (!std::isfinite(result[i])) {
      throw InputError(
          "{}: '{}' holds {} at element {}; the training diverged or the file is damaged",
          weights_.path().string(), key, result[i], i);
    }
  }
  weights_.release(entry);
  return result;
}

Factors PeftFile::load(std::size_t index) const {
  const Target& target = targets_.at(index);
  return {target, numbers(key_of_a(target.module.path)), numbers(key_of_b(target.module.path))};
}

std::string PeftFile::digest() const {
  core::Sha256 sha;
  const core::MappedFile config(directory_ / kConfigFile);
  sha.update(config.bytes());
  const core::MappedFile weights(directory_ / kWeightsFile);
  sha.update(weights.bytes());
  return sha.finish();
}

}  // namespace weft::lora
