#include "train/gradient_sum.h"

#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <barrier>
#include <cmath>
#include <map>
#include <mutex>
#include <random>
#include <thread>

#include "core/error.h"
#include "tests/support/throws.h"
#include "train/ranks.h"

namespace weft::train {
namespace {

/// Ranks that are threads of this process.
class Threads {
 public:
  explicit Threads(int size) : size_(size), barrier_(size) {}

  template <typename Body>
  void run(const Body& body) {
    std::vector<std::thread> threads;
    for (int r = 0; r < size_; ++r) {
      threads.emplace_back([&, r] {
        Rank rank(*this, r);
        body(rank);
      });
    }
    for (std::thread& one : threads) one.join();
  }

 private:
  class Rank : public Communicator {
   public:
    Rank(Threads& all, int rank) : all_(all), rank_(rank) {}
    [[nodiscard]] int rank() const override { return rank_; }
    [[nodiscard]] int size() const override { return all_.size_; }
    void exchange(std::span<const Outgoing> outgoing, std::span<const Incoming> incoming) override {
      {
        const std::lock_guard lock(all_.mutex_);
        for (const Outgoing& one : outgoing)
          all_.mail_[{rank_, one.to}].push_back({one.bytes.begin(), one.bytes.end()});
      }
      all_.barrier_.arrive_and_wait();
      std::map<int, std::size_t> taken;
      for (const Incoming& one : incoming) {
        const auto& bytes = all_.mail_.at({one.from, rank_}).at(taken[one.from]++);
        ASSERT_EQ(bytes.size(), one.bytes.size());
        std::ranges::copy(bytes, one.bytes.begin());
      }
      all_.barrier_.arrive_and_wait();
      if (rank_ == 0) all_.mail_.clear();
      all_.barrier_.arrive_and_wait();
    }
    [[nodiscard]] std::int64_t largest(std::int64_t value) override {
      {
        const std::lock_guard lock(all_.mutex_);
        all_.values_.push_back(value);
      }
      all_.barrier_.arrive_and_wait();
      const std::int64_t most = *std::ranges::max_element(all_.values_);
      all_.barrier_.arrive_and_wait();
      if (rank_ == 0) all_.values_.clear();
      all_.barrier_.arrive_and_wait();
      return most;
    }
    void finish() override { all_.barrier_.arrive_and_wait(); }

   private:
    Threads& all_;
    int rank_;
  };

  int size_;
  std::barrier<> barrier_;
  std::mutex mutex_;
  std::map<std::pair<int, int>, std::vector<std::vector<std::byte>>> mail_;
  std::vector<std::int64_t> values_;
};

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

std::vector<float> summed(Communicator& communicator, const std::vector<std::int64_t>& cut) {
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
  SingleProcess alone;
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
  Threads ranks(static_cast<int>(cut.size()) - 1);
  ranks.run([&](Communicator& one) {
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

TEST(Ranks, AFailureInOneIsAFailureInAll) {
  Threads ranks(3);
  ranks.run([](Communicator& one) {
    try {
      together(one, [&] {
        if (one.rank() == 1) throw InputError("no such file");
      });
      ADD_FAILURE() << "rank " << one.rank() << " went on";
    } catch (const Error& error) {
      EXPECT_EQ(error.exit_code(), ExitCode::kBadInput);
      EXPECT_STREQ(error.what(), one.rank() == 1 ? "no such file" : "rank 1: no such file");
    }
    // And all can still talk.
    EXPECT_EQ(broadcast(one, one.rank() == 2 ? "so be it" : "", 2), "so be it");
    EXPECT_TRUE(any(one, one.rank() == 2));
    EXPECT_FALSE(any(one, false));
    require_same(one, 12345, "a number");
    EXPECT_THROW(require_same(one, 1000 + 2 * static_cast<std::uint64_t>(one.rank()), "it"),
                 InputError);
  });
}

TEST(GradientSum, TheGradientsThatRanksHoldAreTheirSumsAndASliceOfAll) {
  EXPECT_EQ(gradients_held(4, 1), 2);
  EXPECT_EQ(gradients_held(4, 2), 2);    // rows 0-1 here, and half of two sums
  EXPECT_EQ(gradients_held(4, 4), 2);    // a row here, and a quarter of four
  EXPECT_EQ(gradients_held(5, 2), 3.5);  // rows 2-3 and 4 here, and half of three sums
}

}  // namespace
}  // namespace weft::train
