#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "checkpoint/checkpoint.h"

// What llama-quantize makes of a type's name: the storage of each tensor. "Q4_K_M" is a mix, in
// which tensors that suffer most get more bits (ggml-org/llama.cpp, src/llama-quant.cpp).

namespace weft::exporting {

/// One of llama-quantize's output types.
struct FileType {
  std::string_view name;        ///< "q4_k_m"
  std::int64_t id = 0;          ///< general.file_type (LLAMA_FTYPE, include/llama.h)
  checkpoint::Storage storage;  ///< What most tensors get.
};

/// Every type that weft writes.
[[nodiscard]] std::span<const FileType> file_types() noexcept;

/// By name, in any case. ConfigError that lists the names for any other.
[[nodiscard]] const FileType& find_file_type(std::string_view name);

/// What the choice for one tensor depends on besides its name and shape.
struct ModelShape {
  std::int64_t layers = 0;
  bool tied_head = false;  ///< No output.weight: the embedding is the head too.
  /// There is an importance matrix: llama-quantize then guards the first down projections of Q4_0
  /// and Q5_0.
  bool importance = false;
  /// Llama 2 70B and its kin: 80 layers whose key-value heads are shared.
  bool shared_heads_of_80_layers = false;
  bool falcon = false;  ///< Has choices of its own.
  std::int64_t experts = 0;
};

/// general.file_type of plain matrices beside experts in MXFP4 (LLAMA_FTYPE_MOSTLY_MXFP4_MOE).
inline constexpr std::int64_t kMxfp4FileType = 38;

/// What the mix chooses for a tensor before its rows are looked at; storage_for() differs where
/// they are no whole number of that format's blocks.
[[nodiscard]] checkpoint::Storage wanted_storage(const FileType& type, std::string_view gguf_name,
                                                 std::span<const std::int64_t> shape,
                                                 const ModelShape& model);

/// The storage of a tensor: F32 for vectors and norms; else the mix's choice; then, where a row is
/// no whole number of super-blocks of 256, Q4_K becomes Q5_0, Q5_K Q5_1 and Q6_K Q8_0; and F16
/// where it is no whole number of blocks of 32 either. `gguf_name`: "blk.0.attn_v.weight".
[[nodiscard]] checkpoint::Storage storage_for(const FileType& type, std::string_view gguf_name,
                                              std::span<const std::int64_t> shape,
                                              const ModelShape& model);

}  // namespace weft::exporting
