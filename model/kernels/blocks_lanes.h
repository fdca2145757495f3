#pragma once

#include <c10/util/BFloat16.h>

#include <array>
#include <cstdint>
#include <cstring>

#include "checkpoint/checkpoint.h"
#include "model/kernels/blocks.h"
#include "model/kernels/multiply.h"

// How a strip of woven blocks is read, in vectors of 16 lanes. Included by a file for each set of
// instructions, which says in WEFT_LANES_INLINE what its functions are compiled for, and in
// WEFT_LANES_INTRINSICS whether they may be AVX-512's, or in WEFT_LANES_AVX2 whether AVX2's.
//
// Sixteen blocks (checkpoint/dequantize.cpp explains them) lie as their heads, row by row or number
// by number, and the codes of their units of 32 elements. Pair p of a unit are elements 2 p and 2 p
// + 1 of all rows, in 32 lanes: lane 2 r + i is element 2 p + i of row r. The first half of the
// lanes is `low`, rows 0 to 7, the other `high`.
//   4 bits   16 bytes a pair: lane l of low in the lower half of byte l, of high in the upper
//   a fifth  4 bytes a pair, after all of the former: bit l of lane l of 32
//   two more 8 bytes a pair, likewise: byte b has lanes b and b + 8 of low, b and b + 8 of high,
//            from the lowest bits up
//   8 bits   32 bytes a pair
// Codes and scales are so short that their products are exact in float: a sum of one rounds once,
// fused or not.

namespace weft::model::kernel {
namespace {

#ifdef WEFT_LANES_AVX2
/// Sixteen lanes in two registers: of vectors that are wider than those the compiler makes memory.
struct Integers {
  __m256i first, second;
};
struct Floats {
  __m256 first, second;
};
WEFT_LANES_INLINE Integers operator&(const Integers& x, int mask) {
  const __m256i all = _mm256_set1_epi32(mask);
  return {_mm256_and_si256(x.first, all), _mm256_and_si256(x.second, all)};
}
WEFT_LANES_INLINE Integers operator|(const Integers& x, const Integers& y) {
  return {_mm256_or_si256(x.first, y.first), _mm256_or_si256(x.second, y.second)};
}
WEFT_LANES_INLINE Integers operator>>(const Integers& x, int bits) {
  return {_mm256_srli_epi32(x.first, bits), _mm256_srli_epi32(x.second, bits)};
}
WEFT_LANES_INLINE Integers operator<<(const Integers& x, int bits) {
  return {_mm256_slli_epi32(x.first, bits), _mm256_slli_epi32(x.second, bits)};
}
WEFT_LANES_INLINE Integers operator-(const Integers& x, int y) {
  const __m256i all = _mm256_set1_epi32(y);
  return {_mm256_sub_epi32(x.first, all), _mm256_sub_epi32(x.second, all)};
}
WEFT_LANES_INLINE Integers& operator&=(Integers& x, int mask) { return x = x & mask; }
WEFT_LANES_INLINE Integers& operator|=(Integers& x, const Integers& y) { return x = x | y; }
WEFT_LANES_INLINE Floats operator*(const Floats& x, const Floats& y) {
  return {_mm256_mul_ps(x.first, y.first), _mm256_mul_ps(x.second, y.second)};
}
WEFT_LANES_INLINE Floats operator*(const Floats& x, float y) {
  return {_mm256_mul_ps(x.first, _mm256_set1_ps(y)), _mm256_mul_ps(x.second, _mm256_set1_ps(y))};
}
WEFT_LANES_INLINE Floats operator+(const Floats& x, const Floats& y) {
  return {_mm256_add_ps(x.first, y.first), _mm256_add_ps(x.second, y.second)};
}
WEFT_LANES_INLINE Floats operator-(const Floats& x) {
  const __m256 sign = _mm256_set1_ps(-0.0F);
  return {_mm256_xor_ps(x.first, sign), _mm256_xor_ps(x.second, sign)};
}
WEFT_LANES_INLINE Floats floats_of(const Integers& x) {
  return {_mm256_cvtepi32_ps(x.first), _mm256_cvtepi32_ps(x.second)};
}
#define WEFT_LANES_FLOATS(x) floats_of(x)
#else
typedef std::uint32_t Words __attribute__((vector_size(64), aligned(2), may_alias));
typedef std::int32_t Integers __attribute__((vector_size(64), aligned(2), may_alias));
typedef float Floats __attribute__((vector_size(64), aligned(2), may_alias));
#define WEFT_LANES_FLOATS(x) __builtin_convertvector(x, Floats)
#endif

constexpr int kUnit = 32;   ///< Elements of a row in a unit
constexpr int kPairs = 16;  ///< Of a unit
/// Bytes that are asked for ahead of the ones that are read: a strip lies in one piece.
constexpr std::int64_t kAhead = 2048;

// GCC makes single elements of a conversion of vectors that widens them: loops, and intrinsics.

WEFT_LANES_INLINE void widen_bytes(const std::uint8_t* at, Integers& to) {
#ifdef WEFT_LANES_INTRINSICS
  to = reinterpret_cast<Integers>(
      _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at))));
