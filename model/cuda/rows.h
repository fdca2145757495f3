#pragma once

#include <cmath>
#include <cstdint>

#include "core/philox.h"
#include "model/adamw_step.h"
#include "model/cuda/block.h"

// Kernels over rows and elements. Formulas and roundings are those of the processor's kernels
// (model/kernels/); each says which operation it is.

namespace weft::cuda {

/// Kernels of one phase: thread i of all does element i.
struct Elementwise {
  struct Thread {};
  WEFT_BODY int phases(std::int64_t) const { return 1; }
  WEFT_BODY static std::int64_t index(const Place& at) { return at.block * at.threads + at.thread; }
};

WEFT_BODY float sigmoid(float x) {
  const float e = expf(x < 0 ? x : -x);
  return (x < 0 ? e : 1.0F) / (1.0F + e);
}

enum class Gate : int { kSilu, kGelu, kGeluTanh, kRelu, kClampedSwish };

/// f(x) of an activation (model/activation.h), but for kClampedSwish.
WEFT_BODY float activation(Gate gate, float x) {
  switch (gate) {
    case Gate::kSilu: return x * sigmoid(x);
    case Gate::kGelu: return x * 0.5F * (1 + erff(x * 0.70710678118654752F));
    case Gate::kGeluTanh: return x * sigmoid(1.5957691216057308F * (x + 0.044715F * x * x * x));
    default: return x > 0 ? x : 0.0F;
  }
}

/// d f'(x).
WEFT_BODY float activation_gradient(Gate gate, float d, float x) {
  switch (gate) {
    case Gate::kSilu: {
      const float s = sigmoid(x);
      return d * s * (1 + x * (1 - s));
    }
    case Gate::kGelu: {
      const float density = 0.39894228040143268F * expf(-0.5F * x * x);
      return d * (0.5F * (1 + erff(x * 0.70710678118654752F)) + x * density);
    }
    case Gate::kGeluTanh: {
      const float s = sigmoid(1.5957691216057308F * (x + 0.044715F * x * x * x));
      const float inner = 1.5957691216057308F * (1 + 3 * 0.044715F * x * x);
      return d * (s + x * s * (1 - s) * inner);
    }
    default: return x > 0 ? d : 0.0F;
  }
}

/// Operations::activate and activate_backward_: element i of [rows, width].
template <typename T>
struct Activate : Elementwise {
  T* up;        ///< [rows, 2 width] or [rows, width]; backward: overwritten by its gradient
  T* out;       ///< Forward
  const T* dy;  ///< Backward; null: forward
  std::int64_t elements, width;
  Gate gate;
  bool gated;
  float limit;  ///< Gate::kClampedSwish

  WEFT_BODY void run(int, const Place& at, Thread&, float*) const {
    const std::int64_t i = index(at);
    if (i >= elements) return;
    if (!gated) {
      const float x = widen(up[i]);
      if (dy == nullptr) {
        out[i] = narrow<T>(activation(gate, x));
      } else {
        up[i] = narrow<T>(activation_gradient(gate, widen(dy[i]), x));
      }
      return;
    }
    T* const of_gate = up + i / width * 2 * width + i % width;
    T* const of_up = of_gate + width;
    const float g = widen(*of_gate);
    const float u = widen(*of_up);
    if (gate == Gate::kClampedSwish) return clamped(i, g, u, of_gate, of_up);
    if (dy == nullptr) {
      out[i] = narrow<T>(rounded<T>(activation(gate, g)) * u);
      return;
    }
    const float d = widen(dy[i]);
    *of_gate = narrow<T>(activation_gradient(gate, d * u, g));
    *of_up = narrow<T>(d * activation(gate, g));
  }

 private:
  WEFT_BODY void clamped(std::int64_t i, float raw_gate, float raw_up, T* of_gate, T* of_up) const {
    constexpr float kAlpha = 1.702F;
    const float g = raw_gate < limit ? raw_gate : limit;
    const float u = raw_up < -limit ? -limit : (raw_up > limit ? limit : raw_up);
    if (dy == nullptr) {
      const float glu = rounded<T>(g * rounded<T>(sigmoid(rounded<T>(g * kAlpha))));
      out[i] = narrow<T>(rounded<T>(u + 1) * glu);
      return;
    }
    const float d = widen(dy[i]);
    const float s = sigmoid(kAlpha * g);
    const float d_gate = d * (u + 1) * s * (1 + kAlpha * g * (1 - s));
    *of_gate = narrow<T>(raw_gate <= limit ? d_gate : 0.0F);
    *of_up = narrow<T>(raw_up >= -limit && raw_up <= limit ? d * g * s : 0.0F);
  }
};

/// Operations::rotate_ and rotate_back_: one plane of one head of one token.
template <typename T>
struct Rotate : Elementwise {
  T* qkv;
  const float* cos;  ///< [tokens, half]
  const float* sin;
  std::int64_t tokens, width, heads, head_dim, half;
  bool interleaved, back;

