#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace weft::core {

/// Floating-point types that weft computes in or writes.
enum class DType : std::uint8_t { kF32, kF16, kBF16 };

/// A size or position of a tensor, which are never negative, as the standard library counts.
[[nodiscard]] constexpr std::size_t index(std::int64_t value) noexcept {
  return static_cast<std::size_t>(value);
}

/// Bytes of one element.
[[nodiscard]] constexpr int size_of(DType type) noexcept { return type == DType::kF32 ? 4 : 2; }

/// "F32", "F16", "BF16": the spelling of safetensors and GGUF.
[[nodiscard]] constexpr std::string_view name_of(DType type) noexcept {
  return type == DType::kF32 ? "F32" : type == DType::kF16 ? "F16" : "BF16";
}

/// Reads "f32", "float32", "F32", "bf16", "bfloat16", "f16", "float16", "half"; nothing else.
[[nodiscard]] std::optional<DType> parse_dtype(std::string_view text) noexcept;

/// The float whose upper half is `bits`; exact.
[[nodiscard]] constexpr float bf16_to_float(std::uint16_t bits) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

/// Rounds to nearest, ties to even, as PyTorch does; every NaN becomes the quiet NaN 0x7fc0.
[[nodiscard]] constexpr std::uint16_t float_to_bf16(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return 0x7fc0;
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

/// IEEE 754 binary16 to float; exact, subnormals, infinities and NaN included.
[[nodiscard]] constexpr float f16_to_float(std::uint16_t bits) noexcept {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000U) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1fU;
  const std::uint32_t fraction = bits & 0x3ffU;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000U | (fraction << 13));
  if (exponent != 0)
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
  // Zero or subnormal: fraction * 2^-24 is exact in binary32.
  const float magnitude = static_cast<float>(fraction) * 0x1p-24F;
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
}

/// Rounds to nearest, ties to even; beyond 65519.99 it becomes infinity (callers check ranges).
[[nodiscard]] constexpr std::uint16_t float_to_f16(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000U);
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return static_cast<std::uint16_t>(sign | 0x7e00U);
  if (magnitude >= 0x477ff000U) return static_cast<std::uint16_t>(sign | 0x7c00U);
  if (magnitude < 0x38800000U) {
    // Below 2^-14: adding 0.5 makes the addition itself round to a multiple of 2^-24.
    const float rounded = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(rounded) - 0x3f000000U));
  }
  const std::uint32_t odd = (magnitude >> 13) & 1U;
  return static_cast<std::uint16_t>(sign | ((magnitude - 0x38000000U + 0xfffU + odd) >> 13));
}

}  // namespace weft::core
