#include "eval/statistics/bootstrap.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"
#include "core/parallel.h"
#include "eval/statistics/philox.h"

namespace weft::eval {
namespace {

// Lemire's multiply-shift without rejection: the bias is below items / 2^64. std's distributions
// are not the same on every standard library.
std::size_t place_of(std::uint64_t word, std::uint64_t items) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::size_t>((static_cast<Wide>(word) * items) >> 64);
}

double percentile(const std::vector<double>& sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return std::lerp(sorted[below], sorted[above], place - std::floor(place));
}

std::optional<Interval> cut(std::vector<double> values, double tail) {
  if (values.size() < 2) return std::nullopt;
  if (!std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); })) {
    return std::nullopt;
  }
  std::sort(values.begin(), values.end());
  return Interval{percentile(values, tail), percentile(values, 1 - tail)};
}

double normal_tail(double z) { return 0.5 * std::erfc(z / std::numbers::sqrt2); }

/// P(|T| > t) (Abramowitz and Stegun 26.7.3, 26.7.4).
double student_tails(double t, std::int64_t degrees) {
  const double angle = std::atan(t / std::sqrt(static_cast<double>(degrees)));
  const double cosine = std::cos(angle), square = cosine * cosine;
  const bool odd = degrees % 2 == 1;
  double term = odd ? cosine : 1, sum = odd && degrees == 1 ? 0 : term;
  for (std::int64_t i = odd ? 3 : 2; i <= degrees - 2; i += 2) {
    const auto n = static_cast<double>(i);
    term *= square * (n - 1) / n;
    sum += term;
  }
  const double within =
      odd ? 2 / std::numbers::pi * (angle + std::sin(angle) * sum) : std::sin(angle) * sum;
  return 1 - within;
}

/// The point at which a falling function reaches `value`, from 0 on.
template <typename Function>
double solve(double value, const Function& function) {
  double low = 0, high = 1;
  while (function(high) > value && high < 1e9) high *= 2;
  for (int step = 0; step < 100; ++step) {
    const double middle = (low + high) / 2;
    (function(middle) > value ? low : high) = middle;
  }
  return (low + high) / 2;
}

}  // namespace

std::uint64_t stream_of(std::string_view name) {
  std::uint64_t hash = 0xCBF29CE484222325U;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3U;
  return hash;
}

void require_resamples(const BootstrapOptions& options) {
  if (options.resamples < 1) {
    throw ConfigError("the bootstrap needs at least 1 resample, found {}", options.resamples);
  }
}

void draw_times(std::uint64_t number, const BootstrapOptions& options,
                std::span<std::uint32_t> times) {
  std::ranges::fill(times, 0U);
  PhiloxWords words(options.seed, options.stream, Draws::kResample, number);
  for (std::size_t n = 0; n < times.size(); ++n) ++times[place_of(words.next(), times.size())];
}

std::vector<double> resample(std::int64_t items, const Figure& figure,
                             const BootstrapOptions& options) {
  require_resamples(options);
  if (items < 1) return {};
  std::vector<double> values(static_cast<std::size_t>(options.resamples));
  core::parallel_for(options.resamples, 64, [&](std::int64_t begin, std::int64_t end) {
    std::vector<std::uint32_t> times(static_cast<std::size_t>(items));
    for (std::int64_t i = begin; i < end; ++i) {
      draw_times(static_cast<std::uint64_t>(i), options, times);
      values[static_cast<std::size_t>(i)] = figure(times);
    }
  });
  return values;
}

std::optional<Interval> interval(std::vector<double> values, double confidence) {
  return cut(std::move(values), (1 - confidence) / 2);
}

std::optional<Interval> interval(std::vector<double> values, double confidence,
                                 std::int64_t units) {
  if (units < kFewestUnits) return std::nullopt;
  return cut(std::move(values), expanded_tail(confidence, units));
}

double expanded_tail(double confidence, std::int64_t units) {
  const auto n = static_cast<double>(units);
  return normal_tail(std::sqrt(n / (n - 1)) * student_quantile((1 - confidence) / 2, units - 1));
}

double student_quantile(double tail, std::int64_t degrees) {
  if (degrees < 40) return solve(2 * tail, [&](double t) { return student_tails(t, degrees); });
  // Abramowitz and Stegun 26.7.5, whose next term is below 1e-6 here.
  const double z = solve(tail, normal_tail), s = z * z;
  const auto n = static_cast<double>(degrees);
  return z * (1 + (s + 1) / (4 * n) + ((5 * s + 16) * s + 3) / (96 * n * n) +
              (((3 * s + 19) * s + 17) * s - 15) / (384 * n * n * n));
}

}  // namespace weft::eval
