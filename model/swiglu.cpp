#include <ATen/ops/empty.h>

#include "model/kernel_math.h"
#include "model/ops.h"

namespace weft::model {
namespace {

using kernel::narrow;
using kernel::rounded;
using kernel::Wide;
using kernel::widen;

template <typename T>
WEFT_INLINE void forward_rows_of(const T* gate_up, T* y, std::int64_t width, std::int64_t begin,
                                 std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    const T* gate = gate_up + row * 2 * width;
    const T* up = gate + width;
    T* out = y + row * width;
    for (std::int64_t i = 0; i < width; ++i) {
      const Wide<T> g = widen(gate[i]);
      out[i] = narrow<T>(rounded<T>(g * kernel::sigmoid(g)) * widen(up[i]));
    }
  }
}

template <typename T>
WEFT_INLINE void backward_rows_of(T* gate_up, const T* dy, std::int64_t width, std::int64_t begin,
                                  std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    T* gate = gate_up + row * 2 * width;
    T* up = gate + width;
    const T* gradient = dy + row * width;
#pragma omp simd
    for (std::int64_t i = 0; i < width; ++i) {
      const Wide<T> g = widen(gate[i]);
      const Wide<T> u = widen(up[i]);
      const Wide<T> d = widen(gradient[i]);
      const Wide<T> s = kernel::sigmoid(g);
      gate[i] = narrow<T>(d * u * s * (1 + g * (1 - s)));
      up[i] = narrow<T>(d * g * s);
    }
  }
}

#define WEFT_SWIGLU_KERNELS(T)                                                                    \
  WEFT_CLONES void forward_rows(const T* gate_up, T* y, std::int64_t width, std::int64_t begin,   \
                                std::int64_t end) {                                               \
    forward_rows_of(gate_up, y, width, begin, end);                                               \
  }                                                                                               \
  WEFT_CLONES void backward_rows(T* gate_up, const T* dy, std::int64_t width, std::int64_t begin, \
                                 std::int64_t end) {                                              \
    backward_rows_of(gate_up, dy, width, begin, end);                                             \
  }
WEFT_SWIGLU_KERNELS(float)
WEFT_SWIGLU_KERNELS(double)
WEFT_SWIGLU_KERNELS(c10::BFloat16)

}  // namespace

at::Tensor swiglu(const at::Tensor& gate_up) {
  const std::int64_t width = gate_up.size(1) / 2;
  at::Tensor y = at::empty({gate_up.size(0), width}, gate_up.options());
  kernel::for_type(gate_up.scalar_type(), [&]<typename T>(T) {
    const T* in = kernel::data<T>(gate_up);
    T* out = kernel::mutable_data<T>(y);
    at::parallel_for(
        0, gate_up.size(0), kernel::grain(width),
        [&](std::int64_t begin, std::int64_t end) { forward_rows(in, out, width, begin, end); });
  });
  return y;
}

void swiglu_backward_(const at::Tensor& gate_up, const at::Tensor& dy) {
  const std::int64_t width = gate_up.size(1) / 2;
  kernel::for_type(gate_up.scalar_type(), [&]<typename T>(T) {
    T* in_out = kernel::mutable_data<T>(gate_up);
    const T* gradient = kernel::data<T>(dy);
    at::parallel_for(0, gate_up.size(0), kernel::grain(width),
                     [&](std::int64_t begin, std::int64_t end) {
                       backward_rows(in_out, gradient, width, begin, end);
                     });
  });
}

}  // namespace weft::model
