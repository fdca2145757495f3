#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <c10/util/BFloat16.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "core/clones.h"
#include "core/error.h"
#include "model/meter.h"

// What the row kernels of the operations share. A kernel is a template over the element type
// (float, BFloat16; double for tests of gradients) whose arithmetic is in Wide<T>; it is compiled
// for several instruction sets, and loops over one row are plain loops that the compiler
// vectorises. Rows are spread over threads, a row is never split: results do not depend on the
// scheduling.

namespace weft::model::kernel {

/// The type that an element's arithmetic is done in.
template <typename T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

WEFT_INLINE float widen(c10::BFloat16 value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value.x) << 16);
}
WEFT_INLINE float widen(float value) { return value; }
WEFT_INLINE double widen(double value) { return value; }

/// Rounds to nearest, ties to even; branch-free, so that it vectorises.
template <typename T>
WEFT_INLINE T narrow(Wide<T> value) {
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
    const bool nan = (bits & 0x7fffffffU) > 0x7f800000U;
    return c10::BFloat16(static_cast<std::uint16_t>(nan ? 0x7fc0U : rounded),
                         c10::BFloat16::from_bits());
  } else {
    return value;
  }
}

/// `value` as it is after being stored as T.
template <typename T>
WEFT_INLINE Wide<T> rounded(Wide<T> value) {
  return widen(narrow<T>(value));
}

/// e^x for finite x or -infinity: within 1 unit in the last place of float (Cody and Waite's
/// reduction, Taylor to degree 7 on [-ln2/2, ln2/2]); 0 below -87.3, where float leaves its normal
/// range.
WEFT_INLINE float exponential(float x) {
  const float clamped = x < -87.3F ? -87.3F : (x > 88.0F ? 88.0F : x);
  const float shifted = clamped * 1.44269504088896341F + 12582912.0F;  // rounds to an integer
  const float n = shifted - 12582912.0F;
  const float r = (clamped - n * 0.693359375F) + n * 2.12194440e-4F;
  float p = 1.98412698e-4F;
  p = p * r + 1.38888889e-3F;
  p = p * r + 8.33333333e-3F;
  p = p * r + 4.16666667e-2F;
  p = p * r + 1.66666667e-1F;
  p = p * r + 0.5F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  const auto power =
      (std::bit_cast<std::int32_t>(shifted) - std::bit_cast<std::int32_t>(12582912.0F) + 127) << 23;
  return x < -87.3F ? 0.0F : p * std::bit_cast<float>(power);
}
WEFT_INLINE double exponential(double x) { return std::exp(x); }

template <typename W>
WEFT_INLINE W sigmoid(W x) {
  // exp of a negative number only, so that nothing overflows.
  const W e = exponential(x < 0 ? x : -x);
  return (x < 0 ? e : W(1)) / (W(1) + e);
}

/// tanh x by e^x: within 2e-7, absolutely.
template <typename W>
WEFT_INLINE W hyperbolic_tangent(W x) {
  return 2 * sigmoid(2 * x) - 1;
}

/// erf x: float by Abramowitz and Stegun 7.1.26, within 2e-7; branch-free, so that it vectorises.
WEFT_INLINE float error_function(float x) {
  const float a = x < 0 ? -x : x;
  const float t = 1 / (1 + 0.3275911F * a);
  float p = 1.061405429F;
  p = p * t - 1.453152027F;
  p = p * t + 1.421413741F;
  p = p * t - 0.284496736F;
  p = p * t + 0.254829592F;
  const float e = 1 - p * t * exponential(-a * a);
  return x < 0 ? -e : e;
}
WEFT_INLINE double error_function(double x) { return std::erf(x); }

/// Calls body(T{}) for the tensor's element type.
template <typename Body>
void for_type(at::ScalarType type, const Body& body) {
  switch (type) {
    case at::kFloat: return body(float{});
    case at::kDouble: return body(double{});
    case at::kBFloat16: return body(c10::BFloat16{});
    default: TORCH_INTERNAL_ASSERT(false, "an operation was given elements of type ", type);
  }
}

/// Rows a thread takes at least: enough work to pay for the hand-over.
inline std::int64_t grain(std::int64_t row_elements) {
  return std::max<std::int64_t>(1, 16384 / std::max<std::int64_t>(1, row_elements));
}

/// Calls body(begin, end) for parts of [0, count) on all threads, each `grain` or more; nothing
/// where memory is only measured (model/meter.h). Every kernel goes through it.
template <typename Body>
void parallel_for(std::int64_t count, std::int64_t grain, const Body& body) {
  if (Meter::running()) return;
  at::parallel_for(0, count, grain, body);
}

template <typename T>
const T* data(const at::Tensor& tensor) {
  TORCH_INTERNAL_ASSERT(tensor.is_contiguous());
  return tensor.const_data_ptr<T>();
}
template <typename T>
T* mutable_data(const at::Tensor& tensor) {
  TORCH_INTERNAL_ASSERT(tensor.is_contiguous());
  return tensor.mutable_data_ptr<T>();
}

}  // namespace weft::model::kernel
