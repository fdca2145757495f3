#include <ATen/ops/mm.h>

#include "model/aten/aten.h"
#include "model/aten/common.h"

namespace weft::model {
namespace {

at::Tensor right_of(const Factors& term, at::ScalarType type) {
  if (term.quantised == nullptr) return term.b;
  const at::Tensor whole = term.quantised->dense(type);
  return term.turned ? whole.t() : whole;
}

/// a b with sums in the wide type. Products of BFloat16 are exact there, so that widened operands
/// give what a processor of such products gives; a GPU's library sums and returns fp32 by itself.
at::Tensor wide_product(const Factors& term) {
  const at::ScalarType type = term.a.scalar_type();
  const at::Tensor b = right_of(term, type);
  if (type == at::kBFloat16 && term.a.is_cuda()) return at::mm(term.a, b, at::kFloat);
  return at::mm(aten::widened(term.a), aten::widened(b));
}

void compute(const ProductOf& one) {
  at::Tensor sum;
  for (const Factors& term : one.terms) {
    if (term.a.size(1) == 0) continue;
    const at::Tensor part = wide_product(term);
    sum = sum.defined() ? sum.add_(part) : part;
  }
  const Epilogue& finish = one.finish;
  if (!sum.defined()) sum = at::Tensor(one.c).new_zeros(one.c.sizes());
  if (finish.scale != 1) sum.mul_(finish.scale);
  if (finish.add) {
    one.c.add_(sum);
    return;
  }
  if (finish.bias.defined()) sum.add_(finish.bias);
  one.c.copy_(sum);  // rounds
  if (finish.residual.defined()) one.c.add_(finish.residual);
}

}  // namespace

void Aten::products_(std::span<const ProductOf> all) const {
  for (const ProductOf& one : all) {
    if (one.c.numel() > 0) compute(one);
  }
}

}  // namespace weft::model
