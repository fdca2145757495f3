#pragma once

#include <ATen/ATen.h>

#include <cmath>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/philox.h"
#include "model/kernels/ops.h"
#include "tests/model/tiny.h"

// The decoder as plain ATen formulas on double tensors, differentiated by autograd: what the
// explicit forward and backward must equal. Shares nothing with model/ but the spec, the names and
// Philox.
namespace weft::tests {

struct ReferenceFactors {
  at::Tensor a, b;
  double scale = 1;
  bool drops = false;  ///< Dropout applies to it
};

class Reference {
 public:
  Reference(const model::Spec& spec, TensorMap weights)
      : spec_(spec), weights_(std::move(weights)) {}

  /// Factors become leaves of the graph.
  void attach(const lora::Adapter& adapter, bool trained, double weight = 1) {
    const auto leaf = [&](const std::vector<float>& values, std::int64_t rows) {
      return at::tensor(values, at::kFloat)
          .to(at::kDouble)
          .view({rows, -1})
          .detach()
          .requires_grad_(trained);
    };
    for (const lora::Factors& f : adapter.factors) {
      adapters_[f.target.module.path].push_back({leaf(f.a, f.target.ranks()),
                                                 leaf(f.b, f.target.module.out),
                                                 f.target.scale * weight, trained});
    }
  }

  at::Tensor logits(const data::Row& row, const model::Dropout& dropout = {}) {
    const at::Tensor tokens = at::tensor(row.tokens, at::kInt).to(at::kLong);
    const at::Tensor places = at::tensor(row.positions, at::kInt).to(at::kLong);
    const model::EmbeddingSpec& e = spec_.embedding;
    at::Tensor x = weights_.at(e.path + ".weight").index_select(0, tokens) * e.scale;
    if (!e.positions.empty())
      x = x + weights_.at(e.positions + ".weight").index_select(0, places + e.first_position);
    x = norm(x, e.norm);
    std::uint32_t module = 0;
    for (const model::LayerSpec& layer : spec_.layers) {
      const auto linears = [&](const std::vector<model::LinearSpec>& specs, const at::Tensor& in) {
        std::vector<at::Tensor> parts;
        for (const model::LinearSpec& one : specs)
          parts.push_back(linear(one, in, dropout, module++));
        return parts;
      };
      const std::vector<at::Tensor> qkv =
          heads(linears(layer.qkv, norm(x, layer.input_norm)), layer);
      const at::Tensor q = turn(head_norm(qkv[0], layer.query_norm), row, layer);
      const at::Tensor k = turn(head_norm(qkv[1], layer.key_norm), row, layer);
      const at::Tensor attended = attention(q, k, qkv[2], row, layer.attention);
      const at::Tensor a = norm(linears({layer.o}, attended)[0], layer.output_norm);
      const at::Tensor y = x + layer.residual_scale * a;
      if (layer.experts) {
        x = y + layer.residual_scale *
                    experts(norm(y, layer.mlp_norm), *layer.experts, dropout, module);
        continue;
      }
      const at::Tensor up =
          at::cat(linears(layer.up, norm(layer.parallel ? x : y, layer.mlp_norm)), 1);
      const at::Tensor m =
          norm(linears({layer.down}, activated(up, layer.mlp))[0], layer.mlp_output_norm);
      x = y + layer.residual_scale * m;
    }
    at::Tensor head = weights_.at((spec_.head.tied ? e.path : spec_.head.path) + ".weight");
    if (spec_.head.normalised) head = head / head.norm(2, 1, true);
    at::Tensor z = at::matmul(norm(x, spec_.final_norm), head.t()) * spec_.head.scale;
    if (spec_.head.bias) z = z + weights_.at(spec_.head.path + ".bias");
    const double cap = spec_.head.soft_cap;
    return cap == 0 ? z : cap * at::tanh(z / cap);
  }

  /// Sum of the supervised positions' cross-entropy.
  at::Tensor loss(const data::Row& row, const model::Dropout& dropout = {}) {
    const at::Tensor targets = at::tensor(row.targets, at::kInt).to(at::kLong);
    const at::Tensor log_p = at::log_softmax(logits(row, dropout), 1);
    const at::Tensor chosen = log_p.gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1);
    return -(chosen * (targets >= 0).to(at::kDouble)).sum();
  }