#elif defined(WEFT_LANES_AVX2)
  to = {_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at))),
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at + 8)))};
#else
  alignas(64) std::int32_t all[kLanes];
  for (int i = 0; i < kLanes; ++i) all[i] = at[i];
  std::memcpy(&to, all, sizeof to);
#endif
}

WEFT_LANES_INLINE void widen_signed_bytes(const std::uint8_t* at, Integers& to) {
#ifdef WEFT_LANES_INTRINSICS
  to = reinterpret_cast<Integers>(
      _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at))));
#elif defined(WEFT_LANES_AVX2)
  to = {_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at))),
        _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at + 8)))};
#else
  alignas(64) std::int32_t all[kLanes];
  for (int i = 0; i < kLanes; ++i) all[i] = static_cast<std::int8_t>(at[i]);
  std::memcpy(&to, all, sizeof to);
#endif
}

/// Sixteen numbers of 16 bits.
WEFT_LANES_INLINE void halves_at(const std::uint8_t* at, Floats& to) {
#ifdef WEFT_LANES_INTRINSICS
  to = reinterpret_cast<Floats>(
      _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at))));
#elif defined(WEFT_LANES_AVX2)
  to = {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at))),
        _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at + 16)))};
#else
  alignas(64) float all[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    _Float16 value;
    std::memcpy(&value, at + 2 * i, sizeof value);
    all[i] = static_cast<float>(value);
  }
  std::memcpy(&to, all, sizeof to);
#endif
}

WEFT_LANES_INLINE std::uint32_t word_at(const std::uint8_t* at) {
  std::uint32_t word;
  std::memcpy(&word, at, sizeof word);
  return word;
}

/// A number of each row for the lanes of both halves.
struct OfLanes {
  Floats low, high;
};

