#include "model/ops.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "model/attention.h"
#include "model/head.h"
#include "model/linear.h"
#include "tests/model/tiny.h"

// Each operation against autograd over plain formulas, in double, on shapes that do not fit vectors.
namespace weft::tests {
namespace {

using model::AttentionShape;
using model::HeadBlocks;

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
  EXPECT_LT((difference / (wanted.abs() + 1e-30)).masked_fill(wanted.abs() < 1e-30, 0).max().item<double>(), 4e-7);
  EXPECT_LT(difference.max().item<double>(), 1e-5);
}

/// The blocks of a row as [heads, length, dim] per segment, made with plain views.
at::Tensor blocks_of(const at::Tensor& packed, std::int64_t heads, std::int64_t dim,
                     const std::vector<data::Segment>& segments) {
  std::vector<at::Tensor> parts;
  for (const data::Segment s : segments) {
    parts.push_back(packed.narrow(0, s.begin, s.end - s.begin).reshape({-1, heads, dim}).transpose(0, 1).flatten());
  }
  return at::cat(parts);
}

TEST(Rotary, SplitAndJoinAgreeWithAutograd) {
  const model::Spec spec = tiny_spec();
  const data::Row row = random_row(spec, {5, 1, 8}, 1);
  std::mt19937_64 random(4);
  const std::int64_t q_width = spec.q_width();
  const std::int64_t kv_width = spec.kv_width();
  const at::Tensor packed = random_tensor({14, q_width + 2 * kv_width}, 1, random);
  const model::RotaryTable table = model::rotary_table(spec, row.positions, row.segments, at::kDouble);

  const at::Tensor x = leaf(packed);
  const auto turn = [&](const at::Tensor& part, std::int64_t heads) {
    const std::vector<at::Tensor> half = part.view({14, heads, spec.head_dim}).chunk(2, 2);
    const at::Tensor cos = table.cos.to(at::kDouble).unsqueeze(1);
    const at::Tensor sin = table.sin.to(at::kDouble).unsqueeze(1);
    return at::cat({half[0] * cos - half[1] * sin, half[1] * cos + half[0] * sin}, 2).reshape({14, -1});
  };
  const at::Tensor q = blocks_of(turn(x.narrow(1, 0, q_width), spec.heads), spec.heads, spec.head_dim, row.segments);
  const at::Tensor k = blocks_of(turn(x.narrow(1, q_width, kv_width), spec.kv_heads), spec.kv_heads, spec.head_dim,
                                 row.segments);
  const at::Tensor v = blocks_of(x.narrow(1, q_width + kv_width, kv_width), spec.kv_heads, spec.head_dim, row.segments);
  const HeadBlocks gradients{random_tensor(q.sizes(), 1, random), random_tensor(k.sizes(), 1, random),
                             random_tensor(v.sizes(), 1, random)};
  ((q * gradients.q).sum() + (k * gradients.k).sum() + (v * gradients.v).sum()).backward();

  const HeadBlocks blocks = model::rotate_split(packed, spec, table, row.segments);
  EXPECT_LT(relative_difference(blocks.q, q.detach()), kExact);
  EXPECT_LT(relative_difference(blocks.k, k.detach()), kExact);
  EXPECT_LT(relative_difference(blocks.v, v.detach()), kExact);
  EXPECT_LT(relative_difference(model::rotate_join(gradients, spec, table, row.segments), x.grad()), kExact);
}

at::Tensor plain_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const AttentionShape& shape) {
  const std::int64_t n = q.size(1);
  const std::int64_t m = k.size(1);
  const std::int64_t groups = shape.heads / shape.kv_heads;
  const at::Tensor i = at::arange(m - n, m).unsqueeze(1);
  const at::Tensor j = at::arange(m).unsqueeze(0);
  at::Tensor visible = j.le(i);
  if (shape.window > 0) visible = visible.logical_and(j.gt(i - shape.window));
  const at::Tensor scores = at::matmul(q, k.repeat_interleave(groups, 0).transpose(1, 2)) /
                            std::sqrt(static_cast<double>(shape.head_dim));
  const at::Tensor p = at::softmax(scores.masked_fill(visible.logical_not(), -1e300), -1);
  return at::matmul(p, v.repeat_interleave(groups, 0)).transpose(0, 1).reshape({n, -1});
}

