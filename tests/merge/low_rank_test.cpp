#include "merge/low_rank.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "core/error.h"
#include "core/parallel.h"
#include "merge/beside.h"

namespace weft::merge {
namespace {

constexpr std::int64_t kRows = 30;
constexpr std::int64_t kColumns = 41;

std::vector<double> normal(std::size_t count, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> draw;
  std::vector<double> values(count);
  for (double& value : values) value = draw(engine);
  return values;
}

std::vector<double> multiply(const std::vector<double>& left, const std::vector<double>& right,
                             std::int64_t inner) {
  const std::int64_t rows = std::ssize(left) / inner;
  const std::int64_t columns = std::ssize(right) / inner;
  std::vector<double> product(static_cast<std::size_t>(rows * columns), 0.0);
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t k = 0; k < inner; ++k) {
      for (std::int64_t j = 0; j < columns; ++j) {
        product[static_cast<std::size_t>(i * columns + j)] +=
            left[static_cast<std::size_t>(i * inner + k)] *
            right[static_cast<std::size_t>(k * columns + j)];
      }
    }
  }
  return product;
}

double distance(const std::vector<double>& whole, const LowRank& low) {
  const std::vector<double> near =
      multiply({low.left.begin(), low.left.end()}, {low.right.begin(), low.right.end()}, low.rank);
  double sum = 0;
  for (std::size_t i = 0; i < whole.size(); ++i) sum += std::pow(whole[i] - near[i], 2);
  return std::sqrt(sum);
}

double norm(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value * value;
  return std::sqrt(sum);
}

/// Rows of a matrix that is held.
class Held final : public RowDeltas {
 public:
  explicit Held(std::vector<double> values) : values_(std::move(values)) {}
  [[nodiscard]] std::int64_t stride() const noexcept override { return kColumns; }
  void compute(std::int64_t begin, std::span<double> out) const override {
    const std::int64_t end = std::min(kRows, begin + kRowBlock);
    std::copy(values_.begin() + begin * kColumns, values_.begin() + end * kColumns, out.begin());
  }

 private:
  std::vector<double> values_;
};

TEST(TruncateProduct, IsTheProductAtFullRankAndSaysWhatIsCutOffBelow) {
  const std::vector<double> left = normal(kRows * 6, 1);
  const std::vector<double> right = normal(6 * kColumns, 2);
  const std::vector<double> whole = multiply(left, right, 6);
  double last = 1e9;
  for (const std::int64_t rank : {1, 2, 5, 6, 9}) {
    const LowRank low = truncate_product(left, right, 6, rank);
    EXPECT_EQ(low.rank, std::min<std::int64_t>(rank, 6));
    EXPECT_NEAR(low.norm, norm(whole), 1e-9);
    EXPECT_NEAR(low.error, distance(whole, low), 1e-4);
    EXPECT_LE(low.error, last);
    last = low.error;
  }
  EXPECT_LT(last, 1e-9);
}

TEST(TruncateProduct, TakesMoreFactorsThanRowsOrColumns) {
  const std::vector<double> left = normal(3 * 7, 3);
  const std::vector<double> right = normal(7 * 5, 4);
  const LowRank low = truncate_product(left, right, 7, 7);
  EXPECT_EQ(low.rank, 3);
  EXPECT_LT(distance(multiply(left, right, 7), low), 1e-5);
}

TEST(TruncateRows, IsBestWhenExactAndNearlySoWhenRandomised) {
  const std::vector<double> whole = normal(kRows * kColumns, 5);
  const Held source(whole);
  for (const std::int64_t rank : {1, 4, 30, 99}) {
    const LowRank best = truncate_rows({&source, kRows, kColumns}, rank, Svd::kExact);
    const LowRank fast = truncate_rows({&source, kRows, kColumns}, rank, Svd::kRandomised);
    EXPECT_NEAR(best.error, distance(whole, best), 1e-4);
    EXPECT_NEAR(fast.error, distance(whole, fast), 1e-4);
    EXPECT_GE(fast.error, best.error - 1e-6);
    EXPECT_LE(fast.error, best.error * 1.01 + 1e-6);
    EXPECT_NEAR(best.norm, norm(whole), 1e-9);
  }
}

TEST(TruncateRows, DoesNotDependOnThreads) {
  const Held source(normal(kRows * kColumns, 6));
  core::set_thread_count(1);
  const LowRank one = truncate_rows({&source, kRows, kColumns}, 3, Svd::kRandomised);
  core::set_thread_count(3);
  const LowRank three = truncate_rows({&source, kRows, kColumns}, 3, Svd::kRandomised);
  core::set_thread_count(0);
  EXPECT_EQ(one.left, three.left);
  EXPECT_EQ(one.right, three.right);
}

TEST(Align, GivesEveryProductBackFromTheCommonSpace) {
  const std::vector<double> left = normal(kRows * 5, 7);
  const std::vector<double> right = normal(5 * kColumns, 8);
  const std::vector<std::size_t> owner{0, 0, 1, 1, 1};
  const Aligned aligned = align(left, right, owner, 2);
  EXPECT_EQ(aligned.rank, 5);
  std::vector<double> sum(static_cast<std::size_t>(kRows * kColumns), 0.0);
  for (const std::vector<float>& part : aligned.parts) {
    const auto product = multiply(aligned.left, {part.begin(), part.end()}, aligned.rank);
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += product[i];
  }
  const std::vector<double> whole = multiply(left, right, 5);
  for (std::size_t i = 0; i < sum.size(); ++i) EXPECT_NEAR(sum[i], whole[i], 1e-5);
}

TEST(RunBeside, StopsTheStreamAndGivesTheChecksReason) {
  bool ended = false;
  const auto checks = [] { throw InputError("another base"); };
  const auto stream = [&](const FoldControl& control) {
    for (int i = 0; i < 100'000'000; ++i) control.progress({});
    ended = true;
  };
  EXPECT_THROW(run_beside({}, checks, stream), InputError);
  EXPECT_FALSE(ended);
}

TEST(RunBeside, GivesTheStreamsReasonWhenTheChecksPass) {
  bool checked = false;
  EXPECT_THROW(run_beside(
                   {}, [&] { checked = true; },
                   [](const FoldControl&) { throw NumericError("out of range"); }),
               NumericError);
  EXPECT_TRUE(checked);
}

}  // namespace
}  // namespace weft::merge
