#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>

#include "model/kernel_math.h"
#include "model/ops.h"

namespace weft::model {
namespace {

using kernel::narrow;
using kernel::rounded;
using kernel::Wide;
using kernel::widen;

template <typename T>
struct NormRows {
  const T* x;
  const T* weight;
  T* y;
  Wide<T>* inverse_rms;  // null: not wanted
  std::int64_t width;
  double eps;
};

template <typename T>
WEFT_INLINE void norm_rows_of(const NormRows<T>& a, std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    const T* x = a.x + row * a.width;
    T* y = a.y + row * a.width;
    Wide<T> sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = 0; i < a.width; ++i) sum += widen(x[i]) * widen(x[i]);
    const Wide<T> s =
        1 / std::sqrt(sum / static_cast<Wide<T>>(a.width) + static_cast<Wide<T>>(a.eps));
    for (std::int64_t i = 0; i < a.width; ++i) {
      y[i] = narrow<T>(widen(a.weight[i]) * rounded<T>(widen(x[i]) * s));
    }
    if (a.inverse_rms != nullptr) a.inverse_rms[row] = s;
  }
}

template <typename T>
struct NormBackwardRows {
  T* dx;
  const T* dy;
  const T* x;
  const T* weight;
  const Wide<T>* inverse_rms;
  std::int64_t width;
};

template <typename T>
WEFT_INLINE void norm_backward_rows_of(const NormBackwardRows<T>& a, std::int64_t begin,
                                       std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    const T* x = a.x + row * a.width;
    const T* dy = a.dy + row * a.width;
    T* dx = a.dx + row * a.width;
    const Wide<T> s = a.inverse_rms[row];
    Wide<T> dot = 0;
#pragma omp simd reduction(+ : dot)
    for (std::int64_t i = 0; i < a.width; ++i)
      dot += widen(dy[i]) * widen(a.weight[i]) * widen(x[i]);
    const Wide<T> back = dot * s * s * s / static_cast<Wide<T>>(a.width);
    for (std::int64_t i = 0; i < a.width; ++i) {
      dx[i] = narrow<T>(widen(dx[i]) + s * widen(a.weight[i]) * widen(dy[i]) - back * widen(x[i]));
    }
  }
}

#define WEFT_NORM_KERNELS(T)                                                               \
  WEFT_CLONES void norm_rows(const NormRows<T>& a, std::int64_t begin, std::int64_t end) { \
    norm_rows_of(a, begin, end);                                                           \
  }                                                                                        \
  WEFT_CLONES void norm_backward_rows(const NormBackwardRows<T>& a, std::int64_t begin,    \
                                      std::int64_t end) {                                  \
    norm_backward_rows_of(a, begin, end);                                                  \
  }
WEFT_NORM_KERNELS(float)
WEFT_NORM_KERNELS(double)
WEFT_NORM_KERNELS(c10::BFloat16)

}  // namespace

at::Tensor embed(const at::Tensor& embedding, std::span<const std::int32_t> tokens) {
  return at::index_select(embedding, 0,
                          at::tensor(at::ArrayRef<std::int32_t>(tokens.data(), tokens.size()),
                                     at::TensorOptions().dtype(at::kInt)));
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps,
                    at::Tensor* inverse_rms) {
  at::Tensor y = at::empty_like(x);
  kernel::for_type(x.scalar_type(), [&]<typename T>(T) {
    Wide<T>* statistic = nullptr;
    if (inverse_rms != nullptr) {
      *inverse_rms =
          at::empty({x.size(0)}, x.options().dtype(c10::CppTypeToScalarType<Wide<T>>::value));
      statistic = kernel::mutable_data<Wide<T>>(*inverse_rms);
    }
    const NormRows<T> rows{kernel::data<T>(x),
                           kernel::data<T>(weight),
                           kernel::mutable_data<T>(y),
                           statistic,
                           x.size(1),
                           eps};
    at::parallel_for(0, x.size(0), kernel::grain(x.size(1)),
                     [&](std::int64_t begin, std::int64_t end) { norm_rows(rows, begin, end); });
  });
  return y;
}

void rms_norm_backward_(const at::Tensor& dx, const at::Tensor& dy, const at::Tensor& x,
                        const at::Tensor& weight, const at::Tensor& inverse_rms) {
  kernel::for_type(x.scalar_type(), [&]<typename T>(T) {
    const NormBackwardRows<T> rows{kernel::mutable_data<T>(dx),
                                   kernel::data<T>(dy),
                                   kernel::data<T>(x),
                                   kernel::data<T>(weight),
                                   kernel::data<Wide<T>>(inverse_rms),
                                   x.size(1)};
    at::parallel_for(
        0, x.size(0), kernel::grain(x.size(1)),
        [&](std::int64_t begin, std::int64_t end) { norm_backward_rows(rows, begin, end); });
  });
}

}  // namespace weft::model
