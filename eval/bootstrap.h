#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

namespace weft::eval {

/// How uncertain a figure is: the percentile bootstrap (Efron 1979) over independent items. The
/// defaults are recorded with every result.
struct BootstrapOptions {
  int resamples = 2000;
  std::uint64_t seed = 12345;
  double confidence = 0.95;
  std::int64_t permutations = 10000;  ///< Of the test of a difference (eval/statistic.h).
};

struct Interval {
  double low = 0;
  double high = 0;
};

/// A figure of a sample in which item i occurs times[i] times.
using Figure = std::function<double(std::span<const std::uint32_t> times)>;

/// The figure of each resample: `items` drawn with replacement from [0, items). The draws depend on
/// `items` and the options only, so the results for two stages of the same items are paired:
/// subtracting them one by one gives the distribution of the difference (Koehn 2004).
/// Figures run on the threads of core/parallel.h and must not share state. The result does not
/// depend on the number of threads. Throws ConfigError unless resamples >= 1.
[[nodiscard]] std::vector<double> resample(std::int64_t items, const Figure& figure,
                                           const BootstrapOptions& options = {});

/// The percentiles that leave (1 - confidence) / 2 on each side, interpolated linearly between
/// order statistics as numpy.percentile does. Nothing for fewer than two values, or when a value is
/// not finite.
[[nodiscard]] std::optional<Interval> interval(std::vector<double> values,
                                               double confidence = 0.95);

}  // namespace weft::eval
