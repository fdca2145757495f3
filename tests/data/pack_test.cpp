#include "data/pack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

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

bool equal(const Row& a, const Row& b) {
  return a.tokens == b.tokens && a.positions == b.positions && a.targets == b.targets &&
         std::equal(a.segments.begin(), a.segments.end(), b.segments.begin(), b.segments.end(),
                    [](Segment x, Segment y) {
                      return x.begin == y.begin && x.end == y.end && x.parent == y.parent;
                    });
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
  const auto prefixes = prefixes_of(examples);
  for (const bool packing : {true, false}) {
    const RowStreamOptions options{.sequence_len = 64, .packing = packing, .window = 128};
    std::vector<std::uint32_t> seen;
    for (const PlannedRow& row : plan_epoch(prefixes, options, 3)) {
      std::int64_t total = 0;
      for (const std::uint32_t index : row.examples) total += std::ssize(examples[index].tokens);
      EXPECT_LE(total, 64);
      EXPECT_EQ(row.tokens, total);
      EXPECT_EQ(row.example_tokens, total);
      EXPECT_TRUE(packing || row.examples.size() == 1);
      seen.insert(seen.end(), row.examples.begin(), row.examples.end());
    }
    std::sort(seen.begin(), seen.end());
    std::vector<std::uint32_t> all(examples.size());
    std::iota(all.begin(), all.end(), 0U);
    EXPECT_EQ(seen, all);
  }
}

TEST(PlanEpoch, FillsRowsWell) {
  const std::vector<Example> examples = many(2000);
  const auto plan = plan_epoch(prefixes_of(examples), {.sequence_len = 128}, 0);
  std::int64_t total = 0;
  for (const Example& example : examples) total += std::ssize(example.tokens);
  EXPECT_GT(static_cast<double>(total) / static_cast<double>(plan.size() * 128), 0.98);
}

TEST(PlanEpoch, IsTheSameOnEveryMachineAndNewInEveryEpoch) {
  const std::vector<Example> examples = examples_of({3, 5, 2, 7, 4, 6});
  const auto prefixes = prefixes_of(examples);
  const auto indices = [](const std::vector<PlannedRow>& plan) {
    nlohmann::json rows;
    for (const PlannedRow& row : plan) rows.push_back(row.examples);
    return rows.dump();
  };
  const RowStreamOptions options{.sequence_len = 10, .seed = 42};
  const auto plan = plan_epoch(prefixes, options, 0);
  EXPECT_EQ(plan, plan_epoch(prefixes, options, 0));
  EXPECT_NE(plan, plan_epoch(prefixes, options, 1));
  // Written down: SplitMix64 and the packing are part of what "same seed" promises.
  EXPECT_EQ(indices(plan), "[[0,3],[5,4],[1,2]]");
  EXPECT_EQ(
      indices(plan_epoch(prefixes, {.sequence_len = 10, .packing = false, .shuffle = false}, 5)),
      "[[0],[1],[2],[3],[4],[5]]");
}

TEST(PlanEpoch, LongExamplesDoNotComeFirst) {
  // Packing takes the longest first; the rows must not come in that order.
  const std::vector<Example> examples = many(2000);
  const auto plan = plan_epoch(prefixes_of(examples), {.sequence_len = 128, .seed = 4}, 0);
  const auto longest_share = [&](std::size_t begin, std::size_t end) {
    std::int64_t with_longest = 0;
    for (std::size_t row = begin; row < end; ++row) {
      with_longest += std::ranges::any_of(plan[row].examples, [&](std::uint32_t index) {
        return examples[index].tokens.size() >= 28;
      });
    }
    return static_cast<double>(with_longest) / static_cast<double>(end - begin);
  };
  const std::size_t half = plan.size() / 2;
  EXPECT_NEAR(longest_share(0, half), longest_share(half, plan.size()), 0.2);
}

TEST(PlanEpoch, RefusesWhatFitsNoRow) {
  const std::vector<Example> examples = examples_of({3, 11});
  EXPECT_THROWS_WITH((void)plan_epoch(prefixes_of(examples), {.sequence_len = 10}, 0), InputError,
                     "example 1 has 11 tokens");
}

