#include "model/linear.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <utility>

namespace weft::model {

Linear::Linear(at::Tensor weight, at::Tensor bias, std::vector<LinearPart> parts)
    : weight_(std::move(weight)), bias_(std::move(bias)), parts_(std::move(parts)) {}

void Linear::attach(Slot slot) {
  slot.first = rank_;
  rank_ += slot.a.size(0);
  slots_.push_back(std::move(slot));
  a_ = at::empty({rank_, in()}, weight_.options());
  b_ = at::zeros({weight_.size(0), rank_}, weight_.options());
  refresh();
}

void Linear::detach_all() {
  slots_.clear();
  rank_ = 0;
  a_.reset();
  b_.reset();
}

void Linear::refresh() {
  // The scale is applied before rounding to the element type.
  const at::ScalarType wide = at::promote_types(weight_.scalar_type(), at::kFloat);
  for (const Slot& slot : slots_) {
    const LinearPart& part = parts_[slot.part];
    a_.narrow(0, slot.first, slot.a.size(0)).copy_(slot.a);
    b_.narrow(0, part.first, part.rows)
        .narrow(1, slot.first, slot.b.size(1))
        .copy_(slot.b.to(wide) * slot.scale);
  }
}

bool Linear::trains() const {
  return std::ranges::any_of(slots_, [](const Slot& slot) { return slot.grad_a.defined(); });
}

at::Tensor Linear::ranks(const at::Tensor& x, const Dropout& drop) const {
  if (drop.p == 0 || !trains()) return at::mm(x, a_.t());
  at::Tensor middle = at::empty({x.size(0), rank_}, x.options());
  for (std::size_t part = 0; part < parts_.size(); ++part) {
    at::Tensor dropped;
    for (const Slot& slot : slots_) {
      if (slot.part != part) continue;
      // Only what is being trained is regularised.
      if (slot.grad_a.defined() && !dropped.defined())
        dropped = dropout(x, drop, parts_[part].index);
      const at::Tensor& input = slot.grad_a.defined() ? dropped : x;
      const std::int64_t rank = slot.a.size(0);
      middle.narrow(1, slot.first, rank).copy_(at::mm(input, a_.narrow(0, slot.first, rank).t()));
    }
  }
  return middle;
}

at::Tensor Linear::forward(const at::Tensor& x, const at::Tensor& residual, const Dropout& drop,
                           at::Tensor* middle) const {
  at::Tensor y = bias_.defined() ? at::addmm(bias_, x, weight_.t()) : at::mm(x, weight_.t());
  if (!slots_.empty()) {
    const at::Tensor r = ranks(x, drop);
    y.addmm_(r, b_.t());
    if (middle != nullptr) *middle = r;
  }
  // Not as part of the product: in bf16 the layer's output is rounded before the sum, as
  // transformers does. Without that rounding the numbers are nearer to fp32 but farther from every
  // model in use.
  if (residual.defined()) y.add_(residual);
  return y;
}

at::Tensor Linear::middle(const at::Tensor& x, const Dropout& drop) const {
  return slots_.empty() ? at::Tensor() : ranks(x, drop);
}

void Linear::accumulate_a(const at::Tensor& d_middle, const at::Tensor& x,
                          const Dropout& drop) const {
  const auto add = [](const Slot& slot, const at::Tensor& gradient) {
    if (slot.grad_a.defined()) slot.grad_a.add_(gradient);
  };
  if (drop.p == 0) {
    const at::Tensor gradients = at::mm(d_middle.t(), x);
    for (const Slot& slot : slots_) add(slot, gradients.narrow(0, slot.first, slot.a.size(0)));
    return;
  }
  for (std::size_t part = 0; part < parts_.size(); ++part) {
    at::Tensor dropped;
    for (const Slot& slot : slots_) {
      if (slot.part != part || !slot.grad_a.defined()) continue;
      if (!dropped.defined()) dropped = dropout(x, drop, parts_[part].index);
      add(slot, at::mm(d_middle.narrow(1, slot.first, slot.a.size(0)).t(), dropped));
    }
  }
}

at::Tensor Linear::backward(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& middle,
                            const Dropout& drop, bool want_input) const {
  at::Tensor dx;
  if (want_input) dx = at::mm(dy, weight_);
  if (slots_.empty()) return dx;
  const at::Tensor d_middle = at::mm(dy, b_);  // [T, rank]
  const bool training = trains();
  if (training) {
    // The off-diagonal blocks are computed in vain; one product is still faster than one per part.
    const at::Tensor gradients = at::mm(dy.t(), middle);  // [out, rank]
    for (const Slot& slot : slots_) {
      if (!slot.grad_b.defined()) continue;
      const LinearPart& part = parts_[slot.part];
      slot.grad_b.add_(
          gradients.narrow(0, part.first, part.rows).narrow(1, slot.first, slot.b.size(1)),
          slot.scale);
    }
    accumulate_a(d_middle, x, drop);
  }
  if (!want_input) return dx;
  if (drop.p == 0 || !training) return dx.addmm_(d_middle, a_);
  for (const Slot& slot : slots_) {
    const at::Tensor d = d_middle.narrow(1, slot.first, slot.a.size(0));
    const at::Tensor a = a_.narrow(0, slot.first, slot.a.size(0));
    if (slot.grad_a.defined()) {
      dropout_backward_(dx, at::mm(d, a), drop, parts_[slot.part].index);
    } else {
      dx.addmm_(d, a);
    }
  }
  return dx;
}

}  // namespace weft::model
