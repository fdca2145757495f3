#include <ATen/ops/empty.h>

#include <type_traits>

#include "model/kernels/bf16_rows.h"
#include "model/kernels/kernel_math.h"
#include "model/kernels/processor.h"

namespace weft::model {
namespace {

using kernel::narrow;
using kernel::rounded;
using kernel::Wide;
using kernel::widen;

/// Rows of groups. A group of row t is the `width` elements from x + t * stride + group * width on.
template <typename T>
struct Groups {
  const T* x;
  const T* weight;
  const T* bias;     // null: none
  T* y;              // forward: may be x
  T* dx;             // backward
  const T* dy;       // backward: may be dx
  Wide<T>* inverse;  // null: not wanted
  Wide<T>* mean;     // null: RMS, or not wanted
  std::int64_t x_stride, y_stride, dx_stride, dy_stride;
  std::int64_t groups, width;
  std::int64_t weight_stride;  // between the weights of two groups; 0: they share one
  double eps;
  Wide<T> plus;  // added to the weight
  bool rounds_before_weight;
  bool adds;  // to dx, instead of replacing it
};

template <typename T>
WEFT_INLINE void rms_rows_of(const Groups<T>& a, std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    for (std::int64_t g = 0; g < a.groups; ++g) {
      const T* x = a.x + row * a.x_stride + g * a.width;
      const T* weight = a.weight + g * a.weight_stride;
      T* y = a.y + row * a.y_stride + g * a.width;
      Wide<T> sum = 0;
#pragma omp simd reduction(+ : sum)
      for (std::int64_t i = 0; i < a.width; ++i) sum += widen(x[i]) * widen(x[i]);
      const Wide<T> s =
          1 / std::sqrt(sum / static_cast<Wide<T>>(a.width) + static_cast<Wide<T>>(a.eps));
      if (a.rounds_before_weight) {
        for (std::int64_t i = 0; i < a.width; ++i)
          y[i] = narrow<T>((widen(weight[i]) + a.plus) * rounded<T>(widen(x[i]) * s));
      } else {
        for (std::int64_t i = 0; i < a.width; ++i)
          y[i] = narrow<T>((widen(weight[i]) + a.plus) * (widen(x[i]) * s));
      }
      if (a.inverse != nullptr) a.inverse[row * a.groups + g] = s;
    }
  }
}

template <typename T>
WEFT_INLINE void rms_backward_rows_of(const Groups<T>& a, std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    for (std::int64_t g = 0; g < a.groups; ++g) {
      const T* x = a.x + row * a.x_stride + g * a.width;
      const T* weight = a.weight + g * a.weight_stride;
      const T* dy = a.dy + row * a.dy_stride + g * a.width;
      T* dx = a.dx + row * a.dx_stride + g * a.width;
      const Wide<T> s = a.inverse[row * a.groups + g];
      Wide<T> dot = 0;
#pragma omp simd reduction(+ : dot)
      for (std::int64_t i = 0; i < a.width; ++i)
        dot += widen(dy[i]) * (widen(weight[i]) + a.plus) * widen(x[i]);
      const Wide<T> back = dot * s * s * s / static_cast<Wide<T>>(a.width);
      for (std::int64_t i = 0; i < a.width; ++i) {
        const Wide<T> around = a.adds ? widen(dx[i]) : Wide<T>(0);
        dx[i] =
            narrow<T>(around + s * (widen(weight[i]) + a.plus) * widen(dy[i]) - back * widen(x[i]));
      }
    }
  }
}

void rms_rows(const kernel::RowKernels& fast, const Groups<c10::BFloat16>& a, std::int64_t begin,
              std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    for (std::int64_t g = 0; g < a.groups; ++g) {
      const float s =
          fast.rms_row(a.x + row * a.x_stride + g * a.width, a.weight + g * a.weight_stride, a.plus,
                       static_cast<float>(a.eps), a.y + row * a.y_stride + g * a.width, a.width);
      if (a.inverse != nullptr) a.inverse[row * a.groups + g] = s;
    }
  }
}

