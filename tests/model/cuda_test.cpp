#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "model/activation.h"
#include "model/cuda/rows.h"
#include "model/cuda/tree_attention.h"
#include "model/cuda/tree_blocks.h"
#include "model/operations.h"
#include "tests/model/tiny.h"

// The bodies of the GPU's kernels, run by the processor block by block and thread by thread, beside
// its own kernels. Each runs with its threads in both orders: within a phase none may depend on
// another.
namespace weft::tests {
namespace {

using cuda::Bf16;
using model::processor_operations;

template <typename T>
constexpr at::ScalarType kType = std::is_same_v<T, float> ? at::kFloat : at::kBFloat16;

template <typename T>
const T* data(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<const T*>(tensor.const_data_ptr()) : nullptr;
}
template <typename T>
T* mutable_data(const at::Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

template <typename T>
class Bodies : public testing::Test {
 protected:
  at::Tensor random(at::IntArrayRef shape, double spread = 1) {
    return random_tensor(shape, spread, random_).to(kType<T>);
  }
  static void expect_near(const at::Tensor& ours, const at::Tensor& wanted, const char* what) {
    const double bound = kType<T> == at::kFloat ? 3e-6 : 1.6e-2;
    EXPECT_LT(relative_difference(ours, wanted), bound) << what;
  }
  /// Runs a kernel of one phase over `elements`.
  template <typename Kernel>
  static void run_elements(const Kernel& kernel, std::int64_t elements) {
    cuda::run_on_host(kernel, (elements + 127) / 128, 128, 1);
  }
  /// `make(output)` gives the kernel that writes to a copy of `start`; both orders of threads must
  /// give one result, which is returned.
  template <typename Make>
  static at::Tensor run_blocks(const at::Tensor& start, std::int64_t blocks, int threads,
                               std::int64_t shared, const Make& make) {
    const at::Tensor forwards = start.clone();
    const at::Tensor backwards = start.clone();
    cuda::run_on_host(make(forwards), blocks, threads, shared);
    cuda::run_on_host(make(backwards), blocks, threads, shared, true);
    EXPECT_TRUE(forwards.equal(backwards)) << "threads of a phase depend on one another";
    return forwards;
  }
  std::mt19937_64 random_{11};
};
using Types = testing::Types<float, Bf16>;
class Names {
 public:
  template <typename T>
  static std::string GetName(int) {
    return std::is_same_v<T, float> ? "Float" : "BFloat16";
  }
};
TYPED_TEST_SUITE(Bodies, Types, Names);

TYPED_TEST(Bodies, OfActivationsGiveTheKernelsNumbers) {
  using T = TypeParam;
  using model::Activation;
  const std::vector<std::pair<Activation, cuda::Gate>> all{
      {Activation::kSilu, cuda::Gate::kSilu},
      {Activation::kGelu, cuda::Gate::kGelu},
      {Activation::kGeluTanh, cuda::Gate::kGeluTanh},
      {Activation::kRelu, cuda::Gate::kRelu},
      {Activation::kClampedSwish, cuda::Gate::kClampedSwish}};
  for (const auto& [activation, gate] : all) {
    for (const bool gated : {true, false}) {
      if (!gated && gate == cuda::Gate::kClampedSwish) continue;
      const model::MlpSpec mlp{.gated = gated, .activation = activation, .width = 19, .limit = 1.5};
      const at::Tensor up = this->random({7, gated ? 38 : 19}, 2);
      const at::Tensor dy = this->random({7, 19});
      const at::Tensor out = at::empty_like(dy);
      const auto kernel = [&](const at::Tensor& of, const at::Tensor& gradient) {
        cuda::Activate<T> k{};
        k.up = mutable_data<T>(of);
        k.out = mutable_data<T>(out);
        k.dy = data<T>(gradient);
        k.elements = out.numel();
        k.width = 19;
        k.gate = gate;
        k.gated = gated;
        k.limit = 1.5F;
        return k;
      };
      this->run_elements(kernel(up, {}), out.numel());
      this->expect_near(out, processor_operations().activate(up, mlp), "forward");
      const at::Tensor ours = up.clone();
      const at::Tensor wanted = up.clone();
      this->run_elements(kernel(ours, dy), out.numel());
      processor_operations().activate_backward_(wanted, dy, mlp);
      this->expect_near(ours, wanted, "backward");
    }
  }
}

TYPED_TEST(Bodies, OfRotaryTurnAndTurnBack) {
  using T = TypeParam;
  const model::AttentionShape shape{.heads = 4, .kv_heads = 2, .head_dim = 10};
  const data::Row row = random_row(tiny_spec(), {5, 1, 8}, 1);
  for (const bool interleaved : {false, true}) {
    const model::RotaryTable table = model::rotary_table({.dim = 6, .interleaved = interleaved}, 64,
                                                         row.positions, row.segments, kType<T>);
    for (const bool back : {false, true}) {
      const at::Tensor ours = this->random({14, 80});
      const at::Tensor wanted = ours.clone();
      cuda::Rotate<T> k{};
      k.qkv = mutable_data<T>(ours);
      k.cos = data<float>(table.cos);
      k.sin = data<float>(table.sin);
      k.tokens = 14;
      k.width = 80;
      k.heads = 6;
      k.head_dim = 10;
      k.half = 3;
      k.interleaved = interleaved;
      k.back = back;
      this->run_elements(k, 14 * 6 * 3);
      if (back) {
        processor_operations().rotate_back_(wanted, shape, table);
      } else {
        processor_operations().rotate_(wanted, shape, table);
      }
      this->expect_near(ours, wanted, "rotary");
    }
  }
}

TYPED_TEST(Bodies, OfDropoutDropTheSamePlaces) {
  using T = TypeParam;
  const at::Tensor x = this->random({7, 61});
  const model::Dropout dropout{.p = 0.3, .seed = 0xfedcba9876543210};
  for (const bool adds : {false, true}) {
    const at::Tensor ours = x.clone();
    cuda::Drop<T> k{};
    k.in = data<T>(x);
    k.out = mutable_data<T>(ours);
    k.elements = x.numel();
    k.threshold = static_cast<std::uint32_t>(dropout.p * 0x1p32);
    k.module = 41;
    k.seed = dropout.seed;
    k.keep_scale = static_cast<float>(1 / (1 - dropout.p));
    k.adds = adds;
    this->run_elements(k, cuda::Drop<T>::counters(x.numel()));
    at::Tensor wanted = x.clone();
    if (adds) {
      processor_operations().dropout_backward_(wanted, x, dropout, 41);
    } else {
      wanted = processor_operations().dropout(x, dropout, 41);
    }
    // A sum may be fused with the product on one side and not on the other; places are the same.
    const at::Tensor untouched = adds ? x : at::zeros_like(x);
    EXPECT_TRUE(ours.eq(untouched).equal(wanted.eq(untouched)));
    this->expect_near(ours, wanted, "dropout");
  }
}

TYPED_TEST(Bodies, OfQuantisedMatricesGiveTheirElements) {
  using T = TypeParam;
  // Tables as the host gives them to the kernel: read back from a matrix of all codes.
  const at::Tensor values = random_tensor({19, 70}, 1, this->random_).to(at::kFloat);
  const std::span<const float> span(values.const_data_ptr<float>(), 19 * 70);
  for (const auto format : {model::BaseFormat::kInt8, model::BaseFormat::kNf4}) {
    const model::QuantisedMatrix matrix(format, span, 19, 70);
    const model::QuantisedMatrix::Codes codes = matrix.codes();
    const at::Tensor ours = at::empty({19, 70}, at::TensorOptions().dtype(kType<T>));
    cuda::Dequantise<T> k{};
    k.codes = codes.codes.template const_data_ptr<std::uint8_t>();
    k.scales = codes.scales.template const_data_ptr<float>();
    k.elements = 19 * 70;
    k.columns = 70;
    k.out = mutable_data<T>(ours);
    if (format == model::BaseFormat::kNf4) {
      k.scale_codes = codes.scale_codes.template const_data_ptr<std::uint8_t>();
      k.table = codes.table.data();
      k.tree = codes.tree.data();
      k.scale_mean = codes.scale_mean;
    }
    this->run_elements(k, 19 * 70);
    EXPECT_TRUE(ours.equal(matrix.dense(kType<T>))) << model::name_of(format);
  }
}

TYPED_TEST(Bodies, OfNormsGiveTheKernelsNumbers) {
  using T = TypeParam;
  using model::NormSpec;
  for (const auto kind : {NormSpec::Kind::kRms, NormSpec::Kind::kLayer}) {
    NormSpec spec;
    spec.kind = kind;
    spec.width = 75;
    spec.weights = 3 * 75;
    spec.eps = 1e-5;
    spec.plus_one = kind == NormSpec::Kind::kRms;
    spec.rounds_before_weight = kind == NormSpec::Kind::kRms;
    const bool centred = kind == NormSpec::Kind::kLayer;
    const at::Tensor weight = this->random({3, 75});
    const at::Tensor bias = centred ? this->random({3, 75}) : at::Tensor();
    const at::Tensor x = this->random({5, 230}, 2);
    const model::NormRows rows{spec, weight, bias, 4, 3};
    const auto options = at::TensorOptions().dtype(at::kFloat);
    const at::Tensor inverse = at::empty({5, 3}, options);
    const at::Tensor mean = at::empty({5, 3}, options);
    const at::Tensor ours = this->run_blocks(x, 15, 64, 128, [&](const at::Tensor& y) {
      cuda::NormForward<T> k{};
      k.x = data<T>(x) + 4;
      k.weight = data<T>(weight);
      k.bias = data<T>(bias);
      k.y = mutable_data<T>(y) + 4;
      k.inverse = mutable_data<float>(inverse);
      k.mean = centred ? mutable_data<float>(mean) : nullptr;
      k.x_stride = k.y_stride = 230;
      k.groups = 3;
      k.width = k.weight_stride = 75;
      k.eps = 1e-5F;
      k.plus = spec.plus_one ? 1 : 0;
      k.centred = centred;
      k.rounds_before_weight = spec.rounds_before_weight;
      return k;
    });
    const at::Tensor wanted = x.clone();
    model::Norm::Statistics statistics;
    processor_operations().norm(rows, x, wanted, &statistics);
    this->expect_near(ours, wanted, "forward");
    // One norm of whole rows, added to what flows around it, beside the formulas.
    const at::Tensor residual = this->random({5, 75});
    const at::Tensor part = x.narrow(1, 4, 75).contiguous();
    const model::NormRows whole{spec, weight, bias};
    const at::Tensor sum = this->run_blocks(residual, 5, 64, 128, [&](const at::Tensor& y) {
      cuda::NormForward<T> k{};
      k.x = data<T>(part);
      k.weight = data<T>(weight);
      k.bias = data<T>(bias);
      k.residual = data<T>(residual);
      k.y = mutable_data<T>(y);
      k.x_stride = k.residual_stride = k.y_stride = 75;
      k.groups = 1;
      k.width = 75;
      k.eps = 1e-5F;
      k.plus = spec.plus_one ? 1 : 0;
      k.centred = centred;
      k.rounds_before_weight = spec.rounds_before_weight;
      return k;
    });
    const at::Tensor in_two_steps = at::empty_like(residual);
    model::aten_operations().norm_add(whole, part, residual, in_two_steps, nullptr);
    this->expect_near(sum, in_two_steps, "added to the residual");
    EXPECT_LT(relative_difference(inverse, statistics.inverse), 1e-6);
    const at::Tensor dy = this->random({5, 230});
    const at::Tensor around = this->random({5, 230});
    for (const bool adds : {true, false}) {
      const at::Tensor gradient = this->run_blocks(around, 15, 64, 128, [&](const at::Tensor& dx) {
        cuda::NormBackward<T> k{};
        k.x = data<T>(x) + 4;
        k.weight = data<T>(weight);
        k.dy = data<T>(dy) + 4;
        k.dx = mutable_data<T>(dx) + 4;
        k.inverse = data<float>(inverse);
        k.mean = centred ? data<float>(mean) : nullptr;
        k.x_stride = k.dx_stride = 230;
        k.groups = 3;
        k.width = k.weight_stride = 75;
        k.plus = spec.plus_one ? 1 : 0;
        k.adds = adds;
        return k;
      });
      const at::Tensor of_processor = around.clone();
      processor_operations().norm_backward(rows, of_processor, dy, x, statistics, adds);
      this->expect_near(gradient, of_processor, "backward");
    }
  }
}

TYPED_TEST(Bodies, OfLossesGiveTheKernelsNumbers) {
  using T = TypeParam;
  const std::vector<std::int32_t> targets{3, 0, 100, 57, 9};
  for (const double cap : {0.0, 2.5}) {
    const at::Tensor logits = this->random({5, 101}, 3);
    std::vector<double> ours(5), wanted(5);
    const at::Tensor gradient = this->run_blocks(logits, 5, 64, 128, [&](const at::Tensor& z) {
      cuda::Losses<T> k{};
      k.logits = mutable_data<T>(z);
      k.targets = targets.data();
      k.losses = ours.data();
      k.vocabulary = 101;
      k.cap = static_cast<float>(cap);
      k.gradient_scale = 0.25F;
      k.want_gradient = true;
      return k;
    });
    const at::Tensor of_processor = logits.clone();
    processor_operations().losses_(of_processor, {targets, cap, true, 0.25}, wanted);
    this->expect_near(gradient, of_processor, "gradient");
    for (std::size_t i = 0; i < 5; ++i) EXPECT_NEAR(ours[i], wanted[i], 1e-5);
  }
}

TYPED_TEST(Bodies, OfTheEndOfAProductScaleAddAndRound) {
  using T = TypeParam;
  const at::Tensor sums = random_tensor({6, 9}, 1, this->random_).to(at::kFloat);
  const at::Tensor bias = this->random({9});
  const at::Tensor residual = this->random({6, 12});
  const at::Tensor c = this->random({6, 11});
  cuda::Finish<T> k{};
  k.sums = data<float>(sums);
  k.c = mutable_data<T>(c);
  k.bias = data<T>(bias);
  k.residual = data<T>(residual);
  k.elements = 54;
  k.n = 9;
  k.c_stride = 11;
  k.residual_stride = 12;
  k.scale = 0.5F;
  this->run_elements(k, 54);
  const at::Tensor rounded = (sums * 0.5 + bias).to(kType<T>);
  EXPECT_TRUE(c.narrow(1, 0, 9).equal(rounded + residual.narrow(1, 0, 9)));
}

TYPED_TEST(Bodies, OfAttentionGiveTheKernelsNumbersOverTrees) {
  using T = TypeParam;
  const std::vector<data::Segment> segments{
      {0, 33}, {33, 53, 0}, {53, 54, 1}, {54, 150}, {150, 190, 3}};
  std::vector<std::int32_t> positions;
  const std::vector<int> begins{0, 33, 53, 0, 96};
  for (std::size_t s = 0; s < segments.size(); ++s) {
    for (int i = 0; i < segments[s].end - segments[s].begin; ++i)
      positions.push_back(begins[s] + i);
  }
  const model::Visibility visible(segments, positions);
  constexpr std::int64_t kTokens = 190, kDim = 20;
  std::vector<model::AttentionShape> shapes(
      6, {.heads = 6, .kv_heads = 2, .head_dim = kDim, .window = 0, .score = {}});
  shapes[1].window = 20;
  shapes[2].score = {.scale = 0.3, .soft_cap = 1.5};
  shapes[3].score.slopes = model::alibi_slopes(6);
  shapes[4].score = {.slopes = model::alibi_slopes(6), .slopes_in_bf16 = true};
  shapes[5].score.sinks = {0.5F, -1, 2, 0, 3, -4};
  for (const model::AttentionShape& shape : shapes) {
    const at::Tensor qkv = this->random({kTokens, 10 * kDim});
    const at::Tensor d_out = this->random({kTokens, 6 * kDim});
    const cuda::TreeBlocks trees(visible, shape.window);
    cuda::AttentionInput<T> in{};
    in.qkv = data<T>(qkv);
    in.positions = trees.positions.data();
    in.tokens = kTokens;
    in.heads = 6;
    in.kv_heads = 2;
    in.head_dim = kDim;
    in.window = shape.window;
    in.scale = static_cast<float>(shape.score.scale != 0 ? shape.score.scale
                                                         : 1 / std::sqrt(double{kDim}));
    in.soft_cap = static_cast<float>(shape.score.soft_cap);
    if (!shape.score.slopes.empty()) in.slopes = shape.score.slopes.data();
    in.slopes_in_bf16 = shape.score.slopes_in_bf16;
    if (!shape.score.sinks.empty()) in.sinks = shape.score.sinks.data();
    in.blocks = trees.queries.data();
    in.ranges = trees.keys_seen.data();
    const std::int64_t blocks = std::ssize(trees.queries);
    const at::Tensor log_sums = at::empty({6, kTokens}, at::TensorOptions().dtype(at::kFloat));
    const at::Tensor out = this->run_blocks(
        d_out, blocks * 6, cuda::kAttentionThreads, cuda::AttentionForward<T>::shared_floats(kDim),
        [&](const at::Tensor& o) {
          return cuda::AttentionForward<T>{in, mutable_data<T>(o), mutable_data<float>(log_sums)};
        });
    at::Tensor wanted_sums;
    const at::Tensor wanted = processor_operations().attend_row(qkv, shape, visible, &wanted_sums);
    this->expect_near(out, wanted, "forward");
    EXPECT_LT(relative_difference(log_sums, wanted_sums), 1e-5);
    const at::Tensor delta = (d_out.to(at::kFloat) * out.to(at::kFloat))
                                 .view({kTokens, 6, kDim})
                                 .sum(2)
                                 .t()
                                 .contiguous();
    const auto gradients = [&](const at::Tensor& into) {
      return cuda::AttentionGradients<T>{data<T>(d_out), data<float>(log_sums), data<float>(delta),
                                         mutable_data<T>(into)};
    };
    const at::Tensor of_queries = this->run_blocks(
        at::zeros_like(qkv), blocks * 6, cuda::kAttentionThreads,
        cuda::AttentionQueries<T>::shared_floats(kDim), [&](const at::Tensor& into) {
          return cuda::AttentionQueries<T>{in, gradients(into)};
        });
    cuda::AttentionInput<T> of_keys = in;
    of_keys.blocks = trees.keys.data();
    of_keys.ranges = trees.queries_seeing.data();
    const at::Tensor all =
        this->run_blocks(of_queries, std::ssize(trees.keys) * 2, cuda::kAttentionThreads,
                         cuda::AttentionKeys<T>::shared_floats(kDim), [&](const at::Tensor& into) {
                           return cuda::AttentionKeys<T>{of_keys, gradients(into)};
                         });
    this->expect_near(
        all, processor_operations().attend_row_backward(d_out, out, qkv, log_sums, shape, visible),
        "backward");
  }
}

TEST(BodiesOfTheOptimiser, GiveTheKernelsNumbers) {
  std::mt19937_64 random(3);
  const auto list = [&] { return random_tensor({1001}, 1, random).to(at::kFloat); };
  const at::Tensor values = list(), gradients = list(), first = list(), second = list().abs();
  const at::Tensor v = values.clone(), m = first.clone(), n = second.clone();
  const model::AdamWStep step{.keep = 0.99F,
                              .first_step = 0.1F,
                              .second_keep = 0.999F,
                              .second_step = 0.001F,
                              .second_correction = 0.4F,
                              .epsilon = 1e-8F,
                              .step = -0.02F};
  cuda::AdamW k{};
  k.value = v.mutable_data_ptr<float>();
  k.gradient = gradients.const_data_ptr<float>();
  k.first = m.mutable_data_ptr<float>();
  k.second = n.mutable_data_ptr<float>();
  k.elements = 1001;
  k.step = step;
  cuda::run_on_host(k, 8, 128, 1);
  processor_operations().adamw_({values, gradients, first, second}, step);
  EXPECT_LT(relative_difference(at::cat({v, m, n}), at::cat({values, first, second})), 1e-6);
}

}  // namespace
}  // namespace weft::tests