  [[nodiscard]] const std::vector<ReferenceFactors>& factors(const std::string& module) const {
    return adapters_.at(module);
  }

 private:
  /// Over the last dimension; a weight [heads, width] for x [T, heads, width].
  at::Tensor norm(const at::Tensor& x, const std::optional<model::NormSpec>& spec) {
    if (!spec) return x;
    const bool centred = spec->kind == model::NormSpec::Kind::kLayer;
    const at::Tensor c = centred ? x - x.mean(-1, true) : x;
    at::Tensor y = c / (c * c).mean(-1, true).add(spec->eps).sqrt();
    if (spec->path.empty()) return y;
    const at::Tensor weight = weights_.at(spec->path + ".weight");
    y = y * (spec->plus_one ? 1 + weight : weight);
    return spec->bias ? y + weights_.at(spec->path + ".bias") : y;
  }

  /// x [T, heads, dim], normalised head by head or as one.
  at::Tensor head_norm(const at::Tensor& x, const std::optional<model::NormSpec>& spec) {
    if (spec && spec->width != x.size(2)) return norm(x.reshape({x.size(0), -1}), spec).view_as(x);
    return norm(x, spec);
  }

  static at::Tensor drop(const at::Tensor& x, const model::Dropout& dropout, std::uint32_t module) {
    at::Tensor scale = at::empty({x.numel()}, at::kDouble);
    for (std::int64_t i = 0; i < x.numel(); ++i) {
      const core::PhiloxWords words =
          core::philox(core::philox_key(dropout.seed),
                       {static_cast<std::uint32_t>(16 * (i / 64) + i % 16), 0, module, 0});
      const bool dropped = words[static_cast<std::size_t>(i % 64 / 16)] <
                           static_cast<std::uint32_t>(dropout.p * 4294967296.0);
      scale[i] = dropped ? 0 : 1 / (1 - dropout.p);
    }
    return x * scale.view_as(x);
  }

  at::Tensor linear(const model::LinearSpec& spec, const at::Tensor& x,
                    const model::Dropout& dropout, std::uint32_t module) {
    const at::Tensor weight = weights_.at(spec.path + ".weight");
    const bool turned = spec.layout == checkpoint::Layout::kTransposed;
    at::Tensor y = at::matmul(x, turned ? weight : weight.t());
    if (spec.bias) y = y + weights_.at(spec.path + ".bias");
    const auto found = adapters_.find(spec.path);
    if (found == adapters_.end()) return y;
    for (const ReferenceFactors& f : found->second) {
      const at::Tensor in = f.drops && dropout.p > 0 ? drop(x, dropout, module) : x;
      y = y + f.scale * at::matmul(at::matmul(in, f.a.t()), f.b.t());
    }
    return y;
  }

  /// q, k and v, [T, heads, dim] each, of what the linears gave.
  static std::vector<at::Tensor> heads(const std::vector<at::Tensor>& parts,
                                       const model::LayerSpec& layer) {
    const model::AttentionSpec& a = layer.attention;
    const std::int64_t tokens = parts[0].size(0);
    if (parts.size() == 3) {
      std::vector<at::Tensor> result;
      for (const at::Tensor& part : parts) result.push_back(part.view({tokens, -1, a.head_dim}));
      return result;
    }
    const at::Tensor all = parts[0].view({tokens, -1, a.head_dim});
    switch (layer.qkv[0].layout) {
      case checkpoint::Layout::kPerHead: {
        const at::Tensor by_head = all.view({tokens, a.heads, 3, a.head_dim});
        return {by_head.select(2, 0), by_head.select(2, 1), by_head.select(2, 2)};
      }
      case checkpoint::Layout::kGrouped: {
        const std::int64_t n = a.heads / a.kv_heads;
        const at::Tensor groups = all.view({tokens, a.kv_heads, n + 2, a.head_dim});
        return {groups.narrow(2, 0, n).reshape({tokens, a.heads, a.head_dim}), groups.select(2, n),
                groups.select(2, n + 1)};
      }
      default: break;
    }
    return {all.narrow(1, 0, a.heads), all.narrow(1, a.heads, a.kv_heads),
            all.narrow(1, a.heads + a.kv_heads, a.kv_heads)};
  }

