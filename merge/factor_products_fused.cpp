// Compiled with -ffp-contract=fast: a * b + c is one operation where the processor has it.

#include "merge/factor_products.h"
#include "merge/factor_products_of.h"

namespace weft::merge {
#if defined(__x86_64__)
namespace {

[[gnu::target("avx2,fma")]] void multiply_avx2(const float* right, const double* left,
                                               std::int64_t rank, std::int64_t panels,
                                               double* out) {
  multiply_factors<4>(right, left, rank, panels, out);
}
[[gnu::target("avx512f")]] void multiply_avx512(const float* right, const double* left,
                                                std::int64_t rank, std::int64_t panels,
                                                double* out) {
  multiply_factors<8>(right, left, rank, panels, out);
}

}  // namespace

MultiplyFactors fused_factor_products() {
  if (__builtin_cpu_supports("avx512f")) return multiply_avx512;
  const bool fused = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return fused ? multiply_avx2 : nullptr;
}
#else
MultiplyFactors fused_factor_products() { return nullptr; }
#endif
}  // namespace weft::merge
