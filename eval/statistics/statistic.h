#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "eval/statistics/bootstrap.h"

namespace weft::eval {

/// A figure of a corpus that depends on sums over what varies independently: a ratio of sums like
/// bits per byte, a mean like accuracy, or more, like chrF. With it a resample is a weighted sum
/// of rows, and exchanging a unit between two stages exchanges two rows.
struct Statistic {
  std::size_t width = 0;     ///< Numbers per unit.
  std::vector<double> rows;  ///< [units, width]
  std::function<double(std::span<const double> sums)> of;

  [[nodiscard]] std::int64_t units() const {
    return width == 0 ? 0 : static_cast<std::int64_t>(rows.size() / width);
  }
};

/// The figure of all units.
[[nodiscard]] double value(const Statistic& statistic);

/// As the bootstrap takes it. Refers to the statistic.
[[nodiscard]] Figure figure_of(const Statistic& statistic);

/// resample() of many statistics with the same number of units: [statistic][resample]. Each
/// resample is drawn once for all, and neighbours with equal rows are summed once.
[[nodiscard]] std::vector<std::vector<double>> resample(
    std::span<const Statistic* const> statistics, const BootstrapOptions& options = {});

/// Units of one group become one: what comes from the same document varies together. `groups`: of
/// each unit; empty: nothing changes.
[[nodiscard]] Statistic clustered(Statistic statistic, std::span<const std::uint32_t> groups);

struct PermutationOptions {
  std::int64_t permutations = 10000;
  std::uint64_t seed = 12345;
  std::uint64_t stream = 0;  ///< As BootstrapOptions'.
};

/// The two-sided paired permutation test (Fisher; approximate randomisation, Noreen 1989) of the
/// difference of a figure between two stages with the same units: how often the difference is at
/// least as large when each unit's two results are exchanged at random. All exchanges are counted
/// where there are at most `permutations` of them (units that are equal in both count for none);
/// otherwise p = (c + 1) / (permutations + 1). Equal to scipy.stats.permutation_test(
/// permutation_type="samples") and, for random exchanges, the p of sacrebleu's --paired-ar.
/// Nothing for fewer than two units, other shapes, or a difference that is not finite.
/// Deterministic; does not depend on the number of threads.
[[nodiscard]] std::optional<double> permutation_test(const Statistic& here, const Statistic& first,
                                                     const PermutationOptions& options = {});

/// The same figure in two stages.
struct StatisticPair {
  const Statistic* here = nullptr;
  const Statistic* first = nullptr;
};
/// permutation_test() of many; neighbours with equal rows are exchanged once for all.
[[nodiscard]] std::vector<std::optional<double>> permutation_tests(
    std::span<const StatisticPair> pairs, const PermutationOptions& options = {});

/// Holm's step-down correction (Holm 1979): adjusted values in the order of `p`; what is not there
/// does not count. Comparing them with a level keeps the chance of any false alarm below it.
[[nodiscard]] std::vector<std::optional<double>> holm(std::span<const std::optional<double>> p);

}  // namespace weft::eval
