#include <algorithm>
#include <cmath>
#include <vector>

#include "model/kernels/kernel_math.h"
#include "model/kernels/processor.h"

// Plain loops, not compiled for several instruction sets: they are at the memory's speed, and fused
// multiply-adds would give each processor its own bits.

namespace weft::model {
namespace {

/// Elements of which one thread takes some in a row; a sum has one partial sum for so many.
constexpr std::int64_t kElements = std::int64_t{1} << 15;

/// Calls body(begin, end) for pieces of kElements.
template <typename Body>
void for_pieces(std::int64_t count, const Body& body) {
  const std::int64_t pieces = (count + kElements - 1) / kElements;
  kernel::parallel_for(pieces, 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t piece = first; piece < last; ++piece)
      body(piece * kElements, std::min(count, (piece + 1) * kElements));
  });
}

/// In eight chains, each of every eighth element: one alone would wait for each addition.
double sum_of_squares(const float* values, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kChains = 8;
  double chains[kChains] = {};
  std::int64_t i = begin;
  for (; i + kChains <= end; i += kChains) {
    for (std::int64_t c = 0; c < kChains; ++c) {
      const auto value = static_cast<double>(values[i + c]);
      chains[c] += value * value;
    }
  }
  double sum = 0;
  for (; i < end; ++i) sum += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  for (const double chain : chains) sum += chain;
  return sum;
}

}  // namespace

void Processor::adamw_(const AdamWState& state, const AdamWStep& s) const {
  float* const value = kernel::mutable_data<float>(state.values);
  const float* const gradient = kernel::data<float>(state.gradients);
  float* const first = kernel::mutable_data<float>(state.first);
  float* const second = kernel::mutable_data<float>(state.second);
  for_pieces(state.values.numel(), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const float g = gradient[i];
      const float m = first[i] + s.first_step * (g - first[i]);
      const float v = second[i] * s.second_keep + s.second_step * g * g;
      first[i] = m;
      second[i] = v;
      const float divisor = std::sqrt(v) / s.second_correction + s.epsilon;
      value[i] = value[i] * s.keep + s.step * m / divisor;
    }
  });
}

double Processor::square_sum(const at::Tensor& x) const {
  const float* const values = kernel::data<float>(x);
  std::vector<double> sums(static_cast<std::size_t>((x.numel() + kElements - 1) / kElements));
  for_pieces(x.numel(), [&](std::int64_t begin, std::int64_t end) {
    sums[static_cast<std::size_t>(begin / kElements)] = sum_of_squares(values, begin, end);
  });
  double sum = 0;
  for (const double part : sums) sum += part;
  return sum;
}

void Processor::multiply_(const at::Tensor& x, float factor) const {
  float* const values = kernel::mutable_data<float>(x);
  for_pieces(x.numel(), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) values[i] *= factor;
  });
}

}  // namespace weft::model
