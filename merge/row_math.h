#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/clones.h"
#include "merge/rounding.h"
#include "merge/row_kernels.h"
#include "merge/select.h"

// The arithmetic of merge/row_kernels.h as plain loops without branches, which the compiler turns
// into vector code. They are compiled once for each instruction set (row_kernels.cpp), and once
// more for the oldest in the test that holds the copies against each other, bit for bit.
// Sums run in eight fixed lanes, so that their order is the same on every processor.

namespace weft::merge::row_math {

constexpr std::size_t kLanes = 8;
/// Elements that pass through the buffers of one loop after the other; they stay in the L1 cache.
constexpr std::size_t kChunk = 256;

/// Eight doubles; GCC and clang lower it to whatever the target has.
using Doubles = double __attribute__((vector_size(64)));

WEFT_INLINE void load(const double* from, Doubles& to) { std::memcpy(&to, from, sizeof to); }
WEFT_INLINE double total(const Doubles& lanes) {
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) +
         ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

/// sum_j a[j] b[j]: in lanes, and what is left over after them.
WEFT_INLINE double dot(const double* a, const double* b, std::size_t count) {
  Doubles sums{};
  std::size_t j = 0;
  for (; j + kLanes <= count; j += kLanes) {
    Doubles x;
    Doubles y;
    load(a + j, x);
    load(b + j, y);
    sums += x * y;
  }
  double sum = total(sums);
  for (; j < count; ++j) sum += a[j] * b[j];
  return sum;
}

WEFT_INLINE double sum(const double* values, std::size_t count) {
  Doubles sums{};
  std::size_t j = 0;
  for (; j + kLanes <= count; j += kLanes) {
    Doubles x;
    load(values + j, x);
    sums += x;
  }
  double all = total(sums);
  for (; j < count; ++j) all += values[j];
  return all;
}

WEFT_INLINE double sum_magnitudes(const double* values, std::size_t count) {
  double magnitudes[kChunk];
  double all = 0;
  for (std::size_t done = 0; done < count; done += kChunk) {
    const std::size_t part = std::min(kChunk, count - done);
    for (std::size_t j = 0; j < part; ++j) magnitudes[j] = std::abs(values[done + j]);
    all += sum(magnitudes, part);
  }
  return all;
}

/// core::float_to_bf16 without branches.
WEFT_INLINE std::uint16_t bf16_bits(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
  const bool nan = (bits & 0x7fffffffU) > 0x7f800000U;
  return static_cast<std::uint16_t>(nan ? 0x7fc0U : rounded);
}

/// core::float_to_f16 without branches.
WEFT_INLINE std::uint16_t f16_bits(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  const float shifted = std::bit_cast<float>(magnitude) + 0.5F;  // Rounds below 2^-14.
  const std::uint32_t small = std::bit_cast<std::uint32_t>(shifted) - 0x3f000000U;
  const std::uint32_t odd = (magnitude >> 13) & 1U;
  const std::uint32_t normal = (magnitude - 0x38000000U + 0xfffU + odd) >> 13;
  std::uint32_t result = magnitude < 0x38800000U ? small : normal;
  result = magnitude >= 0x477ff000U ? 0x7c00U : result;
  result = magnitude > 0x7f800000U ? 0x7e00U : result;
  return static_cast<std::uint16_t>(sign | result);
}

/// core::f16_to_float without branches.
WEFT_INLINE float f16_value(std::uint16_t bits) {
  const std::uint32_t sign = (bits & 0x8000U) << 16;
  const std::uint32_t magnitude = bits & 0x7fffU;
  const std::uint32_t normal = (magnitude << 13) + 0x38000000U;
  const std::uint32_t special = (magnitude << 13) + 0x70000000U;
  const auto small =
      std::bit_cast<std::uint32_t>(static_cast<float>(static_cast<int>(magnitude)) * 0x1p-24F);
  std::uint32_t value = magnitude < 0x400U ? small : normal;
  value = magnitude >= 0x7c00U ? special : value;
  return std::bit_cast<float>(value | sign);
}

struct F32 {
  using Bits = std::uint32_t;
  WEFT_INLINE static Bits round(float value) { return std::bit_cast<Bits>(value); }
  WEFT_INLINE static Bits round(double value) { return round(static_cast<float>(value)); }
  WEFT_INLINE static float value(Bits bits) { return std::bit_cast<float>(bits); }
};
struct F16 {
  using Bits = std::uint16_t;
  WEFT_INLINE static Bits round(float value) { return f16_bits(value); }
  WEFT_INLINE static Bits round(double value) { return f16_bits(round_to_odd(value)); }
  WEFT_INLINE static float value(Bits bits) { return f16_value(bits); }
};
struct BF16 {
  using Bits = std::uint16_t;
  WEFT_INLINE static Bits round(float value) { return bf16_bits(value); }
  WEFT_INLINE static Bits round(double value) { return bf16_bits(round_to_odd(value)); }
  WEFT_INLINE static float value(Bits bits) { return core::bf16_to_float(bits); }
};

WEFT_INLINE bool finite(float value) {
  return (std::bit_cast<std::uint32_t>(value) & 0x7fffffffU) < 0x7f800000U;
}

/// M = round(W + D), at most kChunk elements.
template <typename Type>
WEFT_INLINE void add_chunk(const float* base, const double* update, std::size_t count,
                           std::byte* out, RowSums& sums) {
  using Bits = typename Type::Bits;
  Bits bits[kChunk];
  double before[kChunk];
  double gained[kChunk];
  std::int64_t error = 0;  // Doubles that are not negative have the order of their bits.
  std::int64_t changed = 0;
  std::uint32_t overflow = 0;
  for (std::size_t j = 0; j < count; ++j) {
    before[j] = static_cast<double>(base[j]);
    bits[j] = Type::round(before[j] + update[j]);
  }
  for (std::size_t j = 0; j < count; ++j) {
    const auto after = static_cast<double>(Type::value(bits[j]));
    const double exact = before[j] + update[j];
    error = std::max(error, std::bit_cast<std::int64_t>(std::abs(after - exact)));
    gained[j] = after - before[j];
  }
  for (std::size_t j = 0; j < count; ++j) {
    changed += bits[j] != Type::round(base[j]) ? 1 : 0;
    overflow |= static_cast<std::uint32_t>(!finite(Type::value(bits[j])) & finite(base[j]));
  }
  std::memcpy(out, bits, count * sizeof(Bits));
  sums.base += dot(before, before, count);
  sums.update += dot(update, update, count);
  sums.kept += dot(gained, update, count);
  sums.error = std::max(sums.error, std::bit_cast<double>(error));
  sums.changed += changed;
  sums.overflow |= overflow != 0;
}

template <typename Type>
WEFT_INLINE RowSums add_row(const float* base, const double* update, std::size_t count,
                            std::byte* out) {
  RowSums sums;
  for (std::size_t done = 0; done < count; done += kChunk) {
    add_chunk<Type>(base + done, update + done, std::min(kChunk, count - done),
                    out + done * sizeof(typename Type::Bits), sums);
  }
  return sums;
}

template <typename Type>
WEFT_INLINE RowSums convert_row(const float* base, std::size_t count, std::byte* out) {
  using Bits = typename Type::Bits;
  Bits bits[kChunk];
  std::uint32_t overflow = 0;
  for (std::size_t done = 0; done < count; done += kChunk) {
    const std::size_t part = std::min(kChunk, count - done);
    for (std::size_t j = 0; j < part; ++j) {
      bits[j] = Type::round(base[done + j]);
      overflow |=
          static_cast<std::uint32_t>(!finite(Type::value(bits[j])) & finite(base[done + j]));
    }
    std::memcpy(out + done * sizeof(Bits), bits, part * sizeof(Bits));
  }
  RowSums sums;
  sums.overflow = overflow != 0;
  return sums;
}

WEFT_INLINE void keep_between(std::uint64_t low, std::uint64_t high, double* values,
                              std::size_t count) {
  // Between 0 and 2^32 - 1, so that keys of 32 bits can be compared; high == low keeps nothing.
  const auto first = static_cast<std::uint32_t>(std::min<std::uint64_t>(low, 0xffffffffU));
  const auto past = static_cast<std::uint32_t>(std::min<std::uint64_t>(high, 0xffffffffU));
  for (std::size_t j = 0; j < count; ++j) {
    const std::uint32_t key = magnitude_key(values[j]);
    values[j] = (key >= first) & (key < past) ? values[j] : 0.0;
  }
}

/// At most kChunk elements of every model; see mix_agreeing() of the header.
WEFT_INLINE void mix_chunk(const Mix& mix, const double* deltas, std::size_t stride,
                           std::size_t count, double* out) {
  double elected[kChunk] = {};
  double sum[kChunk] = {};
  double part[kChunk] = {};
  for (std::size_t i = 0; i < mix.weights.size(); ++i) {
    const double vote = mix.equal_votes ? 1.0 : mix.weights[i];
    for (std::size_t j = 0; j < count; ++j) elected[j] += vote * deltas[i * stride + j];
  }
  for (std::size_t i = 0; i < mix.weights.size(); ++i) {
    const double weight = mix.weights[i];
    const double vote = mix.equal_votes ? 1.0 : weight;
    const double share = mix.divisor == Divisor::kCount ? 1.0 : weight;
    for (std::size_t j = 0; j < count; ++j) {
      const double value = deltas[i * stride + j];
      const double voted = vote * value;
      const bool up = elected[j] >= 0;
      const bool agrees = (up & (voted > 0)) | (!up & (voted < 0));
      const double taken = agrees ? weight * value : 0.0;
      const double counted = agrees ? share : 0.0;
      sum[j] = sum[j] + taken;
      part[j] = part[j] + counted;
    }
  }
  if (mix.divisor != Divisor::kNone) {
    for (std::size_t j = 0; j < count; ++j) part[j] = part[j] != 0 ? part[j] : 1.0;
    for (std::size_t j = 0; j < count; ++j) sum[j] /= part[j];
  }
  for (std::size_t j = 0; j < count; ++j) out[j] += mix.lambda * sum[j];
}

}  // namespace weft::merge::row_math
