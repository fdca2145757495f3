#include <ATen/TensorOperators.h>
#include <ATen/ops/bincount.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softmax.h>

#include <tuple>
#include <vector>

#include "model/aten/aten.h"
#include "model/aten/common.h"

namespace weft::model {
namespace {

using aten::widened;

std::vector<std::int64_t> on_host(const at::Tensor& whole_numbers) {
  const at::Tensor values = whole_numbers.cpu().contiguous();
  const std::int64_t* const data = values.const_data_ptr<std::int64_t>();
  return {data, data + values.numel()};
}

}  // namespace

Routing Aten::route(const at::Tensor& logits, const ExpertsSpec& spec) const {
  const std::int64_t tokens = logits.size(0);
  Routing routing;
  routing.probabilities = at::softmax(widened(logits), 1);
  // Of equals the lower index comes first.
  const at::Tensor order = std::get<1>(routing.probabilities.sort(true, 1, true));
  const at::Tensor chosen = order.narrow(1, 0, spec.chosen);
  at::Tensor weights = routing.probabilities.gather(1, chosen);
  if (spec.normalised) weights = weights / weights.sum(1, true);
  const at::Tensor experts = chosen.reshape({tokens * spec.chosen});
  const at::Tensor visits = std::get<1>(experts.sort(true, 0, false));
  routing.weights = weights.reshape({-1}).index_select(0, visits);
  routing.tokens = on_host(visits.floor_divide(spec.chosen));
  routing.begins = on_host(at::bincount(experts, {}, spec.count).cumsum(0));
  routing.begins.insert(routing.begins.begin(), 0);
  return routing;
}

at::Tensor Aten::route_backward(const Routing& routing, const at::Tensor& d_weights,
                                const ExpertsSpec& spec, at::ScalarType type) const {
  std::vector<std::int64_t> places(routing.tokens.size());
  for (std::size_t e = 0; e + 1 < routing.begins.size(); ++e) {
    for (auto v = static_cast<std::size_t>(routing.begins[e]);
         v < static_cast<std::size_t>(routing.begins[e + 1]); ++v)
      places[v] = routing.tokens[v] * spec.count + static_cast<std::int64_t>(e);
  }
  const at::Tensor at_places = aten::indices(places, d_weights);
  const auto spread = [&](const at::Tensor& of_visits) {  // [T, E]
    at::Tensor all = at::Tensor(d_weights.new_zeros({routing.probabilities.numel()}));
    return all.index_copy_(0, at_places, of_visits).view(routing.probabilities.sizes());
  };
  const at::Tensor whole = spread(d_weights);
  const at::Tensor share = spread(routing.weights);
  const at::Tensor mean = (share * whole).sum(1, true);
  // Of the chosen ones alone the softmax is over them; otherwise over all experts.
  return ((spec.normalised ? share : routing.probabilities) * (whole - mean)).to(type);
}

void Aten::add_rows_(const at::Tensor& sum, const at::Tensor& rows,
                     std::span<const std::int64_t> tokens, const at::Tensor& weights) const {
  at::Tensor part = rows;
  if (weights.defined()) part = (widened(rows) * weights.unsqueeze(1)).to(rows.scalar_type());
  sum.index_add_(0, aten::indices(tokens, sum), part);
}

void Aten::scale_rows_(const at::Tensor& rows, const at::Tensor& weights) const {
  rows.copy_(widened(rows) * weights.unsqueeze(1));
}

at::Tensor Aten::row_dots(const at::Tensor& a, const at::Tensor& b) const {
  return (widened(a) * widened(b)).sum(1);
}

at::Tensor Aten::gate_values(const at::Tensor& logits) const {
  return aten::rounded(at::sigmoid(widened(logits)), logits.scalar_type()).view({-1});
}

at::Tensor Aten::gate_backward(const at::Tensor& gradient, const at::Tensor& values,
                               at::ScalarType type) const {
  return (gradient * values * (1 - values)).to(type).unsqueeze(1);
}

}  // namespace weft::model
