#include "model/operations.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <array>

#include "model/activation.h"
#include "model/aten/aten.h"
#include "model/kernels/processor.h"
#include "model/kernels/sets.h"
#include "model/meter.h"

namespace weft::model {
namespace {

/// Of each type of device; null: the device-generic form.
std::array<const Operations*, at::COMPILE_TIME_MAX_DEVICE_TYPES>& registered() {
  static std::array<const Operations*, at::COMPILE_TIME_MAX_DEVICE_TYPES> table{};
  return table;
}

}  // namespace

const Operations& processor_operations() {
  static const Processor kForm;
  return kForm;
}

const Operations& aten_operations() {
  static const Aten kForm;
  return kForm;
}

const Operations& operations_for(const at::Tensor& tensor) {
  if (Meter::running()) return processor_operations();
  if (tensor.is_cpu()) {
    const bool generic = kernel::chosen_set() == kernel::Set::kAten;
    return generic ? aten_operations() : processor_operations();
  }
  const Operations* const own = registered()[static_cast<std::size_t>(tensor.device().type())];
  return own != nullptr ? *own : aten_operations();
}

void register_operations(at::DeviceType type, const Operations& operations) {
  registered()[static_cast<std::size_t>(type)] = &operations;
}

void Operations::norm_add(const NormRows& rows, const at::Tensor& x, const at::Tensor& residual,
                          const at::Tensor& sum, Norm::Statistics* statistics) const {
  const at::Tensor y = at::empty_like(x);
  norm(rows, x, y, statistics);
  if (!Meter::running()) sum.copy_(residual);
  add_(sum, y, 1);
}

// ---- The faces
// -----------------------------------------------------------------------------------

void products_(std::span<const ProductOf> all) {
  if (all.empty() || Meter::running()) return;
  operations_for(all.front().c).products_(all);
}

void product_(const at::Tensor& c, std::span<const Factors> terms, const Epilogue& finish) {
  if (c.numel() == 0 || Meter::running()) return;
  const ProductOf one{c, {terms.begin(), terms.end()}, finish};
  operations_for(c).products_({&one, 1});
}

at::Tensor product(const at::Tensor& a, const at::Tensor& b) {
  at::Tensor c = at::empty({a.size(0), b.size(1)}, a.options());
  product_(c, {{a, b}});
  return c;
}

at::Tensor gather(const at::Tensor& rows, std::span<const std::int64_t> indices) {
  return operations_for(rows).gather(rows, indices);
}

at::Tensor scatter(const at::Tensor& rows, std::span<const std::int64_t> indices,
                   std::int64_t count) {
  return operations_for(rows).scatter(rows, indices, count);
}

at::Tensor scaled(const at::Tensor& x, double scale) { return operations_for(x).scaled(x, scale); }

void add_(const at::Tensor& x, const at::Tensor& y, double scale) {
  operations_for(x).add_(x, y, scale);
}

at::Tensor copied(const at::Tensor& x) {
  at::Tensor y = at::empty_like(x);
  if (!Meter::running()) y.copy_(x);
  return y;
}

at::Tensor zeros(at::IntArrayRef shape, const at::TensorOptions& options) {
  at::Tensor result = at::empty(shape, options);
  if (!Meter::running()) result.zero_();
  return result;
}

void rotate_(const at::Tensor& qkv, const AttentionShape& shape, const RotaryTable& table) {
  operations_for(qkv).rotate_(qkv, shape, table);
}

void rotate_back_(const at::Tensor& gradient, const AttentionShape& shape,
                  const RotaryTable& table) {
  operations_for(gradient).rotate_back_(gradient, shape, table);
}

at::Tensor dropout(const at::Tensor& x, const Dropout& dropout, std::uint32_t module) {
  return operations_for(x).dropout(x, dropout, module);
}

void dropout_backward_(const at::Tensor& dx, const at::Tensor& dy, const Dropout& dropout,
                       std::uint32_t module) {
  operations_for(dx).dropout_backward_(dx, dy, dropout, module);
}

at::Tensor activate(const at::Tensor& up, const MlpSpec& mlp) {
  return operations_for(up).activate(up, mlp);
}

void activate_backward_(const at::Tensor& up, const at::Tensor& dy, const MlpSpec& mlp) {
  operations_for(up).activate_backward_(up, dy, mlp);
}

at::Tensor attend_row(const at::Tensor& qkv, const AttentionShape& shape, const Visibility& visible,
                      at::Tensor* log_sums) {
  return operations_for(qkv).attend_row(qkv, shape, visible, log_sums);
}

at::Tensor attend_row_backward(const at::Tensor& gradient, const at::Tensor& output,
                               const at::Tensor& qkv, const at::Tensor& log_sums,
                               const AttentionShape& shape, const Visibility& visible) {
  return operations_for(qkv).attend_row_backward(gradient, output, qkv, log_sums, shape, visible);
}

at::Tensor attend_cached(const at::Tensor& qkv, const at::Tensor& keys, const at::Tensor& values,
                         std::int64_t m, const AttentionShape& shape) {
  return operations_for(qkv).attend_cached(qkv, keys, values, m, shape);
}

void append_keys(const at::Tensor& qkv, std::span<const SequenceKeys> sequences,
                 const AttentionShape& shape) {
  operations_for(qkv).append_keys(qkv, sequences, shape);
}

at::Tensor attend_step(const at::Tensor& qkv, std::span<const SequenceKeys> sequences,
                       const AttentionShape& shape) {
  return operations_for(qkv).attend_step(qkv, sequences, shape);
}

}  // namespace weft::model
