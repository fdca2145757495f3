#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf.h"
#include "checkpoint/safetensors.h"

// Behind Checkpoint: what the two kinds of model have in common once they are opened.

namespace weft::checkpoint {

/// How a tensor of the model lies in the file, where it is not row after row. The elements of a
/// vector are moved as rows are.
struct Arrangement {
  struct Piece {
    std::span<const std::byte> bytes;
    Storage storage = Storage::kOther;
    std::int64_t rows = 0;
    std::size_t shard = 0;  ///< The file that holds it, as StoredTensor::shard.
  };
  std::vector<Piece> pieces;       ///< One below the other.
  std::vector<std::int64_t> rows;  ///< Of each row of the model, its row in them; empty: the same.
  bool transposed = false;         ///< A row of the model is a column of the one piece.
  /// Not 0: a stack of as many matrices that are transposed one by one. The pieces have their
  /// columns by turns; or they are blocks and scales of MXFP4 (checkpoint/mxfp4.h), whose storage
  /// is kOther.
  std::int64_t matrices = 0;
  /// Not transposed: the pieces have the columns of each row by turns.
  bool by_turns = false;
  float shift = 0;  ///< What reading adds.
};

/// A tensor under its Hugging Face name and the bytes that hold it. `file_tensor` points into the
/// shard's entries or the GGUF file's tensors.
struct StoredTensor {
  TensorInfo info;
  std::span<const std::byte> bytes;
  std::size_t shard = 0;
  const void* file_tensor = nullptr;
  std::shared_ptr<const Arrangement> arrangement = nullptr;  ///< Null: row after row, in `bytes`.
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
