#pragma once

#include <ATen/ATen.h>

#include <map>
#include <string>
#include <vector>

#include "core/philox.h"
#include "model/ops.h"
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
      adapters_[f.target.module.path].push_back({leaf(f.a, f.target.rank),
                                                 leaf(f.b, f.target.module.out),
                                                 f.target.scale * weight, trained});
    }
  }

  at::Tensor logits(const data::Row& row, const model::Dropout& dropout = {}) {
    const at::Tensor tokens = at::tensor(row.tokens, at::kInt).to(at::kLong);
    at::Tensor x = weights_.at("model.embed_tokens.weight").index_select(0, tokens);
    const auto [cos, sin] = angles(row);
    std::uint32_t module = 0;
    for (std::int64_t i = 0; i < spec_.layers; ++i) {
      const std::string layer = "model.layers." + std::to_string(i) + ".";
      const auto linear = [&](const std::string& name, const at::Tensor& in) {
        return this->linear(layer + name, in, dropout, module++);
      };
      at::Tensor h = norm(x, layer + "input_layernorm");
      const at::Tensor q = linear("self_attn.q_proj", h);
      const at::Tensor k = linear("self_attn.k_proj", h);
      const at::Tensor v = linear("self_attn.v_proj", h);
      const at::Tensor attended = attention(turn(q, cos, sin), turn(k, cos, sin), heads_of(v),
                                            mask(row, spec_.windows[static_cast<std::size_t>(i)]));
      x = x + linear("self_attn.o_proj", attended);
      h = norm(x, layer + "post_attention_layernorm");
      const at::Tensor gate = linear("mlp.gate_proj", h);
      const at::Tensor up = linear("mlp.up_proj", h);
      x = x + linear("mlp.down_proj", gate * at::sigmoid(gate) * up);
    }
    const std::string head = spec_.tied_head ? "model.embed_tokens.weight" : "lm_head.weight";
    return at::matmul(norm(x, "model.norm"), weights_.at(head).t());
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
  at::Tensor norm(const at::Tensor& x, const std::string& name) {
    return x / (x * x).mean(1, true).add(spec_.norm_eps).sqrt() * weights_.at(name + ".weight");
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

  at::Tensor linear(const std::string& name, const at::Tensor& x, const model::Dropout& dropout,
                    std::uint32_t module) {
    at::Tensor y = at::matmul(x, weights_.at(name + ".weight").t());
    if (weights_.contains(name + ".bias")) y = y + weights_.at(name + ".bias");
    const auto found = adapters_.find(name);
    if (found == adapters_.end()) return y;
    for (const ReferenceFactors& f : found->second) {
      const at::Tensor in = f.drops && dropout.p > 0 ? drop(x, dropout, module) : x;
      y = y + f.scale * at::matmul(at::matmul(in, f.a.t()), f.b.t());
    }
    return y;
  }

  std::pair<at::Tensor, at::Tensor> angles(const data::Row& row) const {
    const at::Tensor exponent = at::arange(0, spec_.head_dim, 2).to(at::kFloat) / spec_.head_dim;
    const at::Tensor frequency = 1.0 / at::pow(spec_.rope.theta, exponent);
    const at::Tensor angle =
        at::outer(at::tensor(row.positions, at::kInt).to(at::kFloat), frequency);
    return {at::cos(angle).to(at::kDouble).unsqueeze(0),
            at::sin(angle).to(at::kDouble).unsqueeze(0)};
  }

  at::Tensor heads_of(const at::Tensor& x) const {  // [T, heads * dim] -> [heads, T, dim]
    return x.view({x.size(0), -1, spec_.head_dim}).transpose(0, 1);
  }

  at::Tensor turn(const at::Tensor& packed, const at::Tensor& cos, const at::Tensor& sin) const {
    const std::vector<at::Tensor> half = heads_of(packed).chunk(2, 2);
    return at::cat({half[0] * cos - half[1] * sin, half[1] * cos + half[0] * sin}, 2);
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

  at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                       const at::Tensor& visible) {
    const std::int64_t groups = spec_.heads / spec_.kv_heads;
    const at::Tensor keys = k.repeat_interleave(groups, 0);
    const at::Tensor values = v.repeat_interleave(groups, 0);
    const at::Tensor scores =
        at::matmul(q, keys.transpose(1, 2)) / std::sqrt(static_cast<double>(spec_.head_dim));
    const at::Tensor p = at::softmax(scores.masked_fill(visible.logical_not(), -1e300), -1);
    return at::matmul(p, values).transpose(0, 1).reshape({q.size(1), -1});
  }

  model::Spec spec_;
  TensorMap weights_;
  std::map<std::string, std::vector<ReferenceFactors>> adapters_;
};

}  // namespace weft::tests
