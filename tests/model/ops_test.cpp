#include "model/ops.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "model/attention.h"
#include "model/head.h"
#include "model/linear.h"
#include "tests/model/tiny.h"

// Each operation against autograd over plain formulas, in double, on shapes that do not fit
// vectors.
namespace weft::tests {
namespace {

using model::AttentionShape;

constexpr double kExact = 1e-12;

at::Tensor leaf(const at::Tensor& values) { return values.detach().clone().requires_grad_(true); }

TEST(Norm, ForwardAndBackwardAgreeWithAutograd) {
  std::mt19937_64 random(1);
  const at::Tensor x = random_tensor({7, 37}, 2, random);
  const at::Tensor weight = random_tensor({37}, 1, random);
  const at::Tensor dy = random_tensor({7, 37}, 1, random);
  const at::Tensor around = random_tensor({7, 37}, 1, random);
  const at::Tensor x_leaf = leaf(x);
  const at::Tensor wanted = x_leaf * at::rsqrt((x_leaf * x_leaf).mean(1, true) + 1e-5) * weight;
  wanted.backward(dy);

  at::Tensor inverse_rms;
  const at::Tensor y = model::rms_norm(x, weight, 1e-5, &inverse_rms);
  EXPECT_LT(relative_difference(y, wanted.detach()), kExact);
  const at::Tensor dx = around.clone();
  model::rms_norm_backward_(dx, dy, x, weight, inverse_rms);
  EXPECT_LT(relative_difference(dx, around + x_leaf.grad()), kExact);
}

TEST(Norm, RoundsInBFloat16WhereTransformersDoes) {
  std::mt19937_64 random(2);
  const at::Tensor x = random_tensor({5, 64}, 3, random).to(at::kBFloat16);
  const at::Tensor weight = random_tensor({64}, 1, random).to(at::kBFloat16);
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor normed = wide * at::rsqrt(wide.pow(2).mean(1, true) + 1e-5);
  const at::Tensor wanted = weight * normed.to(at::kBFloat16);
  const at::Tensor y = model::rms_norm(x, weight, 1e-5);
  // The mean is summed in another order, which can move a value across a rounding boundary.
  EXPECT_GT(y.eq(wanted).sum().item<std::int64_t>(), 5 * 64 - 4);
  EXPECT_LT(relative_difference(y, wanted), 0.01);
}

TEST(Swiglu, ForwardAndBackwardAgreeWithAutograd) {
  std::mt19937_64 random(3);
  const at::Tensor gate_up = random_tensor({6, 2 * 23}, 4, random);
  const at::Tensor dy = random_tensor({6, 23}, 1, random);
  const at::Tensor x = leaf(gate_up);
  const std::vector<at::Tensor> halves = x.chunk(2, 1);
  const at::Tensor wanted = at::silu(halves[0]) * halves[1];
  wanted.backward(dy);
  EXPECT_LT(relative_difference(model::swiglu(gate_up), wanted.detach()), kExact);
  const at::Tensor in_place = gate_up.clone();
  model::swiglu_backward_(in_place, dy);
  EXPECT_LT(relative_difference(in_place, x.grad()), kExact);
}

TEST(Swiglu, FloatIsExactToItsPrecisionOverTheWholeRange) {
  const at::Tensor gate = at::linspace(-120, 120, 4801, at::kFloat);
  const at::Tensor gate_up = at::cat({gate, at::ones_like(gate)}).view({1, -1});
  const at::Tensor wanted = at::silu(gate.to(at::kDouble));
  const at::Tensor difference = (model::swiglu(gate_up).view({-1}).to(at::kDouble) - wanted).abs();
  EXPECT_LT((difference / (wanted.abs() + 1e-30))
                .masked_fill(wanted.abs() < 1e-30, 0)
                .max()
                .item<double>(),
            4e-7);
  EXPECT_LT(difference.max().item<double>(), 1e-5);
}

TEST(Rotary, TurningAndTurningBackAgreeWithAutograd) {
  const model::Spec spec = tiny_spec();
  const data::Row row = random_row(spec, {5, 1, 8}, 1);
  std::mt19937_64 random(4);
  const std::int64_t turned = spec.q_width() + spec.kv_width();
  const at::Tensor qkv = random_tensor({14, turned + spec.kv_width()}, 1, random);
  const at::Tensor gradient = random_tensor(qkv.sizes(), 1, random);
  const model::RotaryTable table =
      model::rotary_table(spec, row.positions, row.segments, at::kDouble);

  const at::Tensor x = leaf(qkv);
  const std::vector<at::Tensor> half =
      x.narrow(1, 0, turned).view({14, -1, spec.head_dim}).chunk(2, 2);
  const at::Tensor cos = table.cos.to(at::kDouble).unsqueeze(1);
  const at::Tensor sin = table.sin.to(at::kDouble).unsqueeze(1);
  const at::Tensor wanted = at::cat(
      {at::cat({half[0] * cos - half[1] * sin, half[1] * cos + half[0] * sin}, 2).reshape({14, -1}),
       x.narrow(1, turned, spec.kv_width())},
      1);
  wanted.backward(gradient);

  model::rotate_(qkv, spec, table);
  EXPECT_LT(relative_difference(qkv, wanted.detach()), kExact);
  model::rotate_back_(gradient, spec, table);
  EXPECT_LT(relative_difference(gradient, x.grad()), kExact);
}

/// Attention by whole matrices: query i of the last n of m tokens sees key j where mask[i][j].
at::Tensor plain_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           const at::Tensor& mask) {
  const std::int64_t groups = q.size(0) / k.size(0);
  const at::Tensor scores = at::matmul(q, k.repeat_interleave(groups, 0).transpose(1, 2)) /
                            std::sqrt(static_cast<double>(q.size(2)));
  const at::Tensor p = at::softmax(scores.masked_fill(mask.logical_not(), -1e300), -1);
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
  for (const data::Row& row : {plain, trees}) {
    for (const std::int64_t window : {0, 3, 70, 400}) {
      cases.push_back({{.heads = 6, .kv_heads = 2, .head_dim = 6, .window = window}, row});
    }
    cases.push_back({{.heads = 4, .kv_heads = 4, .head_dim = 17, .window = 0}, row});
    cases.push_back({{.heads = 9, .kv_heads = 1, .head_dim = 64, .window = 50}, row});
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
        heads_of(x, s.heads + s.kv_heads, s.kv_heads, s.head_dim), mask_of(c.row, s.window));
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
