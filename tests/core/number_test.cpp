#include "core/number.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

namespace weft::core {
namespace {

std::uint32_t bits_of(float value) { return std::bit_cast<std::uint32_t>(value); }

/// The value of a binary16 pattern, from the definition in IEEE 754: (-1)^s 2^(e-15) 1.f.
double f16_by_definition(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int fraction = bits & 1023;
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == 31) {
    return fraction == 0 ? sign * std::numeric_limits<double>::infinity()
                         : std::numeric_limits<double>::quiet_NaN();
  }
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

/// Round to nearest, ties to even, of the real line onto the finite values between two neighbours,
/// by comparing distances in double (exact here): the reference rule.
template <typename ToDouble>
std::uint16_t rounded(double magnitude, std::uint16_t last_finite, ToDouble value) {
  std::uint16_t low = 0;
  std::uint16_t high = last_finite;
  while (low < high) {  // The largest pattern whose value is at most `magnitude`.
    const auto middle = static_cast<std::uint16_t>((low + high + 1) / 2);
    if (value(middle) <= magnitude) {
      low = middle;
    } else {
      high = static_cast<std::uint16_t>(middle - 1);
    }
  }
  const double below = value(low);
  // Beyond the last finite value the next step counts as if the exponent went on.
  const double above = low == last_finite ? 2 * below - value(static_cast<std::uint16_t>(low - 1))
                                          : value(static_cast<std::uint16_t>(low + 1));
  const double to_below = magnitude - below;
  const double to_above = above - magnitude;
  if (to_below < to_above || (to_below == to_above && low % 2 == 0)) return low;
  return static_cast<std::uint16_t>(low + 1);
}

std::uint16_t f16_by_rule(float value) {
  const auto sign = static_cast<std::uint16_t>(std::signbit(value) ? 0x8000 : 0);
  if (std::isinf(value)) return static_cast<std::uint16_t>(sign | 0x7c00);
  return static_cast<std::uint16_t>(
      sign | rounded(std::abs(static_cast<double>(value)), 0x7bff, f16_by_definition));
}

std::uint16_t bf16_by_rule(float value) {
  const auto sign = static_cast<std::uint16_t>(std::signbit(value) ? 0x8000 : 0);
  if (std::isinf(value)) return static_cast<std::uint16_t>(sign | 0x7f80);
  const auto of = [](std::uint16_t bits) { return static_cast<double>(bf16_to_float(bits)); };
  return static_cast<std::uint16_t>(sign |
                                    rounded(std::abs(static_cast<double>(value)), 0x7f7f, of));
}

TEST(Number, EveryF16PatternHasTheValueOfItsDefinition) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto pattern = static_cast<std::uint16_t>(bits);
    const double expected = f16_by_definition(pattern);
    const float found = f16_to_float(pattern);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(found)) << bits;
    } else {
      ASSERT_EQ(bits_of(static_cast<float>(expected)), bits_of(found)) << bits;
    }
  }
}

TEST(Number, EveryF16PatternSurvivesTheWayThroughFloat) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto pattern = static_cast<std::uint16_t>(bits);
    const float value = f16_to_float(pattern);
    if (std::isnan(value)) {
      const std::uint16_t back = float_to_f16(value);
      ASSERT_TRUE((back & 0x7c00) == 0x7c00 && (back & 0x3ff) != 0) << bits;
    } else {
      ASSERT_EQ(pattern, float_to_f16(value)) << bits;
    }
  }
}

TEST(Number, EveryBf16PatternSurvivesTheWayThroughFloat) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto pattern = static_cast<std::uint16_t>(bits);
    const float value = bf16_to_float(pattern);
    ASSERT_EQ(bits << 16, bits_of(value));
    if (std::isnan(value)) {
      ASSERT_EQ(0x7fc0, float_to_bf16(value)) << bits;  // PyTorch's one NaN.
    } else {
      ASSERT_EQ(pattern, float_to_bf16(value)) << bits;
    }
  }
}

TEST(Number, RoundsToTheNearestF16AndTiesToEven) {
  for (std::uint32_t bits = 0; bits < 0x7c00; ++bits) {
    // The midpoint to the next pattern, and the floats on both sides of it.
    const double low = f16_by_definition(static_cast<std::uint16_t>(bits));
    const double high =
        bits == 0x7bff ? 65536.0 : f16_by_definition(static_cast<std::uint16_t>(bits + 1));
    const auto middle = static_cast<float>((low + high) / 2);
    for (const float value : {middle, std::nextafter(middle, 0.0F), std::nextafter(middle, 1e9F)}) {
      ASSERT_EQ(f16_by_rule(value), float_to_f16(value)) << value;
      ASSERT_EQ(f16_by_rule(-value), float_to_f16(-value)) << value;
    }
  }
}

TEST(Number, RoundsToTheNearestBf16AndTiesToEven) {
  for (std::uint32_t bits = 0; bits < 0x7f80; ++bits) {
    const std::uint32_t middle = (bits << 16) + 0x8000;
    for (const std::uint32_t around : {middle - 1, middle, middle + 1}) {
      const float value = std::bit_cast<float>(around);
      ASSERT_EQ(bf16_by_rule(value), float_to_bf16(value)) << value;
      ASSERT_EQ(bf16_by_rule(-value), float_to_bf16(-value)) << value;
    }
  }
}

TEST(Number, RandomFloatsRoundByTheRule) {
  std::mt19937 random(7);
  for (int i = 0; i < 200'000; ++i) {
    const float value = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    if (std::isnan(value)) continue;
    ASSERT_EQ(bf16_by_rule(value), float_to_bf16(value)) << value;
    ASSERT_EQ(f16_by_rule(value), float_to_f16(value)) << value;
  }
}

TEST(Number, BeyondTheRangeIsInfinity) {
  EXPECT_EQ(0x7bff, float_to_f16(65519.99F));
  EXPECT_EQ(0x7c00, float_to_f16(65520.0F));
  EXPECT_EQ(0xfc00, float_to_f16(-1e30F));
  EXPECT_EQ(0x7f80, float_to_bf16(std::numeric_limits<float>::max()));
}

TEST(Number, DtypesAreReadInEverySpelling) {
  for (const char* text : {"f32", "F32", "float32"}) EXPECT_EQ(DType::kF32, parse_dtype(text));
  for (const char* text : {"f16", "F16", "float16", "half"}) {
    EXPECT_EQ(DType::kF16, parse_dtype(text));
  }
  for (const char* text : {"bf16", "BF16", "bfloat16"}) EXPECT_EQ(DType::kBF16, parse_dtype(text));
  for (const char* text : {"", "f64", "Float32", "bf 16"}) {
    EXPECT_FALSE(parse_dtype(text).has_value()) << text;
  }
}

}  // namespace
}  // namespace weft::core
