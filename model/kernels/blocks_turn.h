#pragma once

#include <c10/util/BFloat16.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <utility>

#include "checkpoint/checkpoint.h"
#include "model/kernels/blocks.h"
#include "model/kernels/multiply.h"

// How 16 rows of blocks become a strip of a packed panel, in vectors of 16 lanes. Included by a
// file for each set of instructions, which says in WEFT_TURN_INLINE what its functions are compiled
// for. The formats are explained in checkpoint/dequantize.cpp. Codes and scales are so short that
// their products are exact in float: a sum of one rounds once, fused or not.

namespace weft::model::kernel {
namespace {

typedef std::uint32_t Words __attribute__((vector_size(64), aligned(2), may_alias));
typedef std::int32_t Integers __attribute__((vector_size(64), aligned(2), may_alias));
typedef float Floats __attribute__((vector_size(64), aligned(4), may_alias));

constexpr std::int64_t kUnit = 32;  ///< Elements of a row that are read at once

// GCC makes single elements of a conversion of vectors that widens them: where the file's functions
// are compiled for the intrinsics, they are used, and loops elsewhere.

/// Bytes from `at` on as integers.
WEFT_TURN_INLINE void widen_bytes(const std::uint8_t* at, Integers& to) {
#ifdef WEFT_TURN_INTRINSICS
  to = reinterpret_cast<Integers>(
      _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at))));
#else
  alignas(64) std::int32_t all[kLanes];
  for (int i = 0; i < kLanes; ++i) all[i] = at[i];
  std::memcpy(&to, all, sizeof to);
#endif
}

WEFT_TURN_INLINE void widen_signed_bytes(const std::uint8_t* at, Integers& to) {
#ifdef WEFT_TURN_INTRINSICS
  to = reinterpret_cast<Integers>(
      _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at))));
#else
  alignas(64) std::int32_t all[kLanes];
  for (int i = 0; i < kLanes; ++i) all[i] = static_cast<std::int8_t>(at[i]);
  std::memcpy(&to, all, sizeof to);
#endif
}

WEFT_TURN_INLINE void broadcast(float value, Floats& to) {
  to = Floats{value, value, value, value, value, value, value, value,
              value, value, value, value, value, value, value, value};
}

/// The number of 16 bits at `at` in every lane.
WEFT_TURN_INLINE void half_at(const std::uint8_t* at, Floats& to) {
#ifdef WEFT_TURN_INTRINSICS
  std::int16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  to = reinterpret_cast<Floats>(_mm512_cvtph_ps(_mm256_set1_epi16(bits)));
#else
  _Float16 value;
  std::memcpy(&value, at, sizeof value);
  broadcast(static_cast<float>(value), to);
#endif
}

/// Elements 0 to 15 of a unit from low halves of bytes, 16 to 31 from high ones.
WEFT_TURN_INLINE void halves_of_bytes(const std::uint8_t* at, Integers& low, Integers& high) {
  Integers bytes;
  widen_bytes(at, bytes);
  low = bytes & 15;
  high = bytes >> 4;
}

/// Bit i of `bits` is bit 4 of element i.
WEFT_TURN_INLINE void add_fifth_bits(std::uint32_t bits, Integers& low, Integers& high) {
  constexpr Words kPlaces = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const Words first = ((bits << 4) >> kPlaces) & 16U;
  const Words second = ((bits >> 12) >> kPlaces) & 16U;
  low |= reinterpret_cast<const Integers&>(first);
  high |= reinterpret_cast<const Integers&>(second);
}

WEFT_TURN_INLINE std::uint32_t word_at(const std::uint8_t* at) {
  std::uint32_t word;
  std::memcpy(&word, at, sizeof word);
  return word;
}

WEFT_TURN_INLINE void scaled(const Integers& codes, const Floats& scale, Floats& to) {
  to = __builtin_convertvector(codes, Floats) * scale;
}

// A format: bytes of a block, units in it, and what a block is prepared as; numbers() makes the
// floats of a unit.

struct Nothing {};

