#pragma once

#include "model/kernels/blocks_lanes.h"

// Products of few rows with woven blocks, and the way of blocks into pairs: pack_strip() and
// multiply_rows(), of which a file for each set of instructions makes its WovenKernels. It says in
// WEFT_LANES_TARGET, beside the words of blocks_lanes.h, what these are compiled for, and defines
// multiply_strips() and put_pairs_of() below.

// GCC 12 takes some of these functions for ones that write nothing, and leaves their calls out.
#ifdef __clang__
#define WEFT_LANES_APART
#else
#define WEFT_LANES_APART [[gnu::noipa]]
#endif

namespace weft::model::kernel {
namespace {

/// A product of few rows.
struct Few {
  float* c;
  std::int64_t c_stride;
  const c10::BFloat16* a;
  std::int64_t a_stride, m, k;
};

/// Sums of kRows rows with kStrips strips; rows that there are not are the last one once more.
template <typename F, int kRows, int kStrips>
WEFT_LANES_INLINE void multiply_strips(const Few& few, const std::uint8_t* strip,
                                       std::int64_t strip_bytes);

/// A pair of 16 rows as BFloat16, in the order of its lanes.
template <typename F>
WEFT_LANES_INLINE void put_pairs_of(const std::uint8_t* b, const typename F::Scales& scales,
                                    int unit, int pair, c10::BFloat16* to);

struct PutPairs {
  typedef c10::BFloat16 Element;
  template <typename F>
  WEFT_LANES_INLINE static void pair(const std::uint8_t* b, const typename F::Scales& scales,
                                     int unit, int pair, c10::BFloat16* to, std::int64_t) {
    put_pairs_of<F>(b, scales, unit, pair, to);
  }
};

template <typename F>
WEFT_LANES_TARGET WEFT_LANES_APART void multiply_few(const Few& few, const std::uint8_t* strip,
                                                     std::int64_t strip_bytes, bool two) {
  if (few.m == 1) {
    two ? multiply_strips<F, 1, 2>(few, strip, strip_bytes)
        : multiply_strips<F, 1, 1>(few, strip, strip_bytes);
  } else {
    two ? multiply_strips<F, 4, 2>(few, strip, strip_bytes)
        : multiply_strips<F, 4, 1>(few, strip, strip_bytes);
  }
}

template <typename F>
WEFT_LANES_TARGET WEFT_LANES_APART void pack_few(c10::BFloat16* to, std::int64_t lanes,
                                                 const std::uint8_t* strip, std::int64_t begin,
                                                 std::int64_t k) {
  put_strip<PutPairs, F>(to, lanes, strip, begin, k);
}

WEFT_LANES_TARGET void pack_strip(checkpoint::Storage storage, c10::BFloat16* to,
                                  std::int64_t lanes, const std::uint8_t* strip, std::int64_t begin,
                                  std::int64_t k) {
  for_format(storage, [&]<typename F>(F) { pack_few<F>(to, lanes, strip, begin, k); });
}

WEFT_LANES_TARGET void multiply_rows(float* c, std::int64_t c_stride, const c10::BFloat16* a,
                                     std::int64_t a_stride, const WovenRows& b, std::int64_t first,
                                     const Extent& extent) {
  const Few few{c, c_stride, a, a_stride, extent.m, extent.k};
  for_format(b.storage, [&]<typename F>(F) {
    multiply_few<F>(few, b.data + first * b.row_bytes, kLanes * b.row_bytes, extent.n > kLanes);
  });
}

}  // namespace
}  // namespace weft::model::kernel
