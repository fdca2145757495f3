#include "model/kernels/multiply.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "model/kernels/amx.h"
#include "model/kernels/pack.h"

namespace weft::tests {
namespace {

using namespace model::kernel;
using c10::BFloat16;

std::size_t of(std::int64_t count) { return static_cast<std::size_t>(count); }

/// Operands and sums of one product, with room between the rows.
template <typename E>
struct Problem {
  using Sum = typename Operand<E>::Sum;
  Extent extent;  // before it is filled up
  std::int64_t c_stride;
  std::vector<E> a, b;  // [m, k], [k, n]
  std::vector<Sum> c;

  Problem(Extent e, std::mt19937_64& random)
      : extent(e), c_stride(e.n + 3), a(of(e.m * e.k)), b(of(e.k * e.n)), c(of(e.m * c_stride)) {
    std::normal_distribution<float> normal;
    for (E& x : a) x = static_cast<E>(normal(random));
    for (E& x : b) x = static_cast<E>(normal(random));
    for (Sum& x : c) x = normal(random);
  }
  [[nodiscard]] E& left(std::int64_t i, std::int64_t p) { return a[of(i * extent.k + p)]; }
  [[nodiscard]] E& right(std::int64_t p, std::int64_t j) { return b[of(p * extent.n + j)]; }

