#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace weft::eval {

/// How uncertain a figure is: the percentile bootstrap (Efron 1979) over independent items. The
/// defaults are recorded with every result.
struct BootstrapOptions {
  int resamples = 2000;
  std::uint64_t seed = 12345;
  double confidence = 0.95;
  std::int64_t permutations =
      10000;  ///< Of the test of a difference (eval/statistics/statistic.h).
  /// What varies independently has a stream of its own: stream_of(the suite's name).
  std::uint64_t stream = 0;
};

/// FNV-1a of the name: a suite's draws are the same in every stage and in every table, and do not
/// change when other suites come or go.
[[nodiscard]] std::uint64_t stream_of(std::string_view name);

struct Interval {
  double low = 0;
  double high = 0;
};

/// A figure of a sample in which item i occurs times[i] times.
using Figure = std::function<double(std::span<const std::uint32_t> times)>;

/// Resample `number`: as many items as there are, drawn with replacement. Draw n is word n of
/// eval/statistics/philox.h for (seed, stream, number), taken times items / 2^64, rounded down.
void draw_times(std::uint64_t number, const BootstrapOptions& options,
                std::span<std::uint32_t> times);

/// The figure of each resample: `items` drawn with replacement from [0, items). The draws depend on
/// `items` and the options only, so the results for two stages of the same items are paired:
/// subtracting them one by one gives the distribution of the difference (Koehn 2004).
/// Figures run on the threads of core/parallel.h and must not share state. The result does not
/// depend on the number of threads. Throws ConfigError unless resamples >= 1.
[[nodiscard]] std::vector<double> resample(std::int64_t items, const Figure& figure,
                                           const BootstrapOptions& options = {});

/// Throws ConfigError unless there is a resample to draw.
void require_resamples(const BootstrapOptions& options);

/// Fewer independent units than this show no interval: the resamples of 4 numbers are too few to
/// hold the true value in 95 of 100 cases, however they are cut.
inline constexpr std::int64_t kFewestUnits = 5;
/// Below this the interval is still told, with a warning: its coverage is up to 3 points too low.
inline constexpr std::int64_t kFewUnits = 20;

/// The percentiles that leave (1 - confidence) / 2 on each side, interpolated linearly between
/// order statistics as numpy.percentile does. Nothing for fewer than two values, or when a value is
/// not finite.
[[nodiscard]] std::optional<Interval> interval(std::vector<double> values,
                                               double confidence = 0.95);

/// The same for resamples of `units` independent units, expanded for small samples (Hesterberg,
/// "What teachers should know about the bootstrap", 2015, section 5.3): each side is left
/// Phi(-sqrt(units / (units - 1)) t), with t Student's quantile of units - 1 degrees of freedom.
/// Nothing below kFewestUnits.
[[nodiscard]] std::optional<Interval> interval(std::vector<double> values, double confidence,
                                               std::int64_t units);

/// What expanded intervals leave on each side.
[[nodiscard]] double expanded_tail(double confidence, std::int64_t units);

/// The point that a variable of Student's distribution exceeds with this probability, 0 < tail <=
/// 0.5. As scipy.stats.t.isf, within 1e-6.
[[nodiscard]] double student_quantile(double tail, std::int64_t degrees);

}  // namespace weft::eval