TEST(Attention, BackwardAgreesWithAutogradInEverySegment) {
  for (const std::int64_t window : {0, 3, 400}) {
    const AttentionShape shape{.heads = 6, .kv_heads = 2, .head_dim = 5, .window = window};
    const std::vector<data::Segment> segments{{0, 9}, {9, 10}, {10, 560}};
    std::mt19937_64 random(5);
    const HeadBlocks blocks{random_tensor({560 * 30}, 1, random), random_tensor({560 * 10}, 1, random),
                            random_tensor({560 * 10}, 1, random)};
    const at::Tensor gradient = random_tensor({560, 30}, 1, random);
    const HeadBlocks leaves{leaf(blocks.q), leaf(blocks.k), leaf(blocks.v)};
    std::vector<at::Tensor> parts;
    for (const data::Segment s : segments) {
      const std::int64_t length = s.end - s.begin;
      const auto view = [&](const at::Tensor& flat, std::int64_t heads) {
        return flat.narrow(0, s.begin * heads * 5, length * heads * 5).view({heads, length, 5});
      };
      parts.push_back(plain_attention(view(leaves.q, 6), view(leaves.k, 2), view(leaves.v, 2), shape));
    }
    const at::Tensor wanted = at::cat(parts);
    wanted.backward(gradient);

    EXPECT_LT(relative_difference(model::attend_row(blocks, shape, segments), wanted.detach()), kExact);
    const HeadBlocks result = model::attend_row_backward(gradient, blocks, shape, segments);
    EXPECT_LT(relative_difference(result.q, leaves.q.grad()), kExact) << window;
    EXPECT_LT(relative_difference(result.k, leaves.k.grad()), kExact) << window;
    EXPECT_LT(relative_difference(result.v, leaves.v.grad()), kExact) << window;
  }
}

TEST(Attention, LastQueriesSeeAllCachedKeys) {
  for (const std::int64_t window : {0, 4}) {
    const AttentionShape shape{.heads = 4, .kv_heads = 2, .head_dim = 8, .window = window};
    std::mt19937_64 random(6);
    const at::Tensor q = random_tensor({4, 3, 8}, 1, random);
    const at::Tensor k = random_tensor({2, 32, 8}, 1, random).narrow(1, 0, 11);  // in a cache with room
    const at::Tensor v = random_tensor({2, 32, 8}, 1, random).narrow(1, 0, 11);
    EXPECT_LT(relative_difference(model::attend(q, k, v, shape), plain_attention(q, k, v, shape)), kExact);
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
  struct Factors { std::size_t part; bool trained; at::Tensor a, b; };
  std::vector<Factors> all;
  std::vector<at::Tensor> gradients;
  for (const auto& [part, trained, rank] : {std::tuple{0, true, 2}, {1, false, 3}, {1, true, 4}}) {
    const at::Tensor a = random_tensor({rank, 70}, 1, random);
    const at::Tensor b = random_tensor({part == 0 ? 6 : 5, rank}, 1, random);
    all.push_back({static_cast<std::size_t>(part), trained, leaf(a), leaf(b)});
    model::Linear::Slot slot{.part = static_cast<std::size_t>(part), .scale = 0.5, .a = a.to(at::kFloat), .b = b.to(at::kFloat)};
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
    wanted = wanted + (f.part == 0 ? at::constant_pad_nd(update, {0, 5}) : at::constant_pad_nd(update, {6, 0}));
  }
  wanted.backward(dy);

  at::Tensor middle;
  EXPECT_LT(relative_difference(linear.forward(x, residual, drop, &middle), wanted.detach()), kExact);
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
  for (std::int64_t i = 0; i < rows; ++i) targets.push_back(static_cast<std::int32_t>(i * 977 % vocabulary));
  const at::Tensor x = leaf(h);
  const at::Tensor index = at::tensor(targets, at::kInt).to(at::kLong).unsqueeze(1);
  const at::Tensor wanted = -at::log_softmax(at::matmul(x, weight.t()), 1).gather(1, index).squeeze(1);
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

TEST(Philox, GivesTheKnownAnswersOfRandom123) {
  const auto expect = [](const model::Philox& counter, std::uint64_t key, const std::vector<std::uint32_t>& wanted) {
    const model::Philox got = model::philox4x32(counter, key);
    EXPECT_EQ(std::vector<std::uint32_t>(got.words, got.words + 4), wanted);
  };
  expect({{0, 0, 0, 0}}, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  expect({{~0U, ~0U, ~0U, ~0U}}, ~0ULL, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  expect({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0x299f31d0a4093822ULL,
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
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