  /// What the adapters of a stack add to the matrix of expert `e` of `count`.
  at::Tensor change(const std::string& stack, std::int64_t e, std::int64_t count) {
    at::Tensor sum = at::zeros({1}, at::kDouble);
    const auto found = adapters_.find(stack);
    if (found == adapters_.end()) return sum;
    for (const ReferenceFactors& f : found->second) {
      const at::Tensor a = f.a.view({count, -1, f.a.size(1)}).select(0, e);
      const at::Tensor b = f.b.view({f.b.size(0), -1, count}).select(2, e);
      sum = sum + f.scale * at::matmul(b, a);
    }
    return sum;
  }

  /// Every expert for every token, weighted by 0 where it is not chosen.
  at::Tensor experts(const at::Tensor& h, const model::ExpertsSpec& spec,
                     const model::Dropout& dropout, std::uint32_t& module) {
    at::Tensor logits = at::matmul(h, weights_.at(spec.router + ".weight").t());
    if (spec.router_bias) logits = logits + weights_.at(spec.router + ".bias");
    const at::Tensor p = at::softmax(logits, 1);
    const at::Tensor chosen = std::get<1>(p.topk(spec.chosen, 1));
    at::Tensor weights = p * at::zeros_like(p).scatter(1, chosen, 1.0);
    if (spec.normalised) weights = weights / weights.sum(1, true);
    at::Tensor sum = at::zeros_like(h);
    for (std::int64_t e = 0; e < spec.count; ++e) {
      const auto i = static_cast<std::size_t>(e);
      const auto matrix = [&](const model::LinearSpec& one) {
        if (!spec.stacked) return weights_.at(one.path + ".weight");
        const at::Tensor stored = weights_.at(one.path).select(0, e);
        return one.layout == checkpoint::Layout::kPlain ? stored : stored.t();
      };
      const auto bias = [&](const model::LinearSpec& one) {
        return spec.bias ? weights_.at(one.path + "_bias").select(0, e)
                         : at::zeros({one.out}, at::kDouble);
      };
      at::Tensor up = spec.stacked ? matrix(spec.up[0])
                                   : at::cat({matrix(spec.up[2 * i]), matrix(spec.up[2 * i + 1])});
      up = up + change(spec.up_stack, e, spec.count);
      const at::Tensor down = matrix(spec.stacked ? spec.down[0] : spec.down[i]) +
                              change(spec.down_stack, e, spec.count);
      at::Tensor gate_up = at::matmul(h, up.t());
      if (spec.bias) gate_up = gate_up + bias(spec.up[0]);
      if (spec.up[0].layout == checkpoint::Layout::kAlternating) {
        const std::int64_t width = gate_up.size(1);
        gate_up = at::cat({gate_up.slice(1, 0, width, 2), gate_up.slice(1, 1, width, 2)}, 1);
      }
      at::Tensor y = at::matmul(activated(gate_up, spec.mlp), down.t());
      if (spec.bias) y = y + bias(spec.down[0]);
      sum = sum + weights.select(1, e).unsqueeze(1) * y;
    }
    if (spec.shared.width == 0) return sum;
    std::vector<at::Tensor> up;
    for (const model::LinearSpec& one : spec.shared_up)
      up.push_back(linear(one, h, dropout, module++));
    at::Tensor y =
        linear(spec.shared_down, activated(at::cat(up, 1), spec.shared), dropout, module++);
    if (spec.shared_gate) y = y * at::sigmoid(linear(*spec.shared_gate, h, dropout, module++));
    return sum + y;
  }

  static at::Tensor activated(const at::Tensor& up, const model::MlpSpec& mlp) {
    const at::Tensor x = mlp.gated ? up.narrow(1, 0, mlp.width) : up;
    at::Tensor y;
    switch (mlp.activation) {
      case model::Activation::kSilu: y = x * at::sigmoid(x); break;
      case model::Activation::kGelu: y = at::gelu(x); break;
      case model::Activation::kGeluTanh: y = at::gelu(x, "tanh"); break;
      case model::Activation::kRelu: y = at::relu(x); break;
      case model::Activation::kClampedSwish: {
        const at::Tensor g = x.clamp_max(mlp.limit);
        const at::Tensor u = up.narrow(1, mlp.width, mlp.width).clamp(-mlp.limit, mlp.limit);
        return (u + 1) * g * at::sigmoid(1.702 * g);
      }
    }
    return mlp.gated ? y * up.narrow(1, mlp.width, mlp.width) : y;
  }

