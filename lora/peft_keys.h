#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/safetensors.h"
#include "lora/adapter.h"

// The keys of an adapter's file, sorted by what they hold (PEFT 0.21.2,
// utils/save_and_load.py get_peft_model_state_dict and tuners/lora/layer.py).

namespace weft::lora {

/// Begins every key of PEFT's files.
inline constexpr std::string_view kPeftPrefix = "base_model.model.";

/// The tensors of one adapted module; null where there is none.
struct ModuleKeys {
  TargetKind kind = TargetKind::kLinear;
  const checkpoint::SafetensorsEntry* a = nullptr;
  const checkpoint::SafetensorsEntry* b = nullptr;
  const checkpoint::SafetensorsEntry* magnitude = nullptr;  ///< DoRA's row norms.
  const checkpoint::SafetensorsEntry* bias = nullptr;       ///< Of B.
};

/// A tensor that is saved whole and takes the place of the base's.
struct SavedTensor {
  std::string key;
  std::string tensor;  ///< Of the base, "model.embed_tokens.weight".
  std::vector<std::int64_t> shape;
};

/// Rows of an embedding that are saved and take the place of the base's.
struct TrainedRows {
  std::string key;
  std::string tensor;
  std::vector<std::int64_t> rows;  ///< Row rows[i] of the tensor is row i of the key.
  std::int64_t columns = 0;
};

struct AdapterKeys {
  std::map<std::string, ModuleKeys> modules;  ///< By path.
  std::vector<SavedTensor> saved;
  std::vector<TrainedRows> rows;
  /// Copies that PEFT adds when the vocabulary was resized ("embed_tokens.modules_to_save.weight"
  /// beside "embed_tokens.weight", and "embed_tokens.original_module.weight"), with the key that is
  /// read instead.
  std::map<std::string, std::string> copies;
  /// What a method of parse_config()'s training_methods keeps for its training.
  std::vector<std::string> training;
};

/// Sorts the keys. InputError naming the key for one that the configuration does not announce or
/// that has a form weft does not know, for types that are no numbers, and for shapes that cannot
/// be. What `AdapterKeys` holds points into `weights`. `training_methods`: parse_config()'s.
[[nodiscard]] AdapterKeys sort_keys(const checkpoint::Safetensors& weights,
                                    const AdapterConfig& config,
                                    std::span<const std::string> training_methods,
                                    std::string_view where);

}  // namespace weft::lora