void rms_backward_rows(const kernel::RowKernels& fast, const Groups<c10::BFloat16>& a,
                       std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    for (std::int64_t g = 0; g < a.groups; ++g) {
      fast.rms_backward_row(a.x + row * a.x_stride + g * a.width, a.weight + g * a.weight_stride,
                            a.plus, a.inverse[row * a.groups + g],
                            a.dy + row * a.dy_stride + g * a.width,
                            a.dx + row * a.dx_stride + g * a.width, a.adds, a.width);
    }
  }
}

template <typename T>
WEFT_INLINE void layer_rows_of(const Groups<T>& a, std::int64_t begin, std::int64_t end) {
  using W = Wide<T>;
  for (std::int64_t row = begin; row < end; ++row) {
    for (std::int64_t g = 0; g < a.groups; ++g) {
      const T* x = a.x + row * a.x_stride + g * a.width;
      const T* weight = a.weight + g * a.weight_stride;
      const T* bias = a.bias == nullptr ? nullptr : a.bias + g * a.weight_stride;
      T* y = a.y + row * a.y_stride + g * a.width;
      W sum = 0;
#pragma omp simd reduction(+ : sum)
      for (std::int64_t i = 0; i < a.width; ++i) sum += widen(x[i]);
      const W mean = sum / static_cast<W>(a.width);
      W squares = 0;
#pragma omp simd reduction(+ : squares)
      for (std::int64_t i = 0; i < a.width; ++i)
        squares += (widen(x[i]) - mean) * (widen(x[i]) - mean);
      const W s = 1 / std::sqrt(squares / static_cast<W>(a.width) + static_cast<W>(a.eps));
      if (bias != nullptr) {
        for (std::int64_t i = 0; i < a.width; ++i)
          y[i] = narrow<T>((widen(x[i]) - mean) * s * widen(weight[i]) + widen(bias[i]));
      } else {
        for (std::int64_t i = 0; i < a.width; ++i)
          y[i] = narrow<T>((widen(x[i]) - mean) * s * widen(weight[i]));
      }
      if (a.inverse != nullptr) {
        a.inverse[row * a.groups + g] = s;
        a.mean[row * a.groups + g] = mean;
      }
    }
  }
}

template <typename T>
WEFT_INLINE void layer_backward_rows_of(const Groups<T>& a, std::int64_t begin, std::int64_t end) {
  using W = Wide<T>;
  for (std::int64_t row = begin; row < end; ++row) {
    for (std::int64_t g = 0; g < a.groups; ++g) {
      const T* x = a.x + row * a.x_stride + g * a.width;
      const T* weight = a.weight + g * a.weight_stride;
      const T* dy = a.dy + row * a.dy_stride + g * a.width;
      T* dx = a.dx + row * a.dx_stride + g * a.width;
      const W s = a.inverse[row * a.groups + g];
      const W mean = a.mean[row * a.groups + g];
      W sum = 0;
      W dot = 0;
#pragma omp simd reduction(+ : sum, dot)
      for (std::int64_t i = 0; i < a.width; ++i) {
        const W d = widen(dy[i]) * widen(weight[i]);
        sum += d;
        dot += d * (widen(x[i]) - mean);
      }
      const W average = sum / static_cast<W>(a.width);
      const W back = dot * s * s / static_cast<W>(a.width);
      for (std::int64_t i = 0; i < a.width; ++i) {
        const W around = a.adds ? widen(dx[i]) : W(0);
        dx[i] = narrow<T>(
            around + s * (widen(dy[i]) * widen(weight[i]) - average - back * (widen(x[i]) - mean)));
      }
    }
  }
}

#define WEFT_NORM_KERNELS(T)                                                                       \
  WEFT_CLONES void rms_rows(const Groups<T>& a, std::int64_t begin, std::int64_t end) {            \
    rms_rows_of(a, begin, end);                                                                    \
  }                                                                                                \
  WEFT_CLONES void rms_backward_rows(const Groups<T>& a, std::int64_t begin, std::int64_t end) {   \
    rms_backward_rows_of(a, begin, end);                                                           \
  }                                                                                                \
  WEFT_CLONES void layer_rows(const Groups<T>& a, std::int64_t begin, std::int64_t end) {          \
    layer_rows_of(a, begin, end);                                                                  \
  }                                                                                                \
  WEFT_CLONES void layer_backward_rows(const Groups<T>& a, std::int64_t begin, std::int64_t end) { \
    layer_backward_rows_of(a, begin, end);                                                         \
  }
