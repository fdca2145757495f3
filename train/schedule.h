#pragma once

#include <cstdint>

namespace weft::train {

/// How the learning rate goes after the warm-up.
enum class SchedulerKind { kConstant, kLinear, kCosine, kInverseSqrt };

/// The learning rate of every update, by the formulas of transformers' get_*_schedule functions.
///
/// With u the update counted from 0, W warm-up updates and N updates in all, the factor on the
/// peak:
///
///     u < W        u / W                                   (so the first update of a warm-up is 0)
///     constant     1
///     linear       max(0, (N - u) / max(1, N - W))
///     cosine       max(0, (1 + cos(pi (u - W) / max(1, N - W))) / 2)
///     inverse_sqrt 1 / sqrt((u + S - W) / S),  S = W or, without a warm-up, 10 000
class Schedule {
 public:
  /// `peak` > 0, 0 <= warmup_updates, total_updates >= 1 (not used by constant and inverse_sqrt).
  Schedule(SchedulerKind kind, double peak, std::int64_t warmup_updates,
           std::int64_t total_updates);

  /// The rate of the update with this index, counted from 0.
  [[nodiscard]] double rate(std::int64_t update) const;

 private:
  SchedulerKind kind_;
  double peak_;
  std::int64_t warmup_;
  std::int64_t total_;
};

}  // namespace weft::train
