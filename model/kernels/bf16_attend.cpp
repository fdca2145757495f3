#include <algorithm>

#include "model/kernels/bf16_lanes.h"
#include "model/kernels/bf16_rows.h"

#if defined(__x86_64__) && defined(__GNUC__)

namespace weft::model::kernel {
namespace {

using namespace lanes_of_16;

constexpr int kBlock = 4;  // keys by queries whose sums are in registers

/// The sums of sixteen registers, in their order.
WEFT_ROWS_INLINE __m512 sums_of(const __m512 (&a)[kBlock * kBlock]) {
  __m512 twos[8];
  for (int i = 0; i < 8; ++i) {
    twos[i] = _mm512_add_ps(_mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]),
                            _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]));
  }
  __m512 fours[4];  // in each quarter, four sums of quarters
  for (int i = 0; i < 4; ++i) {
    const __m512d low = _mm512_castps_pd(twos[2 * i]);
    const __m512d high = _mm512_castps_pd(twos[2 * i + 1]);
    fours[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(low, high)),
                             _mm512_castpd_ps(_mm512_unpackhi_pd(low, high)));
  }
  __m512 halves[2];
  for (int i = 0; i < 2; ++i) {
    halves[i] = _mm512_add_ps(_mm512_shuffle_f32x4(fours[2 * i], fours[2 * i + 1], 0x88),
                              _mm512_shuffle_f32x4(fours[2 * i], fours[2 * i + 1], 0xdd));
  }
  return _mm512_add_ps(_mm512_shuffle_f32x4(halves[0], halves[1], 0x88),
                       _mm512_shuffle_f32x4(halves[0], halves[1], 0xdd));
}

/// Products of up to four keys and four queries; places beyond `keys` and `queries` repeat the last
/// ones and are not written.
WEFT_ROWS void score_block(const KeysOfHead& h, const float* query, std::int64_t queries,
                           std::int64_t key, std::int64_t keys, float* scores) {
  __m512 sums[kBlock * kBlock];
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  for_lanes(
      h.head_dim, WEFT_LANES {
        __m512 q[kBlock];
        for (int g = 0; g < kBlock; ++g)
          q[g] = read(query + std::min<std::int64_t>(g, queries - 1) * h.head_dim + i, m);
        for (int j = 0; j < kBlock; ++j) {
          const __m512 k =
              read(h.rows + (key + std::min<std::int64_t>(j, keys - 1)) * h.head_dim + i, m);
          for (int g = 0; g < kBlock; ++g)
            sums[g * kBlock + j] = _mm512_fmadd_ps(q[g], k, sums[g * kBlock + j]);
        }
      });
  alignas(64) float all[kBlock * kBlock];
  _mm512_store_ps(all, sums_of(sums));
  for (std::int64_t g = 0; g < queries; ++g)
    std::copy_n(all + g * kBlock, keys, scores + g * h.count + key);
}

/// Up to four queries' sums over the values in 64 places from `place` on.
WEFT_ROWS void value_block(const KeysOfHead& h, const float* weights, std::int64_t queries,
                           std::int64_t place, float* sums) {
  constexpr int kRegisters = 4;
  __m512 sum[kBlock][kRegisters];
  __mmask16 masks[kRegisters];
  for (int r = 0; r < kRegisters; ++r) {
    masks[r] = lanes(std::max<std::int64_t>(h.head_dim - place - r * kWidth, 0));
    for (int g = 0; g < kBlock; ++g) sum[g][r] = _mm512_setzero_ps();
  }
  for (std::int64_t j = 0; j < h.count; ++j) {
    const BFloat16* const value = h.rows + j * h.head_dim + place;
    for (int r = 0; r < kRegisters; ++r) {
      const __m512 v = read(value + r * kWidth, masks[r]);
      for (int g = 0; g < kBlock; ++g) {
        const float weight = weights[std::min<std::int64_t>(g, queries - 1) * h.count + j];
        sum[g][r] = _mm512_fmadd_ps(_mm512_set1_ps(weight), v, sum[g][r]);
      }
    }
  }
  for (std::int64_t g = 0; g < queries; ++g) {
    for (int r = 0; r < kRegisters; ++r)
      write(sums + g * h.head_dim + place + r * kWidth, sum[g][r], masks[r]);
  }
}

}  // namespace

void products_with_keys(const KeysOfHead& keys, const float* queries, std::int64_t group,
                        float* scores) {
  for (std::int64_t g = 0; g < group; g += kBlock) {
    const std::int64_t some = std::min<std::int64_t>(kBlock, group - g);
    for (std::int64_t key = 0; key < keys.count; key += kBlock) {
      score_block(keys, queries + g * keys.head_dim, some, key,
                  std::min<std::int64_t>(kBlock, keys.count - key), scores + g * keys.count);
    }
  }
}

void sums_of_values(const KeysOfHead& values, const float* weights, std::int64_t group,
                    float* sums) {
  for (std::int64_t g = 0; g < group; g += kBlock) {
    const std::int64_t some = std::min<std::int64_t>(kBlock, group - g);
    for (std::int64_t place = 0; place < values.head_dim; place += 4 * kWidth) {
      value_block(values, weights + g * values.count, some, place, sums + g * values.head_dim);
    }
  }
}

}  // namespace weft::model::kernel

#else

namespace weft::model::kernel {

// Never called: no set of other processors has these rows.
void products_with_keys(const KeysOfHead&, const float*, std::int64_t, float*) {}
void sums_of_values(const KeysOfHead&, const float*, std::int64_t, float*) {}

}  // namespace weft::model::kernel

#endif