/// x = d (code - offset): blocks of one unit, codes of 4 bits or, with `kFifth`, 5.
template <int kSize, bool kFifth>
struct Centred {
  static constexpr int kBytes = kSize, kUnits = 1;
  typedef Nothing Prepared;
  WEFT_TURN_INLINE static void prepare(const std::uint8_t*, Nothing&) {}
  WEFT_TURN_INLINE static void numbers(const std::uint8_t* b, const Nothing&, int, Floats& low,
                                       Floats& high) {
    Floats d;
    half_at(b, d);
    Integers first, second;
    halves_of_bytes(b + (kFifth ? 6 : 2), first, second);
    if constexpr (kFifth) add_fifth_bits(word_at(b + 2), first, second);
    scaled(first - (kFifth ? 16 : 8), d, low);
    scaled(second - (kFifth ? 16 : 8), d, high);
  }
};
typedef Centred<18, false> Q4_0;
typedef Centred<22, true> Q5_0;

/// x = d code + m.
template <int kSize, bool kFifth>
struct Shifted {
  static constexpr int kBytes = kSize, kUnits = 1;
  typedef Nothing Prepared;
  WEFT_TURN_INLINE static void prepare(const std::uint8_t*, Nothing&) {}
  WEFT_TURN_INLINE static void numbers(const std::uint8_t* b, const Nothing&, int, Floats& low,
                                       Floats& high) {
    Floats d, m;
    half_at(b, d);
    half_at(b + 2, m);
    Integers first, second;
    halves_of_bytes(b + (kFifth ? 8 : 4), first, second);
    if constexpr (kFifth) add_fifth_bits(word_at(b + 4), first, second);
    scaled(first, d, low);
    scaled(second, d, high);
    low += m;
    high += m;
  }
};
typedef Shifted<20, false> Q4_1;
typedef Shifted<24, true> Q5_1;

struct Q8_0 {
  static constexpr int kBytes = 34, kUnits = 1;
  typedef Nothing Prepared;
  WEFT_TURN_INLINE static void prepare(const std::uint8_t*, Nothing&) {}
  WEFT_TURN_INLINE static void numbers(const std::uint8_t* b, const Nothing&, int, Floats& low,
                                       Floats& high) {
    Floats d;
    half_at(b, d);
    Integers first, second;
    widen_signed_bytes(b + 2, first);
    widen_signed_bytes(b + 18, second);
    scaled(first, d, low);
    scaled(second, d, high);
  }
};

/// Numbers that a super-block's units are scaled with.
struct SixteenScales {
  alignas(64) float of[kLanes];
};

