#include <ATen/ops/empty.h>

#include <algorithm>

#include "model/kernels/bf16_rows.h"
#include "model/kernels/kernel_math.h"
#include "model/kernels/processor.h"

namespace weft::model {
namespace {

using kernel::narrow;
using kernel::rounded;
using kernel::Wide;
using kernel::widen;

// Each activation f gives f(x), and d f(x), d f'(x) with the factors in a fixed order.

struct Silu {
  template <typename W>
  WEFT_INLINE static W value(W x) {
    return x * kernel::sigmoid(x);
  }
  template <typename W>
  WEFT_INLINE static W times_value(W d, W x) {
    return d * x * kernel::sigmoid(x);
  }
  template <typename W>
  WEFT_INLINE static W times_slope(W d, W x) {
    const W s = kernel::sigmoid(x);
    return d * s * (1 + x * (1 - s));
  }
};

/// x Phi(x) with Phi the standard normal distribution.
struct Gelu {
  template <typename W>
  WEFT_INLINE static W distribution(W x) {
    return W(0.5) * (1 + kernel::error_function(x * W(0.70710678118654752)));
  }
  template <typename W>
  WEFT_INLINE static W value(W x) {
    return x * distribution(x);
  }
  template <typename W>
  WEFT_INLINE static W times_value(W d, W x) {
    return d * value(x);
  }
  template <typename W>
  WEFT_INLINE static W times_slope(W d, W x) {
    const W density = W(0.39894228040143268) * kernel::exponential(W(-0.5) * x * x);
    return d * (distribution(x) + x * density);
  }
};

/// 0.5 x (1 + tanh(u)) = x sigmoid(2u) with u = sqrt(2/pi) (x + 0.044715 x^3).
struct GeluTanh {
  template <typename W>
  WEFT_INLINE static W twice_u(W x) {
    return W(1.5957691216057308) * (x + W(0.044715) * x * x * x);
  }
  template <typename W>
  WEFT_INLINE static W value(W x) {
    return x * kernel::sigmoid(twice_u(x));
  }
  template <typename W>
  WEFT_INLINE static W times_value(W d, W x) {
    return d * value(x);
  }
  template <typename W>
  WEFT_INLINE static W times_slope(W d, W x) {
    const W s = kernel::sigmoid(twice_u(x));
    const W inner = W(1.5957691216057308) * (1 + W(3 * 0.044715) * x * x);
    return d * (s + x * s * (1 - s) * inner);
  }
};

struct Relu {
  template <typename W>
  WEFT_INLINE static W value(W x) {
    return x > 0 ? x : W(0);
  }
  template <typename W>
  WEFT_INLINE static W times_value(W d, W x) {
    return d * value(x);
  }
  template <typename W>
  WEFT_INLINE static W times_slope(W d, W x) {
    return x > 0 ? d : W(0);
  }
};

template <typename F, typename T>
WEFT_INLINE void forward_rows_of(const T* in, T* y, std::int64_t width, bool gated,
                                 std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    T* const out = y + row * width;
    if (!gated) {
      const T* const x = in + row * width;
      for (std::int64_t i = 0; i < width; ++i) out[i] = narrow<T>(F::value(widen(x[i])));
      continue;
    }
    const T* const gate = in + row * 2 * width;
    const T* const up = gate + width;
    for (std::int64_t i = 0; i < width; ++i)
      out[i] = narrow<T>(rounded<T>(F::value(widen(gate[i]))) * widen(up[i]));
  }
}

template <typename F, typename T>
WEFT_INLINE void backward_rows_of(T* in_out, const T* dy, std::int64_t width, bool gated,
                                  std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    const T* const gradient = dy + row * width;
    if (!gated) {
      T* const x = in_out + row * width;
#pragma omp simd
      for (std::int64_t i = 0; i < width; ++i)
        x[i] = narrow<T>(F::times_slope(widen(gradient[i]), widen(x[i])));
      continue;
    }
    T* const gate = in_out + row * 2 * width;
    T* const up = gate + width;
#pragma omp simd
    for (std::int64_t i = 0; i < width; ++i) {
      const Wide<T> g = widen(gate[i]);
      const Wide<T> d = widen(gradient[i]);
      gate[i] = narrow<T>(F::times_slope(d * widen(up[i]), g));
      up[i] = narrow<T>(F::times_value(d, g));
    }
  }
}