  /// Of operands packed as the kernel reads them.
  [[nodiscard]] std::vector<Sum> product(Multiply<E> multiply, const Layout& layout,
                                         bool add) const {
    Extent filled = extent;
    filled.k = round_up(extent.k, layout.depth);
    const std::int64_t a_stride = filled.k;
    std::vector<E> packed_a(of(extent.m * a_stride), E(7));
    std::vector<E> packed_b(of(filled.k * extent.n), E(7));
    pack_left(packed_a.data(), {a.data(), extent.k, 1}, 0, extent.m, extent.k, layout);
    pack_panel(packed_b.data(), {b.data(), extent.n, 1}, 0, extent.n, extent.k, layout);
    std::vector<Sum> result = c;
    multiply(result.data(), c_stride, packed_a.data(), a_stride, packed_b.data(), filled, add);
    return result;
  }
};

/// Against plain sums in double over the same (already rounded) operands.
template <typename E>
void expect_sums(Multiply<E> multiply, const Layout& layout, Extent extent, double tolerance,
                 std::mt19937_64& random) {
  Problem<E> problem(extent, random);
  for (const bool add : {false, true}) {
    const auto result = problem.product(multiply, layout, add);
    for (std::int64_t i = 0; i < extent.m; ++i) {
      for (std::int64_t j = 0; j < problem.c_stride; ++j) {
        const std::size_t place = of(i * problem.c_stride + j);
        if (j >= extent.n) {
          ASSERT_EQ(result[place], problem.c[place]) << "written beyond the row";
          continue;
        }
        double sum = add ? static_cast<double>(problem.c[place]) : 0;
        double size = 1;
        for (std::int64_t p = 0; p < extent.k; ++p) {
          const auto product =
              static_cast<double>(problem.left(i, p)) * static_cast<double>(problem.right(p, j));
          sum += product;
          size += std::abs(product);
        }
        ASSERT_NEAR(static_cast<double>(result[place]), sum, tolerance * size)
            << extent.m << "x" << extent.k << "x" << extent.n << " at " << i << ", " << j;
      }
    }
  }
}

/// Every shape near the kernels' edges.
template <typename E>
void expect_products(Multiply<E> multiply, const Layout& layout, double tolerance) {
  std::mt19937_64 random(3);
  for (std::int64_t m = 1; m <= 40; m += m < 20 ? 1 : 3) {
    for (const std::int64_t n : {16, 32, 48, 64, 112})
      for (const std::int64_t k : {1, 6, 31, 32, 34, 64, 131})
        expect_sums<E>(multiply, layout, {m, n, k}, tolerance, random);
  }
  expect_sums<E>(multiply, layout, {3, 80, 1024}, tolerance, random);
}

class KernelSets : public testing::TestWithParam<Set> {
 protected:
  void SetUp() override {
    if (!is_available(GetParam())) GTEST_SKIP() << "this processor lacks " << name_of(GetParam());
  }
  const Kernels& kernels() const { return kernels_of(GetParam()); }
};

TEST_P(KernelSets, MultiplyFloats) { expect_products<float>(kernels().of_float, {}, 1e-6); }
TEST_P(KernelSets, MultiplyDoubles) { expect_products<double>(kernels().of_double, {}, 1e-14); }
TEST_P(KernelSets, MultiplyBFloat16) {
  expect_products<BFloat16>(kernels().of_bfloat16, kernels().bfloat16_layout, 1e-6);
}

// What product.h promises: a row has the same bits in any batch.
TEST_P(KernelSets, ARowsBitsDependOnNoOtherRowOrColumn) {
  std::mt19937_64 random(5);
  Problem<BFloat16> whole({40, 112, 130}, random);
  const auto all = whole.product(kernels().of_bfloat16, kernels().bfloat16_layout, true);
  for (const std::int64_t m : {1, 5, 15, 16, 17, 31, 33}) {
    Problem<BFloat16> part = whole;
    part.extent.m = m;
    part.a.assign(whole.a.end() - m * whole.extent.k, whole.a.end());
    part.c.assign(whole.c.end() - m * whole.c_stride, whole.c.end());
    const auto last = part.product(kernels().of_bfloat16, kernels().bfloat16_layout, true);
    EXPECT_TRUE(std::equal(last.begin(), last.end(), all.end() - m * whole.c_stride)) << m;
  }
}

// A product that is filled up to whole registers must not meet infinity with the filling.
TEST_P(KernelSets, InfinitiesAndNanStayWhereTheyBelong) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::mt19937_64 random(7);
  for (const std::int64_t k : {2, 16, 34}) {
    Problem<BFloat16> problem({19, 48, k}, random);
    problem.left(3, k - 1) = BFloat16(kInfinity);
    problem.right(0, 20) = BFloat16(-kInfinity);
    problem.left(5, 1) = BFloat16(std::numeric_limits<float>::quiet_NaN());
    const auto result = problem.product(kernels().of_bfloat16, kernels().bfloat16_layout, false);
    for (std::int64_t i = 0; i < 19; ++i) {
      for (std::int64_t j = 0; j < 48; ++j) {
        const float sum = result[of(i * problem.c_stride + j)];
        if (i == 5) {
          EXPECT_TRUE(std::isnan(sum));
        } else if (i != 3 && j != 20) {
          EXPECT_TRUE(std::isfinite(sum)) << k << ": " << i << ", " << j;
        } else if (i != 3) {
          EXPECT_EQ(sum, static_cast<float>(problem.left(i, 0)) > 0 ? -kInfinity : kInfinity);
        }
      }
    }
  }
}

// Some processors take numbers below float's normal range for zero; none makes more of them.
TEST_P(KernelSets, NumbersBelowTheNormalRangeAreKeptOrZero) {
  std::mt19937_64 random(9);
  Problem<BFloat16> problem({4, 16, 2}, random);
  std::ranges::fill(problem.a, BFloat16(std::ldexp(1.0F, -130)));
  std::ranges::fill(problem.b, BFloat16(std::ldexp(1.0F, 100)));
  const auto result = problem.product(kernels().of_bfloat16, kernels().bfloat16_layout, false);
  const float kept = std::ldexp(1.0F, -29);
  for (std::int64_t j = 0; j < 16; ++j) EXPECT_TRUE(result[of(j)] == 0 || result[of(j)] == kept);
}

TEST(Amx, HasTheBitsOfItsEmulation) {
  if (!is_available(Set::kAmx)) GTEST_SKIP() << "this processor, or its system, has no AMX";
  std::mt19937_64 random(11);
  for (const std::int64_t m : {1, 16, 31, 40}) {
    for (const std::int64_t k : {2, 32, 130, 576}) {
      const Problem<BFloat16> problem({m, 80, k}, random);
      const Layout& layout = kernels_of(Set::kAmx).bfloat16_layout;
      EXPECT_EQ(problem.product(multiply_amx, layout, true),
                problem.product(multiply_amx_emulated, layout, true));
    }
  }
}

// A chain is what its products are one after the other, whatever the rows and columns.
TEST_P(KernelSets, AChainHasTheBitsOfItsProducts) {
  const Layout& layout = kernels().bfloat16_layout;
  const MultiplyChain chain = kernels().chain_of_bfloat16;
  ASSERT_EQ(chain != nullptr, layout.strip != 0) << "a chain is what tiles are for";
  if (chain == nullptr) return;
  std::mt19937_64 random(15);
  std::normal_distribution<float> normal;
  const auto numbers = [&](std::int64_t count) {
    std::vector<BFloat16> values(of(count));
    for (BFloat16& x : values) x = normal(random);
    return values;
  };
  // Short links share a slice of k, long ones are cut into several, and there may be many.
  const std::vector<std::vector<std::int64_t>> depths{
      {96, 32}, {320, 320}, {288, 64, 992}, std::vector<std::int64_t>(11, 32)};
  for (const std::vector<std::int64_t>& ks : depths) {
    for (const std::int64_t m : {1, 17, 32, 40}) {
      for (const std::int64_t n : {16, 48, 128}) {
        std::vector<std::vector<BFloat16>> kept;
        std::vector<Link> links;
        for (const std::int64_t k : ks) {
          const BFloat16* const a = kept.emplace_back(numbers(m * k)).data();
          const BFloat16* const b = kept.emplace_back(numbers(n * k)).data();
          links.push_back({a, k, b, k});
        }
        for (const bool add : {false, true}) {
          std::vector<float> at_once(of(m * n), 3), in_turn(of(m * n), 3);
          chain(at_once.data(), n, links, m, n, add);
          bool go_on = add;
          for (const Link& one : links) {
            // In pieces of 32 of k, which no slice cuts.
            for (std::int64_t k = 0; k < one.k; k += 32) {
              std::vector<BFloat16> tile;
              for (std::int64_t strip = 0; strip < n; strip += 16) {
                const BFloat16* const from = one.b + strip * one.k + k * 16;
                tile.insert(tile.end(), from, from + std::ptrdiff_t{32} * 16);
              }
              kernels().of_bfloat16(in_turn.data(), n, one.a + k, one.a_stride, tile.data(),
                                    {m, n, 32}, go_on);
              go_on = true;
            }
          }
          EXPECT_EQ(at_once, in_turn) << m << " x " << n << ", " << ks.size() << " links";
        }
      }
    }
  }
}

// A right operand is the same from its rows as from its columns.
TEST_P(KernelSets, AMatrixAndItsTransposeArePackedAlike) {
  const Layout& layout = kernels().bfloat16_layout;
  std::mt19937_64 random(17);
  std::normal_distribution<float> normal;
  for (const std::int64_t k : {1, 2, 33, 64}) {
    for (const std::int64_t n : {1, 16, 31, 80}) {
      std::vector<BFloat16> rows(of(k * n)), columns(of(k * n));
      for (std::int64_t i = 0; i < k; ++i) {
        for (std::int64_t j = 0; j < n; ++j)
          rows[of(i * n + j)] = columns[of(j * k + i)] = normal(random);
      }
      const std::size_t size = of(round_up(k, layout.depth) * round_up(n, kLanes));
      std::vector<BFloat16> from_rows(size, BFloat16(7)), from_columns(size, BFloat16(8));
      pack_panel(from_rows.data(), {rows.data(), n, 1}, 0, n, k, layout);
      pack_panel(from_columns.data(), {columns.data(), 1, k}, 0, n, k, layout);
      EXPECT_EQ(from_rows, from_columns) << k << " x " << n;
      // The other way round: n rows of a left operand.
      const std::size_t left_size = of(n * round_up(k, layout.depth));
      std::vector<BFloat16> left_rows(left_size, BFloat16(7)), left_columns(left_size, BFloat16(8));
      pack_left(left_rows.data(), {columns.data(), k, 1}, 0, n, k, layout);
      pack_left(left_columns.data(), {rows.data(), 1, n}, 0, n, k, layout);
      EXPECT_EQ(left_rows, left_columns) << k << " x " << n;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Multiply, KernelSets,
                         testing::Values(Set::kAmx, Set::kAvx512Bf16, Set::kAvx512, Set::kAvx2,
                                         Set::kPortable, Set::kAmxEmulated),
                         [](const auto& tested) { return std::string(name_of(tested.param)); });

// Widening keeps the order of the sums, and both sets add and multiply in one step.
TEST(Widened, HasTheSameBitsUnderAvx2AndAvx512) {
  if (!is_available(Set::kAvx512)) GTEST_SKIP() << "this processor lacks avx512";
  std::mt19937_64 random(13);
  const Problem<BFloat16> problem({23, 112, 130}, random);
  const Layout& layout = kernels_of(Set::kAvx512).bfloat16_layout;
  EXPECT_EQ(problem.product(kernels_of(Set::kAvx512).of_bfloat16, layout, true),
            problem.product(kernels_of(Set::kAvx2).of_bfloat16, layout, true));
}

TEST(Sets, TheChosenOneIsAvailable) {
  EXPECT_TRUE(is_available(chosen_set()));
  EXPECT_EQ(available_sets().back(), Set::kPortable);
}

}  // namespace
}  // namespace weft::tests
