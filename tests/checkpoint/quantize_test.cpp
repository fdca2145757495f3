#include "checkpoint/quantize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <stdexcept>
#include <vector>

#include "checkpoint/dequantize.h"

// That the bytes are llama-quantize's is shown by tests/oracles/test_export.py and test_imatrix.py;
// here is what must hold of any quantiser.

namespace weft::checkpoint {
namespace {

constexpr std::size_t kRow = 768;  // 3 super-blocks, 24 blocks

std::vector<float> normal(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> draw(0.0F, 0.02F);
  std::vector<float> values(count);
  for (float& value : values) value = draw(random);
  return values;
}

std::vector<float> there_and_back(Storage storage, std::span<const float> row,
                                  std::span<const float> importance = {}) {
  const BlockSize block = block_size(storage);
  std::vector<std::byte> bytes(row.size() / block.elements * block.bytes);
  quantize_row(storage, row, importance, bytes);
  std::vector<float> back(row.size());
  dequantize(storage, bytes, back);
  return back;
}

/// sqrt(sum w (a - b)^2 / sum w a^2)
double relative_error(std::span<const float> a, std::span<const float> b,
                      std::span<const float> weights = {}) {
  double error = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double w = weights.empty() ? 1.0 : static_cast<double>(weights[i]);
    error += w * std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    size += w * std::pow(static_cast<double>(a[i]), 2);
  }
  return std::sqrt(error / size);
}

struct Format {
  Storage storage;
  double error;  ///< A bound on the relative error of normal numbers.
};

class EveryFormat : public ::testing::TestWithParam<Format> {};

TEST_P(EveryFormat, KeepsNumbersToItsPrecision) {
  const std::vector<float> row = normal(kRow, 1);
  EXPECT_LT(relative_error(row, there_and_back(GetParam().storage, row)), GetParam().error);
}

TEST_P(EveryFormat, KeepsZeros) {
  const std::vector<float> zeros(kRow);
  EXPECT_EQ(zeros, there_and_back(GetParam().storage, zeros));
  const std::vector<float> importance(kRow, 1.0F);
  EXPECT_EQ(zeros, there_and_back(GetParam().storage, zeros, importance));
}

TEST_P(EveryFormat, RefusesRoomOfAnotherSize) {
  const std::vector<float> row = normal(kRow, 1);
  std::vector<std::byte> bytes(7);
  EXPECT_THROW(quantize(GetParam().storage, row, bytes), std::logic_error);
}

INSTANTIATE_TEST_SUITE_P(
    Quantize, EveryFormat,
    ::testing::Values(Format{Storage::kF32, 1e-9}, Format{Storage::kF16, 5e-4},
                      Format{Storage::kBF16, 4e-3}, Format{Storage::kQ8_0, 0.01},
                      Format{Storage::kQ4_0, 0.12}, Format{Storage::kQ4_1, 0.10},
                      Format{Storage::kQ5_0, 0.06}, Format{Storage::kQ5_1, 0.05},
                      Format{Storage::kQ4_K, 0.09}, Format{Storage::kQ5_K, 0.05},
                      Format{Storage::kQ6_K, 0.03}),
    [](const auto& format) { return std::string(name_of(format.param.storage)); });

class WeightedFormat : public ::testing::TestWithParam<Storage> {};

TEST_P(WeightedFormat, ErrorsGoWhereInputsAreSmall) {
  const std::vector<float> row = normal(kRow, 2);
  std::vector<float> importance(kRow);
  for (std::size_t i = 0; i < kRow; ++i) importance[i] = i % 8 == 3 ? 100.0F : 0.01F;
  const auto plain = there_and_back(GetParam(), row);
  const auto weighted = there_and_back(GetParam(), row, importance);
  EXPECT_LT(relative_error(row, weighted, importance),
            0.9 * relative_error(row, plain, importance));
  EXPECT_GT(relative_error(row, weighted), relative_error(row, plain));
}

TEST_P(WeightedFormat, TakesRowsWhoseBlocksDoNotFillTheVectors) {
  // 11 blocks are fitted as 8 and 3, side by side: each must come out as in a longer row that has
  // the same mean square.
  const std::size_t unit = block_size(GetParam()).elements;
  std::vector<float> row = normal(11 * unit, 3);
  const std::vector<float> importance(row.size(), 1.0F);
  const auto back = there_and_back(GetParam(), row, importance);
  std::vector<float> twice(row);
  twice.insert(twice.end(), row.begin(), row.end());
  const std::vector<float> ones(twice.size(), 1.0F);
  const auto longer = there_and_back(GetParam(), twice, ones);
  EXPECT_LT(relative_error(back, std::span(longer).first(back.size())), 0.02);
  EXPECT_LT(relative_error(row, back), 0.12);
}

TEST_P(WeightedFormat, RefusesImportanceOfAnotherLength) {
  const std::vector<float> row = normal(kRow, 1);
  const std::vector<float> importance(kRow - 1, 1.0F);
  EXPECT_THROW(static_cast<void>(there_and_back(GetParam(), row, importance)), std::logic_error);
}

INSTANTIATE_TEST_SUITE_P(Quantize, WeightedFormat,
                         ::testing::Values(Storage::kQ4_0, Storage::kQ4_1, Storage::kQ5_0,
                                           Storage::kQ5_1, Storage::kQ4_K, Storage::kQ5_K,
                                           Storage::kQ6_K),
                         [](const auto& storage) { return std::string(name_of(storage.param)); });

TEST(Quantize, PlainFormatsDoNotLookAtImportance) {
  const std::vector<float> row = normal(kRow, 4);
  std::vector<float> importance(kRow, 0.5F);
  importance[0] = 1e6F;
  for (const Storage storage : {Storage::kF32, Storage::kF16, Storage::kBF16, Storage::kQ8_0}) {
    EXPECT_EQ(there_and_back(storage, row), there_and_back(storage, row, importance));
  }
}

TEST(Quantize, FitsKnowsTheRangeOfEachFormat) {
  EXPECT_TRUE(fits(Storage::kF16, std::vector{65504.0F, -65504.0F}));
  EXPECT_FALSE(fits(Storage::kF16, std::vector{1.0F, 65536.0F}));
  EXPECT_FALSE(fits(Storage::kQ4_K, std::vector{-70000.0F}));
  EXPECT_TRUE(fits(Storage::kBF16, std::vector{1e38F}));
  EXPECT_FALSE(fits(Storage::kF32, std::vector{std::nanf("")}));
}

}  // namespace
}  // namespace weft::checkpoint
