#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "checkpoint/checkpoint.h"
#include "core/number.h"

// Behind quantize(): what its parts share. The super-blocks of 256 and the blocks with importance
// have files of their own because they are compiled for several instruction sets.

namespace weft::checkpoint {

/// `count` super-blocks of Q4_K, Q5_K or Q6_K, from values of count * 256 floats. `importance`: as
/// many, or null.
void quantize_super_blocks(Storage storage, const float* values, const float* importance,
                           std::size_t count, std::uint8_t* out);

/// One row of `count` blocks of Q4_0, Q4_1, Q5_0 or Q5_1 with the importance of each column.
void quantize_weighted_row(Storage storage, const float* values, const float* importance,
                           std::size_t count, std::uint8_t* out);

inline void store_half(std::uint8_t* out, float value) noexcept {
  const std::uint16_t bits = core::float_to_f16(value);
  std::memcpy(out, &bits, sizeof bits);
}

inline float load_half(const std::uint8_t* in) noexcept {
  std::uint16_t bits = 0;
  std::memcpy(&bits, in, sizeof bits);
  return core::f16_to_float(bits);
}

/// 32 codes of a block: low nibbles are elements 0..15, high nibbles 16..31.
inline void store_nibbles(const std::uint8_t* codes, std::uint8_t* out) noexcept {
  for (int j = 0; j < 16; ++j) {
    out[j] = static_cast<std::uint8_t>((codes[j] & 15) | (codes[j + 16] & 15) << 4);
  }
}

/// The fifth bits of 32 codes, element j at bit j.
inline void store_fifth_bits(const std::uint8_t* codes, std::uint8_t* out) noexcept {
  std::uint32_t bits = 0;
  for (int j = 0; j < 32; ++j) bits |= static_cast<std::uint32_t>(codes[j] >> 4 & 1) << j;
  std::memcpy(out, &bits, sizeof bits);
}

}  // namespace weft::checkpoint
