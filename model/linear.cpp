#include "model/linear.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <utility>

#include "model/kernels/product.h"
#include "model/meter.h"

namespace weft::model {

Linear::Linear(at::Tensor weight, at::Tensor bias, std::vector<LinearPart> parts)
    : in_(weight.size(1)),
      out_(weight.size(0)),
      options_(weight.options()),
      weight_(std::move(weight)),
      bias_(std::move(bias)),
      parts_(std::move(parts)) {}

Linear::Linear(std::vector<QuantisedMatrix> weights, at::Tensor bias, std::vector<LinearPart> parts,
               const at::TensorOptions& activations)
    : in_(weights.front().columns()),
      options_(activations),
      quantised_(std::move(weights)),
      bias_(std::move(bias)),
      parts_(std::move(parts)) {
  for (const LinearPart& part : parts_) out_ += part.rows;
}

Factors Linear::base_term(const at::Tensor& x, std::size_t part) const {
  if (!quantised_.empty()) return {x, quantised_[part], true};
  return {x, weight_.narrow(0, parts_[part].first, parts_[part].rows).t()};
}

std::vector<Factors> Linear::input_terms(const at::Tensor& dy) const {
  if (quantised_.empty()) return {{dy, weight_}};
  std::vector<Factors> terms;
  for (std::size_t i = 0; i < parts_.size(); ++i)
    terms.push_back({dy.narrow(1, parts_[i].first, parts_[i].rows), quantised_[i], false});
  return terms;
}

void Linear::attach(Slot slot) {
  slot.first = adapters_.rank;
  adapters_.rank += slot.a.size(0);
  slot.computed_b = at::empty(slot.b.sizes(), options_);
  adapters_.slots.push_back(std::move(slot));
  adapters_.a = at::empty({adapters_.rank, in()}, options_);
  refresh();
}

void Linear::refresh() {
  if (Meter::running()) return;
  // The scale is applied before rounding to the element type.
  const at::ScalarType wide =
      at::promote_types(c10::typeMetaToScalarType(options_.dtype()), at::kFloat);
  for (const Slot& slot : adapters_.slots) {
    adapters_.a.narrow(0, slot.first, slot.rank()).copy_(slot.a);
    const at::Tensor scaled = slot.b.to(wide) * slot.scale;
    const at::Tensor& order = parts_[slot.part].order;
    slot.computed_b.copy_(order.defined() ? scaled.index_select(0, order) : scaled);
  }
}

bool Linear::trains() const {
  return std::ranges::any_of(adapters_.slots,
                             [](const Slot& slot) { return slot.grad_a.defined(); });
}

at::Tensor Linear::ranks(const at::Tensor& x, const Dropout& drop) const {
  if (drop.p == 0 || !trains()) return product(x, adapters_.a.t());
  at::Tensor middle = at::empty({x.size(0), adapters_.rank}, x.options());
  for (std::size_t part = 0; part < parts_.size(); ++part) {
    at::Tensor dropped;
    for (const Slot& slot : adapters_.slots) {
      if (slot.part != part) continue;
      // Only what is being trained is regularised.
      if (slot.grad_a.defined() && !dropped.defined())
        dropped = dropout(x, drop, parts_[part].index);
      product_(slot.of_ranks(middle), {{slot.grad_a.defined() ? dropped : x,
                                        adapters_.a.narrow(0, slot.first, slot.rank()).t()}});
    }
  }
  return middle;
}

at::Tensor Linear::forward(const at::Tensor& x, const at::Tensor& residual, const Dropout& drop,
                           at::Tensor* middle) const {
  at::Tensor y = at::empty({x.size(0), out_}, x.options());
  at::Tensor r;
  if (!adapters_.slots.empty()) r = ranks(x, drop);
  std::vector<ProductOf> products;
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    const LinearPart& part = parts_[i];
    ProductOf& one = products.emplace_back();
    one.c = y.narrow(1, part.first, part.rows);
    one.terms.push_back(base_term(x, i));
    for (const Slot& slot : adapters_.slots)
      if (slot.part == i) one.terms.push_back({slot.of_ranks(r), slot.computed_b.t()});
    if (bias_.defined()) one.finish.bias = bias_.narrow(0, part.first, part.rows);
    // Not as part of the product: in bf16 the layer's output is rounded before the sum, as
    // transformers does. Without that rounding the numbers are nearer to fp32 but farther from
    // every model in use.
    if (residual.defined()) one.finish.residual = residual.narrow(1, part.first, part.rows);
  }
  products_(products);
  if (middle != nullptr) *middle = r;
  return y;
}