  WEFT_BODY void run(int, const Place& at, Thread&, float*) const {
    const std::int64_t i = index(at);
    if (i >= tokens * heads * half) return;
    const std::int64_t plane = i % half;
    const std::int64_t head = i / half % heads;
    const std::int64_t token = i / half / heads;
    T* const first = qkv + token * width + head * head_dim + (interleaved ? 2 * plane : plane);
    T* const second = first + (interleaved ? 1 : half);
    const float c = cos[token * half + plane];
    const float s = sin[token * half + plane];
    const float x1 = widen(*first);
    const float x2 = widen(*second);
    if (back) {
      *first = narrow<T>(x1 * c + x2 * s);
      *second = narrow<T>(x2 * c - x1 * s);
    } else {
      *first = narrow<T>(rounded<T>(x1 * c) - rounded<T>(x2 * s));
      *second = narrow<T>(rounded<T>(x2 * c) + rounded<T>(x1 * s));
    }
  }
};

/// Operations::dropout and dropout_backward_: the four elements of one counter
/// (model/kernels/ops.h).
template <typename T>
struct Drop : Elementwise {
  const T* in;
  T* out;
  std::int64_t elements;
  std::uint32_t threshold, module;
  std::uint64_t seed;
  float keep_scale;
  bool adds;

  static constexpr std::int64_t kLanes = 16;
  WEFT_BODY static std::int64_t counters(std::int64_t elements) {
    return (elements + 4 * kLanes - 1) / (4 * kLanes) * kLanes;
  }

  WEFT_BODY void run(int, const Place& at, Thread&, float*) const {
    const std::int64_t counter = index(at);
    if (counter >= counters(elements)) return;
    std::uint32_t words[4][1] = {{static_cast<std::uint32_t>(counter)},
                                 {static_cast<std::uint32_t>(counter >> 32)},
                                 {module},
                                 {0}};
    core::philox_lanes(core::philox_key(seed), words);
    for (int w = 0; w < 4; ++w) {
      const std::int64_t i = counter / kLanes * 4 * kLanes + w * kLanes + counter % kLanes;
      if (i >= elements) return;
      const float kept = words[w][0] < threshold ? 0.0F : widen(in[i]) * keep_scale;
      out[i] = narrow<T>(adds ? widen(out[i]) + kept : kept);
    }
  }
};

/// Operations::adamw_.
struct AdamW : Elementwise {
  float* value;
  const float* gradient;
  float* first;
  float* second;
  std::int64_t elements;
  model::AdamWStep step;

  WEFT_BODY void run(int, const Place& at, Thread&, float*) const {
    const std::int64_t i = index(at);
    if (i >= elements) return;
    const float g = gradient[i];
    const float m = first[i] + step.first_step * (g - first[i]);
    const float v = second[i] * step.second_keep + step.second_step * g * g;
    first[i] = m;
    second[i] = v;
    const float divisor = sqrtf(v) / step.second_correction + step.epsilon;
    value[i] = value[i] * step.keep + step.step * m / divisor;
  }
};

/// QuantisedMatrix::dense of nf4 (`table`, two codes a byte) and int8 (no table): one element.
template <typename T>
struct Dequantise : Elementwise {
  const std::uint8_t* codes;
  const float* scales;              ///< int8: [rows]; nf4: one for 256 blocks
  const std::uint8_t* scale_codes;  ///< nf4: one a block of 64
  const float* table;               ///< nf4: [16]; null: int8
  const float* tree;                ///< nf4: [256]
  float scale_mean;
  std::int64_t elements, columns;
  T* out;

