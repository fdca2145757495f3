#include "model/kernels/product.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "tests/model/tiny.h"

namespace weft::tests {
namespace {

using model::product;
using model::product_;
using model::ProductOf;
using model::products_;

at::TensorOptions options(at::ScalarType type) { return at::TensorOptions().dtype(type); }

at::Tensor random(std::int64_t rows, std::int64_t columns, at::ScalarType type) {
  return (at::rand({rows, columns}, options(at::kDouble)) - 0.5).to(type);
}

double tolerance(at::ScalarType type) {
  return type == at::kDouble ? 1e-13 : type == at::kFloat ? 5e-6 : 6e-3;
}

/// |c - expected| against what is summed.
void expect_near(const at::Tensor& c, const at::Tensor& expected, double tolerance) {
  const at::Tensor error = (c.to(at::kDouble) - expected).abs();
  const double size = expected.abs().max().item<double>() + 1;
  ASSERT_LE(error.max().item<double>(), tolerance * size) << c.sizes();
}

class Products : public testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override { at::manual_seed(7); }
};

// Operands are filled up to whole pairs, registers and tiles: infinity times such a zero is no
// number, and would spread.
TEST_P(Products, AnInfinityMeetsNoFilling) {
  const at::ScalarType type = GetParam();
  for (const std::int64_t k : {1, 5, 33}) {
    for (const std::int64_t n : {3, 19, 64}) {
      const at::Tensor a = random(4, k, type).abs().add(0.1);
      const at::Tensor b = random(k, n, type).abs().add(0.1);
      a[2][k - 1].fill_(INFINITY);
      b[k - 1][n - 1].fill_(INFINITY);
      for (const at::Tensor& c : {product(a, b), product(a.t().contiguous().t(), b),
                                  product(a, b.t().contiguous().t())}) {
        for (std::int64_t i = 0; i < 4; ++i) {
          for (std::int64_t j = 0; j < n; ++j)
            EXPECT_EQ(std::isinf(c[i][j].item<double>()), i == 2 || j == n - 1)
                << k << ": " << i << ", " << j;
        }
        EXPECT_FALSE(c.isnan().any().item<bool>());
      }
    }
  }
}

TEST_P(Products, EqualSumsInDoubleForEveryShapeAndLayout) {
  const at::ScalarType type = GetParam();
  for (const std::int64_t m : {1, 2, 7, 97, 130}) {
    for (const std::int64_t n : {1, 16, 63, 64, 65, 200}) {
      for (const std::int64_t k : {1, 2, 15, 33, 576, 2049}) {
        const at::Tensor a = random(m, k, type);
        const at::Tensor b = random(k, n, type);
        const at::Tensor expected = at::mm(a.to(at::kDouble), b.to(at::kDouble));
        const at::Tensor a_turned = a.t().contiguous().t();
        const at::Tensor b_turned = b.t().contiguous().t();
        for (const at::Tensor& left : {a, a_turned}) {
          for (const at::Tensor& right : {b, b_turned})
            expect_near(product(left, right), expected, tolerance(type));
        }
      }
    }
  }
}

TEST_P(Products, OfBlocksOfMatricesWriteOnlyTheirBlock) {
  const at::ScalarType type = GetParam();
  const at::Tensor all_a = random(40, 77, type);
  const at::Tensor all_b = random(90, 301, type);
  at::Tensor all_c = random(60, 211, type);
  const at::Tensor before = all_c.clone();
  const at::Tensor a = all_a.narrow(0, 3, 33).narrow(1, 5, 47);
  const at::Tensor b = all_b.narrow(0, 1, 47).narrow(1, 9, 121);
  product_(all_c.narrow(0, 4, 33).narrow(1, 13, 121), {{a, b}});
  expect_near(all_c.narrow(0, 4, 33).narrow(1, 13, 121),
              at::mm(a.to(at::kDouble), b.to(at::kDouble)), tolerance(type));
  all_c.narrow(0, 4, 33).narrow(1, 13, 121).copy_(before.narrow(0, 4, 33).narrow(1, 13, 121));
  EXPECT_TRUE(all_c.equal(before));
  const at::Tensor turned = all_b.narrow(0, 2, 50).narrow(1, 11, 47).t();  // [47, 50]
  expect_near(product(a, turned), at::mm(a.to(at::kDouble), turned.to(at::kDouble)),
              tolerance(type));
}

TEST_P(Products, SumTermsWithBiasAndResidual) {
  const at::ScalarType type = GetParam();
  const at::Tensor x = random(19, 130, type);
  const at::Tensor w = random(70, 130, type);
  const at::Tensor middle = random(19, 6, type);
  const at::Tensor b = random(70, 6, type);
  const at::Tensor bias = random(1, 70, type).view({70});
  const at::Tensor residual = random(19, 70, type);
  const auto wide = [](const at::Tensor& t) { return t.to(at::kDouble); };
  const at::Tensor sum = at::mm(wide(x), wide(w).t()) + at::mm(wide(middle), wide(b).t());
  at::Tensor c = at::empty({19, 70}, options(type));
  product_(c, {{x, w.t()}, {middle, b.t()}}, {.bias = bias, .residual = residual});
  expect_near(c, sum + wide(bias) + wide(residual), tolerance(type));
  product_(c, {{x, w.t()}}, {.scale = -2});
  expect_near(c, at::mm(wide(x), wide(w).t()) * -2, tolerance(type));
}

TEST_P(Products, AddToSumsInFloat) {
  const at::ScalarType type = GetParam();
  const at::Tensor d = random(55, 16, type);
  const at::Tensor x = random(55, 100, type);
  at::Tensor gradient = random(16, 100, at::kFloat);
  const at::Tensor expected =
      gradient.to(at::kDouble) + at::mm(d.t().to(at::kDouble), x.to(at::kDouble)) * 0.5;
  product_(gradient, {{d.t(), x}}, {.scale = 0.5, .add = true});
  expect_near(gradient, expected, 1e-6);  // no rounding to the operands' type on the way
}

// Rows by the thousand are shared out by rows, and deep sums are packed in several groups.
TEST_P(Products, OfLargeMatricesAreTheSameOnAnyThreads) {
  WEFT_SKIP_WITHOUT_KERNELS();
  const at::ScalarType type = GetParam();
  const int before = at::get_num_threads();
  for (const auto& [m, k, n] : {std::array<std::int64_t, 3>{1100, 70, 300},
                                {2500, 33, 70},
                                {530, 5000, 130},
                                {1030, 4200, 20}}) {
    const at::Tensor a = random(m, k, type);
    const at::Tensor b = random(k, n, type);
    const at::Tensor right = b.t().contiguous().t();
    at::set_num_threads(1);
    const at::Tensor alone = product(a, right);
    expect_near(alone, at::mm(a.to(at::kDouble), b.to(at::kDouble)), tolerance(type));
    for (const int threads : {2, 3, 5}) {
      at::set_num_threads(threads);
      EXPECT_TRUE(product(a, right).equal(alone)) << m << " rows, " << threads << " threads";
      EXPECT_TRUE(product(a, b).equal(alone)) << m << " rows, " << threads << " threads";
    }
  }
  at::set_num_threads(before);
}

TEST_P(Products, ComputedTogetherHaveTheBitsOfEachAlone) {
  const at::ScalarType type = GetParam();
  const at::Tensor x = random(600, 96, type);
  const at::Tensor w = random(96, 200, type);
  const at::Tensor d = random(600, 16, type);
  std::vector<ProductOf> all;
  all.push_back({at::empty({600, 200}, options(type)), {{x, w}}});
  all.push_back({at::empty({600, 0}, options(type)), {{x, random(96, 0, type)}}});
  all.push_back({at::zeros({16, 96}, options(at::kFloat)), {{d.t(), x}}, {.scale = 2}});
  products_(all);
  const at::Tensor first = at::empty({600, 200}, options(type));
  product_(first, {{x, w}});
  const at::Tensor third = at::zeros({16, 96}, options(at::kFloat));
  product_(third, {{d.t(), x}}, {.scale = 2});
  EXPECT_TRUE(all[0].c.equal(first));
  EXPECT_TRUE(all[2].c.equal(third));
}

TEST_P(Products, OfARowHaveTheSameBitsInAnyBatchOnAnyThreads) {
  WEFT_SKIP_WITHOUT_KERNELS();
  const at::ScalarType type = GetParam();
  const at::Tensor x = random(300, 2100, type);
  const at::Tensor w = random(150, 2100, type);
  const at::Tensor all = product(x, w.t());
  for (const std::int64_t row : {0, 5, 96, 299})
    EXPECT_TRUE(product(x.narrow(0, row, 1), w.t()).equal(all.narrow(0, row, 1))) << row;
  EXPECT_TRUE(product(x.narrow(0, 7, 100), w.t()).equal(all.narrow(0, 7, 100)));
  EXPECT_TRUE(product(x, w.narrow(0, 64, 20).t()).equal(all.narrow(1, 64, 20)));
  const int threads = at::get_num_threads();
  for (const int count : {1, 3}) {
    at::set_num_threads(count);
    EXPECT_TRUE(product(x, w.t()).equal(all)) << count << " threads";
  }
  at::set_num_threads(threads);
}

INSTANTIATE_TEST_SUITE_P(Types, Products, testing::Values(at::kFloat, at::kDouble, at::kBFloat16),
                         [](const auto& of) { return std::string(c10::toString(of.param)); });

}  // namespace
}  // namespace weft::tests