at::Tensor Linear::middle(const at::Tensor& x, const Dropout& drop) const {
  return adapters_.slots.empty() ? at::Tensor() : ranks(x, drop);
}

void Linear::add_gradient_of_b(const Slot& slot, const at::Tensor& turned) const {
  if (Meter::running()) return;
  const at::Tensor& order = parts_[slot.part].order;
  if (order.defined()) {
    slot.grad_b.index_add_(0, order, turned.t(), slot.scale);
  } else {
    slot.grad_b.add_(turned.t(), slot.scale);
  }
}

void Linear::add_gradients_of_dropped(const at::Tensor& d_middle, const at::Tensor& x,
                                      const Dropout& drop) const {
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    at::Tensor dropped;
    for (const Slot& slot : adapters_.slots) {
      if (slot.part != i || !slot.grad_a.defined()) continue;
      if (!dropped.defined()) dropped = dropout(x, drop, parts_[i].index);
      product_(slot.grad_a, {{slot.of_ranks(d_middle).t(), dropped}}, {.add = true});
    }
  }
}

at::Tensor Linear::backward_ranks(const at::Tensor& dy, const at::Tensor& middle) const {
  at::Tensor d_middle = at::empty({dy.size(0), adapters_.rank}, dy.options());
  std::vector<ProductOf> products;
  std::vector<std::pair<const Slot*, at::Tensor>> gradients;
  for (const Slot& slot : adapters_.slots) {
    const LinearPart& part = parts_[slot.part];
    const at::Tensor of_part = dy.narrow(1, part.first, part.rows);
    products.push_back({slot.of_ranks(d_middle), {{of_part, slot.computed_b}}});
    if (!slot.grad_b.defined()) continue;
    // The transpose of B's gradient: the long side of a product belongs to the columns.
    const at::Tensor turned = at::empty({slot.rank(), part.rows}, slot.grad_b.options());
    products.push_back({turned, {{slot.of_ranks(middle).t(), of_part}}});
    gradients.emplace_back(&slot, turned);
  }
  products_(products);
  for (const auto& [slot, turned] : gradients) add_gradient_of_b(*slot, turned);
  return d_middle;
}

at::Tensor Linear::backward(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& middle,
                            const Dropout& drop, bool want_input) const {
  const bool training = trains();
  const bool is_sum = drop.p == 0 || !training;
  at::Tensor d_middle;
  if (!adapters_.slots.empty()) d_middle = backward_ranks(dy, middle);
  std::vector<ProductOf> products;
  at::Tensor all_a;
  if (training && is_sum) {
    // All slots read one x, whose packing costs more than its products with the ranks.
    const auto first = std::ranges::find_if(adapters_.slots,
                                            [](const Slot& slot) { return slot.grad_a.defined(); });
    all_a = at::empty({adapters_.rank, in()}, first->grad_a.options());
    products.push_back({all_a, {{d_middle.t(), x}}});
  } else if (training) {
    add_gradients_of_dropped(d_middle, x, drop);
  }
  at::Tensor dx;
  if (want_input) {
    dx = at::empty({dy.size(0), in_}, dy.options());
    products.push_back({dx, input_terms(dy)});
    if (is_sum && !adapters_.slots.empty())
      products.back().terms.emplace_back(d_middle, adapters_.a);
  }
  products_(products);
  if (all_a.defined() && !Meter::running()) {
    for (const Slot& slot : adapters_.slots)
      if (slot.grad_a.defined()) slot.grad_a.add_(all_a.narrow(0, slot.first, slot.rank()));
  }
  if (!want_input) return {};
  if (is_sum) return dx;
  for (const Slot& slot : adapters_.slots) {
    const at::Tensor d =
        product(slot.of_ranks(d_middle), adapters_.a.narrow(0, slot.first, slot.rank()));
    if (slot.grad_a.defined()) {
      dropout_backward_(dx, d, drop, parts_[slot.part].index);
    } else {
      add_(dx, d);
    }
  }
  return dx;
}

}  // namespace weft::model
