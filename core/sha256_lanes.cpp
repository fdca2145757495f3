#include "core/sha256_lanes.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
// GCC's own header leaves the old value of a register open, and GCC 12 then warns of it (PR
// 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <cpuid.h>
#include <immintrin.h>
#define WEFT_X86 1
#endif

namespace weft::core {
namespace {

constexpr std::array<std::uint32_t, 8> kStart = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                                 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

#ifdef WEFT_X86

constexpr std::array<std::uint32_t, 64> kRounds = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

// Two ways: sixteen lanes of 512-bit registers, or the processor's own rounds (SHA-NI) for two
// streams at a time, since each round waits for the last one of its stream.

#define WEFT_LANES gnu::target("avx512f,avx512bw")
#define WEFT_LANES_INLINE [[gnu::always_inline, WEFT_LANES]] inline

/// Turns 16 rows of 16 words into columns: words[i] holds word i of every lane.
WEFT_LANES_INLINE void transpose(__m512i (&words)[16]) {
  __m512i pairs[16];
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_unpacklo_epi32(words[i], words[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_epi32(words[i], words[i + 1]);
  }
  __m512i fours[16];  // Words c, 4 + c, 8 + c, 12 + c of rows 4 g .. 4 g + 3 at 4 g + c.
  for (int g = 0; g < 16; g += 4) {
    fours[g] = _mm512_unpacklo_epi64(pairs[g], pairs[g + 2]);
    fours[g + 1] = _mm512_unpackhi_epi64(pairs[g], pairs[g + 2]);
    fours[g + 2] = _mm512_unpacklo_epi64(pairs[g + 1], pairs[g + 3]);
    fours[g + 3] = _mm512_unpackhi_epi64(pairs[g + 1], pairs[g + 3]);
  }
  for (int c = 0; c < 4; ++c) {
    const __m512i a = _mm512_shuffle_i32x4(fours[c], fours[4 + c], 0x44);
    const __m512i b = _mm512_shuffle_i32x4(fours[c], fours[4 + c], 0xee);
    const __m512i d = _mm512_shuffle_i32x4(fours[8 + c], fours[12 + c], 0x44);
    const __m512i e = _mm512_shuffle_i32x4(fours[8 + c], fours[12 + c], 0xee);
    words[c] = _mm512_shuffle_i32x4(a, d, 0x88);
    words[4 + c] = _mm512_shuffle_i32x4(a, d, 0xdd);
    words[8 + c] = _mm512_shuffle_i32x4(b, e, 0x88);
    words[12 + c] = _mm512_shuffle_i32x4(b, e, 0xdd);
  }
}

/// A block of bytes as the words that SHA-256 reads, which are big-endian.
struct Bytes {
  static constexpr std::size_t kSize = 64;
  WEFT_LANES_INLINE static __m512i load(const std::byte* from) {
    const __m512i swap =
        _mm512_broadcast_i32x4(_mm_setr_epi8(3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12));
    return _mm512_shuffle_epi8(_mm512_loadu_si512(from), swap);
  }
};
/// 16 BF16 numbers as floats: the same bytes behind two of zero.
struct Halves {
  static constexpr std::size_t kSize = 32;
  WEFT_LANES_INLINE static __m512i load(const std::byte* from) {
    const __m512i swap =
        _mm512_broadcast_i32x4(_mm_setr_epi8(1, 0, 2, 3, 5, 4, 6, 7, 9, 8, 10, 11, 13, 12, 14, 15));
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return _mm512_shuffle_epi8(_mm512_cvtepu16_epi32(bits), swap);
  }
};

WEFT_LANES_INLINE __m512i add(__m512i a, __m512i b) { return _mm512_add_epi32(a, b); }
/// a ^ b ^ c
WEFT_LANES_INLINE __m512i parity(__m512i a, __m512i b, __m512i c) {
  return _mm512_ternarylogic_epi32(a, b, c, 0x96);
}

/// The 64 rounds of FIPS 180-4, 6.2.2; the schedule is made as it is used.
WEFT_LANES_INLINE void compress(__m512i (&state)[8], __m512i (&w)[16]) {
  __m512i s[8];
  for (int i = 0; i < 8; ++i) s[i] = state[i];
#pragma GCC unroll 64
  for (int t = 0; t < 64; ++t) {
    __m512i& word = w[t % 16];
    if (t >= 16) {
      const __m512i& before = w[(t + 1) % 16];
      const __m512i& late = w[(t + 14) % 16];
      const __m512i small0 = parity(_mm512_ror_epi32(before, 7), _mm512_ror_epi32(before, 18),
                                    _mm512_srli_epi32(before, 3));
      const __m512i small1 = parity(_mm512_ror_epi32(late, 17), _mm512_ror_epi32(late, 19),
                                    _mm512_srli_epi32(late, 10));
      word = add(add(word, small0), add(w[(t + 9) % 16], small1));
    }
    // The eight variables keep their places; their names move instead.
    const auto at = [t](int name) { return (name + 64 - t) % 8; };
    const __m512i a = s[at(0)];
    const __m512i e = s[at(4)];
    const __m512i big1 =
        parity(_mm512_ror_epi32(e, 6), _mm512_ror_epi32(e, 11), _mm512_ror_epi32(e, 25));
    const __m512i choice = _mm512_ternarylogic_epi32(e, s[at(5)], s[at(6)], 0xca);
    const __m512i round = _mm512_set1_epi32(static_cast<int>(kRounds[static_cast<unsigned>(t)]));
    const __m512i first = add(add(add(s[at(7)], add(word, round)), choice), big1);
    const __m512i big0 =
        parity(_mm512_ror_epi32(a, 2), _mm512_ror_epi32(a, 13), _mm512_ror_epi32(a, 22));
    const __m512i majority = _mm512_ternarylogic_epi32(a, s[at(1)], s[at(2)], 0xe8);
    s[at(3)] = add(s[at(3)], first);
    s[at(7)] = add(first, add(big0, majority));
  }
  for (int i = 0; i < 8; ++i) state[i] = add(state[i], s[i]);
}

template <typename Form>
WEFT_LANES_INLINE void run(std::uint32_t* states, const Sha256Lanes::Sources& sources,
                           std::size_t blocks) {
  Sha256Lanes::Sources from = sources;
  const std::byte* any = *std::ranges::max_element(sources);  // Of a lane that has a stream.
  std::ranges::replace(from, nullptr, any);
  __m512i state[8];
  for (int i = 0; i < 8; ++i) state[i] = _mm512_load_si512(states + 16 * i);
  for (std::size_t block = 0; block < blocks; ++block) {
    __m512i words[16];
    for (std::size_t lane = 0; lane < 16; ++lane) {
      words[lane] = Form::load(from[lane] + block * Form::kSize);
    }
    transpose(words);
    compress(state, words);
  }
  for (int i = 0; i < 8; ++i) _mm512_store_si512(states + 16 * i, state[i]);
}

[[WEFT_LANES]] void wide_bytes(std::uint32_t* states, const Sha256Lanes::Sources& from,
                               std::size_t blocks) {
  run<Bytes>(states, from, blocks);
}
[[WEFT_LANES]] void wide_halves(std::uint32_t* states, const Sha256Lanes::Sources& from,
                                std::size_t blocks) {
  run<Halves>(states, from, blocks);
}

#define WEFT_ROUNDS gnu::target("sha,sse4.1")
#define WEFT_ROUNDS_INLINE [[gnu::always_inline, WEFT_ROUNDS]] inline

/// Words 4 i .. 4 i + 3 of a block of bytes.
struct QuarterOfBytes {
  static constexpr std::size_t kSize = Bytes::kSize;
  WEFT_ROUNDS_INLINE static __m128i load(const std::byte* from, int i) {
    const __m128i swap = _mm_setr_epi8(3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12);
    return _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from) + i), swap);
  }
};
/// The same of a block of BF16 numbers as floats.
struct QuarterOfHalves {
  static constexpr std::size_t kSize = Halves::kSize;
  WEFT_ROUNDS_INLINE static __m128i load(const std::byte* from, int i) {
    const __m128i swap = _mm_setr_epi8(1, 0, -1, -1, 3, 2, -1, -1, 5, 4, -1, -1, 7, 6, -1, -1);
    return _mm_shuffle_epi8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from + 8 * i)), swap);
  }
};

