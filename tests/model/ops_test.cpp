#include "model/kernels/ops.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "model/activation.h"
#include "model/head.h"
#include "model/kernels/attention.h"
#include "model/linear.h"
#include "model/norm.h"
#include "tests/model/tiny.h"

// Each operation against autograd over plain formulas, in double, on shapes that do not fit
// vectors.
namespace weft::tests {
namespace {

using model::AttentionShape;

constexpr double kExact = 1e-12;

at::Tensor leaf(const at::Tensor& values) { return values.detach().clone().requires_grad_(true); }

using model::NormSpec;

struct NormCase {
  const char* name;
  NormSpec spec;
};
void PrintTo(const NormCase& c, std::ostream* out) { *out << c.name; }

class Norms : public testing::TestWithParam<NormCase> {
 protected:
  static constexpr std::int64_t kWidth = 37;
  /// Of `heads` heads: a weight each, or one for all.
  model::Norm norm(std::int64_t heads, bool of_its_own) {
    NormSpec spec = GetParam().spec;
    spec.width = kWidth;
    spec.weights = of_its_own ? heads * kWidth : kWidth;
    const std::int64_t rows = spec.weights / kWidth;
    weight_ = random_tensor({rows, kWidth}, 1, random_);
    bias_ = spec.bias ? random_tensor({rows, kWidth}, 1, random_) : at::Tensor();
    return model::Norm(spec, weight_, bias_);
  }
  /// x [..., heads, kWidth] by plain formulas.
  at::Tensor plain(const at::Tensor& x) const {
    const NormSpec& spec = GetParam().spec;
    const at::Tensor weight = spec.plus_one ? 1 + weight_ : weight_;
    const bool centred = spec.kind == NormSpec::Kind::kLayer;
    const at::Tensor c = centred ? x - x.mean(-1, true) : x;
    const at::Tensor y = c * at::rsqrt((c * c).mean(-1, true) + spec.eps) * weight;
    return spec.bias ? y + bias_ : y;
  }
  std::mt19937_64 random_{1};
  at::Tensor weight_, bias_;
};

TEST_P(Norms, OfRowsAgreeWithAutograd) {
  const model::Norm norm = this->norm(1, false);
  const at::Tensor x = random_tensor({7, kWidth}, 2, random_) + 0.5;
  const at::Tensor dy = random_tensor({7, kWidth}, 1, random_);
  const at::Tensor around = random_tensor({7, kWidth}, 1, random_);
  const at::Tensor x_leaf = leaf(x);
  const at::Tensor wanted = plain(x_leaf.unsqueeze(1)).squeeze(1);
  wanted.backward(dy);
  model::Norm::Statistics statistics;
  EXPECT_LT(relative_difference(norm.forward(x, &statistics), wanted.detach()), kExact);
  const at::Tensor dx = around.clone();
  norm.backward_(dx, dy, x, statistics);
  EXPECT_LT(relative_difference(dx, around + x_leaf.grad()), kExact);
}

TEST_P(Norms, OfHeadsInAPackedRowAgreeWithAutograd) {
  constexpr std::int64_t kHeads = 3;
  for (const bool of_its_own : {false, true}) {
    const model::Norm norm = this->norm(kHeads, of_its_own);
    const at::Tensor packed = random_tensor({5, 11 + kHeads * kWidth + 4}, 2, random_);
    const at::Tensor gradient = random_tensor(packed.sizes(), 1, random_);
    const at::Tensor x = leaf(packed);
    const at::Tensor heads =
        plain(x.narrow(1, 11, kHeads * kWidth).reshape({5, kHeads, kWidth})).reshape({5, -1});
    const at::Tensor wanted =
        at::cat({x.narrow(1, 0, 11), heads, x.narrow(1, packed.size(1) - 4, 4)}, 1);
    wanted.backward(gradient);
    const at::Tensor y = packed.clone();
    model::Norm::Statistics statistics;
    norm.forward_heads_(y, 11, kHeads, &statistics);
    EXPECT_LT(relative_difference(y, wanted.detach()), kExact) << of_its_own;
    norm.backward_heads_(gradient, packed, 11, kHeads, statistics);
    EXPECT_LT(relative_difference(gradient, x.grad()), kExact) << of_its_own;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Ops, Norms,
    testing::Values(NormCase{"rms", {.eps = 1e-5}},
                    NormCase{"rms_plus_one", {.eps = 1e-5, .plus_one = true}},
                    NormCase{"rms_rounded_once", {.eps = 1e-3, .rounds_before_weight = false}},
                    NormCase{"layer", {.kind = NormSpec::Kind::kLayer, .eps = 1e-5, .bias = true}},
                    NormCase{"layer_without_bias", {.kind = NormSpec::Kind::kLayer, .eps = 1e-2}}),
    [](const testing::TestParamInfo<NormCase>& tested) { return tested.param.name; });

TEST(Norm, RoundsInBFloat16WhereTransformersDoes) {
  std::mt19937_64 random(2);
  const at::Tensor x = random_tensor({5, 64}, 3, random).to(at::kBFloat16);
  const at::Tensor weight = random_tensor({64}, 1, random).to(at::kBFloat16);
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor normed = wide * at::rsqrt(wide.pow(2).mean(1, true) + 1e-5);
  for (const bool before : {true, false}) {
    const at::Tensor wanted = before ? weight * normed.to(at::kBFloat16)
                                     : (weight.to(at::kFloat) * normed).to(at::kBFloat16);
    const model::Norm norm(
        {.eps = 1e-5, .width = 64, .weights = 64, .rounds_before_weight = before}, weight, {});
    const at::Tensor y = norm.forward(x);
    // The mean is summed in another order, which can move a value across a rounding boundary.
    EXPECT_GT(y.eq(wanted).sum().item<std::int64_t>(), 5 * 64 - 4) << before;
    EXPECT_LT(relative_difference(y, wanted), 0.01) << before;
  }
}

using model::Activation;
using model::MlpSpec;

at::Tensor plain_activation(Activation activation, const at::Tensor& x) {
  switch (activation) {
    case Activation::kSilu: return at::silu(x);
    case Activation::kGelu: return at::gelu(x);
    case Activation::kGeluTanh: return at::gelu(x, "tanh");
    case Activation::kRelu: return at::relu(x);
    case Activation::kClampedSwish: break;  // below
  }
  return {};
}

class Activations : public testing::TestWithParam<Activation> {};

TEST_P(Activations, ForwardAndBackwardAgreeWithAutograd) {
  std::mt19937_64 random(3);
  for (const bool gated : {true, false}) {
    const MlpSpec mlp{.gated = gated, .activation = GetParam(), .width = 23};
    const at::Tensor up = random_tensor({6, (gated ? 2 : 1) * 23}, 4, random);
    const at::Tensor dy = random_tensor({6, 23}, 1, random);
    const at::Tensor x = leaf(up);
    const at::Tensor wanted =
        gated ? plain_activation(GetParam(), x.narrow(1, 0, 23)) * x.narrow(1, 23, 23)
              : plain_activation(GetParam(), x);
    wanted.backward(dy);
    EXPECT_LT(relative_difference(model::activate(up, mlp), wanted.detach()), kExact) << gated;
    const at::Tensor in_place = up.clone();
    model::activate_backward_(in_place, dy, mlp);
    EXPECT_LT(relative_difference(in_place, x.grad()), kExact) << gated;
  }
}

TEST_P(Activations, FloatIsNearDoubleOverTheWholeRange) {
  const at::Tensor x = at::linspace(-30, 30, 4801, at::kFloat).view({1, -1});
  const MlpSpec mlp{.gated = false, .activation = GetParam(), .width = 4801};
  const at::Tensor wide = leaf(x.to(at::kDouble));
  const at::Tensor wanted = plain_activation(GetParam(), wide);
  wanted.backward(at::ones_like(wide));
  EXPECT_LT((model::activate(x, mlp).to(at::kDouble) - wanted).abs().max().item<double>(), 5e-6);
  const at::Tensor in_place = x.clone();
  model::activate_backward_(in_place, at::ones_like(x), mlp);
  EXPECT_LT((in_place.to(at::kDouble) - wide.grad()).abs().max().item<double>(), 2e-5);
}

TEST(Activation, WithLimitsAgreesWithAutograd) {
  std::mt19937_64 random(3);
  const MlpSpec mlp{.activation = Activation::kClampedSwish, .width = 23, .limit = 1.5};
  const at::Tensor up = random_tensor({6, 2 * 23}, 2, random);
  const at::Tensor dy = random_tensor({6, 23}, 1, random);
  const at::Tensor x = leaf(up);
  const at::Tensor g = x.narrow(1, 0, 23).clamp_max(mlp.limit);
  const at::Tensor wanted =
      (x.narrow(1, 23, 23).clamp(-mlp.limit, mlp.limit) + 1) * g * at::sigmoid(1.702 * g);
  wanted.backward(dy);
  EXPECT_LT(relative_difference(model::activate(up, mlp), wanted.detach()), kExact);
  const at::Tensor in_place = up.clone();
  model::activate_backward_(in_place, dy, mlp);
  EXPECT_LT(relative_difference(in_place, x.grad()), kExact);
}

INSTANTIATE_TEST_SUITE_P(Ops, Activations,
                         testing::Values(Activation::kSilu, Activation::kGelu,
                                         Activation::kGeluTanh, Activation::kRelu));

TEST(Swiglu, FloatIsExactToItsPrecisionOverTheWholeRange) {
  const at::Tensor gate = at::linspace(-120, 120, 4801, at::kFloat);
  const at::Tensor gate_up = at::cat({gate, at::ones_like(gate)}).view({1, -1});
  const at::Tensor wanted = at::silu(gate.to(at::kDouble));
  const at::Tensor difference =
      (model::activate(gate_up, MlpSpec{}).view({-1}).to(at::kDouble) - wanted).abs();
  EXPECT_LT((difference / (wanted.abs() + 1e-30))
                .masked_fill(wanted.abs() < 1e-30, 0)
                .max()
                .item<double>(),
            4e-7);
  EXPECT_LT(difference.max().item<double>(), 1e-5);
}

TEST(Rotary, TurningAndTurningBackAgreeWithAutograd) {
  const AttentionShape shape{.heads = 4, .kv_heads = 2, .head_dim = 6};
  const data::Row row = random_row(tiny_spec(), {5, 1, 8}, 1);
  for (const std::int64_t dim : {6, 4}) {
    for (const bool interleaved : {false, true}) {
      std::mt19937_64 random(4);
      const at::Tensor qkv = random_tensor({14, 8 * 6}, 1, random);
      const at::Tensor gradient = random_tensor(qkv.sizes(), 1, random);
      const model::RotaryTable table = model::rotary_table(
          {.dim = dim, .interleaved = interleaved}, 64, row.positions, row.segments, at::kDouble);
      const at::Tensor x = leaf(qkv);
      const at::Tensor cos = table.cos.to(at::kDouble).unsqueeze(1);
      const at::Tensor sin = table.sin.to(at::kDouble).unsqueeze(1);
      const at::Tensor heads = x.view({14, 8, 6});
      const at::Tensor turning = heads.narrow(1, 0, 6).narrow(2, 0, dim);
      const at::Tensor x1 =
          interleaved ? turning.slice(2, 0, dim, 2) : turning.narrow(2, 0, dim / 2);
      const at::Tensor x2 =
          interleaved ? turning.slice(2, 1, dim, 2) : turning.narrow(2, dim / 2, dim / 2);
      const std::vector<at::Tensor> turned{x1 * cos - x2 * sin, x2 * cos + x1 * sin};
      const at::Tensor back =
          interleaved ? at::stack(turned, 3).reshape({14, 6, dim}) : at::cat(turned, 2);
      const at::Tensor wanted =
          at::cat({at::cat({back, heads.narrow(1, 0, 6).narrow(2, dim, 6 - dim)}, 2),
                   heads.narrow(1, 6, 2)},
                  1)
              .reshape({14, -1});
      wanted.backward(gradient);
      model::rotate_(qkv, shape, table);
      EXPECT_LT(relative_difference(qkv, wanted.detach()), kExact) << dim << interleaved;
      model::rotate_back_(gradient, shape, table);
      EXPECT_LT(relative_difference(gradient, x.grad()), kExact) << dim << interleaved;
    }
  }
}

/// Attention by whole matrices: query i of the last n of m tokens sees key j where mask[i][j].
at::Tensor plain_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           const at::Tensor& mask, const model::Score& score = {},
                           const std::vector<std::int32_t>& positions = {}) {
  const std::int64_t groups = q.size(0) / k.size(0);
  const double scale =
      score.scale != 0 ? score.scale : 1 / std::sqrt(static_cast<double>(q.size(2)));
  at::Tensor scores = at::matmul(q, k.repeat_interleave(groups, 0).transpose(1, 2)) * scale;
  if (score.soft_cap != 0) scores = score.soft_cap * at::tanh(scores / score.soft_cap);
  if (!score.slopes.empty()) {
    const at::Tensor place = at::tensor(positions, at::kInt).to(at::kDouble);
    const at::Tensor slopes = at::tensor(score.slopes, at::kFloat).to(at::kDouble).view({-1, 1, 1});
    const at::Tensor in_bf16 = slopes.to(at::kBFloat16) * place.to(at::kBFloat16);
    scores = scores + (score.slopes_in_bf16 ? scale * in_bf16.to(at::kDouble)
                                            : slopes * (place.unsqueeze(0) - place.unsqueeze(1)));
  }
  scores = scores.masked_fill(mask.logical_not(), -1e300);
  if (!score.sinks.empty()) {
    const at::Tensor sinks = at::tensor(score.sinks, at::kFloat).to(at::kDouble);
    scores = at::cat({scores, sinks.view({-1, 1, 1}).expand({q.size(0), q.size(1), 1})}, 2);
  }
  const at::Tensor p = at::softmax(scores, -1).narrow(2, 0, k.size(1));
  return at::matmul(p, v.repeat_interleave(groups, 0)).transpose(0, 1).reshape({q.size(1), -1});
}

/// What each token of the row sees, by the definition: token by token.
at::Tensor mask_of(const data::Row& row, std::int64_t window) {
  const auto length = static_cast<std::int64_t>(row.tokens.size());
  at::Tensor mask = at::zeros({length, length}, at::kBool);
  for (const data::Segment& segment : row.segments) {
    for (std::int64_t i = segment.begin; i < segment.end; ++i) {
      for (std::int64_t j = segment.begin; j <= i; ++j) mask[i][j] = true;
      for (std::int32_t above = segment.parent; above != data::kNoParent;) {
        const data::Segment& parent = row.segments[static_cast<std::size_t>(above)];
        for (std::int64_t j = parent.begin; j < parent.end; ++j) mask[i][j] = true;
        above = parent.parent;
      }
      for (std::int64_t j = 0; window > 0 && j < length; ++j) {
        const auto at = [&](std::int64_t t) { return row.positions[static_cast<std::size_t>(t)]; };
        if (at(i) - at(j) >= window) mask[i][j] = false;
      }
    }
  }
  return mask;
}

/// A row of segments of the given lengths and parents; only places matter.
data::Row segmented(const std::vector<std::pair<int, int>>& lengths_and_parents) {
  data::Row row;
  for (const auto& [length, parent] : lengths_and_parents) {
    const auto begin = static_cast<std::int32_t>(row.tokens.size());
    const std::int32_t first =
        parent < 0 ? 0
                   : row.positions[static_cast<std::size_t>(
                                       row.segments[static_cast<std::size_t>(parent)].end) -
                                   1] +
                         1;
    for (std::int32_t i = 0; i < length; ++i) {
      row.tokens.push_back(0);
      row.positions.push_back(first + i);
    }
    row.segments.push_back({begin, begin + length, parent});
  }
  return row;
}

struct AttentionCase {
  AttentionShape shape;
  data::Row row;
};

std::vector<AttentionCase> attention_cases() {
  const data::Row plain = segmented({{9, -1}, {1, -1}, {230, -1}, {64, -1}, {65, -1}});
  // Two trees; the first with branches that have branches of their own, and one that is a single
  // token.
  const data::Row trees =
      segmented({{33, -1}, {20, 0}, {70, 0}, {1, 2}, {140, 2}, {5, 4}, {70, -1}, {3, 6}, {90, 6}});
  std::vector<AttentionCase> cases;
  const auto add = [&](const AttentionShape& shape, const data::Row& row) {
    AttentionCase& one = cases.emplace_back();
    one.shape = shape;
    one.row = row;
  };
  for (const data::Row& row : {plain, trees}) {
    for (const std::int64_t window : {0, 3, 70, 400}) {
      add({.heads = 6, .kv_heads = 2, .head_dim = 6, .window = window}, row);
    }
    add({.heads = 4, .kv_heads = 4, .head_dim = 17, .window = 0}, row);
    add({.heads = 9, .kv_heads = 1, .head_dim = 64, .window = 50}, row);
    const std::vector<model::Score> scores{
        {.scale = 0.8, .soft_cap = 1.5},
        {.slopes = model::alibi_slopes(6)},
        {.slopes = model::alibi_slopes(6), .slopes_in_bf16 = true},
        {.sinks = {0.5F, -1, 2, 0, 3, -4}}};
    for (const model::Score& score : scores) {
      for (const std::int64_t window : {0, 70}) {
        AttentionShape shape{.heads = 6, .kv_heads = 2, .head_dim = 6, .window = window};
        shape.score = score;
        add(shape, row);
      }
    }
  }
  return cases;
}

/// q, k or v of [T, (heads + 2 kv_heads) dim] as [heads, T, dim].
at::Tensor heads_of(const at::Tensor& qkv, std::int64_t first, std::int64_t heads,
                    std::int64_t dim) {
  return qkv.view({qkv.size(0), -1, dim}).narrow(1, first, heads).transpose(0, 1);
}

TEST(Attention, ForwardAndBackwardAgreeWithAutogradOverTreesOfSegments) {
  std::mt19937_64 random(5);
  for (const AttentionCase& c : attention_cases()) {
    const AttentionShape& s = c.shape;
    const auto tokens = static_cast<std::int64_t>(c.row.tokens.size());
    const at::Tensor qkv =
        random_tensor({tokens, (s.heads + 2 * s.kv_heads) * s.head_dim}, 1, random);
    const at::Tensor gradient = random_tensor({tokens, s.heads * s.head_dim}, 1, random);
    const at::Tensor x = leaf(qkv);
    const at::Tensor wanted = plain_attention(
        heads_of(x, 0, s.heads, s.head_dim), heads_of(x, s.heads, s.kv_heads, s.head_dim),
        heads_of(x, s.heads + s.kv_heads, s.kv_heads, s.head_dim), mask_of(c.row, s.window),
        s.score, c.row.positions);
    wanted.backward(gradient);

    const model::Visibility visible(c.row.segments, c.row.positions);
    at::Tensor log_sums;
    const at::Tensor out = model::attend_row(qkv, s, visible, &log_sums);
    EXPECT_LT(relative_difference(out, wanted.detach()), kExact) << s.window;
    const at::Tensor back = model::attend_row_backward(gradient, out, qkv, log_sums, s, visible);
    EXPECT_LT(relative_difference(back, x.grad()), kExact) << s.window;
  }
}

TEST(Attention, FloatAndBFloat16StayNearDouble) {
  std::mt19937_64 random(8);
  for (const AttentionCase& c : attention_cases()) {
    const AttentionShape& s = c.shape;
    const auto tokens = static_cast<std::int64_t>(c.row.tokens.size());
    const at::Tensor qkv =
        random_tensor({tokens, (s.heads + 2 * s.kv_heads) * s.head_dim}, 1, random)
            .to(at::kBFloat16)
            .to(at::kDouble);
    const at::Tensor gradient =
        random_tensor({tokens, s.heads * s.head_dim}, 1, random).to(at::kBFloat16).to(at::kDouble);
    const model::Visibility visible(c.row.segments, c.row.positions);
    const auto run = [&](at::ScalarType type) {
      at::Tensor log_sums;
      const at::Tensor out = model::attend_row(qkv.to(type), s, visible, &log_sums);
      const at::Tensor back =
          model::attend_row_backward(gradient.to(type), out, qkv.to(type), log_sums, s, visible);
      return std::pair{out.to(at::kDouble), back.to(at::kDouble)};
    };
    const auto [out, back] = run(at::kDouble);
    const auto [out_float, back_float] = run(at::kFloat);
    EXPECT_LT(relative_difference(out_float, out), 2e-6);
    EXPECT_LT(relative_difference(back_float, back), 2e-6);
    const auto [out_bf16, back_bf16] = run(at::kBFloat16);
    EXPECT_LT(relative_difference(out_bf16, out), 2e-2);
    EXPECT_LT(relative_difference(back_bf16, back), 2e-2);
  }
}

TEST(Attention, LastQueriesSeeAllCachedKeys) {
  std::mt19937_64 random(6);
  for (const std::int64_t window : {0, 4}) {
    for (const std::int64_t m : {3, 11, 150}) {
      const AttentionShape shape{.heads = 4, .kv_heads = 2, .head_dim = 8, .window = window};
      const at::Tensor qkv = random_tensor({3, 8 * 8}, 1, random);
      const at::Tensor keys = random_tensor({2, 160, 8}, 1, random);  // a cache with room
      const at::Tensor values = random_tensor({2, 160, 8}, 1, random);
      const at::Tensor mask =
          mask_of(segmented({{static_cast<int>(m), -1}}), window).narrow(0, m - 3, 3);
      const at::Tensor wanted = plain_attention(heads_of(qkv, 0, 4, 8), keys.narrow(1, 0, m),
                                                values.narrow(1, 0, m), mask);
      EXPECT_LT(relative_difference(model::attend_cached(qkv, keys, values, m, shape), wanted),
                kExact);
    }
  }
}

TEST(Linear, BackwardWithAdaptersAndDropoutAgreesWithAutograd) {
  std::mt19937_64 random(7);
  const at::Tensor weight = random_tensor({11, 70}, 0.3, random);
  const at::Tensor bias = random_tensor({11}, 1, random);
  const at::Tensor x = random_tensor({9, 70}, 1, random);
  const at::Tensor residual = random_tensor({9, 11}, 1, random);
  const at::Tensor dy = random_tensor({9, 11}, 1, random);
  const model::Dropout drop{.p = 0.4, .seed = 77};
  model::Linear linear(weight, bias, {{"first", 4, 0, 6}, {"second", 5, 6, 5}});
  struct Factors {
    std::size_t part;
    bool trained;
    at::Tensor a, b;
  };
  std::vector<Factors> all;
  std::vector<at::Tensor> gradients;
  for (const auto& [part, trained, rank] : {std::tuple{0, true, 2}, {1, false, 3}, {1, true, 4}}) {
    const at::Tensor a = random_tensor({rank, 70}, 1, random);
    const at::Tensor b = random_tensor({part == 0 ? 6 : 5, rank}, 1, random);
    all.push_back({static_cast<std::size_t>(part), trained, leaf(a), leaf(b)});
    model::Linear::Slot slot{.part = static_cast<std::size_t>(part),
                             .scale = 0.5,
                             .a = a.to(at::kFloat),
                             .b = b.to(at::kFloat)};
    if (trained) {
      slot.grad_a = at::zeros_like(slot.a);
      slot.grad_b = at::zeros_like(slot.b);
      gradients.push_back(slot.grad_a);
      gradients.push_back(slot.grad_b);
    }
    linear.attach(slot);
  }
  const at::Tensor x_leaf = leaf(x);
  at::Tensor wanted = residual + at::matmul(x_leaf, weight.t()) + bias;
  for (const Factors& f : all) {
    const std::uint32_t module = f.part == 0 ? 4 : 5;
    const at::Tensor scale = model::dropout(at::ones({9, 70}, at::kDouble), drop, module);
    const at::Tensor in = f.trained ? x_leaf * scale : x_leaf;
    const at::Tensor update = 0.5 * at::matmul(at::matmul(in, f.a.t()), f.b.t());
    wanted = wanted + (f.part == 0 ? at::constant_pad_nd(update, {0, 5})
                                   : at::constant_pad_nd(update, {6, 0}));
  }
  wanted.backward(dy);

  at::Tensor middle;
  EXPECT_LT(relative_difference(linear.forward(x, residual, drop, &middle), wanted.detach()),
            kExact);
  EXPECT_LT(relative_difference(linear.backward(dy, x, middle, drop, true), x_leaf.grad()), kExact);
  EXPECT_LT(relative_difference(gradients[0], all[0].a.grad()), 2e-7);
  EXPECT_LT(relative_difference(gradients[1], all[0].b.grad()), 2e-7);
  EXPECT_LT(relative_difference(gradients[2], all[2].a.grad()), 2e-7);
  EXPECT_LT(relative_difference(gradients[3], all[2].b.grad()), 2e-7);
}

TEST(Head, LossAndGradientAgreeWithAutogradAcrossChunks) {
  std::mt19937_64 random(8);
  // More rows than one chunk holds.
  const std::int64_t vocabulary = 300001 / 10;
  const std::int64_t rows = model::Head::chunk_rows(vocabulary) + 5;
  const at::Tensor weight = random_tensor({vocabulary, 3}, 1, random);
  const at::Tensor h = random_tensor({rows, 3}, 1, random);
  std::vector<std::int32_t> targets;
  for (std::int64_t i = 0; i < rows; ++i)
    targets.push_back(static_cast<std::int32_t>(i * 977 % vocabulary));
  const at::Tensor x = leaf(h);
  const at::Tensor index = at::tensor(targets, at::kInt).to(at::kLong).unsqueeze(1);
  const at::Tensor wanted =
      -at::log_softmax(at::matmul(x, weight.t()), 1).gather(1, index).squeeze(1);
  (wanted.sum() * 0.125).backward();

  model::Head head(weight);
  std::vector<double> losses(targets.size());
  at::Tensor gradient;
  head.cross_entropy(h, targets, losses, 0.125, &gradient);
  EXPECT_LT(relative_difference(at::tensor(losses, at::kDouble), wanted.detach()), kExact);
  EXPECT_LT(relative_difference(gradient, x.grad()), 1e-11);
  std::vector<double> again(targets.size());
  head.cross_entropy(h, targets, again, 0, nullptr);
  EXPECT_EQ(losses, again);
}

TEST(Head, LargeLogitsStayFinite) {
  const at::Tensor weight = at::tensor({1000.0F, -1000.0F, 999.0F}, at::kFloat).view({3, 1});
  model::Head head(weight);
  const std::vector<std::int32_t> targets{1, 0};
  std::vector<double> losses(2);
  at::Tensor gradient;
  head.cross_entropy(at::ones({2, 1}, at::kFloat), targets, losses, 1, &gradient);
  EXPECT_NEAR(losses[0], 2000 + std::log(1 + std::exp(-1.0)), 1e-3);
  EXPECT_NEAR(losses[1], std::log(1 + std::exp(-1.0)), 1e-6);
  EXPECT_TRUE(gradient.isfinite().all().item<bool>());
}

TEST(Dropout, DropsTheRightShareAndKeepsTheMean) {
  const at::Tensor ones = at::ones({300, 211}, at::kFloat);
  const model::Dropout drop{.p = 0.25, .seed = 3};
  const at::Tensor y = model::dropout(ones, drop, 1);
  EXPECT_NEAR(y.eq(0).to(at::kDouble).mean().item<double>(), 0.25, 0.01);
  EXPECT_NEAR(y.max().item<float>(), 1 / 0.75, 1e-6);
  EXPECT_TRUE(at::equal(y, model::dropout(ones, drop, 1)));
  EXPECT_FALSE(at::equal(y, model::dropout(ones, drop, 2)));
  EXPECT_FALSE(at::equal(y, model::dropout(ones, {.p = 0.25, .seed = 4}, 1)));
  const at::Tensor dx = at::ones_like(ones);
  model::dropout_backward_(dx, ones, drop, 1);
  EXPECT_TRUE(at::equal(dx, y + 1));
}

}  // namespace
}  // namespace weft::tests
