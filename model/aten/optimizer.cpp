#include <ATen/TensorOperators.h>
#include <ATen/ops/square.h>
#include <ATen/ops/sum.h>

#include <algorithm>

#include "model/aten/aten.h"

namespace weft::model {

void Aten::adamw_(const AdamWState& state, const AdamWStep& s) const {
  state.first.add_(state.gradients - state.first, s.first_step);
  state.second.mul_(s.second_keep).addcmul_(state.gradients, state.gradients, s.second_step);
  const at::Tensor divisor = state.second.sqrt().div_(s.second_correction).add_(s.epsilon);
  state.values.mul_(s.keep).addcdiv_(state.first, divisor, s.step);
}

double Aten::square_sum(const at::Tensor& x) const {
  // In pieces: a copy in fp64 of all would be twice as large as the gradients.
  constexpr std::int64_t kElements = std::int64_t{1} << 24;
  at::Tensor sum = at::Tensor(x.new_zeros({}, x.options().dtype(at::kDouble)));
  for (std::int64_t begin = 0; begin < x.numel(); begin += kElements) {
    const std::int64_t count = std::min(kElements, x.numel() - begin);
    sum.add_(at::sum(at::square(x.narrow(0, begin, count).to(at::kDouble))));
  }
  return sum.item<double>();
}

void Aten::multiply_(const at::Tensor& x, float factor) const { x.mul_(factor); }

}  // namespace weft::model
