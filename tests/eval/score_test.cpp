#include "eval/score.h"

#include <gtest/gtest.h>

#include <limits>
#include <numeric>

#include "core/error.h"
#include "tests/support/throws.h"

namespace weft::eval {
namespace {

/// A model whose loss at a place is token + target / 1000 + position / 1e6; keeps the rows it saw.
struct CountingModel {
  std::vector<data::Row> rows;

  TokenLosses losses() {
    return [this](const data::Row& row) {
      rows.push_back(row);
      std::vector<float> values;
      for (std::size_t t = 0; t < row.tokens.size(); ++t) {
        if (row.targets[t] == data::kNoTarget) continue;
        values.push_back(
            static_cast<float>(row.tokens[t] + row.targets[t] / 1000.0 + row.positions[t] / 1e6));
      }
      return values;
    };
  }
};

std::vector<Pass> five_passes() {
  constexpr std::int32_t kNone = data::kNoTarget;
  return {{{1, 2, 3}, {2, 3, 4}},
          {{5, 6}, {kNone, 7}},
          {{8, 9, 10, 11, 12, 13, 14}, {kNone, kNone, 10, 11, 12, 13, 14}},
          {{20}, {21}},
          {{22, 23}, {kNone, kNone}}};
}

TEST(Score, GivesEachPassItsOwnLossWhateverTheRows) {
  const std::vector<Pass> passes = five_passes();
  CountingModel alone, packed;
  const auto one_by_one = score(passes, 1, alone.losses());
  const auto together = score(passes, 100, packed.losses());
  EXPECT_EQ(alone.rows.size(), 5U);
  EXPECT_EQ(packed.rows.size(), 1U);
  ASSERT_EQ(one_by_one.size(), passes.size());
  for (std::size_t i = 0; i < passes.size(); ++i) {
    EXPECT_EQ(one_by_one[i].tokens, together[i].tokens);
    EXPECT_NEAR(one_by_one[i].loss, together[i].loss, 1e-9);
  }
  EXPECT_EQ(one_by_one[0].tokens, 3);
  EXPECT_NEAR(one_by_one[0].loss, 1 + 2 + 3 + 0.009 + 3e-6, 1e-5);
  EXPECT_EQ(one_by_one[2].tokens, 5);
  EXPECT_EQ(one_by_one[4].tokens, 0);
  EXPECT_EQ(one_by_one[4].loss, 0);
}

TEST(Score, FillsRowsUpToTheLimitAndRestartsPositions) {
  CountingModel model;
  std::vector<std::int64_t> done;
  (void)score(five_passes(), 5, model.losses(), [&](std::int64_t n) { done.push_back(n); });
  ASSERT_EQ(model.rows.size(), 3U);
  EXPECT_EQ(done, (std::vector<std::int64_t>{2, 3, 5}));
  const data::Row& first = model.rows[0];
  EXPECT_EQ(first.tokens, (std::vector<std::int32_t>{1, 2, 3, 5, 6}));
  EXPECT_EQ(first.positions, (std::vector<std::int32_t>{0, 1, 2, 0, 1}));
  ASSERT_EQ(first.segments.size(), 2U);
  EXPECT_EQ(first.segments[1].begin, 3);
  EXPECT_EQ(first.segments[1].end, 5);
  EXPECT_EQ(model.rows[1].tokens.size(), 7U);  // longer than the limit: a row of its own
}

TEST(Score, StopsAtANumberThatIsNone) {
  const TokenLosses broken = [](const data::Row&) {
    return std::vector<float>{1, std::numeric_limits<float>::quiet_NaN(), 1};
  };
  const std::vector<Pass> passes{{{1, 2, 3}, {2, 3, 4}}};
  EXPECT_THROWS_WITH((void)score(passes, 8, broken), NumericError, "text 1", "nan");
}

}  // namespace
}  // namespace weft::eval
