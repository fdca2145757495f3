#include "lora/peft_keys.h"

#include <algorithm>
#include <array>
#include <set>

#include "checkpoint/printable.h"
#include "core/error.h"
#include "core/number.h"
#include "lora/targets.h"

namespace weft::lora {
namespace {

using checkpoint::printable;
using checkpoint::SafetensorsEntry;
using checkpoint::shape_text;

constexpr std::string_view kTokens = ".token_adapter.trainable_tokens_delta";
/// Parts of a path that PEFT's wrappers add.
constexpr std::array<std::string_view, 2> kWrappers{".base_layer", ".token_adapter"};
constexpr std::array<std::string_view, 2> kCopies{".modules_to_save", ".original_module"};

/// What the end of a key says, and where its tensor belongs.
struct Ending {
  std::string_view text;
  TargetKind kind;
  const SafetensorsEntry* ModuleKeys::*member;
};
constexpr std::array<Ending, 7> kEndings{{
    {".lora_A.weight", TargetKind::kLinear, &ModuleKeys::a},
    {".lora_B.weight", TargetKind::kLinear, &ModuleKeys::b},
    {".lora_B.bias", TargetKind::kLinear, &ModuleKeys::bias},
    {".lora_embedding_A", TargetKind::kEmbedding, &ModuleKeys::a},
    {".lora_embedding_B", TargetKind::kEmbedding, &ModuleKeys::b},
    {".lora_magnitude_vector", TargetKind::kLinear, &ModuleKeys::magnitude},
    {".lora_magnitude_vector.weight", TargetKind::kLinear, &ModuleKeys::magnitude},
}};

/// What training methods keep beside the factors, with the key of the configuration that says so.
struct TrainingPart {
  std::string_view part;
  std::string_view method;
};
constexpr std::array<TrainingPart, 2> kTrainingParts{{
    {".lora_velora_embed", "velora_config"},
    {".lora_monteclora_sampler.", "monteclora_config"},
}};

bool has(std::string_view key, std::string_view part) {
  return key.find(part) != std::string_view::npos;
}

/// What a tensor is that has no place, with what to do about it.
std::string_view foreign(std::string_view key) {
  if (has(key, ".lora_A.") || has(key, ".lora_B.") || has(key, ".lora_embedding_")) {
    return "a key with an adapter name inside; save the adapter with PEFT's save_pretrained";
  }
  if (has(key, ".lora_a") || has(key, ".lora_b")) {
    return "a key of mlx-lm; convert the adapter to PEFT first";
  }
  if (has(key, ".modules_to_save.") || has(key, ".original_module.")) {
    return "a key of a model that was not saved with PEFT's save_pretrained; save it with that";
  }
  return "neither a factor of an adapted layer nor of a module that modules_to_save, bias or "
         "trainable_token_indices of adapter_config.json announce";
}

void require_shape(const SafetensorsEntry& entry, std::size_t dimensions, std::string_view where) {
  const bool positive = std::ranges::all_of(entry.shape, [](auto size) { return size > 0; });
  if (entry.shape.size() == dimensions && positive) return;
  throw InputError("{}: {} must be a {}, found shape {}", where, printable(entry.name),
                   dimensions == 1 ? "vector" : "matrix", shape_text(entry.shape));
}

/// "model.layers.0.mlp.up_proj.base_layer.bias" -> "model.layers.0.mlp.up_proj.bias".
std::string without(std::span<const std::string_view> parts, std::string_view path) {
  std::string result(path);
  for (const std::string_view part : parts) {
    for (std::size_t at = result.find(part); at != std::string::npos; at = result.find(part)) {
      result.erase(at, part.size());
    }
  }
  return result;
}

/// True for a copy of a tensor that the file holds under its own name too.
bool add_copy(AdapterKeys& keys, const checkpoint::Safetensors& weights,
              const SafetensorsEntry& entry) {
  const std::string original = without(kCopies, entry.name);
  if (original == entry.name || weights.find(original) == nullptr) return false;
  keys.copies.emplace(entry.name, original);
  return true;
}

/// True for a tensor of a training method that the configuration names.
bool is_of_training(std::string_view key, std::span<const std::string> methods) {
  return std::ranges::any_of(kTrainingParts, [&](const TrainingPart& part) {
    return has(key, part.part) && std::ranges::count(methods, part.method) > 0;
  });
}

/// True when the tensor lies in a module that modules_to_save names. As in PEFT, an entry names
/// every module whose path ends in its letters: "norm" means "post_attention_layernorm" too.
bool is_announced_module(std::string_view tensor, const AdapterExtras& extras) {
  for (std::size_t dot = tensor.find('.'); dot != std::string_view::npos;
       dot = tensor.find('.', dot + 1)) {
    for (const std::string& entry : extras.modules_to_save) {
      if (tensor.substr(0, dot).ends_with(entry)) return true;
    }
  }
  return false;
}

/// Whole tensors: modules_to_save, trained biases, and embeddings, which PEFT saves when they are
/// adapted or were resized.
bool may_be_saved(std::string_view tensor, const AdapterExtras& extras) {
  const std::size_t dot = tensor.rfind('.');
  if (dot == std::string_view::npos || has(tensor, ".lora_")) return false;
  if (is_announced_module(tensor, extras)) return true;
  const bool head = is_embedding_or_head(tensor.substr(0, dot));
  if (tensor.substr(dot) == ".bias") return head || extras.bias != "none";
  return tensor.substr(dot) == ".weight" && head;
}

/// The rows that the configuration gives a module; throws when it names none.
const std::vector<std::int64_t>& rows_of(std::string_view path, const SafetensorsEntry& entry,
                                         const AdapterExtras& extras, std::string_view where) {
  for (const auto& [name, rows] : extras.trainable_token_indices) {
    if (name.empty() || ends_in_name(path, name)) return rows;
  }
  throw InputError(
      "{}: {} holds trained token rows, but trainable_token_indices of adapter_config.json does "
      "not say which",
      where, printable(entry.name));
}

TrainedRows trained_rows(const std::string& path, const SafetensorsEntry& entry,
                         const AdapterExtras& extras, std::string_view where) {
  require_shape(entry, 2, where);
  const std::vector<std::int64_t>& rows = rows_of(path, entry, extras, where);
  if (static_cast<std::int64_t>(rows.size()) != entry.shape[0]) {
    throw InputError("{}: {} has {} rows, trainable_token_indices names {}", where,
                     printable(entry.name), entry.shape[0], rows.size());
  }
  if (std::set(rows.begin(), rows.end()).size() != rows.size()) {
    throw InputError("{}: trainable_token_indices names a row of '{}' twice", where, path);
  }
  return {entry.name, path + ".weight", rows, entry.shape[1]};
}

/// Places one key; false when it is no part of an adapted module.
bool add_module_key(AdapterKeys& keys, std::string_view rest, const SafetensorsEntry& entry,
                    std::string_view where) {
  for (const Ending& ending : kEndings) {
    if (!rest.ends_with(ending.text) || rest.size() == ending.text.size()) continue;
    const bool vector =
        ending.member == &ModuleKeys::bias || ending.member == &ModuleKeys::magnitude;
    require_shape(entry, vector ? 1 : 2, where);
    ModuleKeys& module =
        keys.modules[std::string(rest.substr(0, rest.size() - ending.text.size()))];
    if (ending.kind == TargetKind::kEmbedding) module.kind = TargetKind::kEmbedding;
    const SafetensorsEntry*& place = module.*ending.member;
    if (place != nullptr) {
      throw InputError("{}: {} and {} are the same tensor of the adapter", where,
                       printable(place->name), printable(entry.name));
    }
    place = &entry;
    return true;
  }
  return false;
}

}  // namespace

AdapterKeys sort_keys(const checkpoint::Safetensors& weights, const AdapterConfig& config,
                      std::span<const std::string> training_methods, std::string_view where) {
  AdapterKeys keys;
  for (const SafetensorsEntry& entry : weights.entries()) {
    const std::string_view key = entry.name;
    if (!key.starts_with(kPeftPrefix) || key.size() == kPeftPrefix.size()) {
      const bool known = std::ranges::any_of(
          kEndings, [&](const Ending& ending) { return key.ends_with(ending.text); });
      if (!known) throw InputError("{}: {} is {}", where, printable(key), foreign(key));
      throw InputError("{}: {} does not begin with '{}' and a module's path, as PEFT's keys do",
                       where, printable(key), kPeftPrefix);
    }
    if (!core::parse_dtype(entry.dtype)) {
      throw InputError("{}: {} is stored as {}; factors are read from F32, F16 and BF16", where,
                       printable(key), entry.dtype);
    }
    const std::string_view rest = key.substr(kPeftPrefix.size());
    if (add_copy(keys, weights, entry)) continue;
    if (is_of_training(key, training_methods)) {
      keys.training.push_back(entry.name);
      continue;
    }
    if (add_module_key(keys, rest, entry, where)) continue;
    if (rest.ends_with(kTokens) && rest.size() > kTokens.size()) {
      const std::string path(rest.substr(0, rest.size() - kTokens.size()));
      keys.rows.push_back(trained_rows(path, entry, config.extras, where));
      continue;
    }
    const std::string tensor = without(kWrappers, rest);
    if (!may_be_saved(tensor, config.extras)) {
      throw InputError("{}: {} is {}", where, printable(key), foreign(key));
    }
    keys.saved.push_back({entry.name, tensor, entry.shape});
  }
  if (keys.modules.empty() && keys.saved.empty() && keys.rows.empty()) {
    throw InputError("{}: holds no tensors, so there is no adapter", where);
  }
  return keys;
}

}  // namespace weft::lora
