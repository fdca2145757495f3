#include "eval/statistics/statistic.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>

#include "core/parallel.h"
#include "eval/statistics/philox.h"

namespace weft::eval {
namespace {

void add_sums(const Statistic& statistic, std::span<const std::uint32_t> times,
              std::span<double> sums) {
  const auto units = static_cast<std::size_t>(statistic.units());
  const double* row = statistic.rows.data();
  for (std::size_t unit = 0; unit < units; ++unit, row += statistic.width) {
    const double weight = times.empty() ? 1.0 : times[unit];
    if (weight == 0) continue;
    for (std::size_t i = 0; i < statistic.width; ++i) sums[i] += weight * row[i];
  }
}

std::vector<double> sums_of(const Statistic& statistic, std::span<const std::uint32_t> times) {
  std::vector<double> sums(statistic.width, 0.0);
  add_sums(statistic, times, sums);
  return sums;
}

bool same_rows(const Statistic& a, const Statistic& b) {
  return a.width == b.width && a.rows == b.rows;
}

bool same_shape(const StatisticPair& pair) {
  return pair.here->units() >= 2 && pair.here->width == pair.first->width &&
         pair.here->rows.size() == pair.first->rows.size();
}

/// Threads are woken for this many numbers.
std::int64_t grain_of(std::size_t numbers) {
  return std::max<std::int64_t>(
      64, static_cast<std::int64_t>(200000 / std::max<std::size_t>(numbers, 1)));
}

/// Counts the exchanges whose difference is at least as large as the one found, for figures of the
/// same rows.
class Exchanges {
 public:
  explicit Exchanges(std::span<const StatisticPair> pairs)
      : pairs_(pairs),
        width_(pairs.front().here->width),
        here_(sums_of(*pairs.front().here, {})),
        first_(sums_of(*pairs.front().first, {})) {
    const std::vector<double>& a = pairs.front().here->rows;
    const std::vector<double>& b = pairs.front().first->rows;
    // What an exchange adds here and takes there, of the units in which the two differ.
    for (std::size_t begin = 0; begin < a.size(); begin += width_) {
      if (std::equal(a.data() + begin, a.data() + begin + width_, b.data() + begin)) continue;
      for (std::size_t i = begin; i < begin + width_; ++i) rows_.push_back(b[i] - a[i]);
    }
    for (const StatisticPair& pair : pairs) {
      const double x = pair.here->of(here_), y = pair.first->of(first_);
      // Sums in another order differ in their last bits.
      least_.push_back(std::abs(x - y) - 1e-12 * std::max(std::abs(x), std::abs(y)));
    }
  }

  [[nodiscard]] std::vector<std::optional<double>> count(const PermutationOptions& options) const {
    const std::size_t units = rows_.size() / width_;
    const bool exact =
        units < 62 && (std::int64_t{1} << units) <= std::max<std::int64_t>(options.permutations, 1);
    const std::int64_t count = exact ? std::int64_t{1} << units : options.permutations;
    std::vector<std::atomic<std::int64_t>> large(pairs_.size());
    core::parallel_for(count, grain_of(rows_.size()), [&](std::int64_t begin, std::int64_t end) {
      std::vector<double> sums(2 * width_);
      std::vector<std::int64_t> found(pairs_.size());
      for (std::int64_t i = begin; i < end; ++i) {
        const auto number = static_cast<std::uint64_t>(i);
        if (exact) {
          exchange(
              units, [&] { return number; }, sums);
        } else {
          PhiloxWords words(options.seed, options.stream, Draws::kExchange, number);
          exchange(
              units, [&] { return words.next(); }, sums);
        }
        add_large(sums, found);
      }
      for (std::size_t k = 0; k < found.size(); ++k) large[k] += found[k];
    });
    std::vector<std::optional<double>> p(pairs_.size());
    for (std::size_t k = 0; k < p.size(); ++k) {
      if (!std::isfinite(least_[k])) continue;
      const double more = exact ? 0 : 1;
      p[k] = (static_cast<double>(large[k]) + more) / (static_cast<double>(count) + more);
    }
    return p;
  }

