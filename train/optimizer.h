#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace weft::train {

/// One matrix that is trained, flat: its fp32 master and the gradient of this update.
struct Parameter {
  std::span<float> value;
  std::span<float> gradient;  ///< As long as `value`.
};

/// Settings of AdamW. Defaults are torch.optim.AdamW's, but for the decay: none.
struct AdamWOptions {
  double beta1 = 0.9;     ///< [0, 1)
  double beta2 = 0.999;   ///< [0, 1)
  double epsilon = 1e-8;  ///< Added to the root after bias correction.
  double weight_decay = 0;
};

/// First and second moment of one parameter.
struct Moments {
  std::vector<float> first;
  std::vector<float> second;
};

/// Adam with decoupled weight decay (arXiv 1711.05101), in fp32 and in the order of
/// torch.optim.AdamW. With t the update's number from 1, g the gradient and w the value:
///
///     w <- w (1 - rate * weight_decay)
///     m <- m + (1 - beta1) (g - m)
///     v <- beta2 v + (1 - beta2) g^2
///     w <- w - rate / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)
///
/// Elements do not influence each other: the result is the same for any number of threads.
class AdamW {
 public:
  /// ConfigError when a setting is out of its range.
  explicit AdamW(const AdamWOptions& options);

  /// One update of every parameter at the learning rate `rate`. The first call fixes their number
  /// and sizes; a later call with others is an internal error (std::logic_error).
  void step(std::span<const Parameter> parameters, double rate);

  [[nodiscard]] std::int64_t updates() const { return updates_; }
  /// One per parameter; empty before the first step.
  [[nodiscard]] const std::vector<Moments>& moments() const { return moments_; }
  /// Continues from a saved state.
  void restore(std::int64_t updates, std::vector<Moments> moments);

 private:
  AdamWOptions options_;
  std::int64_t updates_ = 0;
  std::vector<Moments> moments_;
};

/// The Euclidean norm of all gradients together, summed in fp64 in the order of the parameters.
[[nodiscard]] double gradient_norm(std::span<const Parameter> parameters);

/// Multiplies every gradient by min(1, max_norm / (norm + 1e-6)), as
/// torch.nn.utils.clip_grad_norm_ does; `norm` is gradient_norm() of the same parameters.
/// max_norm 0 leaves them alone.
void clip_gradients(std::span<const Parameter> parameters, double norm, double max_norm);

}  // namespace weft::train
