#pragma once

#include "model/operations.h"

namespace weft::model {

/// Formulas over ATen that run on any device: the form for devices without kernels of ours, and
/// what kernels are compared with. Nothing reads a tensor through a pointer. Temporaries of the
/// size of an operation's activations come and go within it; attention holds the scores of a block
/// of queries at a time, never a square of a row.
///
/// Visible outside of its library: libweft_cuda.so inherits from it.
///
/// Numbers are those of the processor's kernels up to the order of sums: roundings to the element
/// type are in the same places.
class [[gnu::visibility("default")]] Aten : public Operations {
 public:
  void products_(std::span<const ProductOf> all) const override;
  [[nodiscard]] at::Tensor gather(const at::Tensor& rows, std::span<const std::int64_t> indices)
      const override;
  [[nodiscard]] at::Tensor scatter(const at::Tensor& rows, std::span<const std::int64_t> indices,
                                   std::int64_t count) const override;
  [[nodiscard]] at::Tensor scaled(const at::Tensor& x, double scale) const override;
  void add_(const at::Tensor& x, const at::Tensor& y, double scale) const override;
  void rotate_(const at::Tensor& qkv, const AttentionShape& shape, const RotaryTable& table)
      const override;
  void rotate_back_(const at::Tensor& gradient, const AttentionShape& shape,
                    const RotaryTable& table) const override;
  [[nodiscard]] at::Tensor dropout(const at::Tensor& x, const Dropout& dropout,
                                   std::uint32_t module) const override;
  void dropout_backward_(const at::Tensor& dx, const at::Tensor& dy, const Dropout& dropout,
                         std::uint32_t module) const override;
  void norm(const NormRows& rows, const at::Tensor& x, const at::Tensor& y,
            Norm::Statistics* statistics) const override;
  void norm_backward(const NormRows& rows, const at::Tensor& dx, const at::Tensor& dy,
                     const at::Tensor& x, const Norm::Statistics& statistics, bool adds)
      const override;
  [[nodiscard]] at::Tensor activate(const at::Tensor& up, const MlpSpec& mlp) const override;
  void activate_backward_(const at::Tensor& up, const at::Tensor& dy, const MlpSpec& mlp)
      const override;
  [[nodiscard]] at::Tensor attend_row(const at::Tensor& qkv, const AttentionShape& shape,
                                      const Visibility& visible, at::Tensor* log_sums)
      const override;
  [[nodiscard]] at::Tensor attend_row_backward(const at::Tensor& gradient, const at::Tensor& output,
                                               const at::Tensor& qkv, const at::Tensor& log_sums,
                                               const AttentionShape& shape,
                                               const Visibility& visible) const override;
  [[nodiscard]] at::Tensor attend_cached(const at::Tensor& qkv, const at::Tensor& keys,
                                         const at::Tensor& values, std::int64_t m,
                                         const AttentionShape& shape) const override;
  void append_keys(const at::Tensor& qkv, std::span<const SequenceKeys> sequences,
                   const AttentionShape& shape) const override;
  [[nodiscard]] at::Tensor attend_step(
      const at::Tensor& qkv, std::span<const SequenceKeys> sequences, const AttentionShape& shape)
      const override;
  void losses_(const at::Tensor& logits, const LossRows& rows, std::span<double> losses)
      const override;
  void cap_(const at::Tensor& logits, double cap) const override;
  [[nodiscard]] Routing route(const at::Tensor& logits, const ExpertsSpec& spec) const override;
  [[nodiscard]] at::Tensor route_backward(const Routing& routing, const at::Tensor& d_weights,
                                          const ExpertsSpec& spec, at::ScalarType type)
      const override;
  void add_rows_(const at::Tensor& sum, const at::Tensor& rows,
                 std::span<const std::int64_t> tokens, const at::Tensor& weights) const override;
  void scale_rows_(const at::Tensor& rows, const at::Tensor& weights) const override;
  [[nodiscard]] at::Tensor row_dots(const at::Tensor& a, const at::Tensor& b) const override;
  [[nodiscard]] at::Tensor gate_values(const at::Tensor& logits) const override;
  [[nodiscard]] at::Tensor gate_backward(const at::Tensor& gradient, const at::Tensor& values,
                                         at::ScalarType type) const override;
  void adamw_(const AdamWState& state, const AdamWStep& step) const override;
  [[nodiscard]] double square_sum(const at::Tensor& x) const override;
  void multiply_(const at::Tensor& x, float factor) const override;
};

}  // namespace weft::model