  WEFT_BODY void run(int, const Place& at, Thread&, float*) const {
    const std::int64_t i = index(at);
    if (i >= elements) return;
    if (table == nullptr) {
      out[i] =
          narrow<T>(static_cast<float>(static_cast<std::int8_t>(codes[i])) * scales[i / columns]);
      return;
    }
    const std::uint8_t pair = codes[i / 2];
    const float entry = table[i % 2 == 0 ? pair >> 4 : pair & 15];
    const std::int64_t block = i / 64;
    out[i] = narrow<T>(entry * (tree[scale_codes[block]] * scales[block / 256] + scale_mean));
  }
};

/// The end of a product (Operations::products_): scale, bias, rounding, residual. sums [m, n] fp32.
template <typename T>
struct Finish : Elementwise {
  const float* sums;
  T* c;
  const T* bias;      ///< [n] or null
  const T* residual;  ///< [m, n] or null
  std::int64_t elements, n, c_stride, residual_stride;
  float scale;
  bool adds;  ///< To c, without bias and residual

  WEFT_BODY void run(int, const Place& at, Thread&, float*) const {
    const std::int64_t i = index(at);
    if (i >= elements) return;
    const std::int64_t row = i / n;
    const std::int64_t column = i % n;
    T* const to = c + row * c_stride + column;
    float sum = sums[i] * scale;
    if (adds) {
      *to = narrow<T>(widen(*to) + sum);
      return;
    }
    if (bias != nullptr) sum += widen(bias[column]);
    sum = rounded<T>(sum);
    if (residual != nullptr) sum += widen(residual[row * residual_stride + column]);
    *to = narrow<T>(sum);
  }
};

/// Operations::norm and norm_add: a block for one group of one row (model/norm.h). Shared:
/// `threads` floats.
template <typename T>
struct NormForward {
  const T* x;
  const T* weight;
  const T* bias;      ///< Or null
  const T* residual;  ///< Added to what the element type holds of the norm; or null
  T* y;               ///< May be x or residual
  float* inverse;     ///< [rows, groups] or null
  float* mean;        ///< kLayer; or null
  std::int64_t x_stride, residual_stride, y_stride, groups, width, weight_stride;
  float eps, plus;
  bool centred, rounds_before_weight;

  struct Thread {
    float mean = 0;
  };
  /// Sum, two of its reduction, squares of what is left, two more, the result.
  WEFT_BODY int phases(std::int64_t) const { return 7; }

  WEFT_BODY void run(int phase, const Place& at, Thread& t, float* shared) const {
    const std::int64_t row = at.block / groups;
    const std::int64_t group = at.block % groups;
    const T* const in = x + row * x_stride + group * width;
    switch (phase) {
      case 0: {
        float sum = 0;
        for (std::int64_t i = at.thread; centred && i < width; i += at.threads) sum += widen(in[i]);
        shared[at.thread] = sum;
        return;
      }
      case 1: return Reduction::first<Reduction::Kind::kSum>(at, shared);
      case 2: return Reduction::second<Reduction::Kind::kSum>(at, shared);
      case 4: return Reduction::first<Reduction::Kind::kSum>(at, shared + at.threads);
      case 5: return Reduction::second<Reduction::Kind::kSum>(at, shared + at.threads);
      case 3: {
        // What others still read is above the threads' own places.
        t.mean = shared[0] / static_cast<float>(width);
        float sum = 0;
        for (std::int64_t i = at.thread; i < width; i += at.threads) {
          const float c = widen(in[i]) - t.mean;
          sum += c * c;
        }
        shared[at.threads + at.thread] = sum;
        return;
      }
      default: break;
    }
    finish(at, t, shared, in, row, group);
  }

  static constexpr int kSharedPerThread = 2;

 private:
  WEFT_BODY void finish(const Place& at, const Thread& t, const float* shared, const T* in,
                        std::int64_t row, std::int64_t group) const {
    const float s = 1 / sqrtf(shared[at.threads] / static_cast<float>(width) + eps);
    T* const out = y + row * y_stride + group * width;
    for (std::int64_t i = at.thread; i < width; i += at.threads) {
      float value = (widen(in[i]) - t.mean) * s;
      if (rounds_before_weight) value = rounded<T>(value);
      value *= widen(weight[group * weight_stride + i]) + plus;
      if (bias != nullptr) value += widen(bias[group * weight_stride + i]);
      if (residual != nullptr) {
        value = rounded<T>(value) + widen(residual[row * residual_stride + group * width + i]);
      }
      out[i] = narrow<T>(value);
    }
    if (at.thread != 0 || inverse == nullptr) return;
    inverse[at.block] = s;
    if (mean != nullptr) mean[at.block] = t.mean;
  }
};

/// Operations::norm_backward, likewise.
template <typename T>
struct NormBackward {
  const T* x;
  const T* weight;
  const T* dy;  ///< May be dx
  T* dx;
  const float* inverse;
  const float* mean;  ///< kLayer; or null
  std::int64_t x_stride, dx_stride, groups, width, weight_stride;
  float plus;
  bool adds;