/// The state of one stream as the rounds want it: words a, b, e, f and c, d, g, h.
struct Halved {
  __m128i abef;
  __m128i cdgh;
};

WEFT_ROUNDS_INLINE Halved halved(const std::uint32_t* states, std::size_t lane) {
  const auto word = [&](std::size_t i) { return static_cast<int>(states[16 * i + lane]); };
  return {_mm_setr_epi32(word(5), word(4), word(1), word(0)),
          _mm_setr_epi32(word(7), word(6), word(3), word(2))};
}
WEFT_ROUNDS_INLINE void store(const Halved& state, std::uint32_t* states, std::size_t lane) {
  alignas(16) std::array<std::uint32_t, 8> words{};
  _mm_store_si128(reinterpret_cast<__m128i*>(words.data()), state.abef);
  _mm_store_si128(reinterpret_cast<__m128i*>(words.data() + 4), state.cdgh);
  constexpr std::array<std::size_t, 8> kPlaces = {5, 4, 1, 0, 7, 6, 3, 2};
  for (std::size_t i = 0; i < words.size(); ++i) states[16 * kPlaces[i] + lane] = words[i];
}

/// The 64 rounds, two to an instruction, for a block of each of two streams.
WEFT_ROUNDS_INLINE void compress(Halved (&state)[2], __m128i (&w)[2][4]) {
  Halved s[2] = {state[0], state[1]};
#pragma GCC unroll 16
  for (int four = 0; four < 16; ++four) {
    const __m128i round =
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(kRounds.data() + 4 * four));
    __m128i sum[2];
    for (int n = 0; n < 2; ++n) {
      sum[n] = _mm_add_epi32(w[n][four % 4], round);
      s[n].cdgh = _mm_sha256rnds2_epu32(s[n].cdgh, s[n].abef, sum[n]);
    }
    for (int n = 0; n < 2 && four < 12; ++n) {  // The words of four rounds, four times four later.
      __m128i& word = w[n][four % 4];
      const __m128i& last = w[n][(four + 3) % 4];
      const __m128i middle = _mm_alignr_epi8(last, w[n][(four + 2) % 4], 4);
      const __m128i early = _mm_sha256msg1_epu32(word, w[n][(four + 1) % 4]);
      word = _mm_sha256msg2_epu32(_mm_add_epi32(early, middle), last);
    }
    for (int n = 0; n < 2; ++n) {
      const __m128i upper = _mm_shuffle_epi32(sum[n], 0x0e);
      s[n].abef = _mm_sha256rnds2_epu32(s[n].abef, s[n].cdgh, upper);
    }
  }
  for (int n = 0; n < 2; ++n) {
    state[n].abef = _mm_add_epi32(state[n].abef, s[n].abef);
    state[n].cdgh = _mm_add_epi32(state[n].cdgh, s[n].cdgh);
  }
}

