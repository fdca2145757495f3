#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "model/spec.h"

namespace weft::model {

/// A normalisation with its frozen weight, forward and backward. Statistics and arithmetic are fp32
/// (double for double).
///
/// x is [T, W] with contiguous rows, of which columns [first, first + groups * width) are
/// normalised in groups of `width`: the whole row, or the heads of queries or keys in a packed row.
class Norm {
 public:
  Norm() = default;
  /// `weight` [spec.weights], `bias` likewise or undefined, in the element type.
  Norm(const NormSpec& spec, at::Tensor weight, at::Tensor bias);

  /// What the backward needs of a forward: [T, groups] each, in the arithmetic's type.
  struct Statistics {
    at::Tensor inverse;  ///< 1 / sqrt(mean(x^2) + eps), or of the variance
    at::Tensor mean;     ///< kLayer only
  };

  /// The rows of x [T, width], normalised.
  [[nodiscard]] at::Tensor forward(const at::Tensor& x, Statistics* statistics = nullptr) const;
  /// residual [T, width] + forward(x), in a tensor of its own.
  [[nodiscard]] at::Tensor forward_added(const at::Tensor& x, const at::Tensor& residual,
                                         Statistics* statistics = nullptr) const;
  /// The gradient of x alone.
  [[nodiscard]] at::Tensor backward(const at::Tensor& dy, const at::Tensor& x,
                                    const Statistics& statistics) const;
  /// dx_ += the gradient of x: what flows around the norm (the residual's) is already in dx_.
  ///   RMS:   dx = s (w dy - x s^2 mean(w dy x)),             s = inverse
  ///   Layer: dx = s (w dy - mean(w dy) - n mean(w dy n)),    n = (x - mean) s
  void backward_(const at::Tensor& dx, const at::Tensor& dy, const at::Tensor& x,
                 const Statistics& statistics) const;

  /// Heads of a packed row, in place: columns from `first` on, `groups` of them.
  void forward_heads_(const at::Tensor& packed, std::int64_t first, std::int64_t groups,
                      Statistics* statistics = nullptr) const;
  /// Turns the gradient of what forward_heads_() gave into that of its input, in place; `packed`
  /// holds the input.
  void backward_heads_(const at::Tensor& gradient, const at::Tensor& packed, std::int64_t first,
                       std::int64_t groups, const Statistics& statistics) const;

  [[nodiscard]] std::int64_t width() const { return spec_.width; }

 private:
  NormSpec spec_;
  at::Tensor weight_, bias_;
};

}  // namespace weft::model