  struct Thread {};
  WEFT_BODY int phases(std::int64_t) const { return 4; }
  static constexpr int kSharedPerThread = 2;

  WEFT_BODY void run(int phase, const Place& at, Thread&, float* shared) const {
    const std::int64_t row = at.block / groups;
    const std::int64_t group = at.block % groups;
    const T* const in = x + row * x_stride + group * width;
    const T* const d_out = dy + row * dx_stride + group * width;
    const T* const w = weight + group * weight_stride;
    const float s = inverse[at.block];
    const float m = mean == nullptr ? 0.0F : mean[at.block];
    float* const dots = shared + at.threads;
    if (phase == 0) {
      float sum = 0;
      float dot = 0;
      for (std::int64_t i = at.thread; i < width; i += at.threads) {
        const float d = widen(d_out[i]) * (widen(w[i]) + plus);
        sum += d;
        dot += d * (widen(in[i]) - m);
      }
      shared[at.thread] = sum;
      dots[at.thread] = dot;
      return;
    }
    if (phase == 1) {
      Reduction::first<Reduction::Kind::kSum>(at, shared);
      return Reduction::first<Reduction::Kind::kSum>(at, dots);
    }
    if (phase == 2) {
      Reduction::second<Reduction::Kind::kSum>(at, shared);
      return Reduction::second<Reduction::Kind::kSum>(at, dots);
    }
    const float average = mean == nullptr ? 0.0F : shared[0] / static_cast<float>(width);
    const float back = dots[0] * s * s / static_cast<float>(width);
    T* const into = dx + row * dx_stride + group * width;
    for (std::int64_t i = at.thread; i < width; i += at.threads) {
      const float d = widen(d_out[i]) * (widen(w[i]) + plus);
      const float around = adds ? widen(into[i]) : 0.0F;
      into[i] = narrow<T>(around + s * (d - average - back * (widen(in[i]) - m)));
    }
  }
};

/// Operations::losses_: a block for one row of logits, which its gradient overwrites where wanted.
template <typename T>
struct Losses {
  T* logits;  ///< [rows, vocabulary]
  const std::int32_t* targets;
  double* losses;
  std::int64_t vocabulary;
  float cap;  ///< 0: none
  float gradient_scale;
  bool want_gradient;

  struct Thread {
    float most = 0;
  };
  WEFT_BODY int phases(std::int64_t) const { return 7; }
  static constexpr int kSharedPerThread = 2;

  WEFT_BODY void run(int phase, const Place& at, Thread& t, float* shared) const {
    T* const z = logits + at.block * vocabulary;
    float* const sums = shared + at.threads;
    switch (phase) {
      case 0: {
        float most = -INFINITY;
        for (std::int64_t j = at.thread; j < vocabulary; j += at.threads) {
          if (cap != 0) z[j] = narrow<T>(cap * tanhf(widen(z[j]) / cap));
          const float value = widen(z[j]);
          most = value > most ? value : most;
        }
        shared[at.thread] = most;
        return;
      }
      case 1: return Reduction::first<Reduction::Kind::kMost>(at, shared);
      case 2: return Reduction::second<Reduction::Kind::kMost>(at, shared);
      case 3: {
        t.most = shared[0];
        float sum = 0;
        for (std::int64_t j = at.thread; j < vocabulary; j += at.threads)
          sum += expf(widen(z[j]) - t.most);
        sums[at.thread] = sum;
        return;
      }
      case 4: return Reduction::first<Reduction::Kind::kSum>(at, sums);
      case 5:
        Reduction::second<Reduction::Kind::kSum>(at, sums);
        if (at.thread == 0) {
          losses[at.block] =
              log(static_cast<double>(sums[0])) -
              (static_cast<double>(widen(z[targets[at.block]])) - static_cast<double>(t.most));
        }
        return;
      default: break;
    }
    if (!want_gradient) return;
    for (std::int64_t j = at.thread; j < vocabulary; j += at.threads) {
      const float value = widen(z[j]);
      const float p = expf(value - t.most) / sums[0];
      float d = (p - (j == targets[at.block] ? 1.0F : 0.0F)) * gradient_scale;
      if (cap != 0) d *= 1 - (value / cap) * (value / cap);
      z[j] = narrow<T>(d);
    }
  }
};

}  // namespace weft::cuda
