#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/hash.h"
#include "lora/adapter.h"
#include "lora/random.h"
#include "tests/lora/adapters.h"

namespace weft::lora {
namespace {

using ::testing::Each;

std::vector<Target> some_targets() {
  AdapterConfig config;
  config.r = 16;
  config.target_modules.names = {"q_proj", "down_proj"};
  return resolve_targets(config, {{"m.0.q_proj", 400, 30}, {"m.0.down_proj", 100, 50}});
}

TEST(RandomStream, MarksTheNumbersBelowAProbability) {
  const RandomStream stream(42, "a name");
  for (const double probability : {0.0, 0.3, 0.5, 0x1p-24, 0.9, 1.0}) {
    for (const std::uint64_t first : {std::uint64_t{0}, std::uint64_t{3}, std::uint64_t{1} << 34}) {
      for (const std::size_t count : {0U, 7U, 31U, 32U, 100U, 1000U}) {
        std::vector<std::uint8_t> marks((count + 7) / 8, 0xff);
        stream.below(first, probability, count, marks);
        for (std::size_t j = 0; j < 8 * marks.size(); ++j) {
          const bool below =
              j < count && static_cast<double>(stream.uniform(first + j)) < probability;
          ASSERT_EQ(below, (marks[j / 8] >> j % 8 & 1) != 0) << first << " + " << j;
        }
      }
    }
  }
  // A probability that is one of the numbers: it is not below itself.
  const double own = stream.uniform(40);
  std::vector<std::uint8_t> mark(4);
  stream.below(40, own, 32, mark);
  EXPECT_EQ(0, mark[0] & 1);
  stream.below(40, std::nextafter(own, 1.0), 32, mark);
  EXPECT_EQ(1, mark[0] & 1);
}

TEST(RandomStream, FillsWithTheNumbersItGivesOneByOne) {
  const RandomStream stream(42, "a name");
  std::vector<float> numbers(300);  // Blocks side by side, and single numbers before and after.
  const std::uint64_t carry = (std::uint64_t{1} << 34) - 100;  // The block's upper half begins.
  for (const std::uint64_t first : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{2},
                                    std::uint64_t{3}, std::uint64_t{1000001}, carry}) {
    stream.fill(first, numbers);
    for (std::size_t i = 0; i < numbers.size(); ++i)
      EXPECT_EQ(numbers[i], stream.uniform(first + i));
  }
}

TEST(InitialAdapter, LeavesTheModelUnchangedAndSpreadsAEvenly) {
  const Adapter adapter = make_adapter({}, some_targets(), 7);
  ASSERT_EQ(adapter.factors.size(), 2U);
  const Factors& q = adapter.factors[1];
  EXPECT_EQ(q.a.size(), 16U * 400);
  EXPECT_EQ(q.b.size(), 30U * 16);
  EXPECT_THAT(q.b, Each(0.0F));
  double sum = 0;
  double squares = 0;
  float least = 1;
  float most = -1;
  for (const float value : q.a) {
    sum += static_cast<double>(value);
    squares += static_cast<double>(value) * static_cast<double>(value);
    least = std::min(least, value);
    most = std::max(most, value);
  }
  // Uniform in [-1/20, 1/20): mean 0, variance (1/20)^2 / 3; 6400 draws.
  EXPECT_NEAR(sum / 6400, 0, 0.0015);
  EXPECT_NEAR(squares / 6400, 0.0025 / 3, 0.00003);
  EXPECT_GE(least, -0.05F);
  EXPECT_LT(most, 0.05F);
  EXPECT_LT(least, -0.0499F);
  EXPECT_GT(most, 0.0499F);
}

TEST(InitialAdapter, DependsOnSeedAndPathOnly) {
  const auto targets = some_targets();
  const Adapter both = make_adapter({}, targets, 7);
  const Adapter one = make_adapter({}, {targets[1]}, 7);
  const Adapter other = make_adapter({}, targets, 8);
  EXPECT_EQ(one.factors[0].a, both.factors[1].a);
  EXPECT_NE(other.factors[1].a, both.factors[1].a);
  EXPECT_NE(both.factors[0].a[0], both.factors[1].a[0]);
}

TEST(InitialAdapter, IsTheSameOnEveryMachine) {
  const Adapter adapter = make_adapter({}, some_targets(), 42);
  core::Sha256 sha;
  for (const Factors& factors : adapter.factors) sha.update(std::as_bytes(std::span(factors.a)));
  EXPECT_EQ(sha.finish(), "8dfd0ed948c28a114c5f9ba477936b07502d5431d9e5b6b5aaa0079c51129173");
}

}  // namespace
}  // namespace weft::lora
