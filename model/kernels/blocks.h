#pragma once

#include <c10/util/BFloat16.h>

#include <cstddef>
#include <cstdint>

#include "checkpoint/checkpoint.h"
#include "model/kernels/multiply.h"

// Matrices that stay in the blocks of a GGUF file. The blocks of 16 rows are woven together: their
// codes lie as a product needs them, lane by lane, so that no row has to be turned, in as many
// bytes as the file has. blocks_lanes.h says how each format lies.
namespace weft::model::kernel {

/// Whether rows of a storage can be woven: the block formats but MXFP4, and BFloat16.
[[nodiscard]] bool is_woven(checkpoint::Storage storage);

/// Elements of a row that are woven at once, a block or, of BFloat16, 32; a row has a whole number.
[[nodiscard]] std::int64_t woven_elements(checkpoint::Storage storage);

/// A matrix whose rows are woven, kLanes at a time: strips of kLanes * row_bytes bytes.
struct WovenRows {
  checkpoint::Storage storage = checkpoint::Storage::kOther;
  const std::uint8_t* data = nullptr;
  std::int64_t row_bytes = 0;
};

/// Weaves kLanes rows as a file has them into a strip.
void weave(checkpoint::Storage storage, const std::uint8_t* rows, std::int64_t row_bytes,
           std::uint8_t* strip);

/// Block `index` of row `row`, as the file has it.
void unweave(const WovenRows& b, std::int64_t row, std::int64_t index, std::byte* block);

/// pack_panel() of the transposed matrix: rows [first, first + columns) of it become columns of the
/// panel, elements [begin, begin + k) of each its rows. Numbers are made in registers: floats as
/// checkpoint::dequantize() makes them, BFloat16 rounded from them once. `first` is a multiple of
/// kLanes, `begin` of 256; k of whole blocks, or of 32 in them. Strips are packed whole: beyond
/// `columns` lie the rows that follow, zeros after the last.
void pack_woven(float* to, const WovenRows& b, std::int64_t first, std::int64_t columns,
                std::int64_t begin, std::int64_t k, const Layout& layout = layout_of<float>());
void pack_woven(c10::BFloat16* to, const WovenRows& b, std::int64_t first, std::int64_t columns,
                std::int64_t begin, std::int64_t k,
                const Layout& layout = layout_of<c10::BFloat16>());

/// Rows of the left operand that WovenKernels::multiply takes, and columns of the result.
inline constexpr std::int64_t kMostRowsOfWoven = 4;
inline constexpr std::int64_t kColumnsOfWoven = 2 * kLanes;

/// What a set of instructions has of its own for woven blocks.
struct WovenKernels {
  /// Elements [begin, begin + k) of a strip as [k / 2][lanes][2] BFloat16.
  void (*pack_strip)(checkpoint::Storage storage, c10::BFloat16* to, std::int64_t lanes,
                     const std::uint8_t* strip, std::int64_t begin, std::int64_t k);
  /// c [m, n] (rows c_stride apart) = a [m, k] (rows a_stride apart) times rows [first, first + n)
  /// of b, transposed: with the bits of the set's kernel for BFloat16, and no packed panel between.
  /// m is up to kMostRowsOfWoven; n a multiple of kLanes, up to kColumnsOfWoven; k is a row of b.
  void (*multiply)(float* c, std::int64_t c_stride, const c10::BFloat16* a, std::int64_t a_stride,
                   const WovenRows& b, std::int64_t first, const Extent& extent);
};

/// Those of the chosen set, or one of them null: AMX multiplies few rows as it does many.
[[nodiscard]] const WovenKernels& woven_kernels();

#if defined(__x86_64__) && defined(__GNUC__)
extern const WovenKernels kWovenOfAvx512Bf16;
extern const WovenKernels kWovenOfAvx2;
#endif

}  // namespace weft::model::kernel
