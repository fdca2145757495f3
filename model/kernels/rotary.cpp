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

#include "model/kernels/kernel_math.h"
#include "model/kernels/processor.h"

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
  const at::Tensor smooth = (old_context / wavelength - rope.low_freq_factor) /
                            (rope.high_freq_factor - rope.low_freq_factor);
  const at::Tensor blended = (1 - smooth) * slowed / rope.factor + smooth * slowed;
  const at::Tensor between =
      (wavelength >= longest_kept).logical_and(wavelength <= shortest_slowed);
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
double dynamic_theta(const Rope& rope, std::int64_t max_positions, std::int64_t length) {
  const auto context = static_cast<double>(max_positions);
  const double reach = std::max(static_cast<double>(length), context);
  const auto dim = static_cast<double>(rope.dim);
  return rope.theta * std::pow(rope.factor * reach / context - (rope.factor - 1), dim / (dim - 2));
}

/// Each frequency is divided by a factor of its own (arXiv 2402.13753), of one list or of another
/// beyond the context of pre-training.
at::Tensor longrope(const Rope& rope, std::int64_t length) {
  const std::vector<double>& factors =
      length > rope.original_max_positions ? rope.long_factors : rope.short_factors;
  const at::Tensor by = at::tensor(at::ArrayRef<double>(factors), at::kDouble).to(at::kFloat);
  return 1.0 / (by * periods(rope.theta, rope.dim));
}

double longrope_factor(const Rope& rope) {
  if (rope.attention_factor) return *rope.attention_factor;
  if (rope.factor <= 1) return 1;
  return std::sqrt(1 + std::log(rope.factor) /
                           std::log(static_cast<double>(rope.original_max_positions)));
}

/// The heads of q and k, which lie before v in each row.
template <typename T>
struct TurnRows {
  T* qkv;
  std::int64_t width;  // of a row
  std::int64_t heads;  // of q and k together
  std::int64_t head_dim;
  std::int64_t half;    // of what turns
  std::int64_t second;  // from the first element of plane 0 to its second
  std::int64_t step;    // from plane to plane
  const float* cos;     // [T, half]
  const float* sin;
};

/// Planes (first[i kStep], second[i kStep]).
template <bool kForward, std::int64_t kStep, typename T>
WEFT_INLINE void turn_planes(T* first, T* second, std::int64_t planes, const float* cos,
                             const float* sin) {
#pragma omp simd
  for (std::int64_t i = 0; i < planes; ++i) {
    const Wide<T> x1 = widen(first[i * kStep]);
    const Wide<T> x2 = widen(second[i * kStep]);
    if constexpr (kForward) {  // rounded where transformers rounds
      first[i * kStep] = narrow<T>(rounded<T>(x1 * cos[i]) - rounded<T>(x2 * sin[i]));
      second[i * kStep] = narrow<T>(rounded<T>(x2 * cos[i]) + rounded<T>(x1 * sin[i]));
    } else {
      first[i * kStep] = narrow<T>(x1 * cos[i] + x2 * sin[i]);
      second[i * kStep] = narrow<T>(x2 * cos[i] - x1 * sin[i]);
    }
  }
}

template <bool kForward, typename T>
WEFT_INLINE void turn_rows_of(const TurnRows<T>& a, std::int64_t begin, std::int64_t end) {
  for (std::int64_t t = begin; t < end; ++t) {
    const float* cos = a.cos + t * a.half;
    const float* sin = a.sin + t * a.half;
    for (std::int64_t head = 0; head < a.heads; ++head) {
      T* const first = a.qkv + t * a.width + head * a.head_dim;
      if (a.step == 1) {
        turn_planes<kForward, 1>(first, first + a.second, a.half, cos, sin);
      } else {
        turn_planes<kForward, 2>(first, first + a.second, a.half, cos, sin);
      }
    }
  }
}

#define WEFT_ROTARY_KERNELS(T)                                                                  \
  WEFT_CLONES void turn_rows(const TurnRows<T>& a, std::int64_t begin, std::int64_t end) {      \
    turn_rows_of<true>(a, begin, end);                                                          \
  }                                                                                             \
  WEFT_CLONES void turn_rows_back(const TurnRows<T>& a, std::int64_t begin, std::int64_t end) { \
    turn_rows_of<false>(a, begin, end);                                                         \
  }
