#include "eval/run/score.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "tests/support/thread_ranks.h"
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

/// Passes of 1 to 12 tokens, of which three or four share a row of 16.
std::vector<Pass> forty_passes() {
  std::vector<Pass> passes;
  for (std::int32_t i = 0; i < 40; ++i) {
    Pass& pass = passes.emplace_back();
    for (std::int32_t t = 0; t <= (i * 7) % 12; ++t) {
      pass.tokens.push_back(100 * i + t);
      pass.targets.push_back(100 * i + t + 1);
    }
  }
  return passes;
}

TEST(Score, OfRanksIsThatOfOneProcessToTheBitAndEachRowIsComputedOnce) {
  const std::vector<Pass> passes = forty_passes();
  CountingModel alone;
  const auto wanted = score(passes, 16, alone.losses());
  for (const int size : {1, 2, 3, 4, 30}) {
    std::vector<CountingModel> models(static_cast<std::size_t>(size));
    tests::ThreadRanks ranks(size);
    ranks.run([&](core::Communicator& one) {
      CountingModel& model = models[static_cast<std::size_t>(one.rank())];
      const auto results = score_together(passes, 16, model.losses(), one);
      ASSERT_EQ(results.size(), wanted.size());
      for (std::size_t i = 0; i < wanted.size(); ++i) {
        EXPECT_EQ(results[i].tokens, wanted[i].tokens) << i;
        EXPECT_EQ(results[i].loss, wanted[i].loss) << i;
      }
    });
    std::size_t rows = 0, most = 0;
    for (const CountingModel& model : models) {
      std::size_t tokens = 0;
      for (const data::Row& row : model.rows) tokens += row.tokens.size();
      rows += model.rows.size();
      most = std::max(most, tokens);
    }
    EXPECT_EQ(rows, alone.rows.size()) << size;
    std::size_t all = 0;
    for (const data::Row& row : alone.rows) all += row.tokens.size();
    EXPECT_LE(most, all / static_cast<std::size_t>(size) + 16) << size;
  }
}

TEST(Score, ThatFailsInOneRankFailsInAll) {
  const std::vector<Pass> passes = forty_passes();
  tests::ThreadRanks ranks(3);
  ranks.run([&](core::Communicator& one) {
    CountingModel model;
    const TokenLosses losses = [&, count = model.losses()](const data::Row& row) {
      if (one.rank() == 2 && model.rows.size() == 1) throw Interrupted("stopped");
      return count(row);
    };
    try {
      (void)score_together(passes, 16, losses, one);
      ADD_FAILURE() << "rank " << one.rank() << " went on";
    } catch (const Error& error) {
      EXPECT_EQ(error.exit_code(), ExitCode::kInterrupted);
    }
  });
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
  std::size_t tokens = 0;
  for (const data::Row& row : model.rows) {
    tokens += row.tokens.size();
    // Longer than the limit: a row of its own.
    EXPECT_TRUE(row.tokens.size() <= 5 || row.segments.size() == 1) << row.tokens.size();
    for (const data::Segment& segment : row.segments) {
      for (std::int32_t i = segment.begin; i < segment.end; ++i)
        EXPECT_EQ(row.positions[static_cast<std::size_t>(i)], i - segment.begin);
    }
  }
  EXPECT_EQ(tokens, 15U);
  EXPECT_EQ(model.rows.size(), 3U);  // 7 | 3 + 2 | 2 + 1
  EXPECT_TRUE(std::ranges::is_sorted(done));
  EXPECT_EQ(done.back(), 5);
}

TEST(Score, ComputesCommonBeginningsOnce) {
  constexpr std::int32_t kNone = data::kNoTarget;
  std::vector<Pass> passes;
  for (std::int32_t i = 0; i < 3; ++i) {
    Pass pass;
    for (std::int32_t t = 0; t < 20; ++t) {
      pass.tokens.push_back(t < 17 ? t : 100 * i + t);
      pass.targets.push_back(t < 16 ? kNone : t);  // The 17th is alike, too, but predicts.
    }
    passes.push_back(pass);
  }
  CountingModel model, alone;
  const auto results = score(passes, 100, model.losses());
  ASSERT_EQ(model.rows.size(), 1U);
  EXPECT_EQ(model.rows[0].tokens.size(), 16U + 3 * 4);
  const auto separate = score(passes, 20, alone.losses());
  EXPECT_EQ(alone.rows.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(results[i].tokens, 4);
    EXPECT_EQ(results[i].loss, separate[i].loss);
  }
  EXPECT_GT(results[2].loss, results[1].loss);
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
