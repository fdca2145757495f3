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

constexpr std::size_t kNumbers = 1003;  // Neither a multiple of the lanes nor of the chunk.

std::vector<float> floats(unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0, 0.02F);
  std::vector<float> values(kNumbers);
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
  std::vector<double> values(kNumbers);
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
  std::vector<std::byte> ours(kNumbers * sizeof(typename Type::Bits));
  std::vector<std::byte> portable(ours.size());
  expect_same(round_row(type, base, update, ours.data()),
              row_math::add_row<Type>(base.data(), update.data(), kNumbers, portable.data()));
  EXPECT_EQ(ours, portable);
  const std::vector<float> odd = floats(3);
  expect_same(round_row(type, odd, {}, ours.data()),
              row_math::convert_row<Type>(odd.data(), kNumbers, portable.data()));
  EXPECT_EQ(ours, portable);
}

TEST(RowKernels, RoundToTheSameBitsOnEveryProcessor) {
  expect_same_rounding<row_math::F32>(core::DType::kF32);
  expect_same_rounding<row_math::F16>(core::DType::kF16);
  expect_same_rounding<row_math::BF16>(core::DType::kBF16);
}

/// Every number of a type and every place halfway between two, and the doubles beside those.
template <typename Type>
void expect_nearest_even(std::uint16_t infinity) {
  const double least = std::numeric_limits<double>::denorm_min();
  for (std::uint16_t bits = 0; bits + 1 < infinity; ++bits) {
    const auto low = static_cast<double>(Type::value(bits));
    const auto high = static_cast<double>(Type::value(static_cast<std::uint16_t>(bits + 1)));
    const double half = (low + high) / 2;
    const double even = bits % 2 == 0 ? low : high;
    const std::pair<double, double> cases[] = {{low, low},
                                               {std::nextafter(low, high), low},
                                               {std::nextafter(half, low), low},
                                               {half, even},
                                               {std::nextafter(half, high), high}};
    for (const auto& [value, wanted] : cases) {
      for (const double sign : {1.0, -1.0}) {
        ASSERT_EQ(sign * wanted, Type::nearest(sign * value)) << bits;
        ASSERT_EQ(Type::round(sign * value), Type::bits(Type::nearest(sign * value))) << bits;
        ASSERT_EQ(sign * wanted, Type::value(Type::round(sign * value))) << bits;
        const double exact = sign * value;
        typename Type::Bits rounded = 0;
        double after = 0;
        ASSERT_TRUE(Type::round_chunk(&exact, 1, &rounded, &after)) << bits;
        ASSERT_EQ(sign * wanted, after) << bits;
        ASSERT_EQ(Type::round(exact), rounded) << bits;
      }
    }
  }
  ASSERT_EQ(Type::round(-least), Type::bits(Type::nearest(-least)));
  const auto largest = std::nextafter(Type::kLimit, 0.0);
  ASSERT_EQ(infinity - 1, Type::bits(Type::nearest(largest)));
  ASSERT_EQ(infinity - 1, Type::round(largest));
  ASSERT_EQ(infinity, Type::round(Type::kLimit));
}

TEST(RowKernels, HalvesAreTheNearestAndEvenOnesInTheMiddle) {
  expect_nearest_even<row_math::F16>(0x7c00);
  expect_nearest_even<row_math::BF16>(0x7f80);
}

/// Sums that leave the range of the type, infinities and NaNs, each in a chunk with other numbers.
template <typename Type>
void expect_odd_numbers(core::DType type) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const std::vector<float> bases = {0,
                                    1,
                                    -1,
                                    3e38F,
                                    -3e38F,
                                    65504,
                                    1e-40F,
                                    1e-7F,
                                    std::numeric_limits<float>::infinity(),
                                    std::numeric_limits<float>::quiet_NaN()};
  const std::vector<double> updates = {0,  Type::kLimit, -Type::kLimit, 1e300,       1e-300, 1e38,
                                       15, 16,           kInfinity,     std::nan("")};
  for (const float odd : bases) {
    for (const double change : updates) {
      std::vector<float> base(kNumbers, 0.25F);
      std::vector<double> update(kNumbers, 0x1p-20);
      base[700] = odd;
      update[700] = change;
      std::vector<typename Type::Bits> out(kNumbers);
      const RowSums sums = round_row(type, base, update, reinterpret_cast<std::byte*>(out.data()));
      bool overflow = false;
      for (std::size_t j = 0; j < kNumbers; ++j) {
        const auto wanted = Type::round(static_cast<double>(base[j]) + update[j]);
        ASSERT_EQ(wanted, out[j]) << odd << " + " << change;
        overflow |= std::isfinite(base[j]) && !std::isfinite(Type::value(wanted));
      }
      EXPECT_EQ(overflow, sums.overflow) << odd << " + " << change;
    }
  }
}

TEST(RowKernels, NumbersOutOfRangeAreRoundedAndReported) {
  expect_odd_numbers<row_math::F32>(core::DType::kF32);
  expect_odd_numbers<row_math::F16>(core::DType::kF16);
  expect_odd_numbers<row_math::BF16>(core::DType::kBF16);
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
  EXPECT_EQ(sums.aa, row_math::dot(a.data(), a.data(), kNumbers));
  EXPECT_EQ(sums.ab, row_math::dot(a.data(), b.data(), kNumbers));
  EXPECT_EQ(sum_magnitudes(a), row_math::sum_magnitudes(a.data(), kNumbers));
}

