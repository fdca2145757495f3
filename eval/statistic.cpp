#include "eval/statistic.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <random>

#include "core/parallel.h"

namespace weft::eval {
namespace {

std::vector<double> sums_of(const Statistic& statistic, std::span<const std::uint32_t> times) {
  std::vector<double> sums(statistic.width, 0.0);
  const auto units = static_cast<std::size_t>(statistic.units());
  for (std::size_t unit = 0; unit < units; ++unit) {
    const double weight = times.empty() ? 1.0 : times[unit];
    if (weight == 0) continue;
    const double* const row = statistic.rows.data() + unit * statistic.width;
    for (std::size_t i = 0; i < statistic.width; ++i) sums[i] += weight * row[i];
  }
  return sums;
}

/// What exchanging a unit adds to the sums here and takes from those of the first stage, for the
/// units in which the two differ.
std::vector<double> exchanges(const Statistic& here, const Statistic& first) {
  std::vector<double> rows;
  for (std::size_t begin = 0; begin < here.rows.size(); begin += here.width) {
    const auto a = std::span(here.rows).subspan(begin, here.width);
    const auto b = std::span(first.rows).subspan(begin, here.width);
    if (std::ranges::equal(a, b)) continue;
    for (std::size_t i = 0; i < here.width; ++i) rows.push_back(b[i] - a[i]);
  }
  return rows;
}

/// Counts exchanges whose difference is at least as large as the one found.
class Permutations {
 public:
  Permutations(const Statistic& here, const Statistic& first)
      : of_(here.of),
        width_(here.width),
        here_(sums_of(here, {})),
        first_(sums_of(first, {})),
        rows_(exchanges(here, first)) {
    const double a = of_(here_), b = of_(first_);
    found_ = std::abs(a - b);
    // Sums in another order differ in their last bits.
    least_ = found_ - 1e-12 * std::max(std::abs(a), std::abs(b));
  }

  [[nodiscard]] bool finite() const { return std::isfinite(found_); }
  [[nodiscard]] std::size_t units() const { return rows_.size() / width_; }

  /// `exchanged(unit)` says which units change places.
  template <typename Exchanged>
  bool at_least_as_large(const Exchanged& exchanged) const {
    std::vector<double> here = here_, first = first_;
    for (std::size_t unit = 0; unit < units(); ++unit) {
      if (!exchanged(unit)) continue;
      for (std::size_t i = 0; i < width_; ++i) {
        here[i] += rows_[unit * width_ + i];
        first[i] -= rows_[unit * width_ + i];
      }
    }
    return std::abs(of_(here) - of_(first)) >= least_;
  }

 private:
  const std::function<double(std::span<const double>)>& of_;
  std::size_t width_;
  std::vector<double> here_, first_, rows_;
  double found_ = 0, least_ = 0;
};

}  // namespace

double value(const Statistic& statistic) { return statistic.of(sums_of(statistic, {})); }

Figure figure_of(const Statistic& statistic) {
  return [&statistic](std::span<const std::uint32_t> times) {
    return statistic.of(sums_of(statistic, times));
  };
}

Statistic clustered(Statistic statistic, std::span<const std::uint32_t> groups) {
  if (groups.empty()) return statistic;
  const std::size_t count = std::size_t{1} + *std::ranges::max_element(groups);
  std::vector<double> rows(count * statistic.width, 0.0);
  for (std::size_t unit = 0; unit < groups.size(); ++unit) {
    for (std::size_t i = 0; i < statistic.width; ++i)
      rows[groups[unit] * statistic.width + i] += statistic.rows[unit * statistic.width + i];
  }
  statistic.rows = std::move(rows);
  return statistic;
}

std::optional<double> permutation_test(const Statistic& here, const Statistic& first,
                                       const PermutationOptions& options) {
  if (here.units() < 2 || here.width != first.width || here.rows.size() != first.rows.size())
    return std::nullopt;
  const Permutations all(here, first);
  if (!all.finite()) return std::nullopt;
  const std::size_t units = all.units();
  const bool exact =
      units < 62 && (std::int64_t{1} << units) <= std::max<std::int64_t>(options.permutations, 1);
  const std::int64_t count = exact ? std::int64_t{1} << units : options.permutations;
  std::atomic<std::int64_t> large = 0;
  core::parallel_for(count, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      if (exact) {
        large += all.at_least_as_large([&](std::size_t unit) { return (i >> unit & 1) != 0; });
        continue;
      }
      // A generator of its own for each, as in resample().
      std::seed_seq seed{static_cast<std::uint32_t>(options.seed),
                         static_cast<std::uint32_t>(options.seed >> 32),
                         static_cast<std::uint32_t>(i), std::uint32_t{1}};
      std::mt19937_64 random(seed);
      std::uint64_t bits = 0;
      large += all.at_least_as_large([&](std::size_t unit) {
        bits = unit % 64 == 0 ? random() : bits >> 1;
        return (bits & 1) != 0;
      });
    }
  });
  if (exact) return static_cast<double>(large) / static_cast<double>(count);
  return (static_cast<double>(large) + 1) / (static_cast<double>(count) + 1);
}

std::vector<std::optional<double>> holm(std::span<const std::optional<double>> p) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < p.size(); ++i) {
    if (p[i]) order.push_back(i);
  }
  std::ranges::stable_sort(order, {}, [&](std::size_t i) { return *p[i]; });
  std::vector<std::optional<double>> adjusted(p.size());
  double largest = 0;
  for (std::size_t rank = 0; rank < order.size(); ++rank) {
    largest = std::max(largest, *p[order[rank]] * static_cast<double>(order.size() - rank));
    adjusted[order[rank]] = std::min(1.0, largest);
  }
  return adjusted;
}

}  // namespace weft::eval
