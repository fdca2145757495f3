#include "model/experts.h"

#include <ATen/ops/empty.h>

#include <span>
#include <utility>

#include "model/layer.h"
#include "model/meter.h"
#include "model/operations.h"

namespace weft::model {
namespace {

std::span<const std::int64_t> tokens_of(const Routing& routing, std::size_t expert) {
  const auto begin = static_cast<std::size_t>(routing.begins[expert]);
  const auto end = static_cast<std::size_t>(routing.begins[expert + 1]);
  return std::span(routing.tokens).subspan(begin, end - begin);
}

at::Tensor weights_of(const Routing& routing, const at::Tensor& values, std::size_t expert) {
  const std::int64_t begin = routing.begins[expert];
  return values.narrow(0, begin, routing.begins[expert + 1] - begin);
}

}  // namespace

Routing route(const at::Tensor& logits, const ExpertsSpec& spec) {
  return operations_for(logits).route(logits, spec);
}

at::Tensor Experts::normed(const at::Tensor& x, State* s) const {
  return norm ? norm->forward(x, s != nullptr ? &s->statistics : nullptr) : x;
}

at::Tensor Experts::sum_of(const at::Tensor& h, const RowContext& row, State& s, bool keep) const {
  const Operations& operations = operations_for(h);
  at::Tensor logits = at::empty({h.size(0), spec.count}, h.options());
  product_(logits, {{h, router.t()}}, {.bias = router_bias});
  s.routing = route(logits, spec);
  at::Tensor sum = zeros(h.sizes(), h.options());
  s.up.resize(experts.size());
  s.up_middle.resize(experts.size());
  for (std::size_t e = 0; e < experts.size(); ++e) {
    const std::span<const std::int64_t> tokens = tokens_of(s.routing, e);
    if (tokens.empty()) continue;
    s.up[e] = experts[e].up.forward(gather(h, tokens), {}, {}, &s.up_middle[e]);
    const at::Tensor activated = activate(s.up[e], spec.mlp);
    if (!keep) {
      s.up[e].reset();
      s.up_middle[e].reset();
    }
    operations.add_rows_(sum, experts[e].down.forward(activated), tokens,
                         weights_of(s.routing, s.routing.weights, e));
  }
  if (!shared) return sum;
  s.shared_up = shared->up.forward(h, {}, row.dropout, &s.middle_up);
  const at::Tensor activated = activate(s.shared_up, shared->mlp);
  if (!keep) s.shared_up.reset();
  s.shared_out = shared->down.forward(activated, {}, row.dropout, &s.middle_down);
  if (shared->gate.in() == 0) {
    add_(sum, s.shared_out);
    return sum;
  }
  s.shared_gate = shared->gate.forward(h, {}, row.dropout, &s.middle_gate);
  at::Tensor part = copied(s.shared_out);
  operations.scale_rows_(part, operations.gate_values(s.shared_gate));
  add_(sum, part);
  return sum;
}

at::Tensor Experts::forward(const at::Tensor& x, const at::Tensor& residual, const RowContext& row,
                            State& s, bool keep) const {
  s.x = x;
  const at::Tensor sum = sum_of(normed(x, &s), row, s, keep);
  at::Tensor y = copied(residual);
  add_(y, sum, scale);
  return y;
}

void Experts::recompute(const at::Tensor& x, const RowContext& row, State& s) const {
  s.x = x;
  (void)sum_of(normed(x, &s), row, s, true);
}

void Experts::shared_backward(const at::Tensor& dh, const at::Tensor& d_sum, const at::Tensor& h,
                              const RowContext& row, State& s) const {
  const bool want_input = dh.defined();
  at::Tensor d_out = copied(d_sum);
  if (shared->gate.in() != 0) {
    const Operations& operations = operations_for(h);
    const at::Tensor g = operations.gate_values(s.shared_gate);
    const at::Tensor d_gate = operations.row_dots(d_sum, s.shared_out);
    const at::Tensor narrow_gate = operations.gate_backward(d_gate, g, h.scalar_type());
    operations.scale_rows_(d_out, g);
    const at::Tensor d =
        shared->gate.backward(narrow_gate, h, s.middle_gate, row.dropout, want_input);
    if (want_input) add_(dh, d);
  }
  const at::Tensor activated = activate(s.shared_up, shared->mlp);
  const bool below = want_input || shared->up.trains();
  const at::Tensor d_activated =
      shared->down.backward(d_out, activated, s.middle_down, row.dropout, below);
  if (!below) return;
  activate_backward_(s.shared_up, d_activated, shared->mlp);
  const at::Tensor d = shared->up.backward(s.shared_up, h, s.middle_up, row.dropout, want_input);
  if (want_input) add_(dh, d);
}

void Experts::experts_backward(const at::Tensor& dh, const at::Tensor& d_sum, const at::Tensor& h,
                               State& s) const {
  const bool want_input = dh.defined();
  const Operations& operations = operations_for(h);
  const Dropout none;  // PEFT's adapters of parameters know none.
  at::Tensor d_weights = at::empty(s.routing.weights.sizes(), s.routing.weights.options());
  for (std::size_t e = 0; e < experts.size(); ++e) {
    const std::span<const std::int64_t> tokens = tokens_of(s.routing, e);
    if (tokens.empty()) continue;
    const auto& [up, down] = experts[e];
    const at::Tensor d_out = gather(d_sum, tokens);
    const at::Tensor activated = activate(s.up[e], spec.mlp);
    at::Tensor middle;
    if (want_input) {
      // The weight of a visit multiplies what the expert gives: its gradient is <d_out, out>.
      const at::Tensor dot = operations.row_dots(d_out, down.forward(activated, {}, none, &middle));
      if (!Meter::running()) weights_of(s.routing, d_weights, e).copy_(dot);
    } else {
      middle = down.middle(activated, none);
    }
    operations.scale_rows_(d_out, weights_of(s.routing, s.routing.weights, e));
    const bool below = want_input || up.trains();
    const at::Tensor d_activated = down.backward(d_out, activated, middle, none, below);
    if (below) {
      activate_backward_(s.up[e], d_activated, spec.mlp);
      const at::Tensor x = up.trains() ? gather(h, tokens) : at::Tensor();
      const at::Tensor d = up.backward(s.up[e], x, s.up_middle[e], none, want_input);
      if (want_input) operations.add_rows_(dh, d, tokens, {});
    }
    s.up[e].reset();
    s.up_middle[e].reset();
  }
  if (!want_input) return;
  const at::Tensor d_logits =
      operations.route_backward(s.routing, d_weights, spec, h.scalar_type());
  at::Tensor through = at::empty(h.sizes(), h.options());
  product_(through, {{d_logits, router}});
  add_(dh, through);
}

void Experts::backward_(const at::Tensor& into, const at::Tensor& dy, const RowContext& row,
                        State& s, bool want_input) const {
  const at::Tensor h = normed(s.x, nullptr);
  const at::Tensor d_sum = scale == 1 ? dy : scaled(dy, scale);
  const at::Tensor dh = want_input ? zeros(h.sizes(), h.options()) : at::Tensor();
  if (shared) shared_backward(dh, d_sum, h, row, s);
  if (want_input || trains_experts()) experts_backward(dh, d_sum, h, s);
  if (!want_input) return;
  if (norm) {
    norm->backward_(into, dh, s.x, s.statistics);
  } else {
    add_(into, dh);
  }
}

bool Experts::trains_experts() const {
  return experts.front().up.trains() || experts.front().down.trains();
}

bool Experts::trains() const {
  if (trains_experts()) return true;
  return shared && (shared->up.trains() || shared->down.trains() || shared->gate.trains());
}

std::vector<Linear*> Experts::linears() {
  if (!shared) return {};
  std::vector<Linear*> result{&shared->up, &shared->down};
  if (shared->gate.in() != 0) result.push_back(&shared->gate);
  return result;
}

std::vector<std::vector<Linear*>> Experts::stacks() {
  std::vector<std::vector<Linear*>> result(2);
  for (Expert& expert : experts) {
    result[0].push_back(&expert.up);
    result[1].push_back(&expert.down);
  }
  return result;
}

void Experts::for_inputs(const State& state,
                         const std::function<void(const Linear&, const at::Tensor&)>& body) const {
  if (!shared) return;
  const at::Tensor h = normed(state.x, nullptr);
  body(shared->up, h);
  body(shared->down, activate(state.shared_up, shared->mlp));
  if (shared->gate.in() != 0) body(shared->gate, h);
}

}  // namespace weft::model
