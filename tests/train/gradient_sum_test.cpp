#include "train/gradient_sum.h"

#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "tests/support/thread_ranks.h"

namespace weft::train {
namespace {

constexpr std::size_t kNumbers = 20;

using Gradient = std::vector<float>;

/// A row's gradient: numbers whose sum depends on the order.
Gradient gradient_of(std::int64_t row) {
  std::minstd_rand random(static_cast<unsigned>(row) + 1);
  Gradient gradient(kNumbers);
  for (float& value : gradient)
    value = (static_cast<float>(random()) / 2147483647.0F - 0.5F) *
            std::exp2(static_cast<float>(random() % 12));
  return gradient;
}

std::vector<float> summed(core::Communicator& communicator, const std::vector<std::int64_t>& cut) {
  const at::Tensor gradient = at::tensor(gradient_of(0));
  const auto rank = static_cast<std::size_t>(communicator.rank());
  GradientSum sum(gradient, cut[rank]);
  for (std::int64_t row = cut[rank]; row < cut[rank + 1]; ++row) {
    sum.begin_row();
    gradient.copy_(at::tensor(gradient_of(row)));
    sum.end_row();
  }
  sum.finish(communicator, cut);
  const float* const values = gradient.const_data_ptr<float>();
  return {values, values + gradient.numel()};
}

/// The definition: halves are added first, what has no other half is added from the right.
std::vector<float> tree(std::int64_t begin, std::int64_t end) {
  if (end - begin == 1) return gradient_of(begin);
  std::int64_t half = 1;
  while (2 * half < end - begin) half *= 2;
  std::vector<float> left = tree(begin, begin + half);
  const std::vector<float> right = tree(begin + half, end);
  for (std::size_t i = 0; i < left.size(); ++i) left[i] += right[i];
  return left;
}

TEST(GradientSum, OfOneProcessIsTheTreeOverTheRows) {
  core::SingleProcess alone;
  for (std::int64_t rows = 1; rows <= 33; ++rows)
    EXPECT_EQ(summed(alone, {0, rows}), tree(0, rows)) << rows;
}

TEST(GradientSum, IsNotTheSumInTheOrderOfTheRows) {
  // Else the other tests would show nothing.
  std::vector<float> running = gradient_of(0);
  for (std::int64_t row = 1; row < 8; ++row) {
    const std::vector<float> one = gradient_of(row);
    for (std::size_t i = 0; i < running.size(); ++i) running[i] += one[i];
  }
  EXPECT_NE(running, tree(0, 8));
}

void check_cut(const std::vector<std::int64_t>& cut) {
  const std::vector<float> wanted = tree(0, cut.back());
  tests::ThreadRanks ranks(static_cast<int>(cut.size()) - 1);
  ranks.run([&](core::Communicator& one) {
    EXPECT_EQ(summed(one, cut), wanted)
        << "cut " << testing::PrintToString(cut) << " rank " << one.rank();
  });
}

TEST(GradientSum, HasTheSameBitsForEveryCutIntoTwoAndThreeRanges) {
  for (std::int64_t rows = 1; rows <= 9; ++rows) {
    for (std::int64_t a = 0; a <= rows; ++a) {
      check_cut({0, a, rows});
      for (std::int64_t b = a; b <= rows; ++b) check_cut({0, a, b, rows});
    }
  }
}

TEST(GradientSum, HasTheSameBitsForMoreRanksThanNumbers) {
  check_cut({0, 0, 1, 1, 2, 3, 3, 4, 5, 5, 5, 6, 7, 7, 7, 8, 8, 8, 9, 9, 9, 9, 9, 9, 9});
}

TEST(GradientSum, HoldsAsManySumsAsThePlanCounts) {
  for (std::int64_t rows = 1; rows <= 40; ++rows) {
    std::size_t most = 0;  // without the last row, which stays where it was computed
    for (std::int64_t done = 1; done < rows; ++done)
      most = std::max(most, nodes_of(0, done).size());
    EXPECT_LE(static_cast<int>(most), sums_held(rows)) << rows;
  }
  EXPECT_EQ(sums_held(1), 0);
  EXPECT_EQ(sums_held(4), 2);
}

TEST(BalancedCut, GivesRangesOfAboutTheSameCost) {
  const std::vector<std::int64_t> costs{10, 10, 10, 10, 40, 5, 5};
  EXPECT_EQ(balanced_cut(costs, 1), (std::vector<std::int64_t>{0, 7}));
  EXPECT_EQ(balanced_cut(costs, 2), (std::vector<std::int64_t>{0, 4, 7}));
  EXPECT_EQ(balanced_cut(std::vector<std::int64_t>{8}, 3).size(), 4U);
  for (int ranks = 1; ranks < 12; ++ranks) {
    const std::vector<std::int64_t> cut = balanced_cut(costs, ranks);
    EXPECT_EQ(cut.size(), static_cast<std::size_t>(ranks) + 1);
    EXPECT_TRUE(std::ranges::is_sorted(cut));
    EXPECT_EQ(cut.back(), 7);
  }
}

TEST(GradientSum, TheGradientsThatRanksHoldAreTheirSumsAndASliceOfAll) {
  EXPECT_EQ(gradients_held(4, 1), 2);
  EXPECT_EQ(gradients_held(4, 2), 2);    // rows 0-1 here, and half of two sums
  EXPECT_EQ(gradients_held(4, 4), 2);    // a row here, and a quarter of four
  EXPECT_EQ(gradients_held(5, 2), 3.5);  // rows 2-3 and 4 here, and half of three sums
}

}  // namespace
}  // namespace weft::train
