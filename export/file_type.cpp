#include "export/file_type.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <optional>

#include "checkpoint/dequantize.h"
#include "core/error.h"

namespace weft::exporting {
namespace {

using checkpoint::Storage;

constexpr std::array kTypes{
    FileType{"f32", 0, Storage::kF32},      FileType{"f16", 1, Storage::kF16},
    FileType{"bf16", 32, Storage::kBF16},   FileType{"q8_0", 7, Storage::kQ8_0},
    FileType{"q4_0", 2, Storage::kQ4_0},    FileType{"q4_1", 3, Storage::kQ4_1},
    FileType{"q5_0", 8, Storage::kQ5_0},    FileType{"q5_1", 9, Storage::kQ5_1},
    FileType{"q4_k_s", 14, Storage::kQ4_K}, FileType{"q4_k_m", 15, Storage::kQ4_K},
    FileType{"q5_k_s", 16, Storage::kQ5_K}, FileType{"q5_k_m", 17, Storage::kQ5_K},
    FileType{"q6_k", 18, Storage::kQ6_K}};

constexpr bool is_plain(Storage storage) {
  return storage == Storage::kF32 || storage == Storage::kF16 || storage == Storage::kBF16;
}

/// The number in "blk.7.attn_v.weight"; -1 outside the layers.
std::int64_t layer_of(std::string_view name) {
  constexpr std::string_view kPrefix = "blk.";
  std::int64_t layer = -1;
  if (name.starts_with(kPrefix)) {
    std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), layer);
  }
  return layer;
}

bool whole_blocks(std::int64_t columns, Storage storage) {
  return columns % static_cast<std::int64_t>(checkpoint::block_size(storage).elements) == 0;
}

/// The layers at both ends, and every third between (use_more_bits).
bool gets_more_bits(std::int64_t layer, std::int64_t layers) {
  return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

Storage value_storage(const FileType& type, std::int64_t layer, const ModelShape& model) {
  Storage storage = type.storage;
  const bool medium = type.name == "q4_k_m" || type.name == "q5_k_m";
  if (medium && gets_more_bits(layer, model.layers)) {
    storage = Storage::kQ6_K;
  } else if (type.name == "q4_k_s" && layer < 4) {
    storage = Storage::kQ5_K;
  }
  if (model.shared_heads_of_80_layers && storage == Storage::kQ4_K) storage = Storage::kQ5_K;
  return storage;
}

Storage down_storage(const FileType& type, std::int64_t layer, const ModelShape& model) {
  const bool medium = type.name == "q4_k_m" || type.name == "q5_k_m";
  const bool more = gets_more_bits(layer, model.layers);
  if (model.falcon && type.name == "q4_k_m") {
    return layer < model.layers / 16 ? Storage::kQ6_K : more ? Storage::kQ5_K : Storage::kQ4_K;
  }
  if (medium && more) return Storage::kQ6_K;
  if (layer < model.layers / 8) {
    if (type.name == "q4_k_s" && !model.falcon) return Storage::kQ5_K;
    if (type.name == "q4_0" && model.importance) return Storage::kQ4_1;
    if (type.name == "q5_0" && model.importance) return Storage::kQ5_1;
  }
  return type.storage;
}

/// The head, and the embedding that is also the head.
Storage head_storage(const FileType& type, std::int64_t columns, const ModelShape& model) {
  if (model.falcon || type.storage == Storage::kQ8_0 || !whole_blocks(columns, type.storage)) {
    return Storage::kQ8_0;
  }
  return Storage::kQ6_K;
}

/// Attention is little beside eight experts, and gets more; nothing for other tensors.
std::optional<Storage> beside_eight_experts(const FileType& type, std::string_view name) {
  if (name.find("attn_v.weight") != name.npos || name.find("attn_k.weight") != name.npos) {
    return Storage::kQ8_0;
  }
  const bool four_bits = type.name == "q4_k_s" || type.name == "q4_k_m";
  if (name.find("attn_output.weight") != name.npos && four_bits) return Storage::kQ5_K;
  return std::nullopt;
}

Storage mixed(const FileType& type, std::string_view name, std::int64_t columns,
              const ModelShape& model) {
  if (name == "output.weight" || (model.tied_head && name == "token_embd.weight")) {
    return head_storage(type, columns, model);
  }
  if (model.experts == 8) {
    if (const auto storage = beside_eight_experts(type, name)) return *storage;
  }
  const std::int64_t layer = layer_of(name);
  if (name.find("attn_v.weight") != name.npos || name.find("attn_qkv.weight") != name.npos) {
    return value_storage(type, layer, model);
  }
  if (name.find("ffn_down") != name.npos) return down_storage(type, layer, model);
  return type.storage;
}

/// tensor_type_fallback
Storage fitting(Storage storage, std::int64_t columns) {
  if (whole_blocks(columns, storage)) return storage;
  const Storage smaller = storage == Storage::kQ4_K   ? Storage::kQ5_0
                          : storage == Storage::kQ5_K ? Storage::kQ5_1
                          : storage == Storage::kQ6_K ? Storage::kQ8_0
                                                      : storage;
  return whole_blocks(columns, smaller) ? smaller : Storage::kF16;
}

}  // namespace

std::span<const FileType> file_types() noexcept { return kTypes; }

const FileType& find_file_type(std::string_view name) {
  std::string lower(name);
  std::ranges::transform(lower, lower.begin(), [](unsigned char c) { return std::tolower(c); });
  const auto found = std::ranges::find(kTypes, lower, &FileType::name);
  if (found != kTypes.end()) return *found;
  std::string known;
  for (const FileType& type : kTypes) {
    known += known.empty() ? "" : ", ";
    known += type.name;
  }
  throw ConfigError("--type '{}' is unknown; it is one of {}", name, known);
}

Storage wanted_storage(const FileType& type, std::string_view gguf_name,
                       std::span<const std::int64_t> shape, const ModelShape& model) {
  const bool matrix = shape.size() >= 2 && gguf_name.ends_with("weight") &&
                      gguf_name.find("_norm.weight") == gguf_name.npos &&
                      gguf_name.find("ffn_gate_inp") == gguf_name.npos &&
                      gguf_name != "position_embd.weight";
  if (!matrix) return Storage::kF32;
  if (is_plain(type.storage)) return type.storage;
  return mixed(type, gguf_name, shape.back(), model);
}

Storage storage_for(const FileType& type, std::string_view gguf_name,
                    std::span<const std::int64_t> shape, const ModelShape& model) {
  const Storage wanted = wanted_storage(type, gguf_name, shape, model);
  return is_plain(wanted) ? wanted : fitting(wanted, shape.back());
}

}  // namespace weft::exporting
