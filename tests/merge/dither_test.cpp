#include "merge/dither.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "merge/auto_dtype.h"
#include "tests/merge/models.h"

namespace weft::merge {
namespace {

using core::DType;
using tests::config_of;
using tests::noisy;
using tests::TempDir;

constexpr std::size_t kCount = 20'000;

/// W around 1 with an update of a hundredth of a step of bf16 (2^-8 there).
struct Row {
  std::vector<float> base = std::vector<float>(kCount, 1.25F);
  std::vector<double> update = std::vector<double>(kCount, 0x1p-7 / 100);
};

std::vector<double> values(DType type, const std::vector<std::byte>& bytes) {
  std::vector<double> result;
  for (std::size_t i = 0; i < bytes.size(); i += 2) {
    result.push_back(tests::decode(type, bytes.data() + i));
  }
  return result;
}

TEST(Dither, StochasticRoundingKeepsASmallUpdateInTheMean) {
  const Row row;
  const lora::RandomStream draws(7, "w");
  std::vector<std::byte> out(2 * kCount);
  const RowSums nearest = round_row(DType::kBF16, row.base, row.update, out.data());
  EXPECT_EQ(nearest.kept, 0);
  const RowSums sums =
      dither_row(Rounding::kStochastic, DType::kBF16, row.base, row.update, draws, 0, out.data());
  EXPECT_NEAR(sums.kept / sums.update, 1, 0.25);  // 200 of 20000 steps: 7 % deviation.
  for (const double value : values(DType::kBF16, out)) {
    EXPECT_TRUE(value == 1.25 || value == 1.25 + 0x1p-7) << value;
  }
}

TEST(Dither, ErrorFeedbackKeepsTheSumOfARow) {
  const Row row;
  const lora::RandomStream draws(7, "w");
  std::vector<std::byte> out(2 * kCount);
  const RowSums sums = dither_row(Rounding::kErrorFeedback, DType::kBF16, row.base, row.update,
                                  draws, 0, out.data());
  EXPECT_NEAR(sums.kept / sums.update, 1, 0.01);
  EXPECT_LE(sums.error, 0x1p-7);
}

TEST(Dither, DrawsDependOnSeedAndElementNotOnTiles) {
  const Row row;
  const lora::RandomStream draws(7, "w");
  std::vector<std::byte> whole(2 * kCount);
  std::vector<std::byte> parts(2 * kCount);
  std::vector<std::byte> other(2 * kCount);
  const std::span base(row.base);
  const std::span update(row.update);
  (void)dither_row(Rounding::kStochastic, DType::kF16, base, update, draws, 0, whole.data());
  for (std::size_t at = 0; at < kCount; at += 1000) {
    (void)dither_row(Rounding::kStochastic, DType::kF16, base.subspan(at, 1000),
                     update.subspan(at, 1000), draws, at, parts.data() + 2 * at);
  }
  (void)dither_row(Rounding::kStochastic, DType::kF16, base, update, lora::RandomStream(8, "w"), 0,
                   other.data());
  EXPECT_EQ(whole, parts);
  EXPECT_NE(whole, other);
}

TEST(Dither, RoundsToNeighboursOnBothSidesOfZeroAndKeepsExactNumbers) {
  const std::vector<float> base{0, 0, -1, 2, 65504};
  const std::vector<double> update{0x1p-26, -0x1p-26, -0x1p-13, 0, 1};
  std::vector<std::byte> out(10);
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    const RowSums sums = dither_row(Rounding::kStochastic, DType::kF16, base, update,
                                    lora::RandomStream(seed, "w"), 0, out.data());
    const std::vector<double> found = values(DType::kF16, out);
    EXPECT_TRUE(found[0] == 0 || found[0] == 0x1p-24);
    EXPECT_TRUE(found[1] == 0 || found[1] == -0x1p-24);
    EXPECT_TRUE(found[2] == -1 || found[2] == -1 - 0x1p-10);
    EXPECT_EQ(found[3], 2);
    EXPECT_EQ(found[4], 65504);
    EXPECT_FALSE(sums.overflow);
  }
}

/// A bf16 base and an adapter whose update has about this size beside weights of 0.1.
TypeChoice choose(const TempDir& dir, double alpha, float largest = 0) {
  auto weight = noisy("model.layers.0.mlp.up_proj.weight", {64, 48}, DType::kBF16);
  auto norm = noisy("model.norm.weight", {48}, DType::kBF16);
  if (largest != 0) norm.values[3] = largest;
  const auto model = tests::write_model(dir / "base", {weight, norm});
  const auto base = checkpoint::Checkpoint::open(model);
  const auto file = lora::PeftFile::open(tests::write_noisy_adapter(
      dir / "adapter", lora::linear_modules(base), config_of({"up_proj"}, 4, alpha)));
  const std::vector<WeightedAdapter> adapters{{&file, 1}};
  return choose_dtype(base, adapters,
                      plan_fold(base, adapters, {}, checkpoint::kDefaultShardBytes));
}

TEST(AutoDtype, KeepsTheTypeThatHoldsTheUpdate) {
  const TypeChoice choice = choose(TempDir(), 4);
  EXPECT_FALSE(choice.dtype);
  EXPECT_EQ(choice.below(), 0U);
  EXPECT_GT(choice.tensors.front().as_planned, 0.99);
}

TEST(AutoDtype, TakesF16ForSmallUpdatesAndF32WhereItCannotHoldTheNumbers) {
  const TypeChoice small = choose(TempDir(), 0.002);
  EXPECT_EQ(small.below(), 1U);
  EXPECT_EQ(small.dtype, DType::kF16);
  EXPECT_EQ(choose(TempDir(), 0.002, 70'000).dtype, DType::kF32);
  EXPECT_THAT(choose(TempDir(), 0.002, 70'000).f16_loses, ::testing::HasSubstr("largest"));
  EXPECT_EQ(choose(TempDir(), 1e-6).dtype, DType::kF32);
}

}  // namespace
}  // namespace weft::merge
