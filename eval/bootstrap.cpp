#include "eval/bootstrap.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "core/error.h"
#include "core/parallel.h"

namespace weft::eval {
namespace {

// Lemire's multiply-shift without rejection: the bias is below items / 2^64. std's distributions
// are not the same on every standard library.
std::size_t draw(std::mt19937_64& random, std::uint64_t items) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::size_t>((static_cast<Wide>(random()) * items) >> 64);
}

double percentile(const std::vector<double>& sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return std::lerp(sorted[below], sorted[above], place - std::floor(place));
}

}  // namespace

std::vector<double> resample(std::int64_t items, const Figure& figure,
                             const BootstrapOptions& options) {
  if (options.resamples < 1) {
    throw ConfigError("the bootstrap needs at least 1 resample, found {}", options.resamples);
  }
  std::vector<double> values(static_cast<std::size_t>(options.resamples));
  if (items < 1) return {};
  core::parallel_for(options.resamples, 64, [&](std::int64_t begin, std::int64_t end) {
    std::vector<std::uint32_t> times(static_cast<std::size_t>(items));
    for (std::int64_t i = begin; i < end; ++i) {
      // A generator of its own for each resample: threads need not agree on an order.
      std::seed_seq seed{static_cast<std::uint32_t>(options.seed),
                         static_cast<std::uint32_t>(options.seed >> 32),
                         static_cast<std::uint32_t>(i)};
      std::mt19937_64 random(seed);
      std::fill(times.begin(), times.end(), 0U);
      for (std::int64_t n = 0; n < items; ++n) {
        ++times[draw(random, static_cast<std::uint64_t>(items))];
      }
      values[static_cast<std::size_t>(i)] = figure(times);
    }
  });
  return values;
}

std::optional<Interval> interval(std::vector<double> values, double confidence) {
  if (values.size() < 2) return std::nullopt;
  if (!std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); })) {
    return std::nullopt;
  }
  std::sort(values.begin(), values.end());
  const double tail = (1 - confidence) / 2;
  return Interval{percentile(values, tail), percentile(values, 1 - tail)};
}

}  // namespace weft::eval
