#include "model/layer.h"

#include <utility>

namespace weft::model {

at::Tensor Layer::mlp(const at::Tensor& y, const RowContext& row, LayerState* state) const {
  at::Tensor* const inverse = state != nullptr ? &state->y_inverse_rms : nullptr;
  at::Tensor* const middle = state != nullptr ? &state->middle_gate_up : nullptr;
  at::Tensor gate_up_out = gate_up.forward(rms_norm(y, mlp_norm, row.spec.norm_eps, inverse), {}, row.dropout, middle);
  const at::Tensor activated = swiglu(gate_up_out);
  if (state != nullptr) state->gate_up = std::move(gate_up_out);
  return down.forward(activated, y, row.dropout, state != nullptr ? &state->middle_down : nullptr);
}

at::Tensor Layer::forward(const at::Tensor& x, const RowContext& row, LayerState* state) const {
  LayerState s;
  at::Tensor* const inverse = state != nullptr ? &s.x_inverse_rms : nullptr;
  at::Tensor packed = qkv.forward(rms_norm(x, input_norm, row.spec.norm_eps, inverse), {}, row.dropout, &s.middle_qkv);
  s.blocks = rotate_split(packed, row.spec, row.table, row.segments);
  packed.reset();
  s.attended = attend_row(s.blocks, shape, row.segments);
  at::Tensor y = o.forward(s.attended, x, row.dropout, &s.middle_o);
  if (state != nullptr) {
    s.x = x;
    s.y = y;
    *state = std::move(s);
  } else {
    s = {};  // not needed while the wide part runs
  }
  return mlp(y, row, state);
}

at::Tensor Layer::forward_cached(const at::Tensor& x, const RowContext& row, LayerCache& cache,
                                 std::int64_t past) const {
  const std::int64_t n = x.size(0);
  const at::Tensor packed = qkv.forward(rms_norm(x, input_norm, row.spec.norm_eps));
  const HeadBlocks blocks = rotate_split(packed, row.spec, row.table, row.segments);
  cache.keys.narrow(1, past, n).copy_(blocks.k.view({shape.kv_heads, n, shape.head_dim}));
  cache.values.narrow(1, past, n).copy_(blocks.v.view({shape.kv_heads, n, shape.head_dim}));
  const at::Tensor attended = attend(blocks.q.view({shape.heads, n, shape.head_dim}),
                                     cache.keys.narrow(1, 0, past + n), cache.values.narrow(1, 0, past + n), shape);
  return mlp(o.forward(attended, x), row, nullptr);
}

bool Layer::trains() const { return qkv.trains() || o.trains() || gate_up.trains() || down.trains(); }

void Layer::backward(const at::Tensor& d, const RowContext& row, LayerState& s, bool lowest) const {
  const bool below_o = !lowest || qkv.trains();
  const bool below_gate_up = below_o || o.trains();
  const bool below_down = below_gate_up || gate_up.trains();

  const at::Tensor activated = down.trains() ? swiglu(s.gate_up) : at::Tensor();
  const at::Tensor d_activated = down.backward(d, activated, s.middle_down, row.dropout, below_down);
  if (!below_down) return;
  swiglu_backward_(s.gate_up, d_activated);
  const at::Tensor y_normed = gate_up.trains() ? rms_norm(s.y, mlp_norm, row.spec.norm_eps) : at::Tensor();
  const at::Tensor d_y_normed = gate_up.backward(s.gate_up, y_normed, s.middle_gate_up, row.dropout, below_gate_up);
  s.gate_up.reset();
  if (!below_gate_up) return;
  rms_norm_backward_(d, d_y_normed, s.y, mlp_norm, s.y_inverse_rms);

  const at::Tensor d_attended = o.backward(d, s.attended, s.middle_o, row.dropout, below_o);
  if (!below_o) return;
  const HeadBlocks d_blocks = attend_row_backward(d_attended, s.blocks, shape, row.segments);
  const at::Tensor d_packed = rotate_join(d_blocks, row.spec, row.table, row.segments);
  const at::Tensor x_normed = qkv.trains() ? rms_norm(s.x, input_norm, row.spec.norm_eps) : at::Tensor();
  const at::Tensor d_x_normed = qkv.backward(d_packed, x_normed, s.middle_qkv, row.dropout, !lowest);
  if (!lowest) rms_norm_backward_(d, d_x_normed, s.x, input_norm, s.x_inverse_rms);
}

}  // namespace weft::model
