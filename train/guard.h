#pragma once

#include <cstdint>
#include <deque>
#include <limits>
#include <nlohmann/json.hpp>

namespace weft::train {

/// When a run counts as diverged.
struct DivergenceOptions {
  double ratio = 2;          ///< 0: only NaN and infinity stop a run.
  std::int64_t window = 10;  ///< Updates that the average takes in.
};

/// Watches the losses of the updates. A run has diverged when the mean loss of the last `window`
/// updates exceeds both `ratio` times the lowest such mean so far and that mean plus one nat (small
/// losses may double without meaning anything). Before `window` updates there is no such mean.
class DivergenceGuard {
 public:
  explicit DivergenceGuard(const DivergenceOptions& options) : options_(options) {}

  /// Call before the update is applied. Throws NumericError, with the numbers, for a loss or a
  /// gradient that is not finite, and for divergence.
  void observe(std::int64_t update, double loss, double gradient_norm);

  /// What has to be saved to go on exactly.
  [[nodiscard]] nlohmann::json state() const;
  void restore(const nlohmann::json& state);

 private:
  DivergenceOptions options_;
  std::deque<double> recent_;
  double lowest_ = std::numeric_limits<double>::max();
};

/// Keeps the best validation loss and counts evaluations without gain.
class EarlyStopping {
 public:
  /// `patience` evaluations without a loss lower than the best by more than `min_delta` stop the
  /// run; 0: never.
  EarlyStopping(std::int64_t patience, double min_delta)
      : patience_(patience), min_delta_(min_delta) {}

  /// True when `loss` is the lowest so far.
  bool observe(std::int64_t update, double loss);

  /// No gain for `patience` evaluations so far.
  [[nodiscard]] bool is_exhausted() const { return patience_ > 0 && without_gain_ >= patience_; }
  [[nodiscard]] bool has_best() const { return best_update_ >= 0; }
  [[nodiscard]] double best_loss() const { return best_loss_; }
  [[nodiscard]] std::int64_t best_update() const { return best_update_; }

  [[nodiscard]] nlohmann::json state() const;
  void restore(const nlohmann::json& state);

 private:
  std::int64_t patience_;
  double min_delta_;
  double best_loss_ = std::numeric_limits<double>::max();
  std::int64_t best_update_ = -1;
  double reference_loss_ = std::numeric_limits<double>::max();  ///< What a gain is counted from.
  std::int64_t without_gain_ = 0;
};

}  // namespace weft::train
