#pragma once

#include <cstdint>
#include <span>

namespace weft::eval {

/// A value and whose it is: a place in the weights of a resample.
struct WeightedValue {
  float value = 0;
  std::uint32_t unit = 0;
};

/// The `share` quantile of `sorted` (ascending), in which a value occurs times[unit] times; once
/// each where `times` is empty. Interpolated linearly between order statistics, as
/// numpy.percentile and llama-perplexity do. NaN when nothing occurs.
[[nodiscard]] double quantile(std::span<const WeightedValue> sorted,
                              std::span<const std::uint32_t> times, double share);

}  // namespace weft::eval
