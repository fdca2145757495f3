#include "model/kernels/bf16_rows.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "model/kernels/kernel_math.h"
#include "model/kernels/sets.h"

// Against the formulas in double, over rows of every length near the registers' width.
namespace weft::tests {
namespace {

using namespace model::kernel;
using c10::BFloat16;
constexpr double kRounding = 1.0 / 256;  // half a unit in the last of BFloat16's eight bits

class BFloat16Rows : public testing::TestWithParam<Set> {
 protected:
  void SetUp() override {
    if (!is_available(GetParam())) GTEST_SKIP() << "this processor lacks these instructions";
  }
  static const RowKernels& kernels() { return *bf16_rows_of(GetParam()); }
  std::vector<BFloat16> random_row(std::int64_t count, float spread = 2) {
    std::normal_distribution<float> normal(0, spread);
    std::vector<BFloat16> row(static_cast<std::size_t>(count));
    for (BFloat16& x : row) x = BFloat16(normal(random_));
    return row;
  }
  std::vector<float> random_floats(std::int64_t count, float spread = 2) {
    std::normal_distribution<float> normal(0, spread);
    std::vector<float> row(static_cast<std::size_t>(count));
    for (float& x : row) x = normal(random_);
    return row;
  }
  static double of(BFloat16 x) { return static_cast<double>(static_cast<float>(x)); }
  static double rounded(double x) { return of(BFloat16(static_cast<float>(x))); }
  static double logistic(double x) { return 1 / (1 + std::exp(-x)); }
  static void expect_near(BFloat16 got, double wanted) {
    EXPECT_NEAR(of(got), wanted, kRounding * std::abs(wanted) + 1e-30);
  }
  static constexpr std::int64_t kCounts[] = {1, 15, 16, 17, 31, 32, 33, 48, 63, 64, 100};

