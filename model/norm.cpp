#include "model/norm.h"

#include <ATen/ops/empty_like.h>

#include <utility>

#include "model/operations.h"

namespace weft::model {

Norm::Norm(const NormSpec& spec, at::Tensor weight, at::Tensor bias)
    : spec_(spec), weight_(std::move(weight)), bias_(std::move(bias)) {}

at::Tensor Norm::forward(const at::Tensor& x, Statistics* statistics) const {
  at::Tensor y = at::empty_like(x);
  operations_for(x).norm({spec_, weight_, bias_}, x, y, statistics);
  return y;
}

at::Tensor Norm::forward_added(const at::Tensor& x, const at::Tensor& residual,
                               Statistics* statistics) const {
  at::Tensor sum = at::empty_like(residual);
  operations_for(x).norm_add({spec_, weight_, bias_}, x, residual, sum, statistics);
  return sum;
}

at::Tensor Norm::backward(const at::Tensor& dy, const at::Tensor& x,
                          const Statistics& statistics) const {
  at::Tensor dx = at::empty_like(x);
  operations_for(x).norm_backward({spec_, weight_, bias_}, dx, dy, x, statistics, false);
  return dx;
}

void Norm::backward_(const at::Tensor& dx, const at::Tensor& dy, const at::Tensor& x,
                     const Statistics& statistics) const {
  operations_for(x).norm_backward({spec_, weight_, bias_}, dx, dy, x, statistics, true);
}

void Norm::forward_heads_(const at::Tensor& packed, std::int64_t first, std::int64_t groups,
                          Statistics* statistics) const {
  operations_for(packed).norm({spec_, weight_, bias_, first, groups}, packed, packed, statistics);
}

void Norm::backward_heads_(const at::Tensor& gradient, const at::Tensor& packed, std::int64_t first,
                           std::int64_t groups, const Statistics& statistics) const {
  operations_for(packed).norm_backward({spec_, weight_, bias_, first, groups}, gradient, gradient,
                                       packed, statistics, false);
}

}  // namespace weft::model