/// GPT-OSS's gate (modeling_gpt_oss.py, GptOssExperts).
constexpr double kAlpha = 1.702;

template <typename T>
WEFT_INLINE void clamped_rows_of(const T* in, T* y, std::int64_t width, Wide<T> limit,
                                 std::int64_t begin, std::int64_t end) {
  using W = Wide<T>;
  for (std::int64_t row = begin; row < end; ++row) {
    const T* const gate = in + row * 2 * width;
    const T* const up = gate + width;
    T* const out = y + row * width;
    for (std::int64_t i = 0; i < width; ++i) {
      const W g = std::min(widen(gate[i]), limit);
      const W u = std::clamp(widen(up[i]), -limit, limit);
      const W glu = rounded<T>(g * rounded<T>(kernel::sigmoid(rounded<T>(g * W(kAlpha)))));
      out[i] = narrow<T>(rounded<T>(u + 1) * glu);
    }
  }
}

template <typename T>
WEFT_INLINE void clamped_backward_rows_of(T* in_out, const T* dy, std::int64_t width, Wide<T> limit,
                                          std::int64_t begin, std::int64_t end) {
  using W = Wide<T>;
  for (std::int64_t row = begin; row < end; ++row) {
    T* const gate = in_out + row * 2 * width;
    T* const up = gate + width;
    const T* const gradient = dy + row * width;
    for (std::int64_t i = 0; i < width; ++i) {
      const W d = widen(gradient[i]);
      const W raw_gate = widen(gate[i]);
      const W raw_up = widen(up[i]);
      const W g = std::min(raw_gate, limit);
      const W u = std::clamp(raw_up, -limit, limit);
      const W s = kernel::sigmoid(W(kAlpha) * g);
      // Beyond the limits nothing moves; at them torch.clamp lets the gradient pass.
      const W d_gate = d * (u + 1) * s * (1 + W(kAlpha) * g * (1 - s));
      gate[i] = narrow<T>(raw_gate <= limit ? d_gate : W(0));
      up[i] = narrow<T>(raw_up >= -limit && raw_up <= limit ? d * g * s : W(0));
    }
  }
}

#define WEFT_CLAMPED_KERNELS(T)                                                                 \
  WEFT_CLONES void clamped_rows(const T* in, T* y, std::int64_t width, Wide<T> limit,           \
                                std::int64_t begin, std::int64_t end) {                         \
    clamped_rows_of(in, y, width, limit, begin, end);                                           \
  }                                                                                             \
  WEFT_CLONES void clamped_backward_rows(T* in_out, const T* dy, std::int64_t width,            \
                                         Wide<T> limit, std::int64_t begin, std::int64_t end) { \
    clamped_backward_rows_of(in_out, dy, width, limit, begin, end);                             \
  }
WEFT_CLAMPED_KERNELS(float)
WEFT_CLAMPED_KERNELS(double)
WEFT_CLAMPED_KERNELS(c10::BFloat16)

#define WEFT_ACTIVATION_KERNELS(F, T)                                                       \
  WEFT_CLONES void forward_rows(F, const T* in, T* y, std::int64_t width, bool gated,       \
                                std::int64_t begin, std::int64_t end) {                     \
    forward_rows_of<F>(in, y, width, gated, begin, end);                                    \
  }                                                                                         \
  WEFT_CLONES void backward_rows(F, T* in_out, const T* dy, std::int64_t width, bool gated, \
                                 std::int64_t begin, std::int64_t end) {                    \
    backward_rows_of<F>(in_out, dy, width, gated, begin, end);                              \
  }