/// x = (d scale) code - dmin min: Q4_K, and Q5_K with `kFifth`.
template <int kSize, bool kFifth>
struct SixBitScales {
  static constexpr int kBytes = kSize, kUnits = 8;
  typedef SixteenScales Prepared;  ///< Scales of the units, and then their minima
  WEFT_TURN_INLINE static void prepare(const std::uint8_t* b, SixteenScales& s) {
    const std::uint32_t first = word_at(b + 4), second = word_at(b + 8), third = word_at(b + 12);
    const std::array<std::uint32_t, 4> bytes{
        first & 0x3f3f3f3fU, (third & 0x0f0f0f0fU) | ((first >> 6 & 0x03030303U) << 4),
        second & 0x3f3f3f3fU, (third >> 4 & 0x0f0f0f0fU) | ((second >> 6 & 0x03030303U) << 4)};
    Integers codes;
    widen_bytes(reinterpret_cast<const std::uint8_t*>(bytes.data()), codes);
    Floats d, d_min;
    half_at(b, d);
    half_at(b + 2, d_min);
    const Floats factor =
        __builtin_shufflevector(d, d_min, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
    Floats all;
    scaled(codes, factor, all);
    std::memcpy(s.of, &all, sizeof all);
  }
  WEFT_TURN_INLINE static void numbers(const std::uint8_t* b, const SixteenScales& s, int unit,
                                       Floats& low, Floats& high) {
    const std::uint8_t* const codes = b + (kFifth ? 48 : 16) + unit / 2 * 32;
    const int shift = unit % 2 * 4;
    Integers first, second;
    widen_bytes(codes, first);
    widen_bytes(codes + 16, second);
    first = (first >> shift) & 15;
    second = (second >> shift) & 15;
    if constexpr (kFifth) {
      Integers upper;
      widen_bytes(b + 16, upper);
      first |= ((upper >> unit) & 1) << 4;
      widen_bytes(b + 32, upper);
      second |= ((upper >> unit) & 1) << 4;
    }
    Floats scale, minus;
    broadcast(s.of[unit], scale);
    broadcast(s.of[8 + unit], minus);
    scaled(first, scale, low);
    scaled(second, scale, high);
    low -= minus;
    high -= minus;
  }
};
typedef SixBitScales<144, false> Q4_K;
typedef SixBitScales<176, true> Q5_K;

struct Q6_K {
  static constexpr int kBytes = 210, kUnits = 8;
  typedef SixteenScales Prepared;  ///< Two of each unit
  WEFT_TURN_INLINE static void prepare(const std::uint8_t* b, SixteenScales& s) {
    Floats d, all;
    half_at(b + 208, d);
    Integers codes;
    widen_signed_bytes(b + 192, codes);
    scaled(codes, d, all);
    std::memcpy(s.of, &all, sizeof all);
  }
  WEFT_TURN_INLINE static void numbers(const std::uint8_t* b, const SixteenScales& s, int unit,
                                       Floats& low, Floats& high) {
    const std::uint8_t* const lower = b + unit / 4 * 64 + unit % 2 * 32;
    const std::uint8_t* const upper = b + 128 + unit / 4 * 32;
    const int shift = unit % 4 / 2 * 4;
    const int upper_shift = 2 * (unit % 4);
    Integers first, second, two_bits;
    widen_bytes(lower, first);
    widen_bytes(upper, two_bits);
    first = (((first >> shift) & 15) | (((two_bits >> upper_shift) & 3) << 4)) - 32;
    widen_bytes(lower + 16, second);
    widen_bytes(upper + 16, two_bits);
    second = (((second >> shift) & 15) | (((two_bits >> upper_shift) & 3) << 4)) - 32;
    Floats scale;
    broadcast(s.of[2 * unit], scale);
    scaled(first, scale, low);
    broadcast(s.of[2 * unit + 1], scale);
    scaled(second, scale, high);
  }
};

#ifdef WEFT_TURN_INTRINSICS
/// Row j of `to` (words, `stride` apart) is word j of every row: by unpacking within quarters of
/// registers, then by moving quarters.
WEFT_TURN_INLINE void put_turned(const Words (&rows)[kLanes], std::uint32_t* to,
                                 std::int64_t stride) {
  __m512i a[kLanes], b[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; i += 2) {
    const auto even = reinterpret_cast<__m512i>(rows[i]);
    const auto odd = reinterpret_cast<__m512i>(rows[i + 1]);
    a[i] = _mm512_unpacklo_epi32(even, odd);
    a[i + 1] = _mm512_unpackhi_epi32(even, odd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; i += 4) {
    b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
    b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
    b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
    b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
  }
#pragma GCC unroll 16
  for (int j = 0; j < 4; ++j) {
    const __m512i even_first = _mm512_shuffle_i32x4(b[j], b[4 + j], 0x88);
    const __m512i odd_first = _mm512_shuffle_i32x4(b[j], b[4 + j], 0xdd);
    const __m512i even_last = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0x88);
    const __m512i odd_last = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0xdd);
    std::uint32_t* const at = to + j * stride;
    _mm512_storeu_si512(at, _mm512_shuffle_i32x4(even_first, even_last, 0x88));
    _mm512_storeu_si512(at + 4 * stride, _mm512_shuffle_i32x4(odd_first, odd_last, 0x88));
    _mm512_storeu_si512(at + 8 * stride, _mm512_shuffle_i32x4(even_first, even_last, 0xdd));
    _mm512_storeu_si512(at + 12 * stride, _mm512_shuffle_i32x4(odd_first, odd_last, 0xdd));
  }
}
#else
/// Exchanges the words that lie kStep apart between rows kStep apart: a quarter of a transposition.
template <int kStep, int... kLane>
WEFT_TURN_INLINE void exchange_words(Words (&rows)[kLanes], std::integer_sequence<int, kLane...>) {
  for (int i = 0; i < kLanes; ++i) {
    if ((i & kStep) != 0) continue;
    const Words a = rows[i];
    const Words b = rows[i + kStep];
    rows[i] = __builtin_shufflevector(
        a, b, ((kLane & kStep) == 0 ? kLane : kLane - kStep + static_cast<int>(kLanes))...);
    rows[i + kStep] = __builtin_shufflevector(
        a, b, ((kLane & kStep) == 0 ? kLane + kStep : kLane + static_cast<int>(kLanes))...);
  }
}

