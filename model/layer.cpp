#include "model/layer.h"

#include <utility>

namespace weft::model {

at::Tensor Layer::attention_half(const at::Tensor& x, const RowContext& row, LayerState& s) const {
  s.qkv = qkv.forward(rms_norm(x, input_norm, row.spec.norm_eps, &s.x_inverse_rms), {}, row.dropout,
                      &s.middle_qkv);
  rotate_(s.qkv, row.spec, row.table);
  s.attended = attend_row(s.qkv, shape, row.visible, &s.log_sums);
  return o.forward(s.attended, x, row.dropout, &s.middle_o);
}

at::Tensor Layer::gate_up_of(const at::Tensor& y, const RowContext& row, LayerState& s) const {
  return gate_up.forward(rms_norm(y, mlp_norm, row.spec.norm_eps, &s.y_inverse_rms), {},
                         row.dropout, &s.middle_gate_up);
}

at::Tensor Layer::forward(const at::Tensor& x, const RowContext& row, LayerState* state) const {
  LayerState s;
  const at::Tensor y = attention_half(x, row, s);
  if (state == nullptr) s = {};  // not needed while the wide part runs
  s.gate_up = gate_up_of(y, row, s);
  at::Tensor activated = swiglu(s.gate_up);
  if (state == nullptr) s = {};
  at::Tensor result = down.forward(activated, y, row.dropout, &s.middle_down);
  if (state != nullptr) {
    s.x = x;
    s.y = y;
    *state = std::move(s);
  }
  return result;
}

LayerState Layer::recompute(const at::Tensor& x, const RowContext& row) const {
  LayerState s;
  s.x = x;
  s.y = attention_half(x, row, s);
  s.gate_up = gate_up_of(s.y, row, s);
  if (down.trains()) s.middle_down = down.middle(swiglu(s.gate_up), row.dropout);
  return s;
}

at::Tensor Layer::forward_cached(const at::Tensor& x, const RowContext& row, LayerCache& cache,
                                 std::int64_t past) const {
  const std::int64_t n = x.size(0);
  const at::Tensor packed = qkv.forward(rms_norm(x, input_norm, row.spec.norm_eps));
  rotate_(packed, row.spec, row.table);
  const auto heads = [&](std::int64_t
                             first) {  // [kv_heads, n, head_dim] of the rows' heads from `first` on
    return packed.view({n, -1, shape.head_dim}).narrow(1, first, shape.kv_heads).transpose(0, 1);
  };
  cache.keys.narrow(1, past, n).copy_(heads(shape.heads));
  cache.values.narrow(1, past, n).copy_(heads(shape.heads + shape.kv_heads));
  const at::Tensor attended = attend_cached(packed, cache.keys, cache.values, past + n, shape);
  LayerState unused;
  const at::Tensor y = o.forward(attended, x);
  return down.forward(swiglu(gate_up_of(y, row, unused)), y);
}

at::Tensor Layer::forward_step(const at::Tensor& x, const RowContext& row,
                               std::span<const SequenceKeys> sequences) const {
  const at::Tensor packed = qkv.forward(rms_norm(x, input_norm, row.spec.norm_eps));
  rotate_(packed, row.spec, row.table);
  append_keys(packed, sequences, shape);
  const at::Tensor attended = attend_step(packed, sequences, shape);
  LayerState unused;
  const at::Tensor y = o.forward(attended, x);
  return down.forward(swiglu(gate_up_of(y, row, unused)), y);
}

bool Layer::trains() const {
  return qkv.trains() || o.trains() || gate_up.trains() || down.trains();
}

void Layer::backward(const at::Tensor& d, const RowContext& row, LayerState& s, bool lowest) const {
  const bool below_o = !lowest || qkv.trains();
  const bool below_gate_up = below_o || o.trains();
  const bool below_down = below_gate_up || gate_up.trains();

  // Each gradient is let go as soon as the next one stands: the peak of memory is here.
  at::Tensor activated = down.trains() ? swiglu(s.gate_up) : at::Tensor();
  at::Tensor d_activated = down.backward(d, activated, s.middle_down, row.dropout, below_down);
  activated.reset();
  if (!below_down) return;
  swiglu_backward_(s.gate_up, d_activated);
  d_activated.reset();
  at::Tensor y_normed =
      gate_up.trains() ? rms_norm(s.y, mlp_norm, row.spec.norm_eps) : at::Tensor();
  at::Tensor d_y_normed =
      gate_up.backward(s.gate_up, y_normed, s.middle_gate_up, row.dropout, below_gate_up);
  s.gate_up.reset();
  y_normed.reset();
  if (!below_gate_up) return;
  rms_norm_backward_(d, d_y_normed, s.y, mlp_norm, s.y_inverse_rms);
  d_y_normed.reset();

  at::Tensor d_attended = o.backward(d, s.attended, s.middle_o, row.dropout, below_o);
  if (!below_o) return;
  at::Tensor d_qkv =
      attend_row_backward(d_attended, s.attended, s.qkv, s.log_sums, shape, row.visible);
  d_attended.reset();
  s.attended.reset();
  s.qkv.reset();
  rotate_back_(d_qkv, row.spec, row.table);
  const at::Tensor x_normed =
      qkv.trains() ? rms_norm(s.x, input_norm, row.spec.norm_eps) : at::Tensor();
  const at::Tensor d_x_normed = qkv.backward(d_qkv, x_normed, s.middle_qkv, row.dropout, !lowest);
  d_qkv.reset();
  if (!lowest) rms_norm_backward_(d, d_x_normed, s.x, input_norm, s.x_inverse_rms);
}

}  // namespace weft::model
