#include "train/gradient_sum.h"

#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "tests/support/thread_exchange.h"
#include "tests/support/thread_ranks.h"

namespace weft::train {
namespace {

constexpr std::size_t kFew = 20;

using Gradient = std::vector<float>;

/// A row's gradient: numbers whose sum depends on the order.
Gradient gradient_of(std::int64_t row, std::size_t numbers = kFew) {
  std::minstd_rand random(static_cast<unsigned>(row) + 1);
  Gradient gradient(numbers);
  for (float& value : gradient)
    value = (static_cast<float>(random()) / 2147483647.0F - 0.5F) *
            std::exp2(static_cast<float>(random() % 12));
  return gradient;
}

std::vector<float> summed(model::TensorExchange& exchange, const std::vector<std::int64_t>& cut,
                          std::size_t numbers = kFew) {
  const at::Tensor gradient = at::tensor(gradient_of(0, numbers));
  const auto rank = static_cast<std::size_t>(exchange.rank());
  GradientSum sum(gradient, cut[rank]);
  for (std::int64_t row = cut[rank]; row < cut[rank + 1]; ++row) {
    sum.begin_row();
    gradient.copy_(at::tensor(gradient_of(row, numbers)));
    sum.end_row();
  }
  sum.finish(exchange, cut);
  const float* const values = gradient.const_data_ptr<float>();
  return {values, values + gradient.numel()};
}

/// The definition: halves are added first, what has no other half is added from the right.
std::vector<float> tree(std::int64_t begin, std::int64_t end, std::size_t numbers = kFew) {
  if (end - begin == 1) return gradient_of(begin, numbers);
  std::int64_t half = 1;
  while (2 * half < end - begin) half *= 2;
  std::vector<float> left = tree(begin, begin + half, numbers);
  const std::vector<float> right = tree(begin + half, end, numbers);
  for (std::size_t i = 0; i < left.size(); ++i) left[i] += right[i];
  return left;
}

TEST(GradientSum, OfOneProcessIsTheTreeOverTheRows) {
  core::SingleProcess one;
  model::HostExchange alone(one);
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

/// Ranks that exchange over the host, and ranks whose tensors stay where they are.
void check_cut(const std::vector<std::int64_t>& cut, std::size_t numbers = kFew) {
  const std::vector<float> wanted = tree(0, cut.back(), numbers);
  const int size = static_cast<int>(cut.size()) - 1;
  tests::ThreadRanks ranks(size);
  tests::ThreadExchange devices(size);
  ranks.run([&](core::Communicator& one) {
    model::HostExchange host(one);
    EXPECT_TRUE(summed(host, cut, numbers) == wanted)
        << "cut " << testing::PrintToString(cut) << " rank " << one.rank();
    const auto direct = devices.of_rank(one.rank());
    EXPECT_TRUE(summed(*direct, cut, numbers) == wanted)
        << "cut " << testing::PrintToString(cut) << " rank " << one.rank() << " of devices";
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

TEST(GradientSum, HasTheSameBitsForFourAndSevenRangesOfWhichSomeAreEmpty) {
  constexpr unsigned kSeed = 5;
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  std::minstd_rand random(kSeed);
  for (const std::size_t ranks : {4U, 7U}) {
    std::vector<std::int64_t> last(ranks + 1, 0);
    last.back() = 1;
    check_cut(last);
    for (int i = 0; i < 25; ++i) {
      const auto rows = static_cast<std::int64_t>(1 + random() % 33);
      std::vector<std::int64_t> cut{0, rows};
      while (cut.size() <= ranks)
        cut.push_back(static_cast<std::int64_t>(random() % static_cast<unsigned long>(rows + 1)));
      std::ranges::sort(cut);
      check_cut(cut);
    }
  }
}

TEST(GradientSum, HasTheSameBitsForManyNumbersWhoseSlicesDiffer) {
  // So many that LibTorch adds them in vectors and in several threads, with a rest.
  constexpr std::size_t kMany = 150'001;
  check_cut({0, 5}, kMany);
  check_cut({0, 2, 5}, kMany);
  check_cut({0, 1, 1, 5}, kMany);
  check_cut({0, 3, 4, 4, 5, 9, 9, 11}, kMany);
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
