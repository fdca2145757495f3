#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf.h"
#include "checkpoint/safetensors.h"

// Behind Checkpoint: what the two kinds of model have in common once they are opened.

namespace weft::checkpoint {

/// A tensor under its Hugging Face name and the bytes that hold it. `file_tensor` points into the
/// shard's entries or the GGUF file's tensors.
struct StoredTensor {
  TensorInfo info;
  std::span<const std::byte> bytes;
  std::size_t shard = 0;
  const void* file_tensor = nullptr;
  std::int64_t interleaved_head =
      0;  ///< Head width of interleaved rows (RowOrder); 0: as they are.
};

struct OpenModel {
  Kind kind = Kind::kHuggingFace;
  std::filesystem::path path;
  nlohmann::json config;
  std::vector<StoredTensor> tensors;  ///< In order of name.
  std::vector<Safetensors> shards;
  std::optional<Gguf> gguf;
  std::vector<std::filesystem::path> side_files;
};

/// Opens a folder with config.json and safetensors. Throws InputError.
[[nodiscard]] OpenModel open_hugging_face(const std::filesystem::path& folder);

/// Opens one safetensors file; there is no configuration. Throws InputError.
[[nodiscard]] OpenModel open_safetensors(const std::filesystem::path& file);

/// Opens a GGUF file of a known family, or one that holds a vocabulary only. Throws InputError.
[[nodiscard]] OpenModel open_gguf(const std::filesystem::path& file);

}  // namespace weft::checkpoint
