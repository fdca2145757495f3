#include "model/tile_product.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace weft::tests {
namespace {

using namespace model::kernel;

/// Multiplies random operands of every shape near the kernels' edges, and compares with plain sums
/// in double over the same (already rounded) operands.
template <typename E>
void expect_products(double tolerance) {
  constexpr std::int64_t kPair = Operand<E>::kPair;
  std::mt19937_64 random(3);
  std::normal_distribution<float> normal;
  for (const std::int64_t m : {1, 2, 3, 5, 6, 7, 12, 13, 64}) {
    for (const std::int64_t n : {16, 32, 48, 64, 80, 112, 192}) {
      for (const std::int64_t k : {2, 6, 64, 130}) {
        for (const bool add : {false, true}) {
          const std::int64_t a_stride = k + 2;
          const std::int64_t c_stride = n + 3;
          const auto of = [](std::int64_t count) { return static_cast<std::size_t>(count); };
          std::vector<E> a(of(m * a_stride));
          std::vector<E> b(of(k * n));
          std::vector<typename Operand<E>::Sum> c(of(m * c_stride));
          for (E& x : a) x = static_cast<E>(normal(random));
          for (E& x : b) x = static_cast<E>(normal(random));
          for (auto& x : c) x = normal(random);
          const auto before = c;
          multiply(c.data(), c_stride, a.data(), a_stride, b.data(), {m, n, k}, add);
          for (std::int64_t i = 0; i < m; ++i) {
            for (std::int64_t j = 0; j < c_stride; ++j) {
              const std::size_t place = of(i * c_stride + j);
              if (j >= n) {
                ASSERT_EQ(c[place], before[place]) << "written beyond the row";
                continue;
              }
              double sum = add ? static_cast<double>(before[place]) : 0;
              double size = 1;
              for (std::int64_t p = 0; p < k; ++p) {
                const auto left = static_cast<double>(a[of(i * a_stride + p)]);
                const auto right =
                    static_cast<double>(b[of((p / kPair * n + j) * kPair + p % kPair)]);
                sum += left * right;
                size += std::abs(left * right);
              }
              ASSERT_NEAR(static_cast<double>(c[place]), sum, tolerance * size)
                  << m << "x" << k << "x" << n << " at " << i << ", " << j;
            }
          }
        }
      }
    }
  }
}

TEST(TileProduct, OfFloats) { expect_products<float>(1e-6); }
TEST(TileProduct, OfDoubles) { expect_products<double>(1e-14); }
TEST(TileProduct, OfBFloat16InPairs) {
  if (!has_bf16_pairs()) GTEST_SKIP() << "this processor has no AVX-512 BF16";
  expect_products<c10::BFloat16>(1e-6);
}

}  // namespace
}  // namespace weft::tests
