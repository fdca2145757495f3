#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>

#include <cmath>
#include <numbers>

#include "model/kernel_math.h"
#include "model/ops.h"

namespace weft::model {
namespace {

using kernel::narrow;
using kernel::rounded;
using kernel::Wide;
using kernel::widen;

/// theta^(2i/d) in fp32, by the operations that transformers uses, so that the bits agree.
at::Tensor periods(double theta, std::int64_t dim) {
  return at::pow(theta, at::arange(0, dim, 2, at::TensorOptions().dtype(at::kFloat)) / dim);
}

/// Long waves are slowed by `factor`, short ones kept, those between blended (Llama 3.1).
at::Tensor llama3(const Rope& rope, const at::Tensor& plain) {
  const auto old_context = static_cast<double>(rope.original_max_positions);
  const double longest_kept = old_context / rope.high_freq_factor;
  const double shortest_slowed = old_context / rope.low_freq_factor;
  const at::Tensor wavelength = 2 * std::numbers::pi / plain;
  const at::Tensor slowed = at::where(wavelength > shortest_slowed, plain / rope.factor, plain);
  const at::Tensor smooth =
      (old_context / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  const at::Tensor blended = (1 - smooth) * slowed / rope.factor + smooth * slowed;
  const at::Tensor between = (wavelength >= longest_kept).logical_and(wavelength <= shortest_slowed);
  return at::where(between, blended, slowed);
}

/// The dimension whose wave turns `rotations` times in the context of pre-training.
double yarn_dimension(const Rope& rope, double rotations, std::int64_t dim) {
  const auto context = static_cast<double>(rope.original_max_positions);
  return static_cast<double>(dim) * std::log(context / (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(rope.theta));
}

/// A ramp over the dimensions from kept to slowed frequencies (YaRN, arXiv 2309.00071).
at::Tensor yarn(const Rope& rope, std::int64_t dim) {
  double low = yarn_dimension(rope, rope.beta_fast, dim);
  double high = yarn_dimension(rope, rope.beta_slow, dim);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(dim - 1));
  if (low == high) high += 0.001;
  const at::Tensor index = at::arange(dim / 2, at::TensorOptions().dtype(at::kFloat));
  const at::Tensor kept = 1 - at::clamp((index - low) / (high - low), 0, 1);
  const at::Tensor period = periods(rope.theta, dim);
  return 1.0 / (rope.factor * period) * (1 - kept) + 1.0 / period * kept;
}

double yarn_factor(const Rope& rope) {
  if (rope.attention_factor) return *rope.attention_factor;
  const auto mscale = [&](double weight) {
    return rope.factor <= 1 ? 1.0 : 0.1 * weight * std::log(rope.factor) + 1;
  };
  if (rope.mscale.value_or(0) != 0 && rope.mscale_all_dim.value_or(0) != 0) {
    return mscale(*rope.mscale) / mscale(*rope.mscale_all_dim);
  }
  return mscale(1);
}

/// NTK: the base grows with the length beyond the model's context.
double dynamic_theta(const Spec& spec, std::int64_t length) {
  const auto context = static_cast<double>(spec.max_positions);
  const double reach = std::max(static_cast<double>(length), context);
  const auto dim = static_cast<double>(spec.head_dim);
  const double factor = spec.rope.factor;
  return spec.rope.theta * std::pow(factor * reach / context - (factor - 1), dim / (dim - 2));
}

template <typename T>
struct SplitRows {
  T* packed;  // [T, (heads + 2 kv_heads) dim]
  T* q;
  T* k;
  T* v;
  const float* cos;  // [T, dim / 2]
  const float* sin;
  std::int64_t heads;
  std::int64_t kv_heads;
  std::int64_t dim;
};

/// One head of one token: turned forward from `in` to `out`, with transformers' roundings.
template <typename T>
WEFT_INLINE void turn(const T* in, T* out, const float* cos, const float* sin, std::int64_t half) {
#pragma omp simd
  for (std::int64_t i = 0; i < half; ++i) {
    const Wide<T> x1 = widen(in[i]);
    const Wide<T> x2 = widen(in[i + half]);
    out[i] = narrow<T>(rounded<T>(x1 * cos[i]) - rounded<T>(x2 * sin[i]));
    out[i + half] = narrow<T>(rounded<T>(x2 * cos[i]) + rounded<T>(x1 * sin[i]));
  }
}

template <typename T>
WEFT_INLINE void turn_back(const T* in, T* out, const float* cos, const float* sin, std::int64_t half) {
#pragma omp simd
  for (std::int64_t i = 0; i < half; ++i) {
    const Wide<T> x1 = widen(in[i]);
    const Wide<T> x2 = widen(in[i + half]);
    out[i] = narrow<T>(x1 * cos[i] + x2 * sin[i]);
    out[i + half] = narrow<T>(x2 * cos[i] - x1 * sin[i]);
  }
}

template <typename T>
WEFT_INLINE void copy(const T* in, T* out, std::int64_t dim) {
  for (std::int64_t i = 0; i < dim; ++i) out[i] = in[i];
}

/// Tokens [begin, end) of a segment that begins at `origin` and is `length` long.
template <bool kForward, typename T>
WEFT_INLINE void split_rows_of(const SplitRows<T>& a, data::Segment segment, std::int64_t begin,
                               std::int64_t end) {
  const std::int64_t length = segment.end - segment.begin;
  const std::int64_t half = a.dim / 2;
  for (std::int64_t t = begin; t < end; ++t) {
    T* row = a.packed + t * (a.heads + 2 * a.kv_heads) * a.dim;
    const float* cos = a.cos + t * half;
    const float* sin = a.sin + t * half;
    const auto place = [&](T* blocks, std::int64_t heads, std::int64_t head) {
      return blocks + (segment.begin * heads + head * length + t - segment.begin) * a.dim;
    };
    for (std::int64_t head = 0; head < a.heads + a.kv_heads; ++head) {
      T* block = head < a.heads ? place(a.q, a.heads, head) : place(a.k, a.kv_heads, head - a.heads);
      if constexpr (kForward) {
        turn(row + head * a.dim, block, cos, sin, half);
      } else {
        turn_back(block, row + head * a.dim, cos, sin, half);
      }
    }
    for (std::int64_t head = 0; head < a.kv_heads; ++head) {
      T* block = place(a.v, a.kv_heads, head);
      T* packed = row + (a.heads + a.kv_heads + head) * a.dim;
      if constexpr (kForward) {
        copy(packed, block, a.dim);
      } else {
        copy(block, packed, a.dim);
      }
    }
  }
}

#define WEFT_ROTARY_KERNELS(T)                                                                       \
  WEFT_CLONES void split_rows(const SplitRows<T>& a, data::Segment segment, std::int64_t begin,      \
                              std::int64_t end) {                                                    \
    split_rows_of<true>(a, segment, begin, end);                                                     \
  }                                                                                                  \
  WEFT_CLONES void join_rows(const SplitRows<T>& a, data::Segment segment, std::int64_t begin,       \
                             std::int64_t end) {                                                     \
    split_rows_of<false>(a, segment, begin, end);                                                    \
  }
WEFT_ROTARY_KERNELS(float)
WEFT_ROTARY_KERNELS(double)
WEFT_ROTARY_KERNELS(c10::BFloat16)

/// Calls body(segment, begin, end) for the part of each segment in [first, last).
template <typename Body>
void for_segments(std::span<const data::Segment> segments, std::int64_t first, std::int64_t last,
                  const Body& body) {
  for (const data::Segment segment : segments) {
    const std::int64_t begin = std::max<std::int64_t>(first, segment.begin);
    const std::int64_t end = std::min<std::int64_t>(last, segment.end);
    if (begin < end) body(segment, begin, end);
  }
}

}  // namespace

RotaryFrequencies rotary_frequencies(const Spec& spec, std::int64_t length) {
  const Rope& rope = spec.rope;
  switch (rope.kind) {
    case RopeKind::kDefault: return {1.0 / periods(rope.theta, spec.head_dim), 1};
    case RopeKind::kLinear: return {1.0 / periods(rope.theta, spec.head_dim) / rope.factor, 1};
    case RopeKind::kDynamic: return {1.0 / periods(dynamic_theta(spec, length), spec.head_dim), 1};
    case RopeKind::kLlama3: return {llama3(rope, 1.0 / periods(rope.theta, spec.head_dim)), 1};
    case RopeKind::kYarn: return {yarn(rope, spec.head_dim), yarn_factor(rope)};
  }
  TORCH_INTERNAL_ASSERT(false);
}

RotaryTable rotary_table(const Spec& spec, std::span<const std::int32_t> positions,
                         std::span<const data::Segment> segments, at::ScalarType type) {
  const auto angles_of = [&](std::int64_t begin, std::int64_t end, const at::Tensor& frequencies) {
    const auto part = positions.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
    const at::Tensor numbers = at::tensor(at::ArrayRef<std::int32_t>(part.data(), part.size()),
                                          at::TensorOptions().dtype(at::kInt));
    return at::outer(numbers.to(at::kFloat), frequencies);
  };
  RotaryFrequencies rotary = rotary_frequencies(spec, 0);
  at::Tensor angles;
  if (spec.rope.kind == RopeKind::kDynamic) {
    std::vector<at::Tensor> parts;
    for (const data::Segment segment : segments) {
      const auto last = static_cast<std::size_t>(segment.end) - 1;
      parts.push_back(angles_of(segment.begin, segment.end,
                                rotary_frequencies(spec, positions[last] + 1).frequencies));
    }
    angles = at::cat(parts);
  } else {
    angles = angles_of(0, static_cast<std::int64_t>(positions.size()), rotary.frequencies);
  }
  RotaryTable table{at::cos(angles) * rotary.factor, at::sin(angles) * rotary.factor};
  if (type == at::kBFloat16) {
    table.cos = table.cos.to(at::kBFloat16).to(at::kFloat);
    table.sin = table.sin.to(at::kBFloat16).to(at::kFloat);
  }
  return table;
}

HeadBlocks rotate_split(const at::Tensor& qkv, const Spec& spec, const RotaryTable& table,
                        std::span<const data::Segment> segments) {
  const std::int64_t tokens = qkv.size(0);
  HeadBlocks blocks{at::empty({tokens * spec.q_width()}, qkv.options()),
                    at::empty({tokens * spec.kv_width()}, qkv.options()),
                    at::empty({tokens * spec.kv_width()}, qkv.options())};
  kernel::for_type(qkv.scalar_type(), [&]<typename T>(T) {
    const SplitRows<T> rows{const_cast<T*>(kernel::data<T>(qkv)),  // only read
                            kernel::mutable_data<T>(blocks.q), kernel::mutable_data<T>(blocks.k),
                            kernel::mutable_data<T>(blocks.v), kernel::data<float>(table.cos),
                            kernel::data<float>(table.sin), spec.heads, spec.kv_heads, spec.head_dim};
    at::parallel_for(0, tokens, kernel::grain(qkv.size(1)), [&](std::int64_t first, std::int64_t last) {
      for_segments(segments, first, last, [&](data::Segment segment, std::int64_t begin, std::int64_t end) {
        split_rows(rows, segment, begin, end);
      });
    });
  });
  return blocks;
}

at::Tensor rotate_join(const HeadBlocks& gradients, const Spec& spec, const RotaryTable& table,
                       std::span<const data::Segment> segments) {
  const std::int64_t width = spec.q_width() + 2 * spec.kv_width();
  const std::int64_t tokens = gradients.q.numel() / spec.q_width();
  at::Tensor packed = at::empty({tokens, width}, gradients.q.options());
  kernel::for_type(packed.scalar_type(), [&]<typename T>(T) {
    const auto in = [](const at::Tensor& tensor) { return const_cast<T*>(kernel::data<T>(tensor)); };
    const SplitRows<T> rows{kernel::mutable_data<T>(packed), in(gradients.q), in(gradients.k),
                            in(gradients.v), kernel::data<float>(table.cos),
                            kernel::data<float>(table.sin), spec.heads, spec.kv_heads, spec.head_dim};
    at::parallel_for(0, tokens, kernel::grain(width), [&](std::int64_t first, std::int64_t last) {
      for_segments(segments, first, last, [&](data::Segment segment, std::int64_t begin, std::int64_t end) {
        join_rows(rows, segment, begin, end);
      });
    });
  });
  return packed;
}

}  // namespace weft::model
