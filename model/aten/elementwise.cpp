#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/log.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <vector>

#include "core/philox.h"
#include "model/aten/aten.h"
#include "model/aten/common.h"

namespace weft::model {
namespace {

using aten::rounded;
using aten::widened;

// ---- Dropout -----------------------------------------------------------------------------------

constexpr std::int64_t kLanes = 16;
constexpr std::int64_t kWord = 0xffffffff;  // Words of 32 bits in int64

at::Tensor high_word(const at::Tensor& x) { return x.__rshift__(32).bitwise_and(kWord); }

/// Words of core::philox for the elements of a matrix, in their order (model/kernels/ops.h):
/// [elements] int64.
at::Tensor words_of(std::int64_t elements, const Dropout& dropout, std::uint32_t module,
                    const at::Tensor& like) {
  using namespace core::philox_constants;
  const auto options = like.options().dtype(at::kLong);
  const std::int64_t blocks = (elements + 4 * kLanes - 1) / (4 * kLanes);
  const at::Tensor counters = at::arange(blocks * kLanes, options);
  at::Tensor words[4] = {counters.bitwise_and(kWord), high_word(counters),
                         at::Tensor(counters.new_full({}, static_cast<std::int64_t>(module))),
                         at::Tensor(counters.new_zeros({}))};
  core::PhiloxKey key = core::philox_key(dropout.seed);
  for (int round = 0; round < kRounds; ++round) {
    // The product of two words fills 64 bits, whose sign means nothing.
    const at::Tensor x = words[0] * static_cast<std::int64_t>(kFirstFactor);
    const at::Tensor y = words[2] * static_cast<std::int64_t>(kSecondFactor);
    words[0] = high_word(y).bitwise_xor(words[1]).bitwise_xor(static_cast<std::int64_t>(key[0]));
    words[1] = y.bitwise_and(kWord);
    words[2] = high_word(x).bitwise_xor(words[3]).bitwise_xor(static_cast<std::int64_t>(key[1]));
    words[3] = x.bitwise_and(kWord);
    key[0] += kFirstWeyl;
    key[1] += kSecondWeyl;
  }
  std::vector<at::Tensor> by_lane;
  for (const at::Tensor& word : words)
    by_lane.push_back(word.expand({blocks * kLanes}).view({blocks, kLanes}));
  return at::stack(by_lane, 1).view({-1}).narrow(0, 0, elements);
}

/// x, wide, with the dropped elements zero and the rest scaled.
at::Tensor masked(const at::Tensor& x, const Dropout& dropout, std::uint32_t module) {
  const auto threshold = static_cast<std::int64_t>(dropout.p * 0x1p32);
  const at::Tensor kept = words_of(x.numel(), dropout, module, x).ge(threshold).view(x.sizes());
  return widened(x) * (1 / (1 - dropout.p)) * kept;
}

// ---- Rotary ------------------------------------------------------------------------------------

/// The two elements of every plane of the heads that turn: [T, heads + kv_heads, dim / 2] each.
struct Planes {
  at::Tensor first, second;
  Planes(const at::Tensor& qkv, const AttentionShape& shape, const RotaryTable& table) {
    const std::int64_t heads = shape.heads + shape.kv_heads;
    const at::Tensor turning =
        qkv.narrow(1, 0, heads * shape.head_dim).unflatten(1, {heads, shape.head_dim});
    const std::int64_t half = table.cos.size(1);
    if (table.interleaved) {
      first = turning.slice(2, 0, 2 * half, 2);
      second = turning.slice(2, 1, 2 * half, 2);
    } else {
      first = turning.narrow(2, 0, half);
      second = turning.narrow(2, half, half);
    }
  }
};

// ---- Activations -------------------------------------------------------------------------------

constexpr double kAlpha = 1.702;  // GPT-OSS's gate (modeling_gpt_oss.py, GptOssExperts)

at::Tensor value_of(Activation activation, const at::Tensor& x) {
  switch (activation) {
    case Activation::kSilu: return at::silu(x);
    case Activation::kGelu: return at::gelu(x);
    case Activation::kGeluTanh: return at::gelu(x, "tanh");
    case Activation::kRelu: return at::relu(x);
    case Activation::kClampedSwish: break;  // has formulas of its own
  }
  TORCH_INTERNAL_ASSERT(false);
}

at::Tensor gradient_of(Activation activation, const at::Tensor& d, const at::Tensor& x) {
  switch (activation) {
    case Activation::kSilu: return at::silu_backward(d, x);
    case Activation::kGelu: return at::gelu_backward(d, x);
    case Activation::kGeluTanh: return at::gelu_backward(d, x, "tanh");
    case Activation::kRelu: return d * x.gt(0);
    case Activation::kClampedSwish: break;
  }
  TORCH_INTERNAL_ASSERT(false);
}

}  // namespace

at::Tensor Aten::gather(const at::Tensor& rows, std::span<const std::int64_t> indices) const {
  return rows.index_select(0, aten::indices(indices, rows));
}

at::Tensor Aten::scatter(const at::Tensor& rows, std::span<const std::int64_t> indices,
                         std::int64_t count) const {
  at::Tensor result = zeros({count, rows.size(1)}, rows.options());
  return result.index_copy_(0, aten::indices(indices, rows), rows);
}

at::Tensor Aten::scaled(const at::Tensor& x, double scale) const { return x * scale; }

void Aten::add_(const at::Tensor& x, const at::Tensor& y, double scale) const {
  x.add_(scale == 1 ? y : y * scale);
}

void Aten::rotate_(const at::Tensor& qkv, const AttentionShape& shape,
                   const RotaryTable& table) const {
  const Planes planes(qkv, shape, table);
  const at::Tensor cos = table.cos.unsqueeze(1);
  const at::Tensor sin = table.sin.unsqueeze(1);
  const at::Tensor x1 = widened(planes.first);
  const at::Tensor x2 = widened(planes.second);
  const at::ScalarType type = qkv.scalar_type();
  const at::Tensor first = rounded(x1 * cos, type) - rounded(x2 * sin, type);
  planes.second.copy_(rounded(x2 * cos, type) + rounded(x1 * sin, type));
  planes.first.copy_(first);
}

void Aten::rotate_back_(const at::Tensor& gradient, const AttentionShape& shape,
                        const RotaryTable& table) const {
  const Planes planes(gradient, shape, table);
  const at::Tensor cos = table.cos.unsqueeze(1);
  const at::Tensor sin = table.sin.unsqueeze(1);
  const at::Tensor x1 = widened(planes.first);
  const at::Tensor x2 = widened(planes.second);
  const at::Tensor first = x1 * cos + x2 * sin;
  planes.second.copy_(x2 * cos - x1 * sin);
  planes.first.copy_(first);
}

at::Tensor Aten::dropout(const at::Tensor& x, const Dropout& dropout, std::uint32_t module) const {
  return masked(x, dropout, module).to(x.scalar_type());
}

void Aten::dropout_backward_(const at::Tensor& dx, const at::Tensor& dy, const Dropout& dropout,
                             std::uint32_t module) const {
  dx.copy_(widened(dx) + masked(dy, dropout, module));
}

at::Tensor Aten::activate(const at::Tensor& up, const MlpSpec& mlp) const {
  const at::ScalarType type = up.scalar_type();
  if (!mlp.gated) return value_of(mlp.activation, widened(up)).to(type);
  const std::vector<at::Tensor> halves = up.chunk(2, 1);
  if (mlp.activation != Activation::kClampedSwish) {
    return (rounded(value_of(mlp.activation, widened(halves[0])), type) * widened(halves[1]))
        .to(type);
  }
  const at::Tensor g = widened(halves[0]).clamp_max(mlp.limit);
  const at::Tensor u = widened(halves[1]).clamp(-mlp.limit, mlp.limit);
  const at::Tensor gate = rounded(at::sigmoid(rounded(g * kAlpha, type)), type);
  return (rounded(u + 1, type) * rounded(g * gate, type)).to(type);
}

void Aten::activate_backward_(const at::Tensor& up, const at::Tensor& dy,
                              const MlpSpec& mlp) const {
  const at::Tensor d = widened(dy);
  if (!mlp.gated) {
    up.copy_(gradient_of(mlp.activation, d, widened(up)));
    return;
  }
  const std::vector<at::Tensor> halves = up.chunk(2, 1);
  const at::Tensor raw_gate = widened(halves[0]);
  const at::Tensor raw_up = widened(halves[1]);
  if (mlp.activation != Activation::kClampedSwish) {
    const at::Tensor d_gate = gradient_of(mlp.activation, d * raw_up, raw_gate);
    halves[1].copy_(d * value_of(mlp.activation, raw_gate));
    halves[0].copy_(d_gate);
    return;
  }
  const at::Tensor g = raw_gate.clamp_max(mlp.limit);
  const at::Tensor u = raw_up.clamp(-mlp.limit, mlp.limit);
  const at::Tensor s = at::sigmoid(g * kAlpha);
  // Beyond the limits nothing moves; at them torch.clamp lets the gradient pass.
  const at::Tensor d_gate = d * (u + 1) * s * (1 + kAlpha * g * (1 - s)) * raw_gate.le(mlp.limit);
  halves[1].copy_(d * g * s * raw_up.abs().le(mlp.limit));
  halves[0].copy_(d_gate);
}

void Aten::cap_(const at::Tensor& logits, double cap) const { logits.div_(cap).tanh_().mul_(cap); }

void Aten::losses_(const at::Tensor& logits, const LossRows& rows, std::span<double> losses) const {
  at::Tensor z = widened(logits);
  if (rows.soft_cap != 0)
    z = rounded(at::tanh(z / rows.soft_cap) * rows.soft_cap, logits.scalar_type());
  const std::vector<std::int64_t> ids(rows.targets.begin(), rows.targets.end());
  const at::Tensor targets = aten::indices(ids, logits).unsqueeze(1);
  const at::Tensor most = z.amax(1, true);
  at::Tensor weights = at::exp(z - most);
  const at::Tensor sums = weights.sum(1, true);
  const at::Tensor from_most = (z.gather(1, targets) - most).to(at::kDouble);
  const at::Tensor of_rows = (at::log(sums.to(at::kDouble)) - from_most).view({-1}).cpu();
  std::copy_n(of_rows.const_data_ptr<double>(), losses.size(), losses.begin());
  if (!rows.want_gradient) return;
  weights.mul_(rows.gradient_scale / sums);
  weights.scatter_add_(
      1, targets, at::Tensor(targets.new_full(targets.sizes(), -rows.gradient_scale, z.options())));
  if (rows.soft_cap != 0) weights.mul_(1 - (z / rows.soft_cap).square());
  logits.copy_(weights);
}

}  // namespace weft::model
