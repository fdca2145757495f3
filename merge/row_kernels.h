#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/number.h"

// What merging does to every number, one row (or a few) at a time: loops compiled for several
// instruction sets (core/clones.h), with the same bits from each. Spans of one call have one length
// unless stated.

namespace weft::merge {

/// Sums over one row; added up in order of rows, so that threads do not change the report.
/// W: the base's numbers, D: the exact update, M: what was written.
struct RowSums {
  double base = 0;    ///< sum W^2
  double update = 0;  ///< sum D^2
  double kept = 0;    ///< sum (M - W) D
  double error = 0;   ///< max |M - (W + D)|
  std::int64_t changed = 0;
  bool overflow = false;  ///< A finite W became an M that is not.

  friend bool operator==(const RowSums&, const RowSums&) = default;
};

/// M = round(W + D) as the bits of `type`, little-endian, at `out` (size_of(type) bytes a number).
/// An empty `update` is zero throughout, and only `overflow` is reported.
[[nodiscard]] RowSums round_row(core::DType type, std::span<const float> base,
                                std::span<const double> update, std::byte* out);

/// out = x - y.
void subtract(std::span<const float> x, std::span<const float> y, std::span<double> out);
/// out += weight * x.
void add_scaled(double weight, std::span<const double> x, std::span<double> out);
/// out += a * x + b * y.
void add_scaled(double a, double b, std::span<const double> x, std::span<const double> y,
                std::span<double> out);
void scale(double factor, std::span<double> values);

[[nodiscard]] double sum_magnitudes(std::span<const double> values);

/// The three sums that an angle needs.
struct Products {
  double aa = 0;
  double bb = 0;
  double ab = 0;
};
[[nodiscard]] Products products(std::span<const double> a, std::span<const double> b);

/// magnitude_key() (merge/select.h) of every number.
void magnitude_keys(std::span<const double> values, std::span<std::uint32_t> out);
/// Numbers whose key is not in [low, high) become 0.
void keep_between(std::uint64_t low, std::uint64_t high, std::span<double> values);
/// Numbers whose draw is not below `probability` become 0.
void keep_drawn(std::span<const float> draws, double probability, std::span<double> values);

/// Bit j % 8 of byte j / 8 says whether number j is not 0; marks.size() == ceil(values.size() / 8).
void mark_nonzero(std::span<const double> values, std::span<std::uint8_t> marks);
/// Numbers whose bit is not set become 0.
void keep_marked(std::span<const std::uint8_t> marks, std::span<double> values);

/// sum_magnitudes() of all numbers, and of them after keep_marked().
struct MarkedSums {
  double all = 0;
  double marked = 0;
};
[[nodiscard]] MarkedSums sum_marked(std::span<const std::uint8_t> marks,
                                    std::span<const double> values);

/// What the sum of task vectors that agree is divided by.
enum class Divisor {
  kNone,
  kWeights,  ///< The sum of the weights that take part.
  kCount     ///< Their number.
};

/// How the task vectors of an element become one number.
struct Mix {
  std::vector<double> weights{};
  bool equal_votes = false;  ///< The sign is that of the sum of unweighted vectors (PEFT).
  Divisor divisor = Divisor::kNone;
  double lambda = 1;
};

/// out += lambda * (sum_i w_i d_i) / n over the models i whose w_i d_i (equal_votes: d_i) has the
/// sign of the sum of those; 0 counts as positive. deltas: [models, out.size()].
void mix_agreeing(const Mix& mix, std::span<const double> deltas, std::span<double> out);

/// The variance of each element over models, with their number as the divisor, as magnitude_key().
/// deltas: [models, out.size()].
void variance_keys(std::span<const double> deltas, std::span<std::uint32_t> out);
/// SCE's mean: out += (sum_i w_i d_i) / max(sum_i w_i, 1e-6) over the models whose d_i has the sign
/// of the sum of all d_i; 0 counts as positive. deltas: [weights.size(), out.size()].
void mean_agreeing(std::span<const double> weights, std::span<const double> deltas,
                   std::span<double> out);
/// sums[row] += values[row][0]^2 + values[row][1]^2 + ..., one after the other. values: [rows,
/// columns], sums: [rows].
void add_squares(std::span<const double> values, std::span<double> sums);

}  // namespace weft::merge
