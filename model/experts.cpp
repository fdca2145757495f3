#include "model/experts.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "model/kernels/kernel_math.h"
#include "model/kernels/product.h"
#include "model/layer.h"

namespace weft::model {
namespace {

using kernel::narrow;
using kernel::rounded;
using kernel::Wide;
using kernel::widen;

template <typename T>
at::TensorOptions wide_options(const at::Tensor& like) {
  return like.options().dtype(c10::CppTypeToScalarType<Wide<T>>::value);
}

#define WEFT_EXPERT_KERNELS(T)                                                           \
  /* sum[token] += weight * row; the product is rounded first, as transformers does. */  \
  WEFT_CLONES void add_row(T* sum, const T* row, Wide<T> weight, std::int64_t width) {   \
    for (std::int64_t i = 0; i < width; ++i)                                             \
      sum[i] = narrow<T>(widen(sum[i]) + rounded<T>(widen(row[i]) * weight));            \
  }                                                                                      \
  WEFT_CLONES void scale_row(T* row, Wide<T> weight, std::int64_t width) {               \
    for (std::int64_t i = 0; i < width; ++i) row[i] = narrow<T>(widen(row[i]) * weight); \
  }                                                                                      \
  WEFT_CLONES Wide<T> dot_rows(const T* a, const T* b, std::int64_t width) {             \
    Wide<T> sum = 0;                                                                     \
    for (std::int64_t i = 0; i < width; ++i) sum += widen(a[i]) * widen(b[i]);           \
    return sum;                                                                          \
  }
WEFT_EXPERT_KERNELS(float)
WEFT_EXPERT_KERNELS(double)
WEFT_EXPERT_KERNELS(c10::BFloat16)

template <typename Body>
void for_rows(std::int64_t rows, std::int64_t width, const Body& body) {
  kernel::parallel_for(rows, kernel::grain(width), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) body(i);
  });
}

/// sum[tokens[i]] += weights[i] rows[i]; no token comes twice. Without weights they are 1.
void add_rows_(const at::Tensor& sum, const at::Tensor& rows, std::span<const std::int64_t> tokens,
               const at::Tensor& weights) {
  const std::int64_t width = sum.size(1);
  kernel::for_type(sum.scalar_type(), [&]<typename T>(T) {
    T* const to = kernel::mutable_data<T>(sum);
    const T* const from = kernel::data<T>(rows);
    const Wide<T>* const by = weights.defined() ? kernel::data<Wide<T>>(weights) : nullptr;
    for_rows(rows.size(0), width, [&](std::int64_t i) {
      add_row(to + tokens[static_cast<std::size_t>(i)] * width, from + i * width,
              by == nullptr ? Wide<T>(1) : by[i], width);
    });
  });
}

void scale_rows_(const at::Tensor& rows, const at::Tensor& weights) {
  const std::int64_t width = rows.size(1);
  kernel::for_type(rows.scalar_type(), [&]<typename T>(T) {
    T* const data = kernel::mutable_data<T>(rows);
    const Wide<T>* const by = kernel::data<Wide<T>>(weights);
    for_rows(rows.size(0), width,
             [&](std::int64_t i) { scale_row(data + i * width, by[i], width); });
  });
}

/// The product of each row of a with that of b: [rows].
at::Tensor row_dots(const at::Tensor& a, const at::Tensor& b) {
  const std::int64_t width = a.size(1);
  at::Tensor result;
  kernel::for_type(a.scalar_type(), [&]<typename T>(T) {
    result = at::empty({a.size(0)}, wide_options<T>(a));
    Wide<T>* const out = kernel::mutable_data<Wide<T>>(result);
    const T* const x = kernel::data<T>(a);
    const T* const y = kernel::data<T>(b);
    for_rows(a.size(0), width,
             [&](std::int64_t i) { out[i] = dot_rows(x + i * width, y + i * width, width); });
  });
  return result;
}

