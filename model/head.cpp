#include "model/head.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <utility>

#include "model/operations.h"

namespace weft::model {

Head::Head(at::Tensor weight, at::Tensor bias, double scale, double soft_cap)
    : weight_(std::move(weight)),
      bias_(std::move(bias)),
      vocabulary_(weight_.size(0)),
      options_(weight_.options()),
      scale_(scale),
      soft_cap_(soft_cap) {}

Head::Head(std::shared_ptr<const QuantisedMatrix> weight, at::ScalarType type, at::Tensor bias,
           double scale, double soft_cap)
    : bias_(std::move(bias)),
      stored_(std::move(weight)),
      vocabulary_(stored_->rows()),
      options_(at::TensorOptions().dtype(type)),
      scale_(scale),
      soft_cap_(soft_cap) {}

Factors Head::times_weight(const at::Tensor& x, bool turned) const {
  if (stored_ != nullptr) return {x, *stored_, turned};
  return {x, turned ? weight_.t() : weight_};
}

void Head::product(const at::Tensor& h, const at::Tensor& logits) const {
  product_(logits, {times_weight(h, true)}, {.bias = bias_, .scale = scale_});
}

std::int64_t Head::chunk_rows(std::int64_t vocabulary) {
  constexpr std::int64_t kElements = std::int64_t{32} << 20;
  return std::clamp<std::int64_t>(kElements / vocabulary / 64 * 64, 64, 512);
}

void Head::cross_entropy(const at::Tensor& h, std::span<const std::int32_t> targets,
                         std::span<double> losses, double gradient_scale, at::Tensor* gradient) {
  const std::int64_t rows = h.size(0);
  const std::int64_t vocabulary = vocabulary_;
  const std::int64_t chunk = chunk_rows(vocabulary);
  if (!buffer_.defined() || buffer_.size(0) < std::min(chunk, rows)) {
    buffer_ = at::empty({std::min(chunk, rows), vocabulary}, options_);
  }
  if (gradient != nullptr) *gradient = at::empty_like(h);
  for (std::int64_t first = 0; first < rows; first += chunk) {
    const std::int64_t count = std::min(chunk, rows - first);
    at::Tensor logits = buffer_.narrow(0, 0, count);
    product(h.narrow(0, first, count), logits);
    operations_for(logits).losses_(
        logits,
        {.targets =
             targets.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
         .soft_cap = soft_cap_,
         .want_gradient = gradient != nullptr,
         .gradient_scale = gradient_scale},
        losses.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)));
    if (gradient == nullptr) continue;
    at::Tensor part = gradient->narrow(0, first, count);
    product_(part, {times_weight(logits, false)}, {.scale = scale_});
  }
}

at::Tensor Head::logits(const at::Tensor& h) const {
  const auto type = h.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  at::Tensor result = at::empty({h.size(0), vocabulary_}, h.options().dtype(type));
  product(h, result);
  if (soft_cap_ != 0) operations_for(result).cap_(result, soft_cap_);
  return result;
}

}  // namespace weft::model
