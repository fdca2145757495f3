#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>

#include <cstdint>
#include <span>

// What the formulas of this folder share.

namespace weft::model::aten {

/// The type that arithmetic on elements of `type` is done in.
inline at::ScalarType wide_type(at::ScalarType type) {
  return type == at::kDouble ? at::kDouble : at::kFloat;
}

/// x itself where its type is wide: a formula that writes over x has to be done with it first.
inline at::Tensor widened(const at::Tensor& x) { return x.to(wide_type(x.scalar_type())); }

/// Wide numbers as an element type holds them, still wide.
inline at::Tensor rounded(const at::Tensor& wide, at::ScalarType type) {
  return wide.to(type).to(wide.scalar_type());
}

/// Whole numbers of the host, [n] int64, where `like` is.
inline at::Tensor indices(std::span<const std::int64_t> values, const at::Tensor& like) {
  return at::tensor(at::ArrayRef<std::int64_t>(values.data(), values.size()),
                    at::TensorOptions().dtype(at::kLong))
      .to(like.device());
}

}  // namespace weft::model::aten