#define WEFT_ACTIVATION(F)           \
  WEFT_ACTIVATION_KERNELS(F, float)  \
  WEFT_ACTIVATION_KERNELS(F, double) \
  WEFT_ACTIVATION_KERNELS(F, c10::BFloat16)
WEFT_ACTIVATION(Silu)
WEFT_ACTIVATION(Gelu)
WEFT_ACTIVATION(GeluTanh)
WEFT_ACTIVATION(Relu)

template <typename Body>
void for_activation(Activation activation, const Body& body) {
  switch (activation) {
    case Activation::kSilu: return body(Silu{});
    case Activation::kGelu: return body(Gelu{});
    case Activation::kGeluTanh: return body(GeluTanh{});
    case Activation::kRelu: return body(Relu{});
    case Activation::kClampedSwish: break;  // has kernels of its own
  }
}

/// The row kernels of BFloat16 where they have this activation.
const kernel::RowKernels* fast_rows(const MlpSpec& mlp) {
  return mlp.gated && mlp.activation == Activation::kSilu ? kernel::bf16_rows() : nullptr;
}

}  // namespace

at::Tensor Processor::activate(const at::Tensor& up, const MlpSpec& mlp) const {
  const std::int64_t width = up.size(1) / (mlp.gated ? 2 : 1);
  at::Tensor y = at::empty({up.size(0), width}, up.options());
  kernel::for_type(up.scalar_type(), [&]<typename T>(T) {
    const T* const in = kernel::data<T>(up);
    T* const out = kernel::mutable_data<T>(y);
    if (mlp.activation == Activation::kClampedSwish) {
      return kernel::parallel_for(
          up.size(0), kernel::grain(width), [&](std::int64_t begin, std::int64_t end) {
            clamped_rows(in, out, width, static_cast<Wide<T>>(mlp.limit), begin, end);
          });
    }
    if constexpr (std::is_same_v<T, c10::BFloat16>) {
      if (const kernel::RowKernels* const fast = fast_rows(mlp)) {
        return kernel::parallel_for(up.size(0), kernel::grain(width),
                                    [&](std::int64_t begin, std::int64_t end) {
                                      fast->silu_rows(in, out, width, begin, end);
                                    });
      }
    }
    for_activation(mlp.activation, [&](auto f) {
      kernel::parallel_for(up.size(0), kernel::grain(width),
                           [&](std::int64_t begin, std::int64_t end) {
                             forward_rows(f, in, out, width, mlp.gated, begin, end);
                           });
    });
  });
  return y;
}

void Processor::activate_backward_(const at::Tensor& up, const at::Tensor& dy,
                                   const MlpSpec& mlp) const {
  const std::int64_t width = dy.size(1);
  kernel::for_type(up.scalar_type(), [&]<typename T>(T) {
    T* const in_out = kernel::mutable_data<T>(up);
    const T* const gradient = kernel::data<T>(dy);
    if (mlp.activation == Activation::kClampedSwish) {
      return kernel::parallel_for(
          up.size(0), kernel::grain(width), [&](std::int64_t begin, std::int64_t end) {
            clamped_backward_rows(in_out, gradient, width, static_cast<Wide<T>>(mlp.limit), begin,
                                  end);
          });
    }
    if constexpr (std::is_same_v<T, c10::BFloat16>) {
      if (const kernel::RowKernels* const fast = fast_rows(mlp)) {
        return kernel::parallel_for(up.size(0), kernel::grain(width),
                                    [&](std::int64_t begin, std::int64_t end) {
                                      fast->silu_backward_rows(in_out, gradient, width, begin, end);
                                    });
      }
    }
    for_activation(mlp.activation, [&](auto f) {
      kernel::parallel_for(up.size(0), kernel::grain(width),
                           [&](std::int64_t begin, std::int64_t end) {
                             backward_rows(f, in_out, gradient, width, mlp.gated, begin, end);
                           });
    });
  });
}

}  // namespace weft::model
