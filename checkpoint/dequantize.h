#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "checkpoint/checkpoint.h"

// How stored numbers become floats. Block formats follow ggml-org/ggml, src/ggml-common.h; the
// order of operations is that of gguf-py (gguf/quants.py), so results are equal to it bit for bit.

namespace weft::checkpoint {

/// Elements are stored in blocks: `elements` of them in `bytes` bytes. {0, 0} for kOther.
struct BlockSize {
  std::uint32_t elements;
  std::uint32_t bytes;
};

[[nodiscard]] BlockSize block_size(Storage storage) noexcept;

/// The storage called "F32", "Q4_K", ...; kOther for every other name.
[[nodiscard]] Storage storage_of(std::string_view name) noexcept;

/// The name of a storage: "F32", "Q4_K"; "other" for kOther.
[[nodiscard]] std::string_view name_of(Storage storage) noexcept;

/// "F32, F16, ..., Q6_K": what dequantize() reads, for messages.
[[nodiscard]] std::string readable_storages();

/// Turns whole blocks into floats. `blocks` must hold exactly the blocks of out.size() elements,
/// and `storage` be readable; anything else is a mistake of the caller (std::logic_error).
void dequantize(Storage storage, std::span<const std::byte> blocks, std::span<float> out);

}  // namespace weft::checkpoint