template <typename Form>
WEFT_ROUNDS_INLINE void run_pairs(std::uint32_t* states, const Sha256Lanes::Sources& from,
                                  std::size_t blocks) {
  for (std::size_t lane = 0; lane < from.size(); lane += 2) {
    const std::byte* any = from[lane] != nullptr ? from[lane] : from[lane + 1];
    if (any == nullptr) continue;
    const std::byte* of[2] = {any, from[lane + 1] != nullptr ? from[lane + 1] : any};
    Halved state[2] = {halved(states, lane), halved(states, lane + 1)};
    for (std::size_t block = 0; block < blocks; ++block) {
      __m128i words[2][4];
      for (std::size_t n = 0; n < 2; ++n) {
        const std::byte* at = of[n] + block * Form::kSize;
        for (int i = 0; i < 4; ++i) words[n][i] = Form::load(at, i);
      }
      compress(state, words);
    }
    store(state[0], states, lane);
    store(state[1], states, lane + 1);
  }
}

[[WEFT_ROUNDS]] void paired_bytes(std::uint32_t* states, const Sha256Lanes::Sources& from,
                                  std::size_t blocks) {
  run_pairs<QuarterOfBytes>(states, from, blocks);
}
[[WEFT_ROUNDS]] void paired_halves(std::uint32_t* states, const Sha256Lanes::Sources& from,
                                   std::size_t blocks) {
  run_pairs<QuarterOfHalves>(states, from, blocks);
}

