#include "eval/statistics/bootstrap.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "core/error.h"
#include "core/parallel.h"
#include "eval/statistics/philox.h"
#include "tests/support/throws.h"

namespace weft::eval {
namespace {

Figure mean_of(const std::vector<double>& values) {
  return [&values](std::span<const std::uint32_t> times) {
    double sum = 0;
    for (std::size_t i = 0; i < values.size(); ++i) sum += times[i] * values[i];
    return sum / static_cast<double>(values.size());
  };
}

std::vector<double> normal_values(std::size_t count, unsigned seed, double mean = 0) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal(mean, 1);
  std::vector<double> values(count);
  for (double& value : values) value = normal(random);
  return values;
}

TEST(Bootstrap, DrawsAsManyItemsAsThereAre) {
  const auto values = resample(17, [](std::span<const std::uint32_t> times) {
    return static_cast<double>(std::accumulate(times.begin(), times.end(), 0U));
  });
  ASSERT_EQ(values.size(), 2000U);
  for (const double value : values) EXPECT_EQ(value, 17);
}

TEST(Bootstrap, DrawsEveryItemEquallyOften) {
  std::vector<double> often(10);
  for (std::size_t item = 0; item < often.size(); ++item) {
    const auto counts = resample(
        10, [item](std::span<const std::uint32_t> times) { return double{times[item] * 1.0}; });
    often[item] = std::accumulate(counts.begin(), counts.end(), 0.0) / 2000;
  }
  // The mean of 20 000 draws with p = 1/10, times 10, has a deviation of 0.021.
  for (const double count : often) EXPECT_NEAR(count, 1, 0.1);
}

TEST(Bootstrap, SameSeedSameValuesWhateverTheThreads) {
  const std::vector<double> data = normal_values(50, 1);
  const int threads = core::thread_count();
  core::set_thread_count(1);
  const auto one = resample(50, mean_of(data));
  core::set_thread_count(4);
  const auto four = resample(50, mean_of(data));
  core::set_thread_count(threads);
  EXPECT_EQ(one, four);
  EXPECT_NE(one, resample(50, mean_of(data), {.seed = 6}));
}

TEST(Bootstrap, CoversTheTrueMeanAboutAsOftenAsItSays) {
  int covered = 0;
  constexpr int kTrials = 400;
  for (unsigned trial = 0; trial < kTrials; ++trial) {
    const std::vector<double> data = normal_values(80, 100 + trial, 3);
    const auto bounds = interval(resample(80, mean_of(data), {.resamples = 500, .seed = trial}));
    ASSERT_TRUE(bounds);
    if (bounds->low <= 3 && 3 <= bounds->high) ++covered;
  }
  // 95 % less the percentile bootstrap's small-sample bias (about 1 %); deviation 1.1 %.
  EXPECT_GE(covered, kTrials * 90 / 100);
  EXPECT_LE(covered, kTrials * 985 / 1000);
}

TEST(Bootstrap, WidthAgreesWithTheStandardError) {
  const std::vector<double> data = normal_values(400, 7);
  const auto bounds = interval(resample(400, mean_of(data)));
  ASSERT_TRUE(bounds);
  EXPECT_NEAR(bounds->high - bounds->low, 2 * 1.96 / std::sqrt(400), 0.02);
}

TEST(Bootstrap, PairingShrinksTheIntervalOfTheDifference) {
  const std::vector<double> base = normal_values(100, 3);
  std::vector<double> better = base;
  for (double& value : better) value -= 0.05;  // far below the spread of the items
  const auto before = resample(100, mean_of(base));
  auto difference = resample(100, mean_of(better));
  for (std::size_t i = 0; i < difference.size(); ++i) difference[i] -= before[i];
  const auto bounds = interval(difference);
  ASSERT_TRUE(bounds);
  EXPECT_NEAR(bounds->low, -0.05, 1e-9);
  EXPECT_NEAR(bounds->high, -0.05, 1e-9);
}

TEST(Interval, InterpolatesAsNumpy) {
  // numpy.percentile(range(1, 11), [2.5, 97.5])
  std::vector<double> values{10, 9, 8, 7, 6, 5, 4, 3, 2, 1};
  const auto bounds = interval(values);
  ASSERT_TRUE(bounds);
  EXPECT_NEAR(bounds->low, 1.225, 1e-12);
  EXPECT_NEAR(bounds->high, 9.775, 1e-12);
}

TEST(Interval, SaysNothingWhereNothingCanBeSaid) {
  EXPECT_FALSE(interval({}));
  EXPECT_FALSE(interval({1}));
  EXPECT_FALSE(interval({1, std::numeric_limits<double>::quiet_NaN()}));
  EXPECT_TRUE(resample(0, mean_of({})).empty());
  EXPECT_THROWS_WITH((void)resample(3, mean_of({}), {.resamples = 0}), ConfigError, "resample");
}

// numpy.random.Philox(key=[1, 2], counter=[0, 3, 4, 5]).random_raw(4)
TEST(Philox, IsNumpys) {
  const PhiloxBlock expected{0x3a2521b7927bbb55U, 0xafc7ff19479996f0U, 0x37d95196e907db97U,
                             0x19dd01d453e1f915U};
  EXPECT_EQ(philox({1, 3, 4, 5}, {1, 2}), expected);
}

// scipy.stats.t.isf
TEST(StudentQuantile, IsScipys) {
  EXPECT_NEAR(student_quantile(0.025, 1), 12.706204736174705, 1e-6);
  EXPECT_NEAR(student_quantile(0.025, 4), 2.776445105197793, 1e-9);
  EXPECT_NEAR(student_quantile(0.05, 9), 1.8331129326562368, 1e-9);
  EXPECT_NEAR(student_quantile(0.025, 39), 2.022690920036763, 1e-9);
  EXPECT_NEAR(student_quantile(0.025, 40), 2.021075390306275, 1e-6);
  EXPECT_NEAR(student_quantile(0.025, 5000), 1.9604385517065075, 1e-6);
}

/// In how many of 100 samples of so many normal numbers the interval holds the true mean.
double coverage(std::int64_t items) {
  int covered = 0;
  constexpr int kTrials = 1500;
  for (unsigned trial = 0; trial < kTrials; ++trial) {
    const std::vector<double> data =
        normal_values(static_cast<std::size_t>(items), 7000 + trial, 3);
    const auto bounds =
        interval(resample(items, mean_of(data), {.resamples = 1000, .seed = trial}), 0.95, items);
    if (bounds && bounds->low <= 3 && 3 <= bounds->high) ++covered;
  }
  return 100.0 * covered / kTrials;
}

TEST(Bootstrap, IntervalsOfFewItemsHoldTheTruthAboutAsOftenAsTheySay) {
  // The plain percentiles hold it in 87 and 88 of 100. The deviation of these is 0.6.
  EXPECT_GE(coverage(5), 91);
  EXPECT_GE(coverage(10), 92.5);
  EXPECT_LE(coverage(10), 97);
}

TEST(Bootstrap, FewerThanFiveItemsShowNoInterval) {
  const std::vector<double> data{1, 2, 3, 4};
  EXPECT_FALSE(interval(resample(4, mean_of(data)), 0.95, 4));
  EXPECT_EQ(coverage(2), 0);
}

TEST(Bootstrap, DrawsOfASuiteDoNotDependOnOtherSuites) {
  const std::vector<double> data = normal_values(30, 1);
  const auto draws = [&](std::string_view name) {
    return resample(30, mean_of(data), {.stream = stream_of(name)});
  };
  EXPECT_EQ(draws("nahuatl"), draws("nahuatl"));
  EXPECT_NE(draws("nahuatl"), draws("spanish"));
}

}  // namespace
}  // namespace weft::eval
