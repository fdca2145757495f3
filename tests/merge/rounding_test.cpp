#include "merge/rounding.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace weft::merge {
namespace {

/// The nearest of the format's numbers, ties to the even one, found by trying the neighbours of the
/// rounded float in exact arithmetic.
template <typename ToFloat>
std::uint16_t nearest_by_search(double value, std::uint16_t guess, ToFloat to_float) {
  std::uint16_t best = guess;
  double best_distance = std::abs(static_cast<double>(to_float(guess)) - value);
  for (const int step : {-1, 1}) {
    const auto bits = static_cast<std::uint16_t>(guess + step);
    const auto candidate = static_cast<double>(to_float(bits));
    if (!std::isfinite(candidate)) continue;
    const double distance = std::abs(candidate - value);
    if (distance < best_distance || (distance == best_distance && bits % 2 == 0)) {
      best = bits;
      best_distance = distance;
    }
  }
  return best;
}

TEST(Rounding, ThereIsNoDoubleRounding) {
  // A little more than half way between 1 and the next bf16 number: a float in between would turn
  // it into the tie, and the tie into 1.
  const double value = 1 + 0x1p-8 + 0x1p-40;
  EXPECT_EQ(core::float_to_bf16(static_cast<float>(value)), 0x3f80);
  EXPECT_EQ(round_to_bf16(value), 0x3f81);
  EXPECT_EQ(round_to_bf16(-value), 0xbf81);
  EXPECT_EQ(round_to_f16(1 + 0x1p-11 + 0x1p-40), 0x3c01);
  EXPECT_EQ(round_to_f16(1 + 0x1p-11 - 0x1p-40), 0x3c00);
  EXPECT_EQ(round_to_f16(1 + 3 * 0x1p-11 - 0x1p-40), 0x3c01);
}

TEST(Rounding, TiesGoToTheEvenNumber) {
  EXPECT_EQ(round_to_bf16(1 + 0x1p-8), 0x3f80);
  EXPECT_EQ(round_to_bf16(1 + 3 * 0x1p-8), 0x3f82);
  EXPECT_EQ(round_to_f16(1 + 0x1p-11), 0x3c00);
  EXPECT_EQ(round_to_f16(1 + 3 * 0x1p-11), 0x3c02);
}

TEST(Rounding, EqualsASearchAmongNeighboursForAMillionNumbersNearTies) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 1'000'000; ++i) {
    // Half-way points of bf16 or f16, moved by far less than a float's last bit, and plain numbers.
    const auto exponent = static_cast<int>(random() % 24) - 18;
    const auto mantissa = static_cast<double>(random() % 4096);
    const double tiny = i % 3 == 0 ? 0 : (i % 3 == 1 ? 0x1p-38 : -0x1p-38);
    const double value = std::ldexp((1 + mantissa / 4096 + tiny), exponent) * (i % 2 == 0 ? 1 : -1);
    const std::uint16_t bf16 = round_to_bf16(value);
    ASSERT_EQ(bf16, nearest_by_search(value, bf16, core::bf16_to_float)) << value;
    const std::uint16_t f16 = round_to_f16(value);
    ASSERT_EQ(f16, nearest_by_search(value, f16, core::f16_to_float)) << value;
  }
}

TEST(Rounding, SubnormalsZerosAndLimits) {
  EXPECT_EQ(round_to_f16(0x1p-25), 0x0000);
  EXPECT_EQ(round_to_f16(0x1p-25 + 0x1p-60), 0x0001);
  EXPECT_EQ(round_to_f16(65519.999), 0x7bff);
  EXPECT_EQ(round_to_f16(65520), 0x7c00);
  EXPECT_EQ(round_to_bf16(1e-60), 0x0000);
  EXPECT_EQ(round_to_bf16(-0.0), 0x8000);
  EXPECT_EQ(round_to_bf16(3.5e38), 0x7f80);
  EXPECT_TRUE(
      std::isnan(core::bf16_to_float(round_to_bf16(std::numeric_limits<double>::quiet_NaN()))));
}

}  // namespace
}  // namespace weft::merge
