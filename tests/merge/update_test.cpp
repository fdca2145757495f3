#include "merge/update.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/merge/models.h"

namespace weft::merge {
namespace {

Term term(std::int64_t rank, std::int64_t in, std::int64_t out, double scale, double weight,
          std::uint32_t seed) {
  Term result;
  result.factors.target = {{"m.q_proj", in, out}, rank, 0, scale};
  result.factors.a = tests::noise(static_cast<std::size_t>(rank * in), 1, seed);
  result.factors.b = tests::noise(static_cast<std::size_t>(rank * out), 1, seed + 1);
  result.weight = weight;
  return result;
}

/// sum over terms and k of (weight * scale * B_ik) * A_kj, in that order.
double formula(const std::vector<Term>& terms, std::int64_t i, std::int64_t j) {
  double sum = 0;
  for (const Term& t : terms) {
    const lora::Target& target = t.factors.target;
    for (std::int64_t k = 0; k < target.rank; ++k) {
      const auto b =
          static_cast<double>(t.factors.b[static_cast<std::size_t>(i * target.rank + k)]);
      const auto a =
          static_cast<double>(t.factors.a[static_cast<std::size_t>(k * target.module.in + j)]);
      sum += a * (t.weight * target.scale * b);
    }
  }
  return sum;
}

/// Every element of the update, [rows, columns].
std::vector<double> whole(const Update& update) {
  std::vector<double> block(static_cast<std::size_t>(Update::kRowBlock * update.stride()));
  std::vector<double> result;
  for (std::int64_t begin = 0; begin < update.rows(); begin += Update::kRowBlock) {
    update.compute(begin, block);
    for (std::int64_t row = 0; row < std::min(Update::kRowBlock, update.rows() - begin); ++row) {
      const auto first = block.begin() + row * update.stride();
      result.insert(result.end(), first, first + update.columns());
    }
  }
  return result;
}

TEST(Update, EqualsTheFormulaBitForBitAtAnyShape) {
  for (const auto& [rank, in, out] :
       {std::tuple{1, 1, 1}, {3, 7, 5}, {16, 64, 4}, {5, 33, 30}, {64, 9, 6}}) {
    const std::vector<Term> terms{term(rank, in, out, 0.7, 1.5, 3)};
    const std::vector<double> update = whole(Update(terms, Update::Layout::kOutIn));
    ASSERT_EQ(update.size(), static_cast<std::size_t>(in * out));
    for (std::int64_t i = 0; i < out; ++i) {
      for (std::int64_t j = 0; j < in; ++j) {
        ASSERT_EQ(update[static_cast<std::size_t>(i * in + j)], formula(terms, i, j))
            << i << " " << j;
      }
    }
  }
}

TEST(Update, IsTheSameWithOperationsThatAreFused) {
  // Scales that are powers of two leave a float's 24 bits, so that products are exact.
  for (const double scale : {1.0, 2.0, 0.125}) {
    const std::vector<Term> terms{term(16, 35, 9, scale, 1, 5), term(3, 35, 9, 4 * scale, 0.5, 8)};
    const std::vector<double> update = whole(Update(terms, Update::Layout::kOutIn));
    for (std::int64_t i = 0; i < 9; ++i) {
      for (std::int64_t j = 0; j < 35; ++j) {
        ASSERT_EQ(update[static_cast<std::size_t>(i * 35 + j)], formula(terms, i, j));
      }
    }
  }
}

TEST(FactorProducts, AreFusedOnlyWhereNoProductIsRounded) {
  constexpr double kFull = 0x1.fffffffp0;   // 29 bits
  constexpr double kMore = 0x1.fffffff8p0;  // 30 bits
  constexpr double kFloat = 0x1.fffffep0;   // 24 bits
  EXPECT_TRUE(multiplies_exactly(kFull));
  EXPECT_FALSE(multiplies_exactly(kMore));
  EXPECT_EQ(std::fma(kFull, kFloat, -(kFull * kFloat)), 0);
  EXPECT_NE(std::fma(kMore, kFloat, -(kMore * kFloat)), 0);
  EXPECT_TRUE(multiplies_exactly(0));
  EXPECT_TRUE(multiplies_exactly(-0x1p-149));
  EXPECT_FALSE(multiplies_exactly(0x1p-900));  // Times 2^-149 it is below the smallest double.
  EXPECT_FALSE(multiplies_exactly(std::numeric_limits<double>::infinity()));
  EXPECT_FALSE(multiplies_exactly(std::numeric_limits<double>::quiet_NaN()));
}

TEST(FactorProducts, HaveTheSameBitsInEveryForm) {
  constexpr std::int64_t kPanels = 3;
  for (const std::int64_t rank : {1, 2, 16, 33}) {
    const std::vector<float> right =
        tests::noise(static_cast<std::size_t>(kPanels * rank * kFactorPanel), 1, 11);
    const std::vector<float> rows =
        tests::noise(static_cast<std::size_t>(rank * kFactorRows), 1, 12);
    const std::vector<double> left(rows.begin(), rows.end());
    std::vector<std::vector<double>> found;
    for (const bool exact : {false, true}) {
      std::vector<double>& out = found.emplace_back(kFactorRows * kPanels * kFactorPanel);
      factor_products(exact)(right.data(), left.data(), rank, kPanels, out.data());
    }
    EXPECT_EQ(found[0], found[1]);
  }
}

TEST(Update, OfSeveralAdaptersIsTheirWeightedSumWithoutCrossTerms) {
  const std::vector<Term> terms{term(4, 12, 10, 2, 0.5, 3), term(2, 12, 10, 0.25, -1.5, 7),
                                term(7, 12, 10, 1, 1, 9)};
  const Update update(terms, Update::Layout::kOutIn);
  EXPECT_EQ(update.rank(), 13);
  const std::vector<double> sum = whole(update);
  for (std::int64_t i = 0; i < 10; ++i) {
    for (std::int64_t j = 0; j < 12; ++j) {
      ASSERT_EQ(sum[static_cast<std::size_t>(i * 12 + j)], formula(terms, i, j));
    }
  }
}

TEST(Update, OfAConv1DIsTransposed) {
  const std::vector<Term> terms{term(3, 11, 6, 2, 1, 3)};
  const Update update(terms, Update::Layout::kInOut);
  EXPECT_EQ(update.rows(), 11);
  EXPECT_EQ(update.columns(), 6);
  const std::vector<double> transposed = whole(update);
  for (std::int64_t i = 0; i < 6; ++i) {
    for (std::int64_t j = 0; j < 11; ++j) {
      ASSERT_NEAR(transposed[static_cast<std::size_t>(j * 6 + i)], formula(terms, i, j), 1e-14);
    }
  }
}

}  // namespace
}  // namespace weft::merge
