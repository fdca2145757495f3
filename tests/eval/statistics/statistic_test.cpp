#include "eval/statistics/statistic.h"

#include <gtest/gtest.h>

#include <cmath>

#include "eval/statistics/quantile.h"

namespace weft::eval {
namespace {

double mean(std::span<const double> s) { return s[1] / s[0]; }

Statistic values(const std::vector<double>& numbers) {
  Statistic statistic{.width = 2, .rows = {}, .of = mean};
  for (const double number : numbers) statistic.rows.insert(statistic.rows.end(), {1, number});
  return statistic;
}

// scipy.stats.permutation_test((a, b), lambda x, y: x.mean() - y.mean(),
// permutation_type="samples", n_resamples=numpy.inf) counts the 2^6 exchanges, too.
TEST(PermutationTest, CountsEveryExchangeOfFewUnits) {
  const Statistic a = values({1.0, 2.0, 3.5, 4.0, 5.0, 6.5});
  const Statistic b = values({0.5, 1.0, 3.0, 3.0, 4.0, 5.0});
  // All differences have one sign: only all and none are as large.
  EXPECT_DOUBLE_EQ(permutation_test(a, b).value(), 2.0 / 64);
  const Statistic c = values({1.0, 2.0}), d = values({1.0, 2.0});
  EXPECT_DOUBLE_EQ(permutation_test(c, d).value(), 1.0);
  EXPECT_FALSE(permutation_test(values({1}), values({2})));
  EXPECT_FALSE(permutation_test(values({1, 2}), values({2, 3, 4})));
}

TEST(PermutationTest, RandomExchangesComeNearTheCount) {
  std::vector<double> a, b;
  for (int i = 0; i < 12; ++i) {
    a.push_back(i);
    b.push_back(i + 0.3 * ((i * 7) % 5 - 1.5));
  }
  const double exact = permutation_test(values(a), values(b), {.permutations = 5000}).value();
  const double random = permutation_test(values(a), values(b), {.permutations = 4000}).value();
  EXPECT_DOUBLE_EQ(exact, 2044.0 / 4096);  // scipy 1.17.1, as above
  EXPECT_NE(exact, random);
  EXPECT_NEAR(random, exact, 4 * std::sqrt(exact / 4000));
}

TEST(Holm, StepsDown) {
  // statsmodels.stats.multitest.multipletests([0.01, 0.04, 0.03, 0.005], method="holm")
  const std::vector<std::optional<double>> p{0.01, std::nullopt, 0.04, 0.03, 0.005};
  const auto adjusted = holm(p);
  EXPECT_DOUBLE_EQ(adjusted[0].value(), 0.03);
  EXPECT_FALSE(adjusted[1]);
  EXPECT_DOUBLE_EQ(adjusted[2].value(), 0.06);
  EXPECT_DOUBLE_EQ(adjusted[3].value(), 0.06);
  EXPECT_DOUBLE_EQ(adjusted[4].value(), 0.02);
}

TEST(Clustered, SumsTheUnitsOfAGroup) {
  const Statistic all = clustered(values({1, 2, 4, 8}), std::vector<std::uint32_t>{0, 1, 0, 1});
  EXPECT_EQ(all.units(), 2);
  EXPECT_EQ(all.rows, (std::vector<double>{2, 5, 2, 10}));
  EXPECT_DOUBLE_EQ(value(all), 15.0 / 4);
}

TEST(Quantile, EqualsNumpyOnTheMultiset) {
  const std::vector<WeightedValue> sorted{{1, 0}, {2, 1}, {4, 2}};
  EXPECT_DOUBLE_EQ(quantile(sorted, {}, 0.5), 2);
  EXPECT_DOUBLE_EQ(quantile(sorted, {}, 0.75), 3);
  EXPECT_DOUBLE_EQ(quantile(sorted, {}, 1), 4);
  const std::vector<std::uint32_t> times{0, 1, 2};  // 2, 4, 4
  EXPECT_DOUBLE_EQ(quantile(sorted, times, 0.25), 3);
  EXPECT_DOUBLE_EQ(quantile(sorted, times, 0.5), 4);
}

}  // namespace
}  // namespace weft::eval
