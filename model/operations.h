#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string_view>

#include "model/adamw_step.h"
#include "model/experts.h"
#include "model/kernels/attention.h"
#include "model/kernels/attention_step.h"
#include "model/kernels/ops.h"
#include "model/kernels/product.h"
#include "model/norm.h"
#include "model/quantised.h"
#include "model/spec.h"

namespace weft::model {

/// Which columns of a row a norm is about, and with which numbers (model/norm.h): columns [first,
/// first + groups * spec.width), in groups of spec.width.
struct NormRows {
  const NormSpec& spec;
  const at::Tensor& weight;  ///< [n, spec.width], n = 1 or more than `groups` - 1
  const at::Tensor& bias;    ///< Likewise, or undefined
  std::int64_t first = 0;
  std::int64_t groups = 1;
  /// Groups have weights of their own.
  [[nodiscard]] bool has_own_weights() const { return groups > 1 && spec.weights > spec.width; }
};

/// What the head's loss is to be.
struct LossRows {
  std::span<const std::int32_t> targets;  ///< [n], ids below V
  double soft_cap = 0;                    ///< Logits become cap tanh(z / cap); 0: they stay
  bool want_gradient = false;
  double gradient_scale = 0;
};

/// What an optimiser keeps of n numbers (train/optimizer.h), fp32 [n] each.
struct AdamWState {
  const at::Tensor& values;
  const at::Tensor& gradients;
  const at::Tensor& first;  ///< Moments
  const at::Tensor& second;
};

/// The operations that a decoder is made of, in one form: the kernels of this processor, or
/// formulas over ATen that run on any device. The free functions and classes of model/ are their
/// face; they take the form that operations_for() names. What each does is said there.
///
/// A form for a device overrides what it has kernels for and inherits the rest from the
/// device-generic one (model/aten/aten.h).
///
/// Only the processor's form keeps the rule that a row has the same bits in any batch
/// (model/kernels/product.h): a library's products choose their order of sums by the shape. Each
/// form gives the same bits for the same call on the same machine.
class [[gnu::visibility("default")]] Operations {
 public:
  Operations() = default;
  virtual ~Operations() = default;
  Operations(const Operations&) = delete;
  Operations& operator=(const Operations&) = delete;

  // model/kernels/product.h
  virtual void products_(std::span<const ProductOf> all) const = 0;

  // model/kernels/ops.h
  [[nodiscard]] virtual at::Tensor gather(const at::Tensor& rows,
                                          std::span<const std::int64_t> indices) const = 0;
  [[nodiscard]] virtual at::Tensor scatter(
      const at::Tensor& rows, std::span<const std::int64_t> indices, std::int64_t count) const = 0;
  [[nodiscard]] virtual at::Tensor scaled(const at::Tensor& x, double scale) const = 0;
  virtual void add_(const at::Tensor& x, const at::Tensor& y, double scale) const = 0;
  virtual void rotate_(const at::Tensor& qkv, const AttentionShape& shape, const RotaryTable& table)
      const = 0;
  virtual void rotate_back_(const at::Tensor& gradient, const AttentionShape& shape,
                            const RotaryTable& table) const = 0;
  [[nodiscard]] virtual at::Tensor dropout(const at::Tensor& x, const Dropout& dropout,
                                           std::uint32_t module) const = 0;
  virtual void dropout_backward_(const at::Tensor& dx, const at::Tensor& dy, const Dropout& dropout,
                                 std::uint32_t module) const = 0;

  // model/norm.h
  /// y, which may be x, becomes the norm of x: both [T, W].
  virtual void norm(const NormRows& rows, const at::Tensor& x, const at::Tensor& y,
                    Norm::Statistics* statistics) const = 0;
  /// sum = residual + y, y the norm of x as the element type holds it: all [T, W]. In two steps
  /// unless a form does better.
  virtual void norm_add(const NormRows& rows, const at::Tensor& x, const at::Tensor& residual,
                        const at::Tensor& sum, Norm::Statistics* statistics) const;
  /// The gradient of x, added to dx where `adds`, else in its place; dy may be dx.
  virtual void norm_backward(const NormRows& rows, const at::Tensor& dx, const at::Tensor& dy,
                             const at::Tensor& x, const Norm::Statistics& statistics, bool adds)
      const = 0;