/// sigmoid(logits [T, 1]) as [T], in the arithmetic's type but rounded to the element type.
at::Tensor gate_values(const at::Tensor& logits) {
  at::Tensor result;
  kernel::for_type(logits.scalar_type(), [&]<typename T>(T) {
    result = at::empty({logits.size(0)}, wide_options<T>(logits));
    Wide<T>* const out = kernel::mutable_data<Wide<T>>(result);
    const T* const in = kernel::data<T>(logits);
    for_rows(logits.size(0), 1,
             [&](std::int64_t i) { out[i] = rounded<T>(kernel::sigmoid(widen(in[i]))); });
  });
  return result;
}

/// Experts 0 .. chosen - 1 for every token: what takes the most memory.
Routing fullest(std::int64_t tokens, const ExpertsSpec& spec, const at::TensorOptions& options) {
  Routing routing;
  for (std::int64_t e = 0; e <= spec.count; ++e)
    routing.begins.push_back(std::min(e, spec.chosen) * tokens);
  for (std::int64_t e = 0; e < spec.chosen; ++e) {
    for (std::int64_t t = 0; t < tokens; ++t) routing.tokens.push_back(t);
  }
  routing.weights = at::empty({spec.chosen * tokens}, options);
  routing.probabilities = at::empty({tokens, spec.count}, options);
  return routing;
}

template <typename W>
void softmax(W* row, std::int64_t count) {
  const W most = *std::max_element(row, row + count);
  W sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += row[i] = std::exp(row[i] - most);
  for (std::int64_t i = 0; i < count; ++i) row[i] /= sum;
}

/// The gradient of the router's logits from that of the visits' weights.
at::Tensor logit_gradient(const Routing& routing, const at::Tensor& d_weights,
                          const ExpertsSpec& spec, const at::Tensor& like) {
  const std::int64_t tokens = routing.probabilities.size(0);
  at::Tensor result = zeros({tokens, spec.count}, like.options());
  if (Meter::running()) return result;
  kernel::for_type(like.scalar_type(), [&]<typename T>(T) {
    using W = Wide<T>;
    const W* const weights = kernel::data<W>(routing.weights);
    const W* const gradient = kernel::data<W>(d_weights);
    const W* const p = kernel::data<W>(routing.probabilities);
    std::vector<W> whole(static_cast<std::size_t>(tokens * spec.count), 0);  // d weight of expert
    std::vector<W> along(static_cast<std::size_t>(tokens), 0);               // sum of w dw
    std::vector<W> share(whole.size(), 0);
    for (std::int64_t e = 0; e < spec.count; ++e) {
      for (std::int64_t v = routing.begins[static_cast<std::size_t>(e)];
           v < routing.begins[static_cast<std::size_t>(e) + 1]; ++v) {
        const std::int64_t t = routing.tokens[static_cast<std::size_t>(v)];
        const auto place = static_cast<std::size_t>(t * spec.count + e);
        whole[place] = gradient[v];
        share[place] = weights[v];
        along[static_cast<std::size_t>(t)] += weights[v] * gradient[v];
      }
    }
    // Of the chosen ones alone the softmax is over them; otherwise over all experts.
    T* const out = kernel::mutable_data<T>(result);
    for (std::size_t i = 0; i < whole.size(); ++i) {
      const W mean = along[i / static_cast<std::size_t>(spec.count)];
      const W part = spec.normalised ? share[i] : p[i];
      out[i] = narrow<T>(part * (whole[i] - mean));
    }
  });
  return result;
}

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
  const std::int64_t tokens = logits.size(0);
  Routing routing;
  kernel::for_type(logits.scalar_type(), [&]<typename T>(T) {
    using W = Wide<T>;
    const at::TensorOptions options = wide_options<T>(logits);
    if (Meter::running()) {
      routing = fullest(tokens, spec, options);
      return;
    }
    routing.probabilities = at::empty({tokens, spec.count}, options);
    routing.weights = at::empty({tokens * spec.chosen}, options);
    const T* const in = kernel::data<T>(logits);
    W* const p = kernel::mutable_data<W>(routing.probabilities);
    std::vector<std::int64_t> chosen(static_cast<std::size_t>(tokens * spec.chosen));
    for (std::int64_t t = 0; t < tokens; ++t) {
      W* const row = p + t * spec.count;
      for (std::int64_t e = 0; e < spec.count; ++e) row[e] = widen(in[t * spec.count + e]);
      softmax(row, spec.count);
      std::vector<std::int64_t> order(static_cast<std::size_t>(spec.count));
      std::iota(order.begin(), order.end(), 0);
      std::partial_sort(order.begin(), order.begin() + spec.chosen, order.end(),
                        [&](std::int64_t a, std::int64_t b) {
                          return row[a] > row[b] || (row[a] == row[b] && a < b);
                        });
      std::copy_n(order.begin(), spec.chosen, chosen.begin() + t * spec.chosen);
    }
    routing.begins.assign(static_cast<std::size_t>(spec.count) + 1, 0);
    for (const std::int64_t e : chosen) ++routing.begins[static_cast<std::size_t>(e) + 1];
    std::partial_sum(routing.begins.begin(), routing.begins.end(), routing.begins.begin());
    routing.tokens.resize(chosen.size());
    std::vector<std::int64_t> next(routing.begins.begin(), routing.begins.end() - 1);
    W* const weights = kernel::mutable_data<W>(routing.weights);
    for (std::int64_t t = 0; t < tokens; ++t) {
      const std::span<const std::int64_t> of_token(chosen.data() + t * spec.chosen,
                                                   static_cast<std::size_t>(spec.chosen));
      W sum = 0;
      for (const std::int64_t e : of_token) sum += p[t * spec.count + e];
      for (const std::int64_t e : of_token) {
        const std::int64_t visit = next[static_cast<std::size_t>(e)]++;
        routing.tokens[static_cast<std::size_t>(visit)] = t;
        weights[visit] = p[t * spec.count + e] / (spec.normalised ? sum : W(1));
      }
    }
  });
  return routing;
}