/// Row j of `to` (words, `stride` apart) is word j of every row.
WEFT_TURN_INLINE void put_turned(Words (&rows)[kLanes], std::uint32_t* to, std::int64_t stride) {
  constexpr auto kAll = std::make_integer_sequence<int, static_cast<int>(kLanes)>();
  exchange_words<8>(rows, kAll);
  exchange_words<4>(rows, kAll);
  exchange_words<2>(rows, kAll);
  exchange_words<1>(rows, kAll);
  for (int i = 0; i < kLanes; ++i) *reinterpret_cast<Words*>(to + i * stride) = rows[i];
}
#endif

/// The units of 16 rows as floats, [k][lanes].
struct TurnFloats {
  typedef float Element;
  template <typename F>
  WEFT_TURN_INLINE static void unit(const std::uint8_t* block, std::int64_t row_bytes,
                                    const typename F::Prepared* s, int unit, float* to,
                                    std::int64_t lanes) {
    Words low[kLanes], high[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      Floats first, second;
      F::numbers(block + i * row_bytes, s[i], unit, first, second);
      low[i] = reinterpret_cast<const Words&>(first);
      high[i] = reinterpret_cast<const Words&>(second);
    }
    auto* const words = reinterpret_cast<std::uint32_t*>(to);
    put_turned(low, words, lanes);
    put_turned(high, words + kLanes * lanes, lanes);
  }
};

/// In pairs of BFloat16, [k / 2][lanes][2]; `Round` makes 16 pairs of 32 floats.
template <typename Round>
struct TurnPairs {
  typedef c10::BFloat16 Element;
  template <typename F>
  WEFT_TURN_INLINE static void unit(const std::uint8_t* block, std::int64_t row_bytes,
                                    const typename F::Prepared* s, int unit, c10::BFloat16* to,
                                    std::int64_t lanes) {
    Words pairs[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      Floats first, second;
      F::numbers(block + i * row_bytes, s[i], unit, first, second);
      Round::pairs(first, second, pairs[i]);
    }
    put_turned(pairs, reinterpret_cast<std::uint32_t*>(to), lanes);
  }
};

template <typename Turn, typename F>
WEFT_TURN_INLINE void turn_strip(typename Turn::Element* to, std::int64_t lanes,
                                 const BlockStrip& strip) {
  const std::uint8_t* block = strip.data + strip.begin / (F::kUnits * kUnit) * F::kBytes;
  typename F::Prepared prepared[kLanes];
  for (std::int64_t k = 0; k < strip.k; block += F::kBytes) {
    for (std::int64_t i = 0; i < kLanes; ++i) {
      const std::uint8_t* const row = block + i * strip.row_bytes;
      F::prepare(row, prepared[i]);
      // The rows of the next strip are asked for.
      for (int line = 0; line < F::kBytes; line += 64)
        __builtin_prefetch(row + kLanes * strip.row_bytes + line);
    }
    for (int unit = 0; unit < F::kUnits && k < strip.k; ++unit, k += kUnit, to += kUnit * lanes)
      Turn::template unit<F>(block, strip.row_bytes, prepared, unit, to, lanes);
  }
}

template <typename Turn>
WEFT_TURN_INLINE void turn_any(checkpoint::Storage storage, typename Turn::Element* to,
                               std::int64_t lanes, const BlockStrip& strip) {
  using checkpoint::Storage;
  switch (storage) {
    case Storage::kQ8_0: return turn_strip<Turn, Q8_0>(to, lanes, strip);
    case Storage::kQ4_0: return turn_strip<Turn, Q4_0>(to, lanes, strip);
    case Storage::kQ4_1: return turn_strip<Turn, Q4_1>(to, lanes, strip);
    case Storage::kQ5_0: return turn_strip<Turn, Q5_0>(to, lanes, strip);
    case Storage::kQ5_1: return turn_strip<Turn, Q5_1>(to, lanes, strip);
    case Storage::kQ4_K: return turn_strip<Turn, Q4_K>(to, lanes, strip);
    case Storage::kQ5_K: return turn_strip<Turn, Q5_K>(to, lanes, strip);
    case Storage::kQ6_K: return turn_strip<Turn, Q6_K>(to, lanes, strip);
    default: return;
  }
}

}  // namespace
}  // namespace weft::model::kernel
