#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
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

/// Half of the lanes. Of vectors that are wider than the processor's the compiler makes memory.
using Doubles = double __attribute__((vector_size(32)));

WEFT_INLINE void load(const double* from, Doubles& to) { std::memcpy(&to, from, sizeof to); }
WEFT_INLINE double total(const Doubles& first, const Doubles& second) {
  return ((first[0] + first[1]) + (first[2] + first[3])) +
         ((second[0] + second[1]) + (second[2] + second[3]));
}

/// sum_j a[j] b[j]: in lanes, and what is left over after them.
WEFT_INLINE double dot(const double* a, const double* b, std::size_t count) {
  Doubles sums[2] = {};
  std::size_t j = 0;
  for (; j + kLanes <= count; j += kLanes) {
    for (std::size_t half = 0; half < 2; ++half) {
      Doubles x;
      Doubles y;
      load(a + j + 4 * half, x);
      load(b + j + 4 * half, y);
      sums[half] += x * y;
    }
  }
  double sum = total(sums[0], sums[1]);
  for (; j < count; ++j) sum += a[j] * b[j];
  return sum;
}

/// dot(a, a), dot(b, b) and dot(c, b) in one pass, since each addition of one waits for its last.
WEFT_INLINE void add_dots(const double* a, const double* b, const double* c, std::size_t count,
                          double& aa, double& bb, double& cb) {
  Doubles first[2] = {};
  Doubles second[2] = {};
  Doubles third[2] = {};
  std::size_t j = 0;
  for (; j + kLanes <= count; j += kLanes) {
    for (std::size_t half = 0; half < 2; ++half) {
      Doubles x;
      Doubles y;
      Doubles z;
      load(a + j + 4 * half, x);
      load(b + j + 4 * half, y);
      load(c + j + 4 * half, z);
      first[half] += x * x;
      second[half] += y * y;
      third[half] += z * y;
    }
  }
  double sums[3] = {total(first[0], first[1]), total(second[0], second[1]),
                    total(third[0], third[1])};
  for (; j < count; ++j) {
    sums[0] += a[j] * a[j];
    sums[1] += b[j] * b[j];
    sums[2] += c[j] * b[j];
  }
  aa += sums[0];
  bb += sums[1];
  cb += sums[2];
}