/// Examples that begin with the tokens of their group (its number, over and over) and go on with
/// tokens of their own, of which the last few are learned.
std::vector<Example> grouped_examples(const std::vector<std::pair<int, int>>& groups_and_lengths) {
  std::vector<Example> examples;
  std::int32_t next = 1000;
  for (const auto& [group, length] : groups_and_lengths) {
    Example& example = examples.emplace_back();
    example.tokens.assign(static_cast<std::size_t>(length), group);
    example.tokens.push_back(next++);
    example.supervised.assign(example.tokens.size(), 0);
    for (int i = 0; i < 4; ++i) {
      example.tokens.push_back(next++);
      example.supervised.push_back(1);
    }
  }
  return examples;
}

TEST(Prefix, EndsBeforeWhatPredictsTheFirstLearnedToken) {
  const Example answer{{1, 2, 3, 4, 5}, {0, 0, 0, 1, 1}, 0, {}};
  EXPECT_EQ(prefix_of(answer).shareable, 2);  // token 2 (at position 2) predicts the learned one
  const Example text{{1, 2, 3}, {1, 1, 1}, 0, {}};
  EXPECT_EQ(prefix_of(text).shareable, 0);
  const Example silent{{1, 2, 3}, {0, 0, 0}, 0, {}};
  EXPECT_EQ(prefix_of(silent).shareable, 2);  // something of its own remains
  EXPECT_EQ(shared_tokens(prefix_of(answer), prefix_of(silent)), 0);  // too few
  const Example question{std::vector<std::int32_t>(30, 5), std::vector<std::uint8_t>(30, 0), 0, {}};
  Example other = question;
  other.tokens[21] = 6;
  EXPECT_EQ(shared_tokens(prefix_of(question), prefix_of(other)), 16);
}

TEST(MakeRow, SharedBeginningsAreThereOnceAndEveryExampleCanBeReadBack) {
  const std::vector<Example> examples =
      grouped_examples({{1, 40}, {2, 30}, {1, 70}, {3, 5}, {1, 70}, {2, 30}, {3, 5}});
  std::vector<const Example*> all;
  for (const Example& example : examples) all.push_back(&example);
  const Row row = make_row(all, true);
  // 40 tokens of group 1 twice and 24 of the 30 more of its long ones once; 24 of the 30 of group
  // 2; 5 are too few.
  EXPECT_EQ(row.example_tokens - std::ssize(row.tokens), 2 * 40 + 24 + 24);
  std::multiset<std::vector<std::int32_t>> found;
  std::multiset<std::vector<std::int32_t>> expected;
  for (const Example& example : examples) expected.insert(example.tokens);
  std::set<std::int32_t> parents;
  for (const Segment& segment : row.segments) parents.insert(segment.parent);
  std::int64_t targets = 0;
  for (std::size_t i = 0; i < row.segments.size(); ++i) {
    std::vector<std::int32_t> tokens;
    std::vector<std::int32_t> positions;
    for (auto at = static_cast<std::int32_t>(i); at >= 0;
         at = row.segments[static_cast<std::size_t>(at)].parent) {
      const Segment& segment = row.segments[static_cast<std::size_t>(at)];
      tokens.insert(tokens.begin(), row.tokens.begin() + segment.begin,
                    row.tokens.begin() + segment.end);
      positions.insert(positions.begin(), row.positions.begin() + segment.begin,
                       row.positions.begin() + segment.end);
    }
    for (std::size_t t = 0; t < positions.size(); ++t) EXPECT_EQ(positions[t], static_cast<int>(t));
    if (!parents.contains(static_cast<std::int32_t>(i))) found.insert(tokens);
    for (std::int32_t t = row.segments[i].begin; t < row.segments[i].end; ++t) {
      const auto at = static_cast<std::size_t>(t);
      if (row.targets[at] == kNoTarget) continue;
      ++targets;
      EXPECT_EQ(row.targets[at], row.tokens[at + 1]);
    }
  }
  EXPECT_EQ(found, expected);
  EXPECT_EQ(targets, 4 * 7);
}

