#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace weft::train {
namespace {

constexpr std::int64_t kTimescaleWithoutWarmup = 10'000;  // transformers' default

}  // namespace

Schedule::Schedule(SchedulerKind kind, double peak, std::int64_t warmup_updates,
                   std::int64_t total_updates)
    : kind_(kind), peak_(peak), warmup_(warmup_updates), total_(total_updates) {}

double Schedule::rate(std::int64_t update) const {
  const auto u = static_cast<double>(update);
  const auto warmup = static_cast<double>(warmup_);
  if (update < warmup_) return peak_ * (u / warmup);
  const auto rest = static_cast<double>(std::max<std::int64_t>(1, total_ - warmup_));
  switch (kind_) {
    case SchedulerKind::kConstant: return peak_;
    case SchedulerKind::kLinear:
      return peak_ * std::max(0.0, static_cast<double>(total_ - update) / rest);
    case SchedulerKind::kCosine:
      return peak_ * std::max(0.0, 0.5 * (1 + std::cos(std::numbers::pi * ((u - warmup) / rest))));
    case SchedulerKind::kInverseSqrt: {
      const auto timescale = static_cast<double>(warmup_ > 0 ? warmup_ : kTimescaleWithoutWarmup);
      return peak_ / std::sqrt((u + timescale - warmup) / timescale);
    }
  }
  return peak_;
}

}  // namespace weft::train
