#include "train/disk.h"

#include <algorithm>
#include <cmath>

namespace weft::train {
namespace {

/// Of an update in metrics.jsonl and the TensorBoard file, about.
constexpr std::uint64_t kUpdateBytes = 700;

/// Checkpoints that a run writes in all, the first of them before its first update.
double checkpoints_of(const Prepared& prepared) {
  const schema::Duration& every = prepared.config.save.every;
  const auto updates = static_cast<double>(prepared.total_updates);
  const auto tokens = static_cast<double>(prepared.first_epoch.example_tokens);
  double per_update = 1;  // A checkpoint at every update is the most there can be.
  if (every.unit == schema::Duration::Unit::kUpdates) per_update = 1 / every.amount;
  if (every.unit == schema::Duration::Unit::kTokens)
    per_update = static_cast<double>(prepared.config.tokens_per_update) / every.amount;
  if (every.unit == schema::Duration::Unit::kEpochs && tokens > 0)
    per_update = static_cast<double>(prepared.config.tokens_per_update) / tokens / every.amount;
  return 2 + std::floor(updates * std::min(per_update, 1.0));
}

}  // namespace

DiskNeed disk_need(const Prepared& prepared) {
  std::uint64_t parameters = 0;
  for (const lora::Factors& factors : prepared.initial.factors)
    parameters += static_cast<std::uint64_t>(factors.target.parameters());
  const std::int64_t keep = prepared.config.save.keep;
  double checkpoints = checkpoints_of(prepared);
  if (keep > 0) checkpoints = std::min(checkpoints, static_cast<double>(keep + 1));
  DiskNeed need{.adapter = 4 * parameters};
  need.run = need.adapter + static_cast<std::uint64_t>(checkpoints) * 3 * need.adapter +
             static_cast<std::uint64_t>(prepared.total_updates) * kUpdateBytes;
  return need;
}

}  // namespace weft::train
