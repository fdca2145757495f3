#pragma once

#include <c10/util/BFloat16.h>

#include <cstddef>
#include <cstdint>
#include <span>

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

/// How a kernel reads its operands. The right one is packed in strips of columns, each
/// [k / pair][strip][pair].
struct Layout {
  /// k is filled up to a multiple of it, with zeros in both operands: infinities would make NaN of
  /// anything else.
  std::int64_t depth = 1;
  /// Columns of a strip; 0: all.
  std::int64_t strip = 0;
};

/// A product's extent: [m, k] times [k, n]. n is a multiple of kLanes, k of the layout's depth.
struct Extent {
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
};

/// c [m, n] (rows c_stride apart) = or += a [m, k] (rows a_stride apart) times the packed b. An
/// element's bits depend on its row of a and column of b alone, whatever m and n are.
template <typename E>
using Multiply = void (*)(typename Operand<E>::Sum* c, std::int64_t c_stride, const E* a,
                          std::int64_t a_stride, const E* b, const Extent& extent, bool add);

/// One product of a sum of products: a [m, k] times a packed b.
struct Link {
  const c10::BFloat16* a = nullptr;
  std::int64_t a_stride = 0;
  const c10::BFloat16* b = nullptr;
  std::int64_t k = 0;
};

/// The products of a chain one after the other, with the same bits; sums stay where the kernel has
/// them. Every k is above 0; an empty chain leaves c as it is.
using MultiplyChain = void (*)(float* c, std::int64_t c_stride, std::span<const Link> chain,
                               std::int64_t m, std::int64_t n, bool add);

/// How a product of large matrices is cut for a kernel (model/kernels/product.cpp).
struct Cut {
  std::int64_t columns;  ///< whose right operands are packed at once
  std::int64_t depth;    ///< of k packed at once: a packed panel stays in the second cache
  std::int64_t rows;     ///< that meet a panel before their sums leave the cache
  /// Elements of k between two visits to a sum: where a visit begins a chain of its own, short
  /// chains keep the sum's digits.
  std::int64_t step;
};

/// The kernels of one set.
struct Kernels {
  Multiply<float> of_float;
  Multiply<double> of_double;
  Multiply<c10::BFloat16> of_bfloat16;
  MultiplyChain chain_of_bfloat16;  ///< null: of_bfloat16 for each
  Layout bfloat16_layout;
  Cut bfloat16_cut;
};

/// Of a set that is available.
[[nodiscard]] const Kernels& kernels_of(Set set);

/// Of the chosen one.
[[nodiscard]] const Kernels& kernels();

/// Of operands of the chosen kernels.
template <typename E>
[[nodiscard]] Layout layout_of() {
  if constexpr (Operand<E>::kPair == 1)
    return {};
  else
    return kernels().bfloat16_layout;
}

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
