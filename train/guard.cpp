#include "train/guard.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"

namespace weft::train {
namespace {

constexpr const char* kAdvice = "lower learning_rate, lengthen warmup or set max_grad_norm";

}  // namespace

void DivergenceGuard::observe(std::int64_t update, double loss, double gradient_norm) {
  if (!std::isfinite(loss) || !std::isfinite(gradient_norm)) {
    throw NumericError(
        "update {}: the loss is {} and the norm of the gradient {}; the update was "
        "not applied; {}",
        update, loss, gradient_norm, kAdvice);
  }
  if (options_.ratio <= 0) return;
  recent_.push_back(loss);
  if (std::ssize(recent_) > options_.window) recent_.pop_front();
  if (std::ssize(recent_) < options_.window) return;  // one easy update is no mean
  const double mean =
      std::accumulate(recent_.begin(), recent_.end(), 0.0) / static_cast<double>(recent_.size());
  if (mean > options_.ratio * lowest_ && mean > lowest_ + 1) {
    throw NumericError(
        "update {}: diverged: the mean loss of the last {} updates is {:.4f}, the "
        "lowest was {:.4f}; {}, or set divergence.ratio to 0",
        update, recent_.size(), mean, lowest_, kAdvice);
  }
  lowest_ = std::min(lowest_, mean);
}

nlohmann::json DivergenceGuard::state() const { return {{"recent", recent_}, {"lowest", lowest_}}; }

void DivergenceGuard::restore(const nlohmann::json& state) {
  recent_ = state.at("recent").get<std::deque<double>>();
  lowest_ = state.at("lowest").get<double>();
}

bool EarlyStopping::observe(std::int64_t update, double loss) {
  if (loss < reference_loss_ - min_delta_) {
    reference_loss_ = loss;
    without_gain_ = 0;
  } else {
    ++without_gain_;
  }
  if (!(loss < best_loss_)) return false;
  best_loss_ = loss;
  best_update_ = update;
  return true;
}

nlohmann::json EarlyStopping::state() const {
  return {{"best_loss", best_loss_},
          {"best_update", best_update_},
          {"reference_loss", reference_loss_},
          {"without_gain", without_gain_}};
}

void EarlyStopping::restore(const nlohmann::json& state) {
  best_loss_ = state.at("best_loss").get<double>();
  best_update_ = state.at("best_update").get<std::int64_t>();
  reference_loss_ = state.at("reference_loss").get<double>();
  without_gain_ = state.at("without_gain").get<std::int64_t>();
}

}  // namespace weft::train