at::Tensor Experts::normed(const at::Tensor& x, State* s) const {
  return norm ? norm->forward(x, s != nullptr ? &s->statistics : nullptr) : x;
}

at::Tensor Experts::sum_of(const at::Tensor& h, const RowContext& row, State& s, bool keep) const {
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
    add_rows_(sum, experts[e].down.forward(activated), tokens,
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
  scale_rows_(part, gate_values(s.shared_gate));
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
    const at::Tensor g = gate_values(s.shared_gate);
    const at::Tensor d_gate = row_dots(d_sum, s.shared_out);
    at::Tensor narrow_gate = at::empty({d_gate.size(0), 1}, h.options());
    kernel::for_type(h.scalar_type(), [&]<typename T>(T) {
      const Wide<T>* const d = kernel::data<Wide<T>>(d_gate);
      const Wide<T>* const v = kernel::data<Wide<T>>(g);
      T* const out = kernel::mutable_data<T>(narrow_gate);
      for_rows(d_gate.size(0), 1,
               [&](std::int64_t i) { out[i] = narrow<T>(d[i] * v[i] * (1 - v[i])); });
    });
    scale_rows_(d_out, g);
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
      const at::Tensor dot = row_dots(d_out, down.forward(activated, {}, none, &middle));
      if (!Meter::running()) weights_of(s.routing, d_weights, e).copy_(dot);
    } else {
      middle = down.middle(activated, none);
    }
    scale_rows_(d_out, weights_of(s.routing, s.routing.weights, e));
    const bool below = want_input || up.trains();
    const at::Tensor d_activated = down.backward(d_out, activated, middle, none, below);
    if (below) {
      activate_backward_(s.up[e], d_activated, spec.mlp);
      const at::Tensor x = up.trains() ? gather(h, tokens) : at::Tensor();
      const at::Tensor d = up.backward(s.up[e], x, s.up_middle[e], none, want_input);
      if (want_input) add_rows_(dh, d, tokens, {});
    }
    s.up[e].reset();
    s.up_middle[e].reset();
  }
  if (!want_input) return;
  const at::Tensor d_logits = logit_gradient(s.routing, d_weights, spec, h);
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
