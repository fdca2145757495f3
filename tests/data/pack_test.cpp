#include "data/pack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "data/random.h"
#include "tests/support/throws.h"

namespace weft::data {
namespace {

using ::testing::ElementsAre;

/// Examples of the given lengths; every token is unique, odd tokens are supervised.
std::vector<Example> examples_of(const std::vector<int>& lengths) {
  std::vector<Example> examples;
  std::int32_t next = 0;
  for (const int length : lengths) {
    Example& example = examples.emplace_back();
    for (int t = 0; t < length; ++t, ++next) {
      example.tokens.push_back(next);
      example.supervised.push_back(t > 0 && next % 2 == 1 ? 1 : 0);
    }
  }
  return examples;
}

std::vector<Example> many(int count) {
  std::vector<int> lengths;
  Random random(5);
  for (int i = 0; i < count; ++i) lengths.push_back(2 + static_cast<int>(random.below(30)));
  return examples_of(lengths);
}

std::vector<std::int64_t> lengths_of(const std::vector<Example>& examples) {
  std::vector<std::int64_t> lengths;
  for (const Example& e : examples) lengths.push_back(static_cast<std::int64_t>(e.tokens.size()));
  return lengths;
}

bool equal(const Row& a, const Row& b) {
  return a.tokens == b.tokens && a.positions == b.positions && a.targets == b.targets &&
         std::equal(a.segments.begin(), a.segments.end(), b.segments.begin(), b.segments.end(),
                    [](Segment x, Segment y) { return x.begin == y.begin && x.end == y.end; });
}

TEST(MakeRow, TargetsAreTheNextTokenOfTheSameExample) {
  const Example a{{10, 11, 12}, {0, 0, 1}, 0, {}};
  const Example b{{20, 21}, {0, 1}, 0, {}};
  const std::vector<const Example*> both{&a, &b};
  const Row row = make_row(both);
  EXPECT_THAT(row.tokens, ElementsAre(10, 11, 12, 20, 21));
  EXPECT_THAT(row.positions, ElementsAre(0, 1, 2, 0, 1));
  EXPECT_THAT(row.targets, ElementsAre(kNoTarget, 12, kNoTarget, 21, kNoTarget));
  ASSERT_EQ(row.segments.size(), 2U);
  EXPECT_EQ(row.segments[1].begin, 3);
  EXPECT_EQ(row.segments[1].end, 5);
}

TEST(PlanEpoch, EveryExampleIsInExactlyOneRowThatHoldsIt) {
  const std::vector<Example> examples = many(1000);
  const auto lengths = lengths_of(examples);
  for (const bool packing : {true, false}) {
    const RowStreamOptions options{.sequence_len = 64, .packing = packing, .window = 128};
    std::vector<std::uint32_t> seen;
    for (const auto& row : plan_epoch(lengths, options, 3)) {
      std::int64_t total = 0;
      for (const std::uint32_t index : row) total += lengths[index];
      EXPECT_LE(total, 64);
      EXPECT_TRUE(packing || row.size() == 1);
      seen.insert(seen.end(), row.begin(), row.end());
    }
    std::sort(seen.begin(), seen.end());
    std::vector<std::uint32_t> all(examples.size());
    std::iota(all.begin(), all.end(), 0U);
    EXPECT_EQ(seen, all);
  }
}

TEST(PlanEpoch, FillsRowsWell) {
  const auto lengths = lengths_of(many(2000));
  const auto plan = plan_epoch(lengths, {.sequence_len = 128}, 0);
  const auto total = std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
  EXPECT_GT(static_cast<double>(total) / static_cast<double>(plan.size() * 128), 0.98);
}

TEST(PlanEpoch, IsTheSameOnEveryMachineAndNewInEveryEpoch) {
  const std::vector<std::int64_t> lengths{3, 5, 2, 7, 4, 6};
  const RowStreamOptions options{.sequence_len = 10, .seed = 42};
  const auto plan = plan_epoch(lengths, options, 0);
  EXPECT_EQ(plan, plan_epoch(lengths, options, 0));
  EXPECT_NE(plan, plan_epoch(lengths, options, 1));
  // Written down: SplitMix64 and the packing are part of what "same seed" promises.
  EXPECT_EQ(nlohmann::json(plan).dump(), "[[0,3],[5,4],[1,2]]");
  EXPECT_EQ(nlohmann::json(plan_epoch(lengths, {.sequence_len = 10, .packing = false,
                                                .shuffle = false}, 5)).dump(),
            "[[0],[1],[2],[3],[4],[5]]");
}

TEST(PlanEpoch, LongExamplesDoNotComeFirst) {
  // Packing takes the longest first; the rows must not come in that order.
  const auto lengths = lengths_of(many(2000));
  const auto plan = plan_epoch(lengths, {.sequence_len = 128, .seed = 4}, 0);
  const auto longest_share = [&](std::size_t begin, std::size_t end) {
    std::int64_t with_longest = 0;
    for (std::size_t row = begin; row < end; ++row) {
      with_longest += std::any_of(plan[row].begin(), plan[row].end(),
                                  [&](std::uint32_t index) { return lengths[index] >= 28; });
    }
    return static_cast<double>(with_longest) / static_cast<double>(end - begin);
  };
  const std::size_t half = plan.size() / 2;
  EXPECT_NEAR(longest_share(0, half), longest_share(half, plan.size()), 0.2);
}

TEST(PlanEpoch, RefusesWhatFitsNoRow) {
  const std::vector<std::int64_t> lengths{3, 11};
  EXPECT_THROWS_WITH((void)plan_epoch(lengths, {.sequence_len = 10}, 0), InputError,
                     "example 1 has 11 tokens");
}

TEST(RowStream, GivesEveryTokenOncePerEpoch) {
  const std::vector<Example> examples = many(200);
  RowStream stream(examples, {.sequence_len = 40, .seed = 1, .epochs = 2, .window = 50});
  std::vector<std::int32_t> tokens;
  std::int64_t supervised = 0;
  while (const auto row = stream.next()) {
    EXPECT_LE(row->tokens.size(), 40U);
    tokens.insert(tokens.end(), row->tokens.begin(), row->tokens.end());
    for (std::size_t t = 0; t < row->tokens.size(); ++t) {
      if (row->targets[t] == kNoTarget) continue;
      ++supervised;
      EXPECT_EQ(row->targets[t], row->tokens[t] + 1);
      EXPECT_EQ(row->targets[t] % 2, 1);
    }
  }
  std::sort(tokens.begin(), tokens.end());
  std::int64_t expected = 0;
  std::vector<std::int32_t> twice;
  for (const Example& example : examples) {
    expected += 2 * example.supervised_count();
    for (const std::int32_t token : example.tokens) twice.insert(twice.end(), 2, token);
  }
  EXPECT_EQ(tokens, twice);
  EXPECT_EQ(supervised, expected);
  EXPECT_EQ(stream.epochs_done(), 2.0);
  EXPECT_FALSE(stream.next());
}

TEST(RowStream, ResumedAtAnyRowEqualsUninterrupted) {
  const std::vector<Example> examples = many(60);
  const RowStreamOptions options{.sequence_len = 40, .seed = 9, .epochs = 3, .window = 16};
  std::vector<Row> rows;
  std::vector<nlohmann::json> states;
  RowStream whole(examples, options);
  states.push_back(whole.state());
  while (auto row = whole.next()) {
    rows.push_back(std::move(*row));
    states.push_back(nlohmann::json::parse(whole.state().dump()));
  }
  ASSERT_GT(rows.size(), 60U);
  for (std::size_t at = 0; at < states.size(); ++at) {
    RowStream resumed(examples, options);
    resumed.restore(states[at]);
    for (std::size_t i = at; i < rows.size(); ++i) {
      const auto row = resumed.next();
      ASSERT_TRUE(row);
      ASSERT_TRUE(equal(*row, rows[i])) << "resumed at " << at << ", row " << i;
    }
    EXPECT_FALSE(resumed.next());
  }
}

TEST(RowStream, RefusesTheStateOfOtherData) {
  const std::vector<Example> examples = many(20);
  RowStream stream(examples, {.sequence_len = 40, .seed = 1});
  const nlohmann::json state = stream.state();
  RowStream other_seed(examples, {.sequence_len = 40, .seed = 2});
  EXPECT_THROWS_WITH(other_seed.restore(state), InputError, "not those of the run to resume");
  std::vector<Example> changed = examples;
  changed[7].supervised[1] ^= 1;
  RowStream other_data(changed, {.sequence_len = 40, .seed = 1});
  EXPECT_THROWS_WITH(other_data.restore(state), InputError, "not those of the run to resume");
  nlohmann::json broken = state;
  broken["position"] = 10'000;
  EXPECT_THROWS_WITH(stream.restore(broken), InputError, "beyond");
  broken["position"] = -1;
  EXPECT_THROWS_WITH(stream.restore(broken), InputError, "no valid 'position'");
  EXPECT_THROWS_WITH(stream.restore(nlohmann::json::array()), InputError, "not those");
  EXPECT_THROWS_WITH(RowStream({}, {}), InputError, "no examples");
}

TEST(RowStream, KnowsHowFarItIs) {
  const std::vector<Example> examples = examples_of({4, 4, 4, 4});
  RowStream stream(examples, {.sequence_len = 4, .shuffle = false});
  EXPECT_EQ(stream.rows_in_epoch(), 4);
  (void)stream.next();
  EXPECT_DOUBLE_EQ(stream.epochs_done(), 0.25);
  EXPECT_THAT(stream.last_examples(), ElementsAre(0U));
  for (int i = 0; i < 4; ++i) (void)stream.next();
  EXPECT_DOUBLE_EQ(stream.epochs_done(), 1.25);
}

TEST(Random, IsSplitMix64) {
  Random random(0);  // The first value that Vigna's splitmix64.c gives.
  EXPECT_EQ(random.next(), 0xe220a8397b1dcdafULL);
}

TEST(Random, IsUniformEnoughAndBounded) {
  Random random(3);
  std::vector<int> counts(7);
  for (int i = 0; i < 70'000; ++i) ++counts[static_cast<std::size_t>(random.below(7))];
  for (const int count : counts) EXPECT_NEAR(count, 10'000, 400);
}

}  // namespace
}  // namespace weft::data
