#pragma once

#include <c10/util/BFloat16.h>

#include <cstddef>
#include <cstdint>

namespace weft::model::kernel {

// Small matrix products inside one thread, for operations whose matrices stay in the cache:
// attention is made of them. The right operand is packed first, since it meets many rows of the
// left one.
//
// An element type E of operands is float, double (sums of the same type), or BFloat16 multiplied in
// pairs by AVX-512 BF16 with sums in float: only where has_bf16_pairs().

/// Whether this processor multiplies pairs of BFloat16 (AVX-512 BF16).
[[nodiscard]] bool has_bf16_pairs() noexcept;

/// The instructions of products in float and double: "avx512", "avx2", "portable".
[[nodiscard]] const char* dense_instructions() noexcept;

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
/// [k / pair][n][pair].
void multiply(float* c, std::int64_t c_stride, const float* a, std::int64_t a_stride,
              const float* b, Extent extent, bool add);
void multiply(double* c, std::int64_t c_stride, const double* a, std::int64_t a_stride,
              const double* b, Extent extent, bool add);
void multiply(float* c, std::int64_t c_stride, const c10::BFloat16* a, std::int64_t a_stride,
              const c10::BFloat16* b, Extent extent, bool add);

}  // namespace weft::model::kernel