WEFT_LANES_INLINE void spread(const Floats& rows, OfLanes& to) {
#ifdef WEFT_LANES_AVX2
  const auto twice = [](__m256 eight) WEFT_LANES_LAMBDA {
    const __m256 lower = _mm256_unpacklo_ps(eight, eight);  // of each half
    const __m256 upper = _mm256_unpackhi_ps(eight, eight);
    return Floats{_mm256_permute2f128_ps(lower, upper, 0x20),
                  _mm256_permute2f128_ps(lower, upper, 0x31)};
  };
  to = {twice(rows.first), twice(rows.second)};
#else
  to.low = __builtin_shufflevector(rows, rows, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  to.high = __builtin_shufflevector(rows, rows, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14,
                                    15, 15);
#endif
}

WEFT_LANES_INLINE void codes_of_4_bits(const std::uint8_t* at, Integers& low, Integers& high) {
  Integers bytes;
  widen_bytes(at, bytes);
  low = bytes & 15;
  high = bytes >> 4;
}

WEFT_LANES_INLINE void add_fifth_bits(const std::uint8_t* at, Integers& low, Integers& high) {
  const std::uint32_t bits = word_at(at);
#ifdef WEFT_LANES_INTRINSICS
  const auto sixteen = _mm512_set1_epi32(16);
  const auto first = reinterpret_cast<__m512i>(low);
  const auto second = reinterpret_cast<__m512i>(high);
  low = reinterpret_cast<Integers>(
      _mm512_mask_or_epi32(first, static_cast<__mmask16>(bits & 0xffffU), first, sixteen));
  high = reinterpret_cast<Integers>(
      _mm512_mask_or_epi32(second, static_cast<__mmask16>(bits >> 16), second, sixteen));
#elif defined(WEFT_LANES_AVX2)
  const __m256i places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const auto eight = [&](std::uint32_t of) WEFT_LANES_LAMBDA {
    const __m256i all = _mm256_set1_epi32(static_cast<int>((of & 0xffU) << 4));
    return _mm256_and_si256(_mm256_srlv_epi32(all, places), _mm256_set1_epi32(16));
  };
  low |= Integers{eight(bits), eight(bits >> 8)};
  high |= Integers{eight(bits >> 16), eight(bits >> 24)};
#else
  constexpr Words kPlaces = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const Words first = ((bits << 4) >> kPlaces) & 16U;
  const Words second = ((bits >> 12) >> kPlaces) & 16U;
  low |= reinterpret_cast<const Integers&>(first);
  high |= reinterpret_cast<const Integers&>(second);
#endif
}

WEFT_LANES_INLINE void add_two_bits(const std::uint8_t* at, Integers& low, Integers& high) {
  std::uint64_t bits[2];
  std::memcpy(bits, at, sizeof bits[0]);
  bits[1] = bits[0] >> 2;
  Integers bytes;
  widen_bytes(reinterpret_cast<const std::uint8_t*>(bits), bytes);
  low |= (bytes & 3) << 4;
  high |= bytes & 0x30;
}

/// x = code * scale + add.
WEFT_LANES_INLINE void numbers_of(const Integers& low, const Integers& high, const OfLanes& scale,
                                  const OfLanes& add, OfLanes& to) {
  to.low = WEFT_LANES_FLOATS(low) * scale.low + add.low;
  to.high = WEFT_LANES_FLOATS(high) * scale.high + add.high;
}

// A format: bytes of a block, units in it; scales() of a unit of sixteen blocks, numbers() of a
// pair.

/// d [16], (m [16],) codes: blocks of one unit. kOffset: what is taken from a code, or, below 0,
/// that m is added to the scaled one.
template <int kSize, int kOffset, bool kFifth>
struct OneUnit {
  static constexpr int kBytes = kSize, kUnits = 1;
  static constexpr int kHead = kOffset < 0 ? 4 * kLanes : 2 * kLanes;
  struct Scales {
    OfLanes scale, add;
  };
  WEFT_LANES_INLINE static void scales(const std::uint8_t* b, int, Scales& s) {
    Floats d, add;
    halves_at(b, d);
    if constexpr (kOffset < 0) {
      halves_at(b + 2 * kLanes, add);
    } else {
      add = d * static_cast<float>(-kOffset);
    }
    spread(d, s.scale);
    spread(add, s.add);
  }
  WEFT_LANES_INLINE static void numbers(const std::uint8_t* b, const Scales& s, int, int pair,
                                        OfLanes& to) {
    Integers low, high;
    codes_of_4_bits(b + kHead + 16 * pair, low, high);
    if constexpr (kFifth) add_fifth_bits(b + kHead + 16 * kPairs + 4 * pair, low, high);
    numbers_of(low, high, s.scale, s.add, to);
  }
};
typedef OneUnit<18, 8, false> Q4_0;
typedef OneUnit<20, -1, false> Q4_1;
typedef OneUnit<22, 16, true> Q5_0;
typedef OneUnit<24, -1, true> Q5_1;

/// d [16], codes.
struct Q8_0 {
  static constexpr int kBytes = 34, kUnits = 1;
  typedef OfLanes Scales;
  WEFT_LANES_INLINE static void scales(const std::uint8_t* b, int, Scales& s) {
    Floats d;
    halves_at(b, d);
    spread(d, s);
  }
  WEFT_LANES_INLINE static void numbers(const std::uint8_t* b, const Scales& s, int, int pair,
                                        OfLanes& to) {
    const std::uint8_t* const codes = b + 2 * kLanes + 32 * pair;
    Integers low, high;
    widen_signed_bytes(codes, low);
    widen_signed_bytes(codes + 16, high);
    to.low = WEFT_LANES_FLOATS(low) * s.low;
    to.high = WEFT_LANES_FLOATS(high) * s.high;
  }
};

/// d [16], dmin [16], each of the twelve bytes of scales and minima of 16 rows, codes: Q4_K, and
/// Q5_K with `kFifth`.
template <int kSize, bool kFifth>
struct SixBitScales {
  static constexpr int kBytes = kSize, kUnits = 8;
  static constexpr int kPacked = 4 * kLanes, kHead = 16 * kLanes, kCodes = 16 * kPairs * kUnits;
  struct Scales {
    OfLanes scale, add;
  };
  WEFT_LANES_INLINE static void scales(const std::uint8_t* b, int unit, Scales& s) {
    // Bytes 0 to 3: scales of the first units, whose two upper bits are those of the last units'; 4
    // to 7: minima likewise; 8 to 11: lower bits of scale and minimum of the last.
    Integers scale, min;
    widen_bytes(b + kPacked + kLanes * (unit % 4), scale);
    widen_bytes(b + kPacked + kLanes * (unit % 4 + 4), min);
    if (unit < 4) {
      scale &= 63;
      min &= 63;
    } else {
      Integers both;
      widen_bytes(b + kPacked + kLanes * (unit + 4), both);
      scale = (both & 15) | (scale >> 6 << 4);
      min = (both >> 4) | (min >> 6 << 4);
    }
    Floats d, d_min;
    halves_at(b, d);
    halves_at(b + 2 * kLanes, d_min);
    spread(WEFT_LANES_FLOATS(scale) * d, s.scale);
    spread(-(WEFT_LANES_FLOATS(min) * d_min), s.add);
  }
  WEFT_LANES_INLINE static void numbers(const std::uint8_t* b, const Scales& s, int unit, int pair,
                                        OfLanes& to) {
    const int place = unit * kPairs + pair;
    Integers low, high;
    codes_of_4_bits(b + kHead + 16 * place, low, high);
    if constexpr (kFifth) add_fifth_bits(b + kHead + kCodes + 4 * place, low, high);
    numbers_of(low, high, s.scale, s.add, to);
  }
};
typedef SixBitScales<144, false> Q4_K;
typedef SixBitScales<176, true> Q5_K;

/// d [16], scales of 8 bits (that of 16 elements, of 16 rows), codes.
struct Q6_K {
  static constexpr int kBytes = 210, kUnits = 8;
  static constexpr int kScales = 2 * kLanes, kHead = kScales + 16 * kLanes;
  static constexpr int kCodes = 16 * kPairs * kUnits;
  struct Scales {
    OfLanes of[2];
  };
  WEFT_LANES_INLINE static void scales(const std::uint8_t* b, int unit, Scales& s) {
    Floats d;
    halves_at(b, d);
    for (int half = 0; half < 2; ++half) {
      Integers codes;
      widen_signed_bytes(b + kScales + kLanes * (2 * unit + half), codes);
      spread(WEFT_LANES_FLOATS(codes) * d, s.of[half]);
    }
  }
  WEFT_LANES_INLINE static void numbers(const std::uint8_t* b, const Scales& s, int unit, int pair,
                                        OfLanes& to) {
    const int place = unit * kPairs + pair;
    Integers low, high;
    codes_of_4_bits(b + kHead + 16 * place, low, high);
    add_two_bits(b + kHead + kCodes + 8 * place, low, high);
    const OfLanes& scale = s.of[pair / 8];
    to.low = WEFT_LANES_FLOATS(low - 32) * scale.low;
    to.high = WEFT_LANES_FLOATS(high - 32) * scale.high;
  }
};

/// Pairs as they are multiplied, [16][2].
struct PlainPairs {
  static constexpr int kBytes = 64, kUnits = 1;
  struct Scales {};
  WEFT_LANES_INLINE static void scales(const std::uint8_t*, int, Scales&) {}
  WEFT_LANES_INLINE static void numbers(const std::uint8_t* b, const Scales&, int, int pair,
                                        OfLanes& to) {
    alignas(64) std::uint32_t all[2 * kLanes];
    for (int i = 0; i < 2 * kLanes; ++i) {
      std::uint16_t bits;
      std::memcpy(&bits, b + 64 * pair + 2 * i, sizeof bits);
      all[i] = static_cast<std::uint32_t>(bits) << 16;
    }
    std::memcpy(&to, all, sizeof to);
  }
};

/// Calls body(F{}) for the format of a storage.
template <typename Body>
WEFT_LANES_INLINE void for_format(checkpoint::Storage storage, const Body& body) {
  using checkpoint::Storage;
  switch (storage) {
    case Storage::kQ8_0: return body(Q8_0{});
    case Storage::kQ4_0: return body(Q4_0{});
    case Storage::kQ4_1: return body(Q4_1{});
    case Storage::kQ5_0: return body(Q5_0{});
    case Storage::kQ5_1: return body(Q5_1{});
    case Storage::kQ4_K: return body(Q4_K{});
    case Storage::kQ5_K: return body(Q5_K{});
    case Storage::kQ6_K: return body(Q6_K{});
    case Storage::kBF16: return body(PlainPairs{});
    default: return;
  }
}

/// Puts elements [begin, begin + k) of a strip to `to`, pair by pair: Put::pair<F>(b, scales, unit,
/// pair, to, lanes).
template <typename Put, typename F>
WEFT_LANES_INLINE void put_strip(typename Put::Element* to, std::int64_t lanes,
                                 const std::uint8_t* strip, std::int64_t begin, std::int64_t k) {
  const std::uint8_t* b = strip + begin / (F::kUnits * kUnit) * F::kBytes * kLanes;
  for (std::int64_t done = 0; done < k; b += F::kBytes * kLanes) {
    // The strip goes on where it ends here.
    for (std::int64_t line = 0; line < F::kBytes * kLanes; line += 64)
      __builtin_prefetch(b + kAhead + line);
    for (int unit = 0; unit < F::kUnits && done < k; ++unit, done += kUnit) {
      typename F::Scales scales;
      F::scales(b, unit, scales);
#pragma GCC unroll 4
      for (int pair = 0; pair < kPairs; ++pair, to += 2 * lanes)
        Put::template pair<F>(b, scales, unit, pair, to, lanes);
    }
  }
}

}  // namespace
}  // namespace weft::model::kernel