  /// x [T, heads, dim] -> [heads, T, dim], turned by the layer's rotary.
  at::Tensor turn(const at::Tensor& x, const data::Row& row, const model::LayerSpec& layer) const {
    const at::Tensor heads = x.transpose(0, 1);
    if (layer.attention.rotary == model::AttentionSpec::kNoRotary) return heads;
    const model::Rope& rope = spec_.rotaries[static_cast<std::size_t>(layer.attention.rotary)];
    const at::Tensor exponent = at::arange(0, rope.dim, 2).to(at::kFloat) / rope.dim;
    const at::Tensor frequency = 1.0 / at::pow(rope.theta, exponent);
    const at::Tensor angle =
        at::outer(at::tensor(row.positions, at::kInt).to(at::kFloat), frequency);
    const at::Tensor cos = at::cos(angle).to(at::kDouble).unsqueeze(0);
    const at::Tensor sin = at::sin(angle).to(at::kDouble).unsqueeze(0);
    const at::Tensor turning = heads.narrow(2, 0, rope.dim);
    const at::Tensor rest = heads.narrow(2, rope.dim, heads.size(2) - rope.dim);
    if (rope.interleaved) {
      const at::Tensor a = turning.slice(2, 0, rope.dim, 2);
      const at::Tensor b = turning.slice(2, 1, rope.dim, 2);
      const at::Tensor planes = at::stack({a * cos - b * sin, b * cos + a * sin}, 3);
      return at::cat({planes.reshape(turning.sizes()), rest}, 2);
    }
    const std::vector<at::Tensor> half = turning.chunk(2, 2);
    return at::cat({half[0] * cos - half[1] * sin, half[1] * cos + half[0] * sin, rest}, 2);
  }

  static at::Tensor mask(const data::Row& row, std::int64_t window) {
    const auto length = static_cast<std::int64_t>(row.tokens.size());
    at::Tensor visible = at::zeros({length, length}, at::kBool);
    for (const data::Segment segment : row.segments) {
      for (std::int64_t i = segment.begin; i < segment.end; ++i) {
        const std::int64_t first =
            window == 0 ? segment.begin : std::max<std::int64_t>(segment.begin, i - window + 1);
        visible[i].narrow(0, first, i - first + 1).fill_(true);
      }
    }
    return visible;
  }

  /// q and k [heads, T, dim], v [T, kv_heads, dim].
  at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                       const data::Row& row, const model::AttentionSpec& a) const {
    const std::int64_t groups = a.heads / a.kv_heads;
    const at::Tensor keys = k.repeat_interleave(groups, 0);
    const at::Tensor values = v.transpose(0, 1).repeat_interleave(groups, 0);
    at::Tensor scores = at::matmul(q, keys.transpose(1, 2)) * a.scale;
    if (a.soft_cap != 0) scores = a.soft_cap * at::tanh(scores / a.soft_cap);
    if (a.alibi) {
      std::vector<double> slopes;  // for a power of two
      for (std::int64_t h = 1; h <= a.heads; ++h)
        slopes.push_back(
            std::pow(2.0, -8.0 * static_cast<double>(h) / static_cast<double>(a.heads)));
      const at::Tensor key = at::tensor(row.positions, at::kInt).to(at::kDouble);
      const at::Tensor slope = at::tensor(slopes, at::kDouble).view({-1, 1, 1});
      scores = scores +
               (a.alibi_in_bf16
                    ? a.scale * (slope.to(at::kBFloat16) * key.to(at::kBFloat16)).to(at::kDouble)
                    : slope * key);
    }
    scores = scores.masked_fill(mask(row, a.window).logical_not(), -1e300);
    if (!a.sinks.empty()) {
      const at::Tensor sinks = weights_.at(a.sinks).view({-1, 1, 1});
      scores = at::cat({scores, sinks.expand({a.heads, scores.size(1), 1})}, 2);
    }
    const at::Tensor p = at::softmax(scores, -1).narrow(2, 0, keys.size(1));
    return at::matmul(p, values).transpose(0, 1).reshape({q.size(1), -1});
  }

  model::Spec spec_;
  TensorMap weights_;
  std::map<std::string, std::vector<ReferenceFactors>> adapters_;
};

}  // namespace weft::tests