TEST(PlanEpoch, SharingKeepsEveryExampleAndNeedsFewerRows) {
  std::vector<std::pair<int, int>> shapes;
  Random random(3);
  for (int i = 0; i < 900; ++i) {
    const int group =
        i % 3 == 0 ? 7 : 100 + i / 4;  // a third has one beginning, the rest small families
    shapes.emplace_back(group, 20 + static_cast<int>(random.below(20)));
  }
  const std::vector<Example> examples = grouped_examples(shapes);
  const auto prefixes = prefixes_of(examples);
  for (const std::int64_t most : {std::int64_t{200}, std::int64_t{100'000}}) {
    const RowStreamOptions options{
        .sequence_len = 128, .share_prefixes = true, .most_tokens = most, .seed = 3, .window = 300};
    const auto plan = plan_epoch(prefixes, options, 1);
    EXPECT_EQ(plan, plan_epoch(prefixes, options, 1));
    std::vector<std::uint32_t> seen;
    std::int64_t computed = 0;
    for (const PlannedRow& planned : plan) {
      std::vector<const Example*> parts;
      for (const std::uint32_t index : planned.examples) parts.push_back(&examples[index]);
      const Row row = make_row(parts, true);
      EXPECT_LE(std::ssize(row.tokens), planned.tokens);
      EXPECT_LE(planned.tokens, 128);
      EXPECT_LE(row.example_tokens, most);
      EXPECT_EQ(row.example_tokens, planned.example_tokens);
      computed += std::ssize(row.tokens);
      seen.insert(seen.end(), planned.examples.begin(), planned.examples.end());
    }
    std::ranges::sort(seen);
    std::vector<std::uint32_t> all(examples.size());
    std::iota(all.begin(), all.end(), 0U);
    EXPECT_EQ(seen, all);
    RowStreamOptions apart = options;
    apart.share_prefixes = false;
    EXPECT_LT(plan.size(), plan_epoch(prefixes, apart, 1).size());
    if (most == 100'000) {
      // 300 with one beginning of at least 20 tokens, and pairs or threes with one of theirs.
      std::int64_t example_tokens = 0;
      for (const Example& example : examples) example_tokens += std::ssize(example.tokens);
      EXPECT_LT(computed, example_tokens * 7 / 10);
    }
  }
}

TEST(PlanEpoch, WithoutShufflingACurriculumKeepsItsOrder) {
  // Short examples first, then long ones: best-fit would turn that round.
  std::vector<std::pair<int, int>> groups;
  Random random(3);
  for (int i = 0; i < 300; ++i) {
    groups.emplace_back(static_cast<int>(random.below(4)),
                        (i < 150 ? 1 : 20) + static_cast<int>(random.below(20)));
  }
  const std::vector<Example> examples = grouped_examples(groups);
  const auto prefixes = prefixes_of(examples);
  std::size_t rows[2] = {0, 0};
  for (const bool share : {false, true}) {
    const RowStreamOptions options{
        .sequence_len = 96, .share_prefixes = share, .most_tokens = 400, .shuffle = false};
    const auto plan = plan_epoch(prefixes, options, 1);
    std::uint32_t next = 0;
    for (const PlannedRow& row : plan) {
      for (const std::uint32_t index : row.examples) EXPECT_EQ(index, next++);
      std::vector<ExampleView> views;
      for (const std::uint32_t index : row.examples) views.emplace_back(examples[index]);
      const Row made = make_row(views, share);
      EXPECT_EQ(std::ssize(made.tokens), row.tokens);
      EXPECT_LE(row.tokens, 96);
      EXPECT_LE(row.example_tokens, 400);
    }
    EXPECT_EQ(next, examples.size());
    rows[share ? 1 : 0] = plan.size();
  }
  EXPECT_LT(rows[1], rows[0]) << "shared beginnings still save rows";
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