 private:
  /// `sums`: those here, then those of the first stage, after an exchange of the units whose bit in
  /// `next_word`s is set.
  template <typename NextWord>
  void exchange(std::size_t units, const NextWord& next_word, std::span<double> sums) const {
    std::ranges::fill(sums, 0.0);
    for (std::size_t begin = 0; begin < units; begin += 64) {
      std::uint64_t bits = next_word();
      if (units - begin < 64) bits &= (std::uint64_t{1} << (units - begin)) - 1;
      for (; bits != 0; bits &= bits - 1) {
        const auto unit = begin + static_cast<std::size_t>(std::countr_zero(bits));
        for (std::size_t i = 0; i < width_; ++i) sums[i] += rows_[unit * width_ + i];
      }
    }
    for (std::size_t i = 0; i < width_; ++i) {
      sums[width_ + i] = first_[i] - sums[i];
      sums[i] += here_[i];
    }
  }

  void add_large(std::span<const double> sums, std::span<std::int64_t> found) const {
    for (std::size_t k = 0; k < pairs_.size(); ++k) {
      const double difference =
          pairs_[k].here->of(sums.first(width_)) - pairs_[k].first->of(sums.subspan(width_));
      found[k] += std::abs(difference) >= least_[k] ? 1 : 0;
    }
  }

  std::span<const StatisticPair> pairs_;
  std::size_t width_;
  std::vector<double> here_, first_, rows_, least_;
};

}  // namespace

double value(const Statistic& statistic) { return statistic.of(sums_of(statistic, {})); }

Figure figure_of(const Statistic& statistic) {
  return [&statistic](std::span<const std::uint32_t> times) {
    return statistic.of(sums_of(statistic, times));
  };
}

std::vector<std::vector<double>> resample(std::span<const Statistic* const> statistics,
                                          const BootstrapOptions& options) {
  require_resamples(options);
  const auto count = static_cast<std::size_t>(options.resamples);
  std::vector<std::vector<double>> values(statistics.size());
  if (statistics.empty() || statistics.front()->units() < 1) return values;
  const auto units = static_cast<std::size_t>(statistics.front()->units());
  std::vector<bool> as_before(statistics.size(), false);
  std::size_t numbers = units;
  for (std::size_t k = 0; k < statistics.size(); ++k) {
    values[k].resize(count);
    as_before[k] = k > 0 && same_rows(*statistics[k - 1], *statistics[k]);
    if (!as_before[k]) numbers += statistics[k]->rows.size();
  }
  core::parallel_for(options.resamples, grain_of(numbers),
                     [&](std::int64_t begin, std::int64_t end) {
                       std::vector<std::uint32_t> times(units);
                       std::vector<double> sums;
                       for (std::int64_t i = begin; i < end; ++i) {
                         draw_times(static_cast<std::uint64_t>(i), options, times);
                         for (std::size_t k = 0; k < statistics.size(); ++k) {
                           if (!as_before[k]) {
                             sums.assign(statistics[k]->width, 0.0);
                             add_sums(*statistics[k], times, sums);
                           }
                           values[k][static_cast<std::size_t>(i)] = statistics[k]->of(sums);
                         }
                       }
                     });
  return values;
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

std::vector<std::optional<double>> permutation_tests(std::span<const StatisticPair> pairs,
                                                     const PermutationOptions& options) {
  std::vector<std::optional<double>> all(pairs.size());
  for (std::size_t begin = 0; begin < pairs.size();) {
    std::size_t end = begin + 1;
    if (same_shape(pairs[begin])) {
      while (end < pairs.size() && same_rows(*pairs[begin].here, *pairs[end].here) &&
             same_rows(*pairs[begin].first, *pairs[end].first)) {
        ++end;
      }
      const auto p = Exchanges(pairs.subspan(begin, end - begin)).count(options);
      std::ranges::copy(p, all.begin() + static_cast<std::ptrdiff_t>(begin));
    }
    begin = end;
  }
  return all;
}

std::optional<double> permutation_test(const Statistic& here, const Statistic& first,
                                       const PermutationOptions& options) {
  const StatisticPair pair{&here, &first};
  return permutation_tests(std::span(&pair, 1), options).front();
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
