#include "model/head.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "model/kernel_math.h"
#include "model/product.h"

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
};

template <typename T>
WEFT_INLINE void loss_rows_of(const LossRows<T>& a, std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    T* z = a.logits + row * a.vocabulary;
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
    const Wide<T> at_target = (kernel::exponential(widen(z[target]) - most) / sum - 1) * scale;
#pragma omp simd
    for (std::int64_t j = 0; j < a.vocabulary; ++j) {
      z[j] = narrow<T>(kernel::exponential(widen(z[j]) - most) * factor);
    }
    z[target] = narrow<T>(at_target);
  }
}

#define WEFT_LOSS_KERNEL(T)                                                                \
  WEFT_CLONES void loss_rows(const LossRows<T>& a, std::int64_t begin, std::int64_t end) { \
    loss_rows_of(a, begin, end);                                                           \
  }
WEFT_LOSS_KERNEL(float)
WEFT_LOSS_KERNEL(double)
WEFT_LOSS_KERNEL(c10::BFloat16)

}  // namespace

Head::Head(at::Tensor weight) : weight_(std::move(weight)) {}

std::int64_t Head::chunk_rows(std::int64_t vocabulary) {
  constexpr std::int64_t kElements = std::int64_t{32} << 20;
  return std::clamp<std::int64_t>(kElements / vocabulary / 64 * 64, 64, 512);
}

void Head::cross_entropy(const at::Tensor& h, std::span<const std::int32_t> targets,
                         std::span<double> losses, double gradient_scale, at::Tensor* gradient) {
  const std::int64_t rows = h.size(0);
  const std::int64_t vocabulary = weight_.size(0);
  const std::int64_t chunk = chunk_rows(vocabulary);
  if (!buffer_.defined() || buffer_.size(0) < std::min(chunk, rows)) {
    buffer_ = at::empty({std::min(chunk, rows), vocabulary}, weight_.options());
  }
  if (gradient != nullptr) *gradient = at::empty_like(h);
  for (std::int64_t first = 0; first < rows; first += chunk) {
    const std::int64_t count = std::min(chunk, rows - first);
    at::Tensor logits = buffer_.narrow(0, 0, count);
    product_(logits, {{h.narrow(0, first, count), weight_.t()}});
    kernel::for_type(logits.scalar_type(), [&]<typename T>(T) {
      const LossRows<T> part{kernel::mutable_data<T>(logits),
                             targets.data() + first,
                             losses.data() + first,
                             vocabulary,
                             gradient != nullptr,
                             gradient_scale};
      at::parallel_for(0, count, 1,
                       [&](std::int64_t begin, std::int64_t end) { loss_rows(part, begin, end); });
    });
    if (gradient == nullptr) continue;
    at::Tensor part = gradient->narrow(0, first, count);
    product_(part, {{logits, weight_}});
  }
}

at::Tensor Head::logits(const at::Tensor& h) const {
  const auto type = h.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  at::Tensor result = at::empty({h.size(0), weight_.size(0)}, h.options().dtype(type));
  product_(result, {{h, weight_.t()}});
  return result;
}

}  // namespace weft::model
