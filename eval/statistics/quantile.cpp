#include "eval/statistics/quantile.h"

#include <cmath>
#include <limits>

namespace weft::eval {

double quantile(std::span<const WeightedValue> sorted, std::span<const std::uint32_t> times,
                double share) {
  const auto count = [&](const WeightedValue& value) -> std::uint64_t {
    return times.empty() ? 1 : times[value.unit];
  };
  std::uint64_t total = 0;
  for (const WeightedValue& value : sorted) total += count(value);
  if (total == 0) return std::numeric_limits<double>::quiet_NaN();
  const double place = share * static_cast<double>(total - 1);
  const auto below = static_cast<std::uint64_t>(place);
  std::uint64_t seen = 0;
  double low = 0;
  bool has_low = false;
  for (const WeightedValue& value : sorted) {
    seen += count(value);
    if (!has_low && seen > below) {
      low = static_cast<double>(value.value);
      has_low = true;
    }
    // Order statistic below + 1 (from 0), or the last.
    if (has_low && (seen > below + 1 || seen == total))
      return std::lerp(low, static_cast<double>(value.value), place - std::floor(place));
  }
  return low;
}

}  // namespace weft::eval