bool has_rounds() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  constexpr unsigned kSha = 1U << 29;  // CPUID leaf 7, EBX.
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b & kSha) != 0 &&
         __builtin_cpu_supports("sse4.1");
}

bool is_available(Sha256Lanes::Way way) {
  if (way == Sha256Lanes::Way::kPairs) return has_rounds();
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
}

#else

void wide_bytes(std::uint32_t*, const Sha256Lanes::Sources&, std::size_t) {}
void wide_halves(std::uint32_t*, const Sha256Lanes::Sources&, std::size_t) {}
void paired_bytes(std::uint32_t*, const Sha256Lanes::Sources&, std::size_t) {}
void paired_halves(std::uint32_t*, const Sha256Lanes::Sources&, std::size_t) {}
bool is_available(Sha256Lanes::Way) { return false; }

#endif

}  // namespace

bool Sha256Lanes::available(Way way) noexcept { return is_available(way); }

bool Sha256Lanes::available() noexcept { return available(Way::kWide) || available(Way::kPairs); }

std::size_t Sha256Lanes::streams() const noexcept { return way_ == Way::kWide ? kLanes : 2; }

Sha256Lanes::Sha256Lanes() noexcept
    : Sha256Lanes(available(Way::kWide) ? Way::kWide : Way::kPairs) {}

Sha256Lanes::Sha256Lanes(Way way) noexcept : way_(way) {}

void Sha256Lanes::run(const Sources& from, std::size_t blocks) noexcept {
  (way_ == Way::kWide ? wide_bytes : paired_bytes)(state_.front().data(), from, blocks);
}

void Sha256Lanes::start(std::size_t lane) noexcept {
  for (std::size_t i = 0; i < state_.size(); ++i) state_[i][lane] = kStart[i];
  fed_[lane] = 0;
}

void Sha256Lanes::update(const Sources& from, std::size_t blocks) noexcept {
  run(from, blocks);
  for (std::uint64_t& bytes : fed_) bytes += blocks * kBlock;
}

void Sha256Lanes::update_bf16(const Sources& from, std::size_t blocks) noexcept {
  (way_ == Way::kWide ? wide_halves : paired_halves)(state_.front().data(), from, blocks);
  for (std::uint64_t& bytes : fed_) bytes += blocks * kBlock;
}

std::string Sha256Lanes::finish(std::size_t lane, std::span<const std::byte> rest) {
  // A bit of one, zeros, and the number of bits in the last eight bytes of a block.
  std::array<std::byte, 2 * kBlock> last{};
  std::ranges::copy(rest, last.begin());
  last[rest.size()] = std::byte{0x80};
  const std::size_t blocks = rest.size() + 9 <= kBlock ? 1 : 2;
  const std::uint64_t bits = __builtin_bswap64(8 * (fed_[lane] + rest.size()));
  std::memcpy(last.data() + blocks * kBlock - sizeof bits, &bits, sizeof bits);
  const auto others = state_;  // The other lanes go on from where they are.
  Sources from{};
  from[lane] = last.data();
  run(from, blocks);
  std::string digest;
  for (std::size_t i = 0; i < state_.size(); ++i) digest += fmt::format("{:08x}", state_[i][lane]);
  state_ = others;
  return digest;
}

}  // namespace weft::core
