#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

#include "checkpoint/checkpoint.h"
#include "model/kernels/multiply.h"

namespace weft::model::kernel {

/// A matrix whose rows are blocks of a GGUF format one after the other.
struct BlockRows {
  checkpoint::Storage storage = checkpoint::Storage::kOther;
  const std::uint8_t* data = nullptr;
  std::int64_t row_bytes = 0;
};

/// Whether pack_blocks() reads a format.
[[nodiscard]] bool packs_blocks(checkpoint::Storage storage);

/// pack_panel() of the transposed matrix: rows [first, first + columns) of it become columns of the
/// panel, elements [begin, begin + k) of each its rows. Blocks are turned into numbers in
/// registers, so that no row of numbers is ever in memory: float as checkpoint::dequantize() makes
/// them, bit for bit, BFloat16 rounded from it once. `begin` is a multiple of 256.
void pack_blocks(float* to, const BlockRows& b, std::int64_t first, std::int64_t columns,
                 std::int64_t begin, std::int64_t k, const Layout& layout = layout_of<float>());
void pack_blocks(c10::BFloat16* to, const BlockRows& b, std::int64_t first, std::int64_t columns,
                 std::int64_t begin, std::int64_t k,
                 const Layout& layout = layout_of<c10::BFloat16>());

/// A strip of a panel: up to kLanes rows of a matrix, from `data` on.
struct BlockStrip {
  const std::uint8_t* data = nullptr;
  std::int64_t row_bytes = 0;
  std::int64_t height = 0;  ///< Rows that there are; columns of the strip beyond them are zeros
  std::int64_t begin = 0;   ///< First element of each row, a multiple of 256
  std::int64_t k = 0;       ///< Elements of each row, a multiple of 32
};

/// Packs a strip as [k / 2][lanes][2] BFloat16 by the processor's own conversion. Only where
/// has_bf16_rows() (model/kernels/bf16_rows.h).
void turn_blocks_fast(checkpoint::Storage storage, c10::BFloat16* to, std::int64_t lanes,
                      const BlockStrip& strip);

}  // namespace weft::model::kernel
