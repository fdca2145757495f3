#include "train/guard.h"

#include <cmath>
#include <limits>

#include "core/error.h"
#include "tests/support/throws.h"

namespace weft::train {
namespace {

TEST(DivergenceGuard, StopsAtNanAndInfinityWithTheNumbers) {
  DivergenceGuard guard({.ratio = 0});
  guard.observe(1, 2.5, 1.0);
  EXPECT_THROWS_WITH(guard.observe(2, std::nan(""), 1.0), NumericError, "update 2", "nan",
                     "not applied");
  EXPECT_THROWS_WITH(guard.observe(3, 2.5, std::numeric_limits<double>::infinity()), NumericError,
                     "inf", "learning_rate");
}

TEST(DivergenceGuard, StopsWhenTheMeanLossDoublesAndIgnoresOneBadUpdate) {
  DivergenceGuard guard({.ratio = 2, .window = 4});
  for (int update = 1; update <= 8; ++update) guard.observe(update, 2.0, 1.0);
  guard.observe(9, 6.0, 1.0);   // mean 3
  guard.observe(10, 5.9, 1.0);  // mean 3.975
  EXPECT_THROWS_WITH(guard.observe(11, 6.0, 1.0), NumericError, "diverged", "last 4 updates",
                     "lowest was 2.0000");
}

TEST(DivergenceGuard, OneEasyFirstUpdateEndsNoHealthyRun) {
  DivergenceGuard guard({.ratio = 2, .window = 10});
  guard.observe(1, 2.84, 1.0);
  for (int update = 2; update <= 40; ++update) {
    EXPECT_NO_THROW(guard.observe(update, 6.0 - 0.01 * update, 1.0));
  }
}

TEST(DivergenceGuard, LetsSmallLossesDoubleAndRatioZeroAnything) {
  DivergenceGuard guard({.ratio = 2, .window = 1});
  guard.observe(1, 0.01, 1.0);
  EXPECT_NO_THROW(guard.observe(2, 0.9, 1.0));
  EXPECT_THROW(guard.observe(3, 1.2, 1.0), NumericError);
  DivergenceGuard off({.ratio = 0});
  off.observe(1, 0.01, 1.0);
  EXPECT_NO_THROW(off.observe(2, 1e6, 1.0));
}

TEST(DivergenceGuard, RestoredGuardThrowsAtTheSameUpdate) {
  DivergenceGuard guard({.ratio = 2, .window = 3});
  for (int update = 1; update <= 3; ++update) guard.observe(update, 1.0, 1.0);
  guard.observe(4, 4.0, 1.0);
  DivergenceGuard again({.ratio = 2, .window = 3});
  again.restore(nlohmann::json::parse(guard.state().dump()));
  EXPECT_THROW(guard.observe(5, 4.0, 1.0), NumericError);
  EXPECT_THROW(again.observe(5, 4.0, 1.0), NumericError);
}

TEST(EarlyStopping, StopsAfterPatienceEvaluationsWithoutGain) {
  EarlyStopping stopping(2, 0.1);
  EXPECT_TRUE(stopping.observe(10, 3.0));
  EXPECT_TRUE(stopping.observe(20, 2.95));  // the best, but too small a gain
  EXPECT_FALSE(stopping.is_exhausted());
  EXPECT_FALSE(stopping.observe(30, 2.96));
  EXPECT_TRUE(stopping.is_exhausted());
  EXPECT_EQ(stopping.best_update(), 20);
  EXPECT_EQ(stopping.best_loss(), 2.95);
}

TEST(EarlyStopping, GainStartsTheCountAnewAndStateSurvives) {
  EarlyStopping stopping(2, 0);
  (void)stopping.observe(1, 3.0);
  (void)stopping.observe(2, 3.5);
  EarlyStopping again(2, 0);
  again.restore(nlohmann::json::parse(stopping.state().dump()));
  EXPECT_TRUE(again.observe(3, 2.9));
  (void)again.observe(4, 2.9);
  EXPECT_FALSE(again.is_exhausted());
  (void)again.observe(5, 2.9);
  EXPECT_TRUE(again.is_exhausted());
}

TEST(EarlyStopping, WithoutPatienceNeverStops) {
  EarlyStopping stopping(0, 0);
  for (int i = 0; i < 20; ++i) (void)stopping.observe(i, 1.0 + i);
  EXPECT_FALSE(stopping.is_exhausted());
  EXPECT_EQ(stopping.best_update(), 0);
}

}  // namespace
}  // namespace weft::train
