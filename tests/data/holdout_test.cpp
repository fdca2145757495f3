#include "data/holdout.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "data/random.h"

namespace weft::data {
namespace {

/// Examples of a few random tokens, from a fixed seed.
std::vector<Example> random_examples(std::size_t count, std::uint64_t seed) {
  Random random(seed);
  std::vector<Example> examples(count);
  for (Example& example : examples) {
    for (int t = 0; t < 6; ++t) {
      example.tokens.push_back(static_cast<std::int32_t>(random.below(1000)));
    }
    example.supervised.assign(example.tokens.size(), 1);
  }
  return examples;
}

using Tokens = std::vector<std::int32_t>;

std::vector<Tokens> tokens_of(const ExampleTable& table) {
  std::vector<Tokens> all;
  for (std::size_t i = 0; i < table.size(); ++i) {
    all.emplace_back(table[i].tokens.begin(), table[i].tokens.end());
  }
  return all;
}

TEST(HoldOut, KeepsAboutTheShareAndLosesNothing) {
  const auto examples = random_examples(4000, 1);
  for (const double share : {0.05, 0.3}) {
    const HeldOut sides = hold_out(examples, share, 42);
    EXPECT_EQ(sides.learned.size() + sides.kept.size(), examples.size());
    const double deviation = std::sqrt(4000 * share * (1 - share));
    EXPECT_NEAR(static_cast<double>(sides.kept.size()), 4000 * share, 4 * deviation) << share;
    EXPECT_EQ(count_learned(sides.kept, sides.learned), 0);
  }
}

TEST(HoldOut, DependsOnTheSeedAndOnNothingElse) {
  const auto examples = random_examples(500, 2);
  EXPECT_EQ(tokens_of(hold_out(examples, 0.2, 7).kept), tokens_of(hold_out(examples, 0.2, 7).kept));
  EXPECT_NE(tokens_of(hold_out(examples, 0.2, 7).kept), tokens_of(hold_out(examples, 0.2, 8).kept));
}

TEST(HoldOut, RowsThatRepeatFallOnOneSide) {
  auto examples = random_examples(300, 3);
  const auto again = examples;
  examples.insert(examples.end(), again.begin(), again.end());
  const HeldOut sides = hold_out(examples, 0.4, 42);
  std::map<Tokens, int> kept;
  for (const Tokens& tokens : tokens_of(sides.kept)) ++kept[tokens];
  ASSERT_FALSE(kept.empty());
  for (const auto& [tokens, times] : kept) EXPECT_EQ(times, 2);
  EXPECT_EQ(count_learned(sides.kept, sides.learned), 0);
}

TEST(HoldOut, AnotherFileMovesNoRow) {
  const auto examples = random_examples(300, 4);
  auto more = random_examples(200, 5);
  more.insert(more.end(), examples.begin(), examples.end());
  const auto before = tokens_of(hold_out(examples, 0.3, 42).kept);
  const auto after = tokens_of(hold_out(more, 0.3, 42).kept);
  const std::set<Tokens> now(after.begin(), after.end());
  for (const Tokens& tokens : before) EXPECT_TRUE(now.contains(tokens));
  EXPECT_GT(after.size(), before.size());
}

TEST(HoldOut, ValidationRowsThatAreLearnedAreCountedByContent) {
  const auto learned = random_examples(50, 6);
  auto tested = random_examples(20, 7);
  tested[3] = learned[10];
  tested[9] = learned[0];
  tested[10] = learned[0];
  EXPECT_EQ(count_learned(tested, learned), 3);
}

}  // namespace
}  // namespace weft::data
