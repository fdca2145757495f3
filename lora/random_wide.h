#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

// Behind RandomStream: Philox for eight blocks side by side. GCC does not find the multiplication
// of every other 32-bit lane that the function is made of, which costs a factor of three.

namespace weft::lora {

/// Numbers that the functions below give at a time.
inline constexpr std::size_t kWideNumbers = 32;

/// True when the processor has the instructions (AVX-512F); else nothing below may be called.
[[nodiscard]] bool wide_random_available() noexcept;

/// A stream's key, name and first block, as in philox().
struct WideBlocks {
  std::array<std::uint32_t, 2> key;
  std::array<std::uint32_t, 2> name;
  std::uint64_t block;
};

/// The next kWideNumbers numbers as floats in [0, 1).
void wide_floats(const WideBlocks& blocks, float* out) noexcept;
/// Bit j says whether number j's upper 24 bits are below `limit`.
[[nodiscard]] std::uint32_t wide_below(const WideBlocks& blocks, std::uint32_t limit) noexcept;

}  // namespace weft::lora