  std::mt19937_64 random_{1};
};

TEST_P(BFloat16Rows, SiluAndItsGradient) {
  for (const std::int64_t n : kCounts) {
    const auto in = random_row(2 * n, 6);
    std::vector<BFloat16> y(static_cast<std::size_t>(n) + 1, BFloat16(7));
    kernels().silu_rows(in.data(), y.data(), n, 0, 1);
    const auto dy = random_row(n);
    auto gradient = in;
    kernels().silu_backward_rows(gradient.data(), dy.data(), n, 0, 1);
    for (std::int64_t i = 0; i < n; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const auto up_at = static_cast<std::size_t>(n + i);
      const double g = of(in[at]);
      const double up = of(in[up_at]);
      const double d = of(dy[at]);
      const double s = logistic(g);
      EXPECT_NEAR(of(y[at]), g * s * up, 2 * kRounding * std::abs(g * s * up) + 1e-30);
      expect_near(gradient[at], d * up * s * (1 + g * (1 - s)));
      expect_near(gradient[up_at], d * g * s);
    }
    EXPECT_EQ(of(y.back()), 7) << "written beyond the row";
  }
}

TEST_P(BFloat16Rows, SiluOfExtremesIsWhatItIsElsewhere) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const std::vector<float> gates{-1e38F, -300, -89,       -87,           0,
                                 88,     300,  kInfinity, std::nanf(""), -kInfinity};
  std::vector<BFloat16> in;
  for (const float g : gates) in.emplace_back(g);
  in.resize(2 * gates.size(), BFloat16(1));
  std::vector<BFloat16> y(gates.size());
  kernels().silu_rows(in.data(), y.data(), static_cast<std::int64_t>(gates.size()), 0, 1);
  for (std::size_t i = 0; i < gates.size(); ++i) {
    const float x = static_cast<float>(BFloat16(gates[i]));
    const auto wanted = static_cast<double>(x * sigmoid(x));  // of the plain rows
    if (std::isnan(wanted)) {
      EXPECT_TRUE(std::isnan(of(y[i]))) << gates[i];
    } else if (std::isinf(wanted)) {
      EXPECT_EQ(of(y[i]), wanted);
    } else {
      EXPECT_NEAR(of(y[i]), wanted, kRounding * std::abs(wanted) + 1e-30) << gates[i];
    }
  }
}

TEST_P(BFloat16Rows, SumsAreFinishedInTheOrderOfTheModules) {
  constexpr std::int64_t kRows = 3;
  for (const std::int64_t n : kCounts) {
    const auto sums = random_floats(kRows * (n + 2));
    const auto bias = random_row(n);
    const auto residual = random_row(kRows * (n + 3));
    std::vector<BFloat16> c(static_cast<std::size_t>(kRows * (n + 1)), BFloat16(7));
    Finish finish{.to = c.data(),
                  .sums = sums.data(),
                  .bias = bias.data(),
                  .residual = residual.data(),
                  .to_stride = n + 1,
                  .sums_stride = n + 2,
                  .residual_stride = n + 3,
                  .rows = kRows,
                  .columns = n,
                  .scale = 0.5F};
    const auto expect = [&](bool plain) {
      for (std::int64_t row = 0; row < kRows; ++row) {
        for (std::int64_t j = 0; j < n; ++j) {
          const auto at = [&](std::int64_t stride) {
            return static_cast<std::size_t>(row * stride + j);
          };
          const float sum = sums[at(n + 2)];
          const float biased = sum * 0.5F + static_cast<float>(bias[static_cast<std::size_t>(j)]);
          const float whole =
              static_cast<float>(BFloat16(biased)) + static_cast<float>(residual[at(n + 3)]);
          EXPECT_EQ(c[at(n + 1)], BFloat16(plain ? sum : whole));
        }
        EXPECT_EQ(of(c[static_cast<std::size_t>(row * (n + 1) + n)]), 7)
            << "written beyond the row";
      }
    };
    kernels().finish_rows(finish);
    expect(false);
    finish.bias = finish.residual = nullptr;
    finish.scale = 1;
    kernels().finish_rows(finish);
    expect(true);
  }
}

TEST_P(BFloat16Rows, PairsLieTogether) {
  constexpr std::int64_t kRows = 4;
  for (const std::int64_t n : kCounts) {
    const auto from = random_row(kRows * (n + 5));
    std::vector<BFloat16> to(static_cast<std::size_t>(kRows / 2 * (2 * n + 1)), BFloat16(7));
    kernels().interleave_pairs({.to = to.data(),
                                .from = from.data(),
                                .to_stride = 2 * n + 1,
                                .strip_stride = 32,
                                .from_stride = n + 5,
                                .rows = kRows,
                                .columns = n});
    for (std::int64_t row = 0; row < kRows / 2; ++row) {
      const BFloat16* const pairs = to.data() + row * (2 * n + 1);
      for (std::int64_t i = 0; i < n; ++i) {
        EXPECT_EQ(pairs[2 * i], from[static_cast<std::size_t>(2 * row * (n + 5) + i)]);
        EXPECT_EQ(pairs[2 * i + 1], from[static_cast<std::size_t>((2 * row + 1) * (n + 5) + i)]);
      }
      EXPECT_EQ(of(pairs[2 * n]), 7);
    }
  }
}

TEST_P(BFloat16Rows, ATokenReadsTheKeysAndValuesOfAHead) {
  for (const std::int64_t dim : {8, 16, 64, 72, 128}) {
    for (const std::int64_t count : {1, 3, 4, 17}) {
      for (const std::int64_t group : {1, 3, 4, 7}) {
        const auto rows = random_row(count * dim);
        const auto floats = [&](std::int64_t size) {
          std::vector<float> values;
          for (const BFloat16 x : random_row(size)) values.push_back(static_cast<float>(x));
          return values;
        };
        const auto queries = floats(group * dim);
        const auto weights = floats(group * count);
        const auto at = [](std::int64_t i) { return static_cast<std::size_t>(i); };
        std::vector<float> scores(at(group * count + 1), 7), sums(at(group * dim + 1), 7);
        kernels().products_with_keys({rows.data(), count, dim}, queries.data(), group,
                                     scores.data());
        kernels().sums_of_values({rows.data(), count, dim}, weights.data(), group, sums.data());
        for (std::int64_t g = 0; g < group; ++g) {
          for (std::int64_t j = 0; j < count; ++j) {
            double dot = 0;
            for (std::int64_t d = 0; d < dim; ++d)
              dot += static_cast<double>(queries[at(g * dim + d)]) * of(rows[at(j * dim + d)]);
            ASSERT_NEAR(scores[at(g * count + j)], dot, 1e-4) << dim << ", " << count;
          }
          for (std::int64_t d = 0; d < dim; ++d) {
            double sum = 0;
            for (std::int64_t j = 0; j < count; ++j)
              sum += static_cast<double>(weights[at(g * count + j)]) * of(rows[at(j * dim + d)]);
            ASSERT_NEAR(sums[at(g * dim + d)], sum, 1e-4) << dim << ", " << count;
          }
        }
        EXPECT_EQ(scores.back(), 7);
        EXPECT_EQ(sums.back(), 7);
      }
    }
  }
}

TEST_P(BFloat16Rows, RootMeanSquareNormAndItsGradient) {
  for (const std::int64_t n : kCounts) {
    const auto x = random_row(n);
    const auto weight = random_row(n, 1);
    const auto dy = random_row(n);
    std::vector<BFloat16> y(x.size());
    const float s = kernels().rms_row(x.data(), weight.data(), 1, 1e-5F, y.data(), n);
    double squares = 0;
    double dot = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      squares += of(x[i]) * of(x[i]);
      dot += of(dy[i]) * (of(weight[i]) + 1) * of(x[i]);
    }
    const double exact = 1 / std::sqrt(squares / static_cast<double>(n) + 1e-5);
    EXPECT_NEAR(static_cast<double>(s), exact, 1e-5 * exact);
    auto dx = random_row(n);
    const auto before = dx;
    kernels().rms_backward_row(x.data(), weight.data(), 1, s, dy.data(), dx.data(), true, n);
    for (std::size_t i = 0; i < x.size(); ++i) {
      expect_near(y[i], rounded(of(x[i]) * static_cast<double>(s)) * (of(weight[i]) + 1));
      const double through = exact * (of(weight[i]) + 1) * of(dy[i]);
      const double back = dot * exact * exact * exact / static_cast<double>(n) * of(x[i]);
      const double size = std::abs(of(before[i])) + std::abs(through) + std::abs(back);
      EXPECT_NEAR(of(dx[i]), of(before[i]) + through - back, kRounding * size);
    }
  }
}

