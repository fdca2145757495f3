#pragma once

#include "model/kernels/multiply.h"

// Products of BFloat16 by Intel's AMX: eight tiles of 16 rows of 64 bytes, of which one instruction
// multiplies [16, 32] by [32, 16] and adds (Intel 64 and IA-32 Architectures Software Developer's
// Manual, volume 1, chapter 18; tdpbf16ps in volume 2).
namespace weft::model::kernel {

/// Whether the processor has AMX for BFloat16 and the system lets this process use it, which is
/// asked for once.
[[nodiscard]] bool has_amx() noexcept;

// Operands lie as tiles do (kTiles in multiply.cpp): k filled up to 32, columns in strips of 16. A
// sum is, for each 32 of k in turn, a chain of the 16 products of even places and one of the odd
// places, both from zero, added to each other and then to the sum; numbers below float's normal
// range count as zero. Every row goes through tiles, so that its bits are the same in any batch.

/// See MultiplyChain and Multiply.
void chain_amx(float* c, std::int64_t c_stride, std::span<const Link> chain, std::int64_t m,
               std::int64_t n, bool add);
void multiply_amx(float* c, std::int64_t c_stride, const c10::BFloat16* a, std::int64_t a_stride,
                  const c10::BFloat16* b, const Extent& extent, bool add);

/// The same bits from tiles in memory.
void chain_amx_emulated(float* c, std::int64_t c_stride, std::span<const Link> chain,
                        std::int64_t m, std::int64_t n, bool add);
void multiply_amx_emulated(float* c, std::int64_t c_stride, const c10::BFloat16* a,
                           std::int64_t a_stride, const c10::BFloat16* b, const Extent& extent,
                           bool add);

}  // namespace weft::model::kernel
