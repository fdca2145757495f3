#include "lora/random_wide.h"

#include "core/philox.h"

#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
// GCC's own header leaves the old value of a register open, and GCC 12 then warns of it (PR
// 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#define WEFT_X86 1
#endif

namespace weft::lora {

#ifdef WEFT_X86
namespace {

#define WEFT_WIDE gnu::target("avx512f")

using namespace core::philox_constants;

[[gnu::always_inline, WEFT_WIDE]] inline __m512i all(std::uint64_t value) {
  return _mm512_set1_epi64(static_cast<long long>(value));
}

/// 32 numbers in their order.
struct Numbers {
  __m512i first;
  __m512i second;
};

/// Ten rounds of eight blocks, a 64-bit lane each. The lower halves are the words; what is in the
/// upper ones is of no account, as a multiplication does not look at it.
[[gnu::always_inline, WEFT_WIDE]] inline Numbers numbers(const WideBlocks& blocks) {
  const __m512i counter =
      _mm512_add_epi64(all(blocks.block), _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7));
  __m512i a = counter;
  __m512i b = _mm512_srli_epi64(counter, 32);
  __m512i c = all(blocks.name[0]);
  __m512i d = all(blocks.name[1]);
  std::uint32_t first_key = blocks.key[0];
  std::uint32_t second_key = blocks.key[1];
  for (int round = 0; round < kRounds; ++round) {
    const __m512i x = _mm512_mul_epu32(a, all(kFirstFactor));
    const __m512i y = _mm512_mul_epu32(c, all(kSecondFactor));
    a = _mm512_ternarylogic_epi64(_mm512_srli_epi64(y, 32), b, all(first_key), 0x96);
    b = y;
    c = _mm512_ternarylogic_epi64(_mm512_srli_epi64(x, 32), d, all(second_key), 0x96);
    d = x;
    first_key += kFirstWeyl;
    second_key += kSecondWeyl;
  }
  const __m512i ab = _mm512_mask_blend_epi32(0xaaaa, a, _mm512_slli_epi64(b, 32));
  const __m512i cd = _mm512_mask_blend_epi32(0xaaaa, c, _mm512_slli_epi64(d, 32));
  const __m512i even = _mm512_unpacklo_epi64(ab, cd);
  const __m512i odd = _mm512_unpackhi_epi64(ab, cd);
  const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
  const __m512i high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  return {_mm512_srli_epi32(_mm512_permutex2var_epi64(even, low, odd), 8),
          _mm512_srli_epi32(_mm512_permutex2var_epi64(even, high, odd), 8)};
}

}  // namespace

bool wide_random_available() noexcept { return __builtin_cpu_supports("avx512f"); }

[[WEFT_WIDE]] void wide_floats(const WideBlocks& blocks, float* out) noexcept {
  const Numbers found = numbers(blocks);
  const __m512 unit = _mm512_set1_ps(0x1p-24F);
  _mm512_storeu_ps(out, _mm512_mul_ps(_mm512_cvtepi32_ps(found.first), unit));
  _mm512_storeu_ps(out + 16, _mm512_mul_ps(_mm512_cvtepi32_ps(found.second), unit));
}

[[WEFT_WIDE]] std::uint32_t wide_below(const WideBlocks& blocks, std::uint32_t limit) noexcept {
  const Numbers found = numbers(blocks);
  const __m512i past = _mm512_set1_epi32(static_cast<int>(limit));
  const std::uint32_t low = _mm512_cmplt_epu32_mask(found.first, past);
  const std::uint32_t high = _mm512_cmplt_epu32_mask(found.second, past);
  return low | high << 16;
}

#else

bool wide_random_available() noexcept { return false; }
void wide_floats(const WideBlocks&, float*) noexcept {}
std::uint32_t wide_below(const WideBlocks&, std::uint32_t) noexcept { return 0; }

#endif

}  // namespace weft::lora