TEST_P(BFloat16Rows, SoftmaxOfScoresAndItsGradient) {
  constexpr float kScale = 0.3F;
  for (const std::int64_t n : kCounts) {
    const auto scores = random_floats(n, 20);
    auto row = scores;
    const float most = kernels().scale_scores(row.data(), n, kScale, -1000);
    double largest = -1000;
    for (std::size_t i = 0; i < row.size(); ++i) {
      const double wanted = rounded(static_cast<double>(scores[i])) * static_cast<double>(kScale);
      EXPECT_NEAR(static_cast<double>(row[i]), wanted, 1e-6 * std::abs(wanted));
      largest = std::max(largest, static_cast<double>(row[i]));
    }
    EXPECT_EQ(static_cast<double>(most), largest);
    EXPECT_EQ(kernels().scale_scores(std::vector<float>(scores).data(), n, kScale, 1000), 1000);
    const auto scaled = row;
    const float total = kernels().exponentials(row.data(), n, most);
    double sum = 0;
    for (std::size_t i = 0; i < row.size(); ++i) {
      const double wanted = std::exp(static_cast<double>(scaled[i]) - static_cast<double>(most));
      EXPECT_NEAR(static_cast<double>(row[i]), wanted, 1e-5 * wanted + 1e-37);
      sum += wanted;
    }
    EXPECT_NEAR(static_cast<double>(total), sum, 1e-5 * sum);
    std::vector<BFloat16> weights(row.size());
    kernels().weights_row(weights.data(), row.data(), n, 1 / total);
    const auto gradient = random_floats(n);
    const auto log_sums = random_floats(n);
    const auto deltas = random_floats(n);
    std::vector<BFloat16> along(row.size()), across(row.size()), p_across(row.size());
    kernels().score_gradients(along.data(), scores.data(), gradient.data(), n, kScale, 1.5F, 0.5F);
    kernels().score_gradients_across(p_across.data(), across.data(), scores.data(), gradient.data(),
                                     log_sums.data(), deltas.data(), n, kScale);
    for (std::size_t i = 0; i < row.size(); ++i) {
      expect_near(weights[i], static_cast<double>(row[i]) / static_cast<double>(total));
      const auto expected = [&](double log_sum, double delta) {
        const double p = std::exp(static_cast<double>(scaled[i]) - log_sum);
        return std::pair(
            p, p * (static_cast<double>(gradient[i]) - delta) * static_cast<double>(kScale));
      };
      expect_near(along[i], expected(1.5, 0.5).second);
      const auto [p, d] =
          expected(static_cast<double>(log_sums[i]), static_cast<double>(deltas[i]));
      expect_near(p_across[i], p);
      expect_near(across[i], d);
    }
  }
}

// What is masked out is minus infinity; a row of it sums to nothing.
TEST_P(BFloat16Rows, ExponentialsOfMinusInfinityAreZero) {
  std::vector<float> row(20, -std::numeric_limits<float>::infinity());
  row[3] = 2;
  EXPECT_EQ(kernels().exponentials(row.data(), 20, 2), 1);
  EXPECT_EQ(row[0], 0);
  EXPECT_EQ(row[3], 1);
}

INSTANTIATE_TEST_SUITE_P(Sets, BFloat16Rows,
                         testing::Values(Set::kAvx512Bf16, Set::kAvx512, Set::kAvx2),
                         [](const auto& set) { return std::string(name_of(set.param)); });

}  // namespace
}  // namespace weft::tests
