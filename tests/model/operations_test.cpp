#include "model/operations.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "model/constants.h"
#include "tests/model/tiny.h"

// The device-generic form beside the processor's, call by call. Both are held against autograd by
// the other tests of this program, which run under WEFT_KERNELS=aten too.
namespace weft::tests {
namespace {

using model::aten_operations;
using model::AttentionShape;
using model::Operations;
using model::processor_operations;
using model::Visibility;

/// What two forms may differ by: the order of sums, and in bf16 a rounding that it tips over.
double bound(at::ScalarType type) { return type == at::kFloat ? 2e-6 : 1.6e-2; }

class Forms : public testing::TestWithParam<at::ScalarType> {
 protected:
  at::Tensor random(at::IntArrayRef shape, double spread = 1) {
    return random_tensor(shape, spread, random_).to(GetParam());
  }
  void expect_near(const at::Tensor& generic, const at::Tensor& kernels, const char* what) {
    EXPECT_EQ(generic.scalar_type(), kernels.scalar_type()) << what;
    EXPECT_LT(relative_difference(generic, kernels), bound(GetParam())) << what;
  }
  /// Calls both forms with copies of the same tensor, which they change.
  template <typename Call>
  void compare_in_place(const at::Tensor& start, const char* what, const Call& call) {
    const at::Tensor generic = start.clone();
    const at::Tensor kernels = start.clone();
    call(aten_operations(), generic);
    call(processor_operations(), kernels);
    expect_near(generic, kernels, what);
  }
  template <typename Call>
  void compare(const char* what, const Call& call) {
    expect_near(call(aten_operations()), call(processor_operations()), what);
  }
  std::mt19937_64 random_{5};
};
std::string name_of_type(const testing::TestParamInfo<at::ScalarType>& type) {
  return c10::toString(type.param);
}
INSTANTIATE_TEST_SUITE_P(Types, Forms, testing::Values(at::kFloat, at::kBFloat16), name_of_type);

TEST_P(Forms, OfDropoutDropTheSamePlaces) {
  // More than one block of counters, and the last one not whole.
  const at::Tensor x = at::ones({7, 61}, at::TensorOptions().dtype(GetParam()));
  for (const std::uint64_t seed : {std::uint64_t{3}, std::uint64_t{0xfedcba9876543210}}) {
    const model::Dropout dropout{.p = 0.3, .seed = seed};
    for (const std::uint32_t module : {0U, 41U}) {
      const at::Tensor generic = aten_operations().dropout(x, dropout, module);
      const at::Tensor kernels = processor_operations().dropout(x, dropout, module);
      EXPECT_TRUE(generic.equal(kernels)) << seed << " " << module;
      const double dropped = generic.eq(0).to(at::kDouble).mean().item<double>();
      EXPECT_NEAR(dropped, 0.3, 0.1);
    }
  }
  const at::Tensor dy = random({7, 61});
  compare_in_place(random({7, 61}), "backward", [&](const Operations& form, const at::Tensor& dx) {
    form.dropout_backward_(dx, dy, {.p = 0.3, .seed = 9}, 2);
  });
}

TEST_P(Forms, OfRowsAgree) {
  const at::Tensor x = random({6, 35});
  const at::Tensor y = random({6, 35});
  const std::vector<std::int64_t> some{4, 0, 4, 5};
  const std::vector<std::int64_t> places{7, 1, 2, 0, 9, 5};
  compare("gather", [&](const Operations& form) { return form.gather(x, some); });
  compare("scatter", [&](const Operations& form) { return form.scatter(x, places, 11); });
  compare("scaled", [&](const Operations& form) { return form.scaled(x, 0.37); });
  compare_in_place(
      x, "add_", [&](const Operations& form, const at::Tensor& into) { form.add_(into, y, 0.37); });
}

TEST_P(Forms, OfProductsAgree) {
  const at::Tensor a = random({9, 33});
  const at::Tensor b = random({21, 33});
  const at::Tensor a2 = random({9, 4});
  const at::Tensor b2 = random({4, 21});
  const at::Tensor bias = random({21});
  const at::Tensor residual = random({9, 21});
  // Into columns of something wider, as the parts of a layer are.
  compare_in_place(random({9, 30}), "sum", [&](const Operations& form, const at::Tensor& into) {
    const model::ProductOf one{into.narrow(1, 5, 21),
                               {{a, b.t()}, {a2, b2}},
                               {.bias = bias, .residual = residual, .scale = 0.7}};
    form.products_({&one, 1});
  });
  const at::Tensor sums = random_tensor({9, 21}, 1, random_).to(at::kFloat);
  compare_in_place(sums, "added", [&](const Operations& form, const at::Tensor& into) {
    const model::ProductOf one{into, {{a, b.t()}}, {.add = true}};
    form.products_({&one, 1});
  });
}

TEST_P(Forms, OfQuantisedProductsAgree) {
  for (const auto format : {model::BaseFormat::kInt8, model::BaseFormat::kNf4}) {
    const at::Tensor values = random_tensor({19, 70}, 1, random_).to(at::kFloat);
    const model::QuantisedMatrix matrix(
        format, {values.const_data_ptr<float>(), static_cast<std::size_t>(values.numel())}, 19, 70);
    const at::Tensor x = random({5, 70});
    const at::Tensor dy = random({5, 19});
    compare_in_place(random({5, 19}), "forward", [&](const Operations& form, const at::Tensor& y) {
      const model::ProductOf one{y, {{x, matrix, true}}};
      form.products_({&one, 1});
    });
    compare_in_place(random({5, 70}), "back", [&](const Operations& form, const at::Tensor& dx) {
      const model::ProductOf one{dx, {{dy, matrix, false}}};
      form.products_({&one, 1});
    });
    const at::Tensor whole = matrix.dense(at::kFloat);
    std::vector<float> read(19 * 70);
    matrix.read<float>({0, 19, 0, 70}, read.data(), 70);
    EXPECT_TRUE(whole.view({-1}).equal(at::tensor(read))) << model::name_of(format);
  }
}

TEST_P(Forms, OfActivationsAgree) {
  using model::Activation;
  for (const auto activation : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh,
                                Activation::kRelu, Activation::kClampedSwish}) {
    for (const bool gated : {true, false}) {
      if (activation == Activation::kClampedSwish && !gated) continue;
      const model::MlpSpec mlp{.gated = gated, .activation = activation, .width = 17, .limit = 1.5};
      const at::Tensor up = random({6, gated ? 34 : 17}, 2);
      const at::Tensor dy = random({6, 17});
      compare("forward", [&](const Operations& form) { return form.activate(up, mlp); });
      compare_in_place(up, "backward", [&](const Operations& form, const at::Tensor& into) {
        form.activate_backward_(into, dy, mlp);
      });
    }
  }
}

TEST_P(Forms, OfNormsAgree) {
  using model::NormSpec;
  for (const auto kind : {NormSpec::Kind::kRms, NormSpec::Kind::kLayer}) {
    for (const bool rounds : {true, false}) {
      NormSpec spec;
      spec.kind = kind;
      spec.width = 12;
      spec.weights = 36;
      spec.eps = 1e-5;
      spec.rounds_before_weight = rounds && kind == NormSpec::Kind::kRms;
      const at::Tensor weight = random({3, 12});
      const at::Tensor none;
      const model::NormRows rows{spec, weight, none, 4, 3};
      const at::Tensor x = random({5, 44}, 2);
      compare_in_place(x, "forward", [&](const Operations& form, const at::Tensor& y) {
        form.norm(rows, y, y, nullptr);
      });
      const at::Tensor residual = random({5, 12});
      const at::Tensor part = random({5, 12}, 2);
      const model::NormRows whole{spec, weight, none};
      compare("added", [&](const Operations& form) {
        at::Tensor sum = at::empty_like(residual);
        form.norm_add(whole, part, residual, sum, nullptr);
        at::Tensor normed = at::empty_like(residual);
        form.norm(whole, part, normed, nullptr);
        EXPECT_TRUE(sum.equal(residual + normed)) << "in two steps it is the same to the bit";
        return sum;
      });
      for (const bool adds : {true, false}) {
        const at::Tensor dy = random({5, 44});
        compare_in_place(random({5, 44}), "backward",
                         [&](const Operations& form, const at::Tensor& dx) {
                           model::Norm::Statistics statistics;
                           form.norm(rows, x, x.clone(), &statistics);
                           form.norm_backward(rows, dx, dy, x, statistics, adds);
                         });
      }
    }
  }
}

TEST_P(Forms, OfAttentionAgreeOverTreesWithWindowsCapsAndSinks) {
  const std::vector<data::Segment> segments{
      {0, 33}, {33, 53, 0}, {53, 54, 1}, {54, 150}, {150, 190, 3}};
  std::vector<std::int32_t> positions;
  const std::vector<int> begins{0, 33, 53, 0, 96};
  for (std::size_t s = 0; s < segments.size(); ++s) {
    for (int i = 0; i < segments[s].end - segments[s].begin; ++i)
      positions.push_back(begins[s] + i);
  }
  const Visibility visible(segments, positions);
  std::vector<AttentionShape> shapes(
      5, {.heads = 6, .kv_heads = 2, .head_dim = 16, .window = 0, .score = {}});
  shapes[1].window = 20;
  shapes[2].score = {.scale = 0.3, .soft_cap = 1.5};
  shapes[3].score.slopes = model::alibi_slopes(6);
  shapes[4].score.sinks = {0.5F, -1, 2, 0, 3, -4};
  for (const AttentionShape& shape : shapes) {
    const at::Tensor qkv = random({190, 10 * 16});
    const at::Tensor gradient = random({190, 6 * 16});
    compare("forward",
            [&](const Operations& form) { return form.attend_row(qkv, shape, visible, nullptr); });
    at::Tensor log_sums;
    const at::Tensor output = processor_operations().attend_row(qkv, shape, visible, &log_sums);
    at::Tensor of_aten;
    (void)aten_operations().attend_row(qkv, shape, visible, &of_aten);
    EXPECT_LT(relative_difference(of_aten, log_sums), bound(GetParam()));
    compare("backward", [&](const Operations& form) {
      return form.attend_row_backward(gradient, output, qkv, log_sums, shape, visible);
    });
    // A cache of 40 tokens, of which the last three are queries.
    const at::Tensor keys = random({2, 64, 16});
    const at::Tensor values = random({2, 64, 16});
    const at::Tensor last = random({3, 10 * 16});
    compare("cached", [&](const Operations& form) {
      return form.attend_cached(last, keys, values, 40, shape);
    });
    const std::vector<model::SequenceKeys> sequences{
        {keys, values, 40}, {values, keys, 7}, {keys, keys, 64}};
    compare("step",
            [&](const Operations& form) { return form.attend_step(last, sequences, shape); });
    compare_in_place(keys, "append", [&](const Operations& form, const at::Tensor& into) {
      const std::vector<model::SequenceKeys> one{{into, values.clone(), 41}};
      form.append_keys(last.narrow(0, 0, 1), one, shape);
    });
  }
}

TEST(Tables, OfARowAreMadeOnceForEachWindow) {
  struct Windows {
    std::int64_t window = 0;
  };
  struct Others {
    int number = 0;
  };
  const Visibility visible(7);
  int made = 0;
  const auto windows = [&](std::int64_t window) -> const Windows& {
    return visible.table<Windows>(window, [&] {
      ++made;
      return Windows{window};
    });
  };
  const Windows& first = windows(0);
  EXPECT_EQ(windows(3).window, 3);
  EXPECT_EQ(&windows(0), &first);  // stays where it is while others come
  EXPECT_EQ(first.window, 0);
  EXPECT_EQ(visible.table<Others>(0, [] { return Others{9}; }).number, 9);
  EXPECT_EQ(made, 2);
}

TEST(Constants, AreCopiedOnceAndKept) {
  const std::vector<float> numbers{1, -0.0F, std::nanf("")};
  const at::Tensor once = model::constant(numbers, at::kCPU);
  const std::vector<float> same = numbers;
  EXPECT_EQ(model::constant(same, at::kCPU).const_data_ptr(), once.const_data_ptr());
  EXPECT_EQ(once.scalar_type(), at::kFloat);
  EXPECT_EQ(once[0].item<float>(), 1.0F);
  const std::vector<float> other{1, 0.0F, std::nanf("")};
  EXPECT_NE(model::constant(other, at::kCPU).const_data_ptr(), once.const_data_ptr());
  // The tables of two matrices are one.
  const at::Tensor values = at::ones({4, 64});
  const std::span<const float> span(values.const_data_ptr<float>(), 256);
  const model::QuantisedMatrix a(model::BaseFormat::kNf4, span, 4, 64);
  const model::QuantisedMatrix b(model::BaseFormat::kNf4, span, 4, 64);
  EXPECT_EQ(model::constant(a.codes().tree, at::kCPU).const_data_ptr(),
            model::constant(b.codes().tree, at::kCPU).const_data_ptr());
}

TEST_P(Forms, OfLossesAgree) {
  const std::vector<std::int32_t> targets{3, 0, 100, 57, 9};
  for (const double cap : {0.0, 2.5}) {
    const at::Tensor logits = random({5, 101}, 3);
    std::vector<double> generic(5), kernels(5);
    const model::LossRows rows{targets, cap, true, 0.25};
    const at::Tensor a = logits.clone();
    const at::Tensor b = logits.clone();
    aten_operations().losses_(a, rows, generic);
    processor_operations().losses_(b, rows, kernels);
    expect_near(a, b, "gradient");
    for (std::size_t i = 0; i < 5; ++i) EXPECT_NEAR(generic[i], kernels[i], 1e-5) << cap;
  }
}

// One that stands out, and so many small ones that a sum in float would lose them.
TEST_P(Forms, OfLossesOverALargeVocabularyLoseNoSmallOnes) {
  const std::vector<std::int32_t> targets{0, 0};
  at::Tensor logits = random({2, 100000});
  logits.select(1, 0).fill_(14);
  const at::Tensor exact = logits.to(at::kDouble).logsumexp(1);
  for (const Operations* form : {&aten_operations(), &processor_operations()}) {
    std::vector<double> losses(2);
    const at::Tensor own = logits.clone();
    form->losses_(own, {targets, 0, false, 1}, losses);
    for (std::int64_t row = 0; row < 2; ++row) {
      const auto place = static_cast<std::size_t>(row);
      const double wanted = exact[row].item<double>() - logits[row][targets[place]].item<double>();
      EXPECT_NEAR(losses[place], wanted, 3e-6) << row;
    }
  }
}

TEST_P(Forms, OfRoutingAgree) {
  for (const bool normalised : {true, false}) {
    model::ExpertsSpec spec;
    spec.count = 6;
    spec.chosen = 2;
    spec.normalised = normalised;
    at::Tensor logits = random({11, 6});
    logits.select(0, 4).fill_(0.5);  // all alike: the first two are chosen
    const model::Routing generic = aten_operations().route(logits, spec);
    const model::Routing kernels = processor_operations().route(logits, spec);
    EXPECT_EQ(generic.tokens, kernels.tokens);
    EXPECT_EQ(generic.begins, kernels.begins);
    EXPECT_LT(relative_difference(generic.weights, kernels.weights), 1e-6);
    const at::Tensor d = random_tensor({22}, 1, random_).to(at::kFloat);
    compare("backward", [&](const Operations& form) {
      return form.route_backward(kernels, d, spec, GetParam());
    });
    const std::vector<std::int64_t> tokens{2, 0, 5};
    const at::Tensor weights = random_tensor({3}, 1, random_).to(at::kFloat);
    const at::Tensor rows = random({3, 8});
    compare_in_place(random({6, 8}), "add_rows_",
                     [&](const Operations& form, const at::Tensor& to) {
                       form.add_rows_(to, rows, tokens, weights);
                     });
    compare_in_place(rows, "scale_rows_", [&](const Operations& form, const at::Tensor& to) {
      form.scale_rows_(to, weights);
    });
    const at::Tensor other = random({3, 8});
    compare("row_dots",
            [&](const Operations& form) { return form.row_dots(rows, other).to(GetParam()); });
    const at::Tensor gate = random({3, 1});
    compare("gate_values",
            [&](const Operations& form) { return form.gate_values(gate).to(GetParam()); });
    compare("gate_backward", [&](const Operations& form) {
      return form.gate_backward(weights, form.gate_values(gate), GetParam());
    });
  }
}

TEST(FormsOfTheOptimiser, Agree) {
  std::mt19937_64 random(3);
  const auto list = [&] { return random_tensor({70001}, 1, random).to(at::kFloat); };
  const at::Tensor values = list(), gradients = list(), first = list(), second = list().abs();
  const model::AdamWStep step{.keep = 0.99F,
                              .first_step = 0.1F,
                              .second_keep = 0.999F,
                              .second_step = 0.001F,
                              .second_correction = 0.4F,
                              .epsilon = 1e-8F,
                              .step = -0.02F};
  std::vector<at::Tensor> found;
  for (const Operations* form : {&aten_operations(), &processor_operations()}) {
    const at::Tensor v = values.clone(), m = first.clone(), n = second.clone();
    form->adamw_({v, gradients, m, n}, step);
    const at::Tensor scaled = gradients.clone();
    form->multiply_(scaled, 0.3F);
    found.push_back(at::cat({v, m, n, scaled}));
  }
  EXPECT_LT(relative_difference(found[0], found[1]), 1e-6);
  EXPECT_NEAR(aten_operations().square_sum(gradients), processor_operations().square_sum(gradients),
              1e-9 * 70001);
}

}  // namespace
}  // namespace weft::tests