  // model/activation.h
  [[nodiscard]] virtual at::Tensor activate(const at::Tensor& up, const MlpSpec& mlp) const = 0;
  virtual void activate_backward_(const at::Tensor& up, const at::Tensor& dy, const MlpSpec& mlp)
      const = 0;

  // model/kernels/attention.h, attention_step.h
  [[nodiscard]] virtual at::Tensor attend_row(const at::Tensor& qkv, const AttentionShape& shape,
                                              const Visibility& visible, at::Tensor* log_sums)
      const = 0;
  [[nodiscard]] virtual at::Tensor attend_row_backward(
      const at::Tensor& gradient, const at::Tensor& output, const at::Tensor& qkv,
      const at::Tensor& log_sums, const AttentionShape& shape, const Visibility& visible) const = 0;
  [[nodiscard]] virtual at::Tensor attend_cached(const at::Tensor& qkv, const at::Tensor& keys,
                                                 const at::Tensor& values, std::int64_t m,
                                                 const AttentionShape& shape) const = 0;
  virtual void append_keys(const at::Tensor& qkv, std::span<const SequenceKeys> sequences,
                           const AttentionShape& shape) const = 0;
  [[nodiscard]] virtual at::Tensor attend_step(
      const at::Tensor& qkv, std::span<const SequenceKeys> sequences, const AttentionShape& shape)
      const = 0;

  // model/head.h
  /// Cross-entropy of each row of logits [n, V]; the gradient is written over them where wanted.
  virtual void losses_(const at::Tensor& logits, const LossRows& rows, std::span<double> losses)
      const = 0;
  /// Logits of fp32 or double become cap tanh(z / cap).
  virtual void cap_(const at::Tensor& logits, double cap) const = 0;

  // model/experts.h
  [[nodiscard]] virtual Routing route(const at::Tensor& logits, const ExpertsSpec& spec) const = 0;
  /// The gradient of the router's logits [T, E] from that of the visits' weights.
  [[nodiscard]] virtual at::Tensor route_backward(
      const Routing& routing, const at::Tensor& d_weights, const ExpertsSpec& spec,
      at::ScalarType type) const = 0;
  /// sum[tokens[i]] += weights[i] rows[i], the product rounded first; no token comes twice. Without
  /// weights they are 1.
  virtual void add_rows_(const at::Tensor& sum, const at::Tensor& rows,
                         std::span<const std::int64_t> tokens, const at::Tensor& weights) const = 0;
  /// rows[i] *= weights[i].
  virtual void scale_rows_(const at::Tensor& rows, const at::Tensor& weights) const = 0;
  /// The product of each row of a with that of b: [rows], in the arithmetic's type.
  [[nodiscard]] virtual at::Tensor row_dots(const at::Tensor& a, const at::Tensor& b) const = 0;
  /// sigmoid(logits [T, 1]) as [T], in the arithmetic's type but rounded to the element type.
  [[nodiscard]] virtual at::Tensor gate_values(const at::Tensor& logits) const = 0;
  /// d v (1 - v) of gradients and values [T] as [T, 1] of `type`.
  [[nodiscard]] virtual at::Tensor gate_backward(
      const at::Tensor& gradient, const at::Tensor& values, at::ScalarType type) const = 0;

  // train/optimizer.h
  /// One update of values and moments, in place.
  virtual void adamw_(const AdamWState& state, const AdamWStep& step) const = 0;
  /// The sum of the squares of x [n] fp32, summed in fp64.
  [[nodiscard]] virtual double square_sum(const at::Tensor& x) const = 0;
  /// x *= factor.
  virtual void multiply_(const at::Tensor& x, float factor) const = 0;
};

/// The kernels of model/kernels/.
[[nodiscard]] const Operations& processor_operations();
/// The formulas of model/aten/.
[[nodiscard]] const Operations& aten_operations();

/// The form for tensors where `tensor` is: on the processor its kernels, or the device-generic form
/// where WEFT_KERNELS=aten asks for it; on another device that one, or what register_operations()
/// gave. A Meter takes the processor's form, which computes nothing then.
[[nodiscard]] const Operations& operations_for(const at::Tensor& tensor);

/// Takes `operations`, which stay, for tensors on devices of this type from now on.
[[gnu::visibility("default")]] void register_operations(at::DeviceType type,
                                                        const Operations& operations);

}  // namespace weft::model
