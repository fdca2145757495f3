#include "merge/row_kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "merge/row_math.h"

// The program takes the copy of each kernel that its processor can run; this file compiles the same
// loops for the oldest one. Both must give the same bits.

namespace weft::merge {
namespace {

constexpr std::size_t kCount = 1003;  // Neither a multiple of the lanes nor of the chunk.

std::vector<float> floats(unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0, 0.02F);
  std::vector<float> values(kCount);
  for (float& value : values) value = normal(engine);
  values[0] = 0;
  values[1] = -0.0F;
  values[2] = std::numeric_limits<float>::infinity();
  values[3] = std::numeric_limits<float>::denorm_min();
  values[4] = 3e38F;
  values[5] = 65520;
  return values;
}

std::vector<double> doubles(unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal(0, 1e-3);
  std::vector<double> values(kCount);
  for (double& value : values) value = normal(engine);
  values[0] = 0;
  values[7] = 0x1p-9 + 0x1p-40;
  return values;
}

void expect_same(const RowSums& a, const RowSums& b) {
  EXPECT_EQ(a.base, b.base);
  EXPECT_EQ(a.update, b.update);
  EXPECT_EQ(a.kept, b.kept);
  EXPECT_EQ(a.error, b.error);
  EXPECT_EQ(a.changed, b.changed);
  EXPECT_EQ(a.overflow, b.overflow);
}

template <typename Type>
void expect_same_rounding(core::DType type) {
  std::vector<float> base = floats(1);
  base[2] = 1;  // Sums of infinity are not comparable.
  base[4] = 2;
  const std::vector<double> update = doubles(2);
  std::vector<std::byte> ours(kCount * sizeof(typename Type::Bits));
  std::vector<std::byte> portable(ours.size());
  expect_same(round_row(type, base, update, ours.data()),
              row_math::add_row<Type>(base.data(), update.data(), kCount, portable.data()));
  EXPECT_EQ(ours, portable);
  const std::vector<float> odd = floats(3);
  expect_same(round_row(type, odd, {}, ours.data()),
              row_math::convert_row<Type>(odd.data(), kCount, portable.data()));
  EXPECT_EQ(ours, portable);
}

TEST(RowKernels, RoundToTheSameBitsOnEveryProcessor) {
  expect_same_rounding<row_math::F32>(core::DType::kF32);
  expect_same_rounding<row_math::F16>(core::DType::kF16);
  expect_same_rounding<row_math::BF16>(core::DType::kBF16);
}

TEST(RowKernels, ConversionsWithoutBranchesEqualTheDefinitions) {
  for (std::uint64_t bits = 0; bits < (std::uint64_t{1} << 32); bits += 4093) {
    const auto value = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    ASSERT_EQ(row_math::bf16_bits(value), core::float_to_bf16(value)) << bits;
    ASSERT_EQ(row_math::f16_bits(value), core::float_to_f16(value)) << bits;
  }
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    ASSERT_EQ(std::bit_cast<std::uint32_t>(row_math::f16_value(half)),
              std::bit_cast<std::uint32_t>(core::f16_to_float(half)));
  }
}

TEST(RowKernels, SumsHaveTheSameOrderOnEveryProcessor) {
  const std::vector<double> a = doubles(4);
  const std::vector<double> b = doubles(5);
  const Products sums = products(a, b);
  EXPECT_EQ(sums.aa, row_math::dot(a.data(), a.data(), kCount));
  EXPECT_EQ(sums.ab, row_math::dot(a.data(), b.data(), kCount));
  EXPECT_EQ(sum_magnitudes(a), row_math::sum_magnitudes(a.data(), kCount));
}

TEST(RowKernels, KeepTheKeysOfTheRangeOnly) {
  const std::vector<double> values = doubles(6);
  const std::uint32_t low = magnitude_key(5e-4);
  const std::uint32_t high = magnitude_key(1e-3);
  std::vector<double> kept = values;
  keep_between(low, high, kept);
  for (std::size_t j = 0; j < kCount; ++j) {
    const std::uint32_t key = magnitude_key(values[j]);
    EXPECT_EQ(kept[j], key >= low && key < high ? values[j] : 0.0);
  }
  keep_between(std::uint64_t{1} << 32, std::uint64_t{1} << 32, kept);
  for (const double value : kept) EXPECT_EQ(value, 0.0);
}

TEST(RowKernels, ModelsThatAgreeAreMixedAsTheFormulaSays) {
  for (const Divisor divisor : {Divisor::kNone, Divisor::kWeights, Divisor::kCount}) {
    const Mix mix{{0.6, -0.4, 0.5}, divisor == Divisor::kCount, divisor, 0.8};
    std::vector<double> deltas;
    for (const unsigned seed : {7U, 8U, 9U}) {
      const std::vector<double> part = doubles(seed);
      deltas.insert(deltas.end(), part.begin(), part.end());
    }
    std::vector<double> out(kCount, 0.25);
    mix_agreeing(mix, deltas, out);
    for (std::size_t j = 0; j < kCount; ++j) {
      double elected = 0;
      double sum = 0;
      double part = 0;
      const auto vote = [&](std::size_t i) {
        return (mix.equal_votes ? 1.0 : mix.weights[i]) * deltas[i * kCount + j];
      };
      for (std::size_t i = 0; i < 3; ++i) elected += vote(i);
      for (std::size_t i = 0; i < 3; ++i) {
        if (elected >= 0 ? vote(i) <= 0 : vote(i) >= 0) continue;
        sum += mix.weights[i] * deltas[i * kCount + j];
        part += divisor == Divisor::kCount ? 1.0 : mix.weights[i];
      }
      if (divisor != Divisor::kNone && part != 0) sum /= part;
      ASSERT_EQ(out[j], 0.25 + mix.lambda * sum) << j;
    }
  }
}

}  // namespace
}  // namespace weft::merge