WEFT_NORM_KERNELS(float)
WEFT_NORM_KERNELS(double)
WEFT_NORM_KERNELS(c10::BFloat16)

/// What both calls have in common.
template <typename T>
Groups<T> groups_of(const NormRows& rows, const at::Tensor& x) {
  Groups<T> a{};
  a.x = kernel::data<T>(x) + rows.first;
  a.x_stride = x.size(1);
  a.weight = kernel::data<T>(rows.weight);
  a.bias = rows.bias.defined() ? kernel::data<T>(rows.bias) : nullptr;
  a.groups = rows.groups;
  a.width = rows.spec.width;
  a.weight_stride = rows.has_own_weights() ? rows.spec.width : 0;
  a.eps = rows.spec.eps;
  a.plus = rows.spec.plus_one ? 1 : 0;
  a.rounds_before_weight = rows.spec.rounds_before_weight;
  return a;
}

template <typename T>
void take(const Norm::Statistics& statistics, Groups<T>& a) {
  a.inverse = kernel::mutable_data<Wide<T>>(statistics.inverse);
  if (statistics.mean.defined()) a.mean = kernel::mutable_data<Wide<T>>(statistics.mean);
}

template <typename T>
void make(const NormSpec& spec, const at::Tensor& x, std::int64_t groups,
          Norm::Statistics& statistics) {
  const auto options = x.options().dtype(c10::CppTypeToScalarType<Wide<T>>::value);
  statistics.inverse = at::empty({x.size(0), groups}, options);
  if (spec.kind == NormSpec::Kind::kLayer)
    statistics.mean = at::empty({x.size(0), groups}, options);
}

template <typename T>
void forward_rows(const NormSpec& spec, const Groups<T>& a, std::int64_t begin, std::int64_t end) {
  if (spec.kind != NormSpec::Kind::kRms) return layer_rows(a, begin, end);
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    const kernel::RowKernels* const fast = kernel::bf16_rows();
    if (a.rounds_before_weight && fast != nullptr) return rms_rows(*fast, a, begin, end);
  }
  rms_rows(a, begin, end);
}

template <typename T>
void backward_rows(const NormSpec& spec, const Groups<T>& a, std::int64_t begin, std::int64_t end) {
  if (spec.kind != NormSpec::Kind::kRms) return layer_backward_rows(a, begin, end);
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    if (const kernel::RowKernels* const fast = kernel::bf16_rows())
      return rms_backward_rows(*fast, a, begin, end);
  }
  rms_backward_rows(a, begin, end);
}

}  // namespace

void Processor::norm(const NormRows& rows, const at::Tensor& x, const at::Tensor& y,
                     Norm::Statistics* statistics) const {
  kernel::for_type(x.scalar_type(), [&]<typename T>(T) {
    Groups<T> a = groups_of<T>(rows, x);
    a.y = kernel::mutable_data<T>(y) + rows.first;
    a.y_stride = y.size(1);
    if (statistics != nullptr) {
      make<T>(rows.spec, x, rows.groups, *statistics);
      take(*statistics, a);
    }
    kernel::parallel_for(
        x.size(0), kernel::grain(a.groups * a.width),
        [&](std::int64_t begin, std::int64_t end) { forward_rows(rows.spec, a, begin, end); });
  });
}

void Processor::norm_backward(const NormRows& rows, const at::Tensor& dx, const at::Tensor& dy,
                              const at::Tensor& x, const Norm::Statistics& statistics,
                              bool adds) const {
  kernel::for_type(x.scalar_type(), [&]<typename T>(T) {
    Groups<T> a = groups_of<T>(rows, x);
    a.dx = kernel::mutable_data<T>(dx) + rows.first;
    a.dy = kernel::data<T>(dy) + rows.first;
    a.dx_stride = a.dy_stride = x.size(1);
    a.adds = adds;
    take(statistics, a);
    kernel::parallel_for(
        x.size(0), kernel::grain(a.groups * a.width),
        [&](std::int64_t begin, std::int64_t end) { backward_rows(rows.spec, a, begin, end); });
  });
}

}  // namespace weft::model