WEFT_ROTARY_KERNELS(float)
WEFT_ROTARY_KERNELS(double)
WEFT_ROTARY_KERNELS(c10::BFloat16)

/// Calls turn(rows, begin, end) over all tokens.
template <typename Turn>
void for_rows(const at::Tensor& qkv, const AttentionShape& shape, const RotaryTable& table,
              const Turn& turn) {
  const std::int64_t half = table.cos.size(1);
  kernel::for_type(qkv.scalar_type(), [&]<typename T>(T) {
    const TurnRows<T> rows{.qkv = kernel::mutable_data<T>(qkv),
                           .width = qkv.size(1),
                           .heads = shape.heads + shape.kv_heads,
                           .head_dim = shape.head_dim,
                           .half = half,
                           .second = table.interleaved ? 1 : half,
                           .step = table.interleaved ? 2 : 1,
                           .cos = kernel::data<float>(table.cos),
                           .sin = kernel::data<float>(table.sin)};
    kernel::parallel_for(qkv.size(0), kernel::grain(qkv.size(1)),
                         [&](std::int64_t begin, std::int64_t end) { turn(rows, begin, end); });
  });
}

}  // namespace

RotaryFrequencies rotary_frequencies(const Rope& rope, std::int64_t max_positions,
                                     std::int64_t length) {
  switch (rope.kind) {
    case RopeKind::kDefault: return {1.0 / periods(rope.theta, rope.dim), 1};
    case RopeKind::kLinear: return {1.0 / periods(rope.theta, rope.dim) / rope.factor, 1};
    case RopeKind::kDynamic:
      return {1.0 / periods(dynamic_theta(rope, max_positions, length), rope.dim), 1};
    case RopeKind::kLlama3: return {llama3(rope, 1.0 / periods(rope.theta, rope.dim)), 1};
    case RopeKind::kYarn: return {yarn(rope, rope.dim), yarn_factor(rope)};
    case RopeKind::kLongRope: return {longrope(rope, length), longrope_factor(rope)};
  }
  TORCH_INTERNAL_ASSERT(false);
}

RotaryTable rotary_table(const Rope& rope, std::int64_t max_positions,
                         std::span<const std::int32_t> positions,
                         std::span<const data::Segment> segments, at::ScalarType type) {
  if (Meter::running()) {
    const auto make = [&] {
      return at::empty({std::ssize(positions), rope.dim / 2},
                       at::TensorOptions().dtype(at::kFloat));
    };
    return {make(), make(), rope.interleaved};
  }
  const auto angles_of = [&](std::int64_t begin, std::int64_t end, const at::Tensor& frequencies) {
    const auto part =
        positions.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
    const at::Tensor numbers = at::tensor(at::ArrayRef<std::int32_t>(part.data(), part.size()),
                                          at::TensorOptions().dtype(at::kInt));
    return at::outer(numbers.to(at::kFloat), frequencies);
  };
  RotaryFrequencies rotary = rotary_frequencies(rope, max_positions, 0);
  at::Tensor angles;
  if (rope.by_length()) {
    std::vector<at::Tensor> parts;
    for (const data::Segment segment : segments) {
      const auto last = static_cast<std::size_t>(segment.end) - 1;
      parts.push_back(
          angles_of(segment.begin, segment.end,
                    rotary_frequencies(rope, max_positions, positions[last] + 1).frequencies));
    }
    angles = at::cat(parts);
  } else {
    angles = angles_of(0, static_cast<std::int64_t>(positions.size()), rotary.frequencies);
  }
  RotaryTable table{at::cos(angles) * rotary.factor, at::sin(angles) * rotary.factor,
                    rope.interleaved};
  if (type == at::kBFloat16) {
    table.cos = table.cos.to(at::kBFloat16).to(at::kFloat);
    table.sin = table.sin.to(at::kBFloat16).to(at::kFloat);
  }
  return table;
}

void Processor::rotate_(const at::Tensor& qkv, const AttentionShape& shape,
                        const RotaryTable& table) const {
  for_rows(qkv, shape, table, [](const auto& rows, std::int64_t begin, std::int64_t end) {
    turn_rows(rows, begin, end);
  });
}

void Processor::rotate_back_(const at::Tensor& gradient, const AttentionShape& shape,
                             const RotaryTable& table) const {
  for_rows(gradient, shape, table, [](const auto& rows, std::int64_t begin, std::int64_t end) {
    turn_rows_back(rows, begin, end);
  });
}

}  // namespace weft::model
