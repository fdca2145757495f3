#include "model/layer.h"

#include <utility>

namespace weft::model {

// ---- Entry and Exit
// ------------------------------------------------------------------------------

at::Tensor Entry::forward(const at::Tensor& x, const RowContext& row, State& s) const {
  s.x = x;
  return linear.forward(norm ? norm->forward(x, &s.statistics) : x, {}, row.dropout, &s.middle);
}

at::Tensor Entry::input(const State& s) const { return norm ? norm->forward(s.x) : s.x; }

void Entry::backward_(const at::Tensor& into, at::Tensor dy, const RowContext& row, State& s,
                      bool want_input) const {
  at::Tensor read = linear.trains() ? input(s) : at::Tensor();
  at::Tensor d = linear.backward(dy, read, s.middle, row.dropout, want_input);
  // Each gradient is let go as soon as the next one stands: the peak of memory is here.
  dy.reset();
  read.reset();
  if (!want_input) return;
  if (norm) {
    norm->backward_(into, d, s.x, s.statistics);
  } else {
    add_(into, d);
  }
}

at::Tensor Exit::forward(const at::Tensor& x, const at::Tensor& residual, const RowContext& row,
                         State& s) const {
  if (!norm && scale == 1) return linear.forward(x, residual, row.dropout, &s.middle);
  at::Tensor out = linear.forward(x, {}, row.dropout, &s.middle);
  if (norm) {
    s.out = out;
    if (scale == 1) return norm->forward_added(s.out, residual, &s.statistics);
    out = norm->forward(s.out, &s.statistics);
  }
  at::Tensor sum = copied(residual);
  add_(sum, out, scale);
  return sum;
}

void Exit::recompute(const std::function<at::Tensor()>& x, const RowContext& row, State& s) const {
  if (norm) {
    s.out = linear.forward(x(), {}, row.dropout, &s.middle);
    (void)norm->forward(s.out, &s.statistics);
  } else if (linear.trains()) {
    s.middle = linear.middle(x(), row.dropout);
  }
}

at::Tensor Exit::backward(const at::Tensor& dy, const at::Tensor& x, const RowContext& row,
                          const State& s, bool want_input) const {
  at::Tensor d = scale == 1 ? dy : scaled(dy, scale);
  if (norm) d = norm->backward(d, s.out, s.statistics);
  return linear.backward(d, x, s.middle, row.dropout, want_input);
}

// ---- Attention
// -----------------------------------------------------------------------------------

void Attention::prepare_(const at::Tensor& packed, const RowContext& row, State* s) const {
  const std::int64_t q_width = shape.heads * shape.head_dim;
  const std::int64_t k_width = shape.kv_heads * shape.head_dim;
  if (query_norm) {
    query_norm->forward_heads_(packed, 0, q_width / query_norm->width(),
                               s != nullptr ? &s->query_statistics : nullptr);
  }
  if (key_norm) {
    key_norm->forward_heads_(packed, q_width, k_width / key_norm->width(),
                             s != nullptr ? &s->key_statistics : nullptr);
  }
  if (rotary != AttentionSpec::kNoRotary)
    rotate_(packed, shape, row.tables[static_cast<std::size_t>(rotary)]);
}

at::Tensor Attention::forward(const at::Tensor& x, const at::Tensor& residual,
                              const RowContext& row, State& s, bool keep) const {
  s.qkv = entry.forward(x, row, s.entry);
  at::Tensor turned = keep && norms_heads() ? copied(s.qkv) : s.qkv;
  prepare_(turned, row, &s);
  s.attended = attend_row(turned, shape, row.visible, &s.log_sums);
  turned.reset();
  return exit.forward(s.attended, residual, row, s.exit);
}

at::Tensor Attention::forward_cached(const at::Tensor& x, const at::Tensor& residual,
                                     const RowContext& row,
                                     std::span<const CachedRows> sequences) const {
  State unused;
  const at::Tensor packed = entry.forward(x, row, unused.entry);
  prepare_(packed, row, nullptr);
  at::Tensor attended = at::empty({x.size(0), shape.heads * shape.head_dim}, packed.options());
  for (const CachedRows& one : sequences) {
    const std::int64_t n = one.end - one.begin;
    const at::Tensor rows = packed.narrow(0, one.begin, n);
    const auto heads = [&](std::int64_t first) {  // [kv_heads, n, head_dim] of the heads from
      return rows.view({n, -1, shape.head_dim}).narrow(1, first, shape.kv_heads).transpose(0, 1);
    };
    one.cache->keys.narrow(1, one.past, n).copy_(heads(shape.heads));
    one.cache->values.narrow(1, one.past, n).copy_(heads(shape.heads + shape.kv_heads));
    attended.narrow(0, one.begin, n)
        .copy_(attend_cached(rows, one.cache->keys, one.cache->values, one.past + n, shape));
  }
  return exit.forward(attended, residual, row, unused.exit);
}

at::Tensor Attention::forward_step(const at::Tensor& x, const at::Tensor& residual,
                                   const RowContext& row,
                                   std::span<const SequenceKeys> sequences) const {
  State unused;
  const at::Tensor packed = entry.forward(x, row, unused.entry);
  prepare_(packed, row, nullptr);
  append_keys(packed, sequences, shape);
  return exit.forward(attend_step(packed, sequences, shape), residual, row, unused.exit);
}

void Attention::backward_(const at::Tensor& into, const at::Tensor& dy, const RowContext& row,
                          State& s, bool want_input) const {
  const bool below_exit = want_input || entry.linear.trains();
  at::Tensor d_attended = exit.backward(dy, s.attended, row, s.exit, below_exit);
  if (!below_exit) return;
  at::Tensor turned = s.qkv;
  if (norms_heads()) {
    turned = copied(s.qkv);
    prepare_(turned, row, nullptr);
  }
  at::Tensor d =
      attend_row_backward(d_attended, s.attended, turned, s.log_sums, shape, row.visible);
  d_attended.reset();
  s.attended.reset();
  turned.reset();
  if (rotary != AttentionSpec::kNoRotary)
    rotate_back_(d, shape, row.tables[static_cast<std::size_t>(rotary)]);
  const std::int64_t q_width = shape.heads * shape.head_dim;
  const std::int64_t k_width = shape.kv_heads * shape.head_dim;
  if (query_norm)
    query_norm->backward_heads_(d, s.qkv, 0, q_width / query_norm->width(), s.query_statistics);
  if (key_norm)
    key_norm->backward_heads_(d, s.qkv, q_width, k_width / key_norm->width(), s.key_statistics);
  s.qkv.reset();
  entry.backward_(into, std::move(d), row, s.entry, want_input);
}

// ---- Mlp
// -----------------------------------------------------------------------------------------

at::Tensor Mlp::forward(const at::Tensor& x, const at::Tensor& residual, const RowContext& row,
                        State& s, bool keep) const {
  s.up = entry.forward(x, row, s.entry);
  const at::Tensor activated = activate(s.up, spec);
  if (!keep) s = {};  // not needed while the last product runs
  return exit.forward(activated, residual, row, s.exit);
}

void Mlp::recompute(const at::Tensor& x, const RowContext& row, State& s) const {
  s.up = entry.forward(x, row, s.entry);
  exit.recompute([&] { return activate(s.up, spec); }, row, s.exit);
}

void Mlp::backward_(const at::Tensor& into, const at::Tensor& dy, const RowContext& row, State& s,
                    bool want_input) const {
  const bool below_exit = want_input || entry.linear.trains();
  at::Tensor activated = exit.linear.trains() ? activate(s.up, spec) : at::Tensor();
  at::Tensor d = exit.backward(dy, activated, row, s.exit, below_exit);
  activated.reset();
  if (!below_exit) return;
  activate_backward_(s.up, d, spec);
  d.reset();
  entry.backward_(into, std::exchange(s.up, {}), row, s.entry, want_input);
}

// ---- Layer
// ---------------------------------------------------------------------------------------

at::Tensor Layer::forward(const at::Tensor& x, const RowContext& row, LayerState* state) const {
  LayerState s;
  const bool keep = state != nullptr;
  const at::Tensor y = attention.forward(x, x, row, s.attention, keep);
  if (!keep) s = {};  // not needed while the wide part runs
  at::Tensor z = feed(parallel ? x : y, y, row, s, keep);
  if (keep) *state = std::move(s);
  return z;
}

LayerState Layer::recompute(const at::Tensor& x, const RowContext& row) const {
  LayerState s;
  if (parallel) {  // Nothing needs the sum.
    (void)attention.forward(x, x, row, s.attention, true);
    feed_recompute(x, row, s);
  } else {
    feed_recompute(attention.forward(x, x, row, s.attention, true), row, s);
  }
  return s;
}

at::Tensor Layer::forward_cached(const at::Tensor& x, const RowContext& row,
                                 std::span<const CachedRows> sequences) const {
  LayerState unused;
  const at::Tensor y = attention.forward_cached(x, x, row, sequences);
  return feed(parallel ? x : y, y, row, unused, false);
}

at::Tensor Layer::forward_step(const at::Tensor& x, const RowContext& row,
                               std::span<const SequenceKeys> sequences) const {
  LayerState unused;
  const at::Tensor y = attention.forward_step(x, x, row, sequences);
  return feed(parallel ? x : y, y, row, unused, false);
}

void Layer::backward(const at::Tensor& d, const RowContext& row, LayerState& s, bool lowest) const {
  if (parallel) {
    // Both branches read the gradient of the sum while their own parts are added to it.
    const at::Tensor dy = lowest ? d : copied(d);
    if (!lowest || feed_trains()) feed_backward_(d, dy, row, s, !lowest);
    if (!lowest || attention.trains()) attention.backward_(d, dy, row, s.attention, !lowest);
    return;
  }
  const bool below_mlp = !lowest || attention.trains();
  feed_backward_(d, d, row, s, below_mlp);
  if (below_mlp) attention.backward_(d, d, row, s.attention, !lowest);
}

void Layer::feed_backward_(const at::Tensor& into, const at::Tensor& dy, const RowContext& row,
                           LayerState& s, bool want_input) const {
  if (experts) {
    experts->backward_(into, dy, row, s.experts, want_input);
    s.experts = {};
    return;
  }
  mlp.backward_(into, dy, row, s.mlp, want_input);
  s.mlp = {};
}

void Layer::feed_recompute(const at::Tensor& x, const RowContext& row, LayerState& s) const {
  if (experts) {
    experts->recompute(x, row, s.experts);
  } else {
    mlp.recompute(x, row, s.mlp);
  }
}

std::vector<Linear*> Layer::linears() {
  std::vector<Linear*> result{&attention.entry.linear, &attention.exit.linear};
  const std::vector<Linear*> rest =
      experts ? experts->linears() : std::vector<Linear*>{&mlp.entry.linear, &mlp.exit.linear};
  result.insert(result.end(), rest.begin(), rest.end());
  return result;
}

std::vector<std::vector<Linear*>> Layer::stacks() {
  return experts ? experts->stacks() : std::vector<std::vector<Linear*>>();
}

void Layer::for_inputs(const LayerState& state,
                       const std::function<void(const Linear&, const at::Tensor&)>& body) const {
  body(attention.entry.linear, attention.entry.input(state.attention.entry));
  body(attention.exit.linear, state.attention.attended);
  if (experts) return experts->for_inputs(state.experts, body);
  body(mlp.entry.linear, mlp.entry.input(state.mlp.entry));
  body(mlp.exit.linear, activate(state.mlp.up, mlp.spec));
}

}  // namespace weft::model
