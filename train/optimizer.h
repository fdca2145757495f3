#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace weft::train {

/// Settings of AdamW. Defaults are torch.optim.AdamW's, but for the decay: none.
struct AdamWOptions {
  double beta1 = 0.9;     ///< [0, 1)
  double beta2 = 0.999;   ///< [0, 1)
  double epsilon = 1e-8;  ///< Added to the root after bias correction.
  double weight_decay = 0;
};

/// Adam with decoupled weight decay (arXiv 1711.05101), in fp32 and in the order of
/// torch.optim.AdamW. With t the update's number from 1, g the gradient and w the value:
///
///     w <- w (1 - rate * weight_decay)
///     m <- m + (1 - beta1) (g - m)
///     v <- beta2 v + (1 - beta2) g^2
///     w <- w - rate / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)
///
/// Values, gradients and moments are lists of numbers (model::Trainables), wherever they live.
/// Elements do not influence each other: the result is the same for any number of threads.
class AdamW {
 public:
  /// ConfigError when a setting is out of its range.
  explicit AdamW(const AdamWOptions& options);

  /// One update of `values` [n] with their `gradients` [n] at the learning rate `rate`. The first
  /// call fixes n; a later call with another is an internal error (std::logic_error).
  void step(const at::Tensor& values, const at::Tensor& gradients, double rate);

  [[nodiscard]] std::int64_t updates() const { return updates_; }
  /// Both moments [n], where the values are; undefined before the first step.
  [[nodiscard]] const at::Tensor& first_moments() const { return first_; }
  [[nodiscard]] const at::Tensor& second_moments() const { return second_; }
  /// Continues from a saved state.
  void restore(std::int64_t updates, at::Tensor first_moments, at::Tensor second_moments);

 private:
  AdamWOptions options_;
  std::int64_t updates_ = 0;
  at::Tensor first_, second_;
};

/// The Euclidean norm of a list of gradients, summed in fp64.
[[nodiscard]] double gradient_norm(const at::Tensor& gradients);

/// Multiplies every gradient by min(1, max_norm / (norm + 1e-6)), as
/// torch.nn.utils.clip_grad_norm_ does; `norm` is gradient_norm() of the same. max_norm 0 leaves
/// them alone.
void clip_gradients(const at::Tensor& gradients, double norm, double max_norm);

}  // namespace weft::train
