#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "core/clones.h"
#include "core/number.h"

namespace weft::merge {

/// The float next to `value` on the side where the last bit is odd, or `value` itself if it is a
/// float. Rounding the result to a format with at least two bits less than binary32 gives the same
/// as rounding `value` directly (Boldo and Melquiond, "Emulation of FMA and correctly rounded
/// sums", IEEE ToC 2008): there is no double rounding.
[[nodiscard]] WEFT_INLINE float round_to_odd(double value) noexcept {
  // No branches: whether a number is odd cannot be predicted.
  const auto nearest = static_cast<float>(value);
  const auto back = static_cast<double>(nearest);
  const auto bits = std::bit_cast<std::uint32_t>(nearest);
  const bool inexact = (back < value) | (back > value);  // False for NaN.
  const auto even = static_cast<std::uint32_t>(inexact) & ~bits & 1U;
  const bool outwards = std::abs(back) > std::abs(value);
  return std::bit_cast<float>(bits + even - (static_cast<std::uint32_t>(outwards) & even) * 2U);
}

/// `value` rounded once, to nearest, ties to even, as the bits of the type.
[[nodiscard]] WEFT_INLINE std::uint32_t round_to_f32(double value) noexcept {
  return std::bit_cast<std::uint32_t>(static_cast<float>(value));
}
[[nodiscard]] WEFT_INLINE std::uint16_t round_to_bf16(double value) noexcept {
  return core::float_to_bf16(round_to_odd(value));
}
[[nodiscard]] WEFT_INLINE std::uint16_t round_to_f16(double value) noexcept {
  return core::float_to_f16(round_to_odd(value));
}

}  // namespace weft::merge
