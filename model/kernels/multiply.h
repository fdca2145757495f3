#pragma once

#include <c10/util/BFloat16.h>

#include <cstddef>
#include <cstdint>

#include "model/kernels/sets.h"

namespace weft::model::kernel {

// Small matrix products inside one thread, for operations whose matrices stay in the cache:
// attention is made of them, and model/kernels/product.h. The right operand is packed first, since
// it meets many rows of the left one.
//
// An element type E of operands is float, double (sums of the same type), or BFloat16, whose
// products are exact in float and summed there.

template <typename E>
struct Operand {
  using Sum = E;
  static constexpr std::int64_t kPair = 1;  ///< Neighbours along the contraction that lie together
};
template <>
struct Operand<c10::BFloat16> {
  using Sum = float;
  static constexpr std::int64_t kPair = 2;
};

/// Columns of packed operands and of results are a multiple of it.
inline constexpr std::int64_t kLanes = 16;

constexpr std::int64_t round_up(std::int64_t n, std::int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

/// A product's extent: [m, k] times [k, n]. n is a multiple of kLanes, k of the operand's pair;
/// what fills them up is zero in at least one operand.
struct Extent {
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
};

/// c [m, n] (rows c_stride apart) = or += a [m, k] (rows a_stride apart) times b, packed as
/// [k / pair][n][pair]. An element's bits depend on its row of a and column of b alone, whatever m
/// and n are.
template <typename E>
using Multiply = void (*)(typename Operand<E>::Sum* c, std::int64_t c_stride, const E* a,
                          std::int64_t a_stride, const E* b, const Extent& extent, bool add);

/// The kernels of one set.
struct Kernels {
  Multiply<float> of_float;
  Multiply<double> of_double;
  Multiply<c10::BFloat16> of_bfloat16;
  /// Elements of k between two visits of a BFloat16 product to a sum: where a visit begins a chain
  /// of its own, short chains keep the sum's digits.
  std::int64_t bfloat16_step;
};

/// Of a set that is available.
[[nodiscard]] const Kernels& kernels_of(Set set);

/// Of the chosen one.
[[nodiscard]] const Kernels& kernels();

inline void multiply(float* c, std::int64_t c_stride, const float* a, std::int64_t a_stride,
                     const float* b, const Extent& extent, bool add) {
  kernels().of_float(c, c_stride, a, a_stride, b, extent, add);
}
inline void multiply(double* c, std::int64_t c_stride, const double* a, std::int64_t a_stride,
                     const double* b, const Extent& extent, bool add) {
  kernels().of_double(c, c_stride, a, a_stride, b, extent, add);
}
inline void multiply(float* c, std::int64_t c_stride, const c10::BFloat16* a, std::int64_t a_stride,
                     const c10::BFloat16* b, const Extent& extent, bool add) {
  kernels().of_bfloat16(c, c_stride, a, a_stride, b, extent, add);
}

}  // namespace weft::model::kernel