TEST(RowKernels, KeepTheKeysOfTheRangeOnly) {
  const std::vector<double> values = doubles(6);
  const std::uint32_t low = magnitude_key(5e-4);
  const std::uint32_t high = magnitude_key(1e-3);
  std::vector<double> kept = values;
  keep_between(low, high, kept);
  for (std::size_t j = 0; j < kNumbers; ++j) {
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
    std::vector<double> out(kNumbers, 0.25);
    mix_agreeing(mix, deltas, out);
    for (std::size_t j = 0; j < kNumbers; ++j) {
      double elected = 0;
      double sum = 0;
      double part = 0;
      const auto vote = [&](std::size_t i) {
        return (mix.equal_votes ? 1.0 : mix.weights[i]) * deltas[i * kNumbers + j];
      };
      for (std::size_t i = 0; i < 3; ++i) elected += vote(i);
      for (std::size_t i = 0; i < 3; ++i) {
        if (elected >= 0 ? vote(i) <= 0 : vote(i) >= 0) continue;
        sum += mix.weights[i] * deltas[i * kNumbers + j];
        part += divisor == Divisor::kCount ? 1.0 : mix.weights[i];
      }
      if (divisor != Divisor::kNone && part != 0) sum /= part;
      ASSERT_EQ(out[j], 0.25 + mix.lambda * sum) << j;
    }
  }
}

TEST(RowKernels, SumsOfTheMarkedAreThoseOfWhatIsKept) {
  const std::vector<double> values = doubles(10);
  std::vector<std::uint8_t> marks((kNumbers + 7) / 8);
  for (std::size_t i = 0; i < marks.size(); ++i) marks[i] = static_cast<std::uint8_t>(37 * i);
  std::vector<double> kept = values;
  keep_marked(marks, kept);
  for (std::size_t j = 0; j < kNumbers; ++j) {
    EXPECT_EQ((marks[j / 8] >> j % 8 & 1) != 0 ? values[j] : 0.0, kept[j]);
  }
  const MarkedSums sums = sum_marked(marks, values);
  EXPECT_EQ(sum_magnitudes(values), sums.all);
  EXPECT_EQ(sum_magnitudes(kept), sums.marked);
}

TEST(RowKernels, MarksGiveBackWhatWasNotZero) {
  std::vector<double> values = doubles(9);
  for (std::size_t j = 0; j < kNumbers; j += 3) values[j] = 0;
  std::vector<std::uint8_t> marks((kNumbers + 7) / 8);
  std::vector<std::uint8_t> portable(marks.size());
  mark_nonzero(values, marks);
  row_math::mark_nonzero(values.data(), portable.data(), kNumbers);
  EXPECT_EQ(marks, portable);
  std::vector<double> kept = doubles(9);
  std::vector<double> plain = kept;
  keep_marked(marks, kept);
  row_math::keep_marked(marks.data(), plain.data(), kNumbers);
  EXPECT_EQ(kept, values);
  EXPECT_EQ(plain, values);
}

TEST(RowKernels, VarianceMeanAndSquaresAreThoseOfOneElementAfterTheOther) {
  constexpr std::size_t kModels = 3;
  std::vector<double> deltas;
  for (unsigned i = 0; i < kModels; ++i) {
    const std::vector<double> part = doubles(20 + i);
    deltas.insert(deltas.end(), part.begin(), part.end());
  }
  const std::vector<double> weights{0.5, 0.2, 0.3};
  std::vector<std::uint32_t> keys(kNumbers);
  std::vector<double> mean(kNumbers, 0.25);
  std::vector<double> squares(kModels, 1);
  variance_keys(deltas, keys);
  mean_agreeing(weights, deltas, mean);
  add_squares(deltas, squares);
  for (std::size_t j = 0; j < kNumbers; ++j) {
    double average = 0;
    double total = 0;
    for (std::size_t i = 0; i < kModels; ++i) average += deltas[i * kNumbers + j] / 3.0;
    for (std::size_t i = 0; i < kModels; ++i) total += deltas[i * kNumbers + j];
    double variance = 0;
    double sum = 0;
    double taken = 0;
    for (std::size_t i = 0; i < kModels; ++i) {
      const double value = deltas[i * kNumbers + j];
      variance += (value - average) * (value - average);
      if (total >= 0 ? value <= 0 : value >= 0) continue;
      sum += weights[i] * value;
      taken += weights[i];
    }
    ASSERT_EQ(keys[j], magnitude_key(variance / 3.0)) << j;
    ASSERT_EQ(mean[j], 0.25 + sum / std::max(taken, 1e-6)) << j;
  }
  for (std::size_t i = 0; i < kModels; ++i) {
    double sum = 1;
    for (std::size_t j = 0; j < kNumbers; ++j)
      sum += deltas[i * kNumbers + j] * deltas[i * kNumbers + j];
    EXPECT_EQ(squares[i], sum);
  }
}

}  // namespace
}  // namespace weft::merge
