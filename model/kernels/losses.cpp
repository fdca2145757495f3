#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "model/kernels/kernel_math.h"
#include "model/kernels/processor.h"

namespace weft::model {
namespace {

using kernel::narrow;
using kernel::Wide;
using kernel::widen;

template <typename T>
struct Rows {
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

/// Of e^(z - most). A sum in float that has grown swallows what is small beside it, and a
/// vocabulary has tens of thousands of such: 2e-5 of a loss. So parts of it are added up in double.
template <typename T>
WEFT_INLINE double sum_of_exponentials(const T* z, std::int64_t count, Wide<T> most) {
  constexpr std::int64_t kPart = 512;
  double total = 0;
  for (std::int64_t first = 0; first < count; first += kPart) {
    const std::int64_t last = std::min(count, first + kPart);
    Wide<T> part = 0;
#pragma omp simd reduction(+ : part)
    for (std::int64_t j = first; j < last; ++j) part += kernel::exponential(widen(z[j]) - most);
    total += static_cast<double>(part);
  }
  return total;
}

template <typename T>
WEFT_INLINE void loss_rows_of(const Rows<T>& a, std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    T* z = a.logits + row * a.vocabulary;
    if (a.cap != 0) cap_row(z, a.vocabulary, a.cap);
    Wide<T> most = -std::numeric_limits<Wide<T>>::infinity();
#pragma omp simd reduction(max : most)
    for (std::int64_t j = 0; j < a.vocabulary; ++j) most = std::max(most, widen(z[j]));
    const double total = sum_of_exponentials(z, a.vocabulary, most);
    const auto sum = static_cast<Wide<T>>(total);
    const std::int32_t target = a.targets[row];
    const double log_sum = std::log(total);
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

#define WEFT_LOSS_KERNEL(T)                                                            \
  WEFT_CLONES void loss_rows(const Rows<T>& a, std::int64_t begin, std::int64_t end) { \
    loss_rows_of(a, begin, end);                                                       \
  }
WEFT_LOSS_KERNEL(float)
WEFT_LOSS_KERNEL(double)
WEFT_LOSS_KERNEL(c10::BFloat16)

}  // namespace

void Processor::losses_(const at::Tensor& logits, const LossRows& rows,
                        std::span<double> losses) const {
  kernel::for_type(logits.scalar_type(), [&]<typename T>(T) {
    const Rows<T> all{kernel::mutable_data<T>(logits),
                      rows.targets.data(),
                      losses.data(),
                      logits.size(1),
                      rows.want_gradient,
                      rows.gradient_scale,
                      static_cast<Wide<T>>(rows.soft_cap)};
    kernel::parallel_for(logits.size(0), 1,
                         [&](std::int64_t begin, std::int64_t end) { loss_rows(all, begin, end); });
  });
}

void Processor::cap_(const at::Tensor& logits, double cap) const {
  kernel::for_type(logits.scalar_type(), [&]<typename T>(T) {
    if constexpr (!std::is_same_v<T, c10::BFloat16>) {
      T* const z = kernel::mutable_data<T>(logits);
      kernel::parallel_for(logits.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
        cap_rows(z, logits.size(1), static_cast<T>(cap), begin, end);
      });
    }
  });
}

}  // namespace weft::model
