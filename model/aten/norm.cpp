#include <ATen/TensorOperators.h>
#include <ATen/ops/rsqrt.h>

#include "model/aten/aten.h"
#include "model/aten/common.h"

namespace weft::model {
namespace {

using aten::rounded;
using aten::widened;

/// The columns that a norm is about: [T, groups, width], a view.
at::Tensor groups_of(const NormRows& rows, const at::Tensor& x) {
  const std::int64_t width = rows.spec.width;
  return x.narrow(1, rows.first, rows.groups * width).unflatten(1, {rows.groups, width});
}

/// Weights or biases of the groups: [groups or 1, width], wide.
at::Tensor of_groups(const NormRows& rows, const at::Tensor& values) {
  const at::Tensor all = widened(values).view({-1, rows.spec.width});
  return all.narrow(0, 0, rows.has_own_weights() ? rows.groups : 1);
}

at::Tensor weight_of(const NormRows& rows) {
  const at::Tensor weight = of_groups(rows, rows.weight);
  return rows.spec.plus_one ? weight + 1 : weight;
}

at::Tensor mean_of(const at::Tensor& x) { return x.mean(-1, true); }

}  // namespace

void Aten::norm(const NormRows& rows, const at::Tensor& x, const at::Tensor& y,
                Norm::Statistics* statistics) const {
  const NormSpec& spec = rows.spec;
  const bool centred = spec.kind == NormSpec::Kind::kLayer;
  const at::Tensor wide = widened(groups_of(rows, x));
  const at::Tensor mean = centred ? mean_of(wide) : at::Tensor();
  const at::Tensor from_mean = centred ? wide - mean : wide;
  const at::Tensor inverse = at::rsqrt(mean_of(from_mean * from_mean) + spec.eps);
  at::Tensor result = from_mean * inverse;
  if (spec.rounds_before_weight) result = rounded(result, x.scalar_type());
  result = result * weight_of(rows);
  if (rows.bias.defined()) result = result + of_groups(rows, rows.bias);
  groups_of(rows, y).copy_(result);
  if (statistics == nullptr) return;
  statistics->inverse = inverse.squeeze(-1);
  if (centred) statistics->mean = mean.squeeze(-1);
}

void Aten::norm_backward(const NormRows& rows, const at::Tensor& dx, const at::Tensor& dy,
                         const at::Tensor& x, const Norm::Statistics& statistics, bool adds) const {
  const bool centred = rows.spec.kind == NormSpec::Kind::kLayer;
  const at::Tensor s = statistics.inverse.unsqueeze(-1);
  const at::Tensor wide = widened(groups_of(rows, x));
  const at::Tensor n = (centred ? wide - statistics.mean.unsqueeze(-1) : wide) * s;
  const at::Tensor d = widened(groups_of(rows, dy)) * weight_of(rows);
  at::Tensor gradient = d - n * mean_of(d * n);
  if (centred) gradient = gradient - mean_of(d);
  gradient = gradient * s;
  const at::Tensor into = groups_of(rows, dx);
  into.copy_(adds ? widened(into) + gradient : gradient);
}

}  // namespace weft::model
