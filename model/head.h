#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "model/kernels/product.h"
#include "model/quantised.h"

namespace weft::model {

/// The output head with its loss. Logits exist for a chunk of rows at a time, in a buffer that is
/// kept between calls, and the gradient is written over them: nothing of size [T, V] is ever held.
class Head {
 public:
  Head() = default;
  /// weight [V, D], perhaps the embedding's; bias [V] or undefined. Logits are
  /// z = scale (W h) + bias, or cap tanh(z / cap) where soft_cap is not 0.
  explicit Head(at::Tensor weight, at::Tensor bias = {}, double scale = 1, double soft_cap = 0);
  /// The same of a matrix in a GGUF file's blocks; logits for the loss are of `type`.
  Head(std::shared_ptr<const QuantisedMatrix> weight, at::ScalarType type, at::Tensor bias,
       double scale, double soft_cap);

  /// Cross-entropy (natural logarithm) of each row of h [S, D] with its target: losses[S].
  /// With `gradient` not null it receives gradient_scale * d(sum of losses) / dh, [S, D].
  void cross_entropy(const at::Tensor& h, std::span<const std::int32_t> targets,
                     std::span<double> losses, double gradient_scale, at::Tensor* gradient);

  /// Logits of h as fp32 (double for double): [S, V].
  [[nodiscard]] at::Tensor logits(const at::Tensor& h) const;

  /// Rows of one chunk: as many as fill about 64 MiB in bf16, within 64 and 512.
  [[nodiscard]] static std::int64_t chunk_rows(std::int64_t vocabulary);

 private:
  void product(const at::Tensor& h, const at::Tensor& logits) const;

  /// x times the weight, or its transpose.
  [[nodiscard]] Factors times_weight(const at::Tensor& x, bool turned) const;

  at::Tensor weight_, bias_;
  std::shared_ptr<const QuantisedMatrix> stored_;  // in place of weight_
  std::int64_t vocabulary_ = 0;
  at::TensorOptions options_;
  double scale_ = 1;
  double soft_cap_ = 0;
  at::Tensor buffer_;  // [chunk_rows, V], made at first use
};

}  // namespace weft::model
