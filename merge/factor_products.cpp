#include "merge/factor_products.h"

#include <bit>
#include <cmath>

#include "merge/factor_products_of.h"

namespace weft::merge {
namespace {

void multiply_plain(const float* right, const double* left, std::int64_t rank, std::int64_t panels,
                    double* out) {
  multiply_factors<2>(right, left, rank, panels, out);
}

#if defined(__x86_64__)
// Wider registers, the same sums: each lane is one column, and products are not fused into the
// additions (avx2 and avx512f do not imply it; see -ffp-contract=off).
[[gnu::target("avx2")]] void multiply_avx2(const float* right, const double* left,
                                           std::int64_t rank, std::int64_t panels, double* out) {
  multiply_factors<4>(right, left, rank, panels, out);
}
[[gnu::target("avx512f")]] void multiply_avx512(const float* right, const double* left,
                                                std::int64_t rank, std::int64_t panels,
                                                double* out) {
  multiply_factors<8>(right, left, rank, panels, out);
}
#endif

MultiplyFactors widest() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return multiply_avx512;
  if (__builtin_cpu_supports("avx2")) return multiply_avx2;
#endif
  return multiply_plain;
}

}  // namespace

bool multiplies_exactly(double left) {
  constexpr int kFraction = 52;  // bits of a double behind its leading one
  constexpr int kKept = 28;      // and so many of them beside 24 of a float
  const auto bits = std::bit_cast<std::uint64_t>(left);
  if ((bits & ((std::uint64_t{1} << (kFraction - kKept)) - 1)) != 0) return false;
  // The product with the smallest float, 2^-149, keeps its last bit above a double's 2^-1074.
  const double size = std::abs(left);
  return size == 0 || (size >= 0x1p-800 && size <= 0x1p800);
}

MultiplyFactors factor_products(bool exact) {
  static const MultiplyFactors kWidest = widest();
  static const MultiplyFactors kFused = fused_factor_products();
  return exact && kFused != nullptr ? kFused : kWidest;
}

}  // namespace weft::merge