WEFT_INLINE double sum(const double* values, std::size_t count) {
  Doubles sums[2] = {};
  std::size_t j = 0;
  for (; j + kLanes <= count; j += kLanes) {
    for (std::size_t half = 0; half < 2; ++half) {
      Doubles x;
      load(values + j + 4 * half, x);
      sums[half] += x;
    }
  }
  double all = total(sums[0], sums[1]);
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

/// `value` rounded once to the numbers of a type with `mantissa` bits after the point, whose least
/// normal number is `least`: nearest, ties to even, for what stays in the type's range.
WEFT_INLINE double nearest(double value, int mantissa, double least) {
  constexpr std::uint64_t kSign = std::uint64_t{1} << 63;
  const auto bits = std::bit_cast<std::uint64_t>(value);
  const int dropped = 52 - mantissa;
  const std::uint64_t unit = std::uint64_t{1} << dropped;
  const std::uint64_t up = unit / 2 - 1 + (bits >> dropped & 1U);
  const auto normal = std::bit_cast<double>((bits + up) & ~(unit - 1));
  // Below the least normal number steps are equal, so that the addition itself rounds to them; only
  // the sign of a zero is lost.
  const double magic = 1.5 * static_cast<double>(unit) * least;
  const double steps = (value + magic) - magic;
  const auto small = std::bit_cast<double>(std::bit_cast<std::uint64_t>(steps) | (bits & kSign));
  return std::abs(value) < least ? small : normal;
}

/// The bits of a double without its sign; those that are not negative have the order of their bits.
WEFT_INLINE std::int64_t magnitude(double value) {
  return std::bit_cast<std::int64_t>(std::abs(value));
}

/// nearest() of every number and its bits. False where one is out of the type's range, or is none.
template <typename Type>
WEFT_INLINE bool round_doubles(const double* exact, std::size_t count, typename Type::Bits* bits,
                               double* after) {
  std::int64_t largest = 0;
  for (std::size_t j = 0; j < count; ++j) {
    largest = std::max(largest, magnitude(exact[j]));
    after[j] = Type::nearest(exact[j]);
  }
  for (std::size_t j = 0; j < count; ++j) bits[j] = Type::bits(after[j]);
  return largest < magnitude(Type::kLimit);
}

// Types of the output. round() takes any number; nearest() and bits() those whose magnitude is
// below kLimit, from which on numbers round to infinity: round(x) == bits(nearest(x)).
// round_chunk() is round_doubles(), of at most kChunk numbers.

struct F32 {
  using Bits = std::uint32_t;
  static constexpr double kLimit = 0x1.ffffffp127;
  WEFT_INLINE static Bits round(float value) { return std::bit_cast<Bits>(value); }
  WEFT_INLINE static Bits round(double value) { return round(static_cast<float>(value)); }
  WEFT_INLINE static double nearest(double value) { return static_cast<float>(value); }
  WEFT_INLINE static Bits bits(double value) { return round(static_cast<float>(value)); }
  WEFT_INLINE static float value(Bits bits) { return std::bit_cast<float>(bits); }
  WEFT_INLINE static bool round_chunk(const double* exact, std::size_t count, Bits* bits,
                                      double* after) {
    return round_doubles<F32>(exact, count, bits, after);
  }
};
struct F16 {
  using Bits = std::uint16_t;
  static constexpr double kLimit = 65520;
  WEFT_INLINE static Bits round(float value) { return f16_bits(value); }
  WEFT_INLINE static Bits round(double value) { return f16_bits(round_to_odd(value)); }
  WEFT_INLINE static double nearest(double value) { return row_math::nearest(value, 10, 0x1p-14); }
  WEFT_INLINE static Bits bits(double value) { return f16_bits(static_cast<float>(value)); }
  WEFT_INLINE static float value(Bits bits) { return f16_value(bits); }
  WEFT_INLINE static bool round_chunk(const double* exact, std::size_t count, Bits* bits,
                                      double* after) {
    return round_doubles<F16>(exact, count, bits, after);
  }
};
struct BF16 {
  using Bits = std::uint16_t;
  static constexpr double kLimit = 0x1.ffp127;
  WEFT_INLINE static Bits round(float value) { return bf16_bits(value); }
  WEFT_INLINE static Bits round(double value) { return bf16_bits(round_to_odd(value)); }
  WEFT_INLINE static double nearest(double value) { return row_math::nearest(value, 7, 0x1p-126); }
  WEFT_INLINE static Bits bits(double value) {
    return static_cast<Bits>(std::bit_cast<std::uint32_t>(static_cast<float>(value)) >> 16);
  }
  WEFT_INLINE static float value(Bits bits) { return core::bf16_to_float(bits); }
  /// By way of float, which takes twice the numbers at a time. Rounding twice is rounding once,
  /// unless the first step comes to lie halfway between two numbers of bf16: one in 65536 does.
  WEFT_INLINE static bool round_chunk(const double* exact, std::size_t count, Bits* bits,
                                      double* after) {
    constexpr std::uint32_t kLow = 0xffffU;
    constexpr std::uint32_t kHalf = 0x8000U;
    constexpr std::uint32_t kPast = 0x7f7f8000U;  // rounds to infinity, like all above it
    alignas(64) float narrow[kChunk];
    for (std::size_t j = 0; j < count; ++j) narrow[j] = static_cast<float>(exact[j]);
    std::uint32_t halfway = 0;
    std::uint32_t largest = 0;
    for (std::size_t j = 0; j < count; ++j) {
      const auto one = std::bit_cast<std::uint32_t>(narrow[j]);
      halfway |= (one & kLow) == kHalf ? 1U : 0U;
      largest = std::max(largest, one & 0x7fffffffU);
      const std::uint32_t rounded = one + (kHalf - 1) + ((one >> 16) & 1U);
      bits[j] = static_cast<Bits>(rounded >> 16);
      narrow[j] = std::bit_cast<float>(rounded & ~kLow);
    }
    if (halfway != 0) return round_doubles<BF16>(exact, count, bits, after);
    for (std::size_t j = 0; j < count; ++j) after[j] = static_cast<double>(narrow[j]);
    return largest < kPast;
  }
};

WEFT_INLINE bool finite(float value) {
  return (std::bit_cast<std::uint32_t>(value) & 0x7fffffffU) < 0x7f800000U;
}

/// A chunk that holds numbers out of the type's range, or none at all.
template <typename Type>
WEFT_INLINE void round_odd_chunk(const float* base, const double* exact, std::size_t count,
                                 typename Type::Bits* bits, double* after, RowSums& sums) {
  for (std::size_t j = 0; j < count; ++j) {
    bits[j] = Type::round(exact[j]);
    after[j] = static_cast<double>(Type::value(bits[j]));
    sums.overflow |= !finite(Type::value(bits[j])) && finite(base[j]);
  }
}

/// M = round(W + D), at most kChunk elements.
template <typename Type>
WEFT_INLINE void add_chunk(const float* base, const double* update, std::size_t count,
                           std::byte* out, RowSums& sums) {
  using Bits = typename Type::Bits;
  alignas(64) Bits bits[kChunk];
  alignas(64) double before[kChunk + 8];
  alignas(64) double exact[kChunk + 8];
  alignas(64) double after[kChunk];
  for (std::size_t j = 0; j < count; ++j) {
    before[j] = static_cast<double>(base[j]);
    exact[j] = before[j] + update[j];
  }
  if (!Type::round_chunk(exact, count, bits, after)) {
    round_odd_chunk<Type>(base, exact, count, bits, after, sums);
  }
  std::memcpy(out, bits, count * sizeof(Bits));
  Bits changed = 0;  // A chunk has no more than it can count.
  for (std::size_t j = 0; j < count; ++j) {
    const Bits one = bits[j] != Type::round(base[j]) ? 1 : 0;
    changed = static_cast<Bits>(changed + one);
  }
  std::int64_t error = 0;
  for (std::size_t j = 0; j < count; ++j) {
    error = std::max(error, magnitude(after[j] - exact[j]));
    after[j] -= before[j];  // What was gained.
  }
  add_dots(before, update, after, count, sums.base, sums.update, sums.kept);
  sums.error = std::max(sums.error, std::bit_cast<double>(error));
  sums.changed += changed;
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
    for (std::size_t j = 0; j < part; ++j) bits[j] = Type::round(base[done + j]);
    for (std::size_t j = 0; j < part; ++j) {
      const std::uint32_t lost = finite(Type::value(bits[j])) ? 0 : 1;
      const std::uint32_t had = finite(base[done + j]) ? 1 : 0;
      overflow |= lost & had;
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
    values[j] = ((key >= first) & (key < past)) ? values[j] : 0.0;
  }
}

WEFT_INLINE void mark_nonzero(const double* values, std::uint8_t* marks, std::size_t count) {
  std::size_t j = 0;
  for (; j + 8 <= count; j += 8) {
    std::uint32_t mark = 0;
    for (std::size_t bit = 0; bit < 8; ++bit) {
      mark |= static_cast<std::uint32_t>(values[j + bit] != 0) << bit;
    }
    marks[j / 8] = static_cast<std::uint8_t>(mark);
  }
  if (j == count) return;
  std::uint32_t mark = 0;
  for (std::size_t bit = 0; j + bit < count; ++bit) {
    mark |= static_cast<std::uint32_t>(values[j + bit] != 0) << bit;
  }
  marks[j / 8] = static_cast<std::uint8_t>(mark);
}

WEFT_INLINE void keep_marked(const std::uint8_t* marks, double* values, std::size_t count) {
  using Masks = std::int64_t __attribute__((vector_size(32)));
  constexpr Masks kBits[2] = {{1, 2, 4, 8}, {16, 32, 64, 128}};
  std::size_t j = 0;
  for (; j + kLanes <= count; j += kLanes) {
    const Masks mark = Masks{} + static_cast<std::int64_t>(marks[j / 8]);
    for (std::size_t half = 0; half < 2; ++half) {
      Masks bits;
      std::memcpy(&bits, values + j + 4 * half, sizeof bits);
      bits &= (mark & kBits[half]) != 0;
      std::memcpy(values + j + 4 * half, &bits, sizeof bits);
    }
  }
  for (; j < count; ++j) {
    if ((marks[j / 8] >> j % 8 & 1U) == 0) values[j] = 0;
  }
}

/// sum_magnitudes() of all and of the marked.
WEFT_INLINE MarkedSums sum_marked(const std::uint8_t* marks, const double* values,
                                  std::size_t count) {
  double magnitudes[kChunk];
  MarkedSums sums;
  for (std::size_t done = 0; done < count; done += kChunk) {
    const std::size_t part = std::min(kChunk, count - done);
    for (std::size_t j = 0; j < part; ++j) magnitudes[j] = std::abs(values[done + j]);
    sums.all += sum(magnitudes, part);
    keep_marked(marks + done / 8, magnitudes, part);
    sums.marked += sum(magnitudes, part);
  }
  return sums;
}

/// At most kChunk elements of every model; see variance_keys() of the header.
WEFT_INLINE void variance_chunk(const double* deltas, std::size_t models, std::size_t stride,
                                std::size_t count, std::uint32_t* out) {
  const auto divisor = static_cast<double>(models);
  double mean[kChunk] = {};
  double sum[kChunk] = {};
  for (std::size_t i = 0; i < models; ++i) {
    for (std::size_t j = 0; j < count; ++j) mean[j] += deltas[i * stride + j] / divisor;
  }
  for (std::size_t i = 0; i < models; ++i) {
    for (std::size_t j = 0; j < count; ++j) {
      const double off = deltas[i * stride + j] - mean[j];
      sum[j] += off * off;
    }
  }
  for (std::size_t j = 0; j < count; ++j) out[j] = magnitude_key(sum[j] / divisor);
}

/// At most kChunk elements of every model; see mean_agreeing() of the header.
WEFT_INLINE void mean_chunk(std::span<const double> weights, const double* deltas,
                            std::size_t stride, std::size_t count, double* out) {
  double elected[kChunk] = {};
  double sum[kChunk] = {};
  double part[kChunk] = {};
  for (std::size_t i = 0; i < weights.size(); ++i) {
    for (std::size_t j = 0; j < count; ++j) elected[j] += deltas[i * stride + j];
  }
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const double weight = weights[i];
    for (std::size_t j = 0; j < count; ++j) {
      const double value = deltas[i * stride + j];
      const bool up = elected[j] >= 0;
      const bool agrees = (up & (value > 0)) | (!up & (value < 0));
      const double taken = agrees ? weight * value : 0.0;
      const double counted = agrees ? weight : 0.0;
      sum[j] += taken;
      part[j] += counted;
    }
  }
  for (std::size_t j = 0; j < count; ++j) {
    out[j] += sum[j] / (part[j] < 1e-6 ? 1e-6 : part[j]);
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
