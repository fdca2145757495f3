#include "model/head.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "model/kernels/kernel_math.h"
#include "model/kernels/product.h"

namespace weft::model {
namespace {

using kernel::narrow;
using kernel::Wide;
using kernel::widen;

template <typename T>
struct LossRows {
  T* logits;  // [rows, V]; overwritten by the gradient where that is wanted
  const std::int32_t* targets;
  double* losses;
  std::int64_t vocabulary;
  bool want_gradient;
  double gradient_scale;
  Wide<T> cap;  // 0: none
};

template <typename T>
WEFT_INLINE void cap_row(T* z, std::int64_t count, Wide<T> cap) {
#pragma omp simd
  for (std::int64_t j = 0; j < count; ++j)
    z[j] = narrow<T>(cap * kernel::hyperbolic_tangent(widen(z[j]) / cap));
}

template <typename T>
WEFT_INLINE void loss_rows_of(const LossRows<T>& a, std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    T* z = a.logits + row * a.vocabulary;
    if (a.cap != 0) cap_row(z, a.vocabulary, a.cap);
    Wide<T> most = -std::numeric_limits<Wide<T>>::infinity();
#pragma omp simd reduction(max : most)
    for (std::int64_t j = 0; j < a.vocabulary; ++j) most = std::max(most, widen(z[j]));
    Wide<T> sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t j = 0; j < a.vocabulary; ++j) sum += kernel::exponential(widen(z[j]) - most);
    const std::int32_t target = a.targets[row];
    const double log_sum = std::log(static_cast<double>(sum));
    a.losses[row] = log_sum - (static_cast<double>(widen(z[target])) - static_cast<double>(most));
    if (!a.want_gradient) continue;
    const auto scale = static_cast<Wide<T>>(a.gradient_scale);
    const Wide<T> factor = scale / sum;
    Wide<T> at_target = (kernel::exponential(widen(z[target]) - most) / sum - 1) * scale;
    if (a.cap != 0) {  // d capped / d z = 1 - (capped / cap)^2
      const auto slope = [&](Wide<T> capped)
                             WEFT_INLINED { return 1 - (capped / a.cap) * (capped / a.cap); };
      at_target *= slope(widen(z[target]));
#pragma omp simd
      for (std::int64_t j = 0; j < a.vocabulary; ++j) {
        z[j] = narrow<T>(kernel::exponential(widen(z[j]) - most) * factor * slope(widen(z[j])));
      }
      z[target] = narrow<T>(at_target);
      continue;
    }
#pragma omp simd
    for (std::int64_t j = 0; j < a.vocabulary; ++j) {
      z[j] = narrow<T>(kernel::exponential(widen(z[j]) - most) * factor);
    }
    z[target] = narrow<T>(at_target);
  }
}

#define WEFT_CAP_KERNEL(T)                                                                 \
  WEFT_CLONES void cap_rows(T* z, std::int64_t width, Wide<T> cap, std::int64_t begin,     \
                            std::int64_t end) {                                            \
    for (std::int64_t row = begin; row < end; ++row) cap_row(z + row * width, width, cap); \
  }
WEFT_CAP_KERNEL(float)
WEFT_CAP_KERNEL(double)

#define WEFT_LOSS_KERNEL(T)                                                                \
  WEFT_CLONES void loss_rows(const LossRows<T>& a, std::int64_t begin, std::int64_t end) { \
    loss_rows_of(a, begin, end);                                                           \
  }
WEFT_LOSS_KERNEL(float)
WEFT_LOSS_KERNEL(double)
WEFT_LOSS_KERNEL(c10::BFloat16)

}  // namespace

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
    kernel::for_type(logits.scalar_type(), [&]<typename T>(T) {
      const LossRows<T> part{kernel::mutable_data<T>(logits),
                             targets.data() + first,
                             losses.data() + first,
                             vocabulary,
                             gradient != nullptr,
                             gradient_scale,
                             static_cast<Wide<T>>(soft_cap_)};
      kernel::parallel_for(
          count, 1, [&](std::int64_t begin, std::int64_t end) { loss_rows(part, begin, end); });
    });
    if (gradient == nullptr) continue;
    at::Tensor part = gradient->narrow(0, first, count);
    product_(part, {times_weight(logits, false)}, {.scale = scale_});
  }
}

at::Tensor Head::logits(const at::Tensor& h) const {
  const auto type = h.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  at::Tensor result = at::empty({h.size(0), vocabulary_}, h.options().dtype(type));
  product(h, result);
  if (soft_cap_ == 0) return result;
  kernel::for_type(type, [&]<typename T>(T) {
    if constexpr (!std::is_same_v<T, c10::BFloat16>) {
      T* const z = kernel::mutable_data<T>(result);
      kernel::parallel_for(result.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
        cap_rows(z, result.size(1), static_cast<T>(soft_cap_), begin, end);
      });
    }
  });
  return result;
}

}  // namespace weft::model
