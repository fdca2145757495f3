#pragma once

#include <span>
#include <vector>

#include "lora/adapter.h"
#include "lora/peft_file.h"
#include "merge/fold.h"

namespace weft::exporting {

/// Every module's update as one pair of matrices without a scale: rank = sum of the ranks,
/// A = [A_1; A_2; ...], B = [weight_1 scale_1 B_1, weight_2 scale_2 B_2, ...], so that B A is the
/// sum of the updates (exactly, but for one rounding of B to F32). In order of module path;
/// `target.scale` is 1.
///
/// This is what readers understand that ignore use_rslora and alpha_pattern.
class PlainUpdates {
 public:
  /// The files must outlive it.
  explicit PlainUpdates(std::span<const merge::WeightedAdapter> adapters);

  [[nodiscard]] const std::vector<lora::Target>& targets() const noexcept { return targets_; }
  /// The matrices of targets()[i], read when they are asked for. Thread-safe.
  [[nodiscard]] lora::Factors load(std::size_t i) const;

 private:
  /// Where one adapter has a module.
  struct Source {
    const merge::WeightedAdapter* adapter;
    std::size_t index;
  };

  std::vector<merge::WeightedAdapter> adapters_;
  std::vector<lora::Target> targets_;
  std::vector<std::vector<Source>> sources_;
};

/// All of them.
[[nodiscard]] std::vector<lora::Factors> plain_factors(
    std::span<const merge::WeightedAdapter> adapters);

/// Pads every module to `rank` with zero rows of A and zero columns of B; B A stays what it is.
void pad_rank(std::vector<lora::Factors>& factors, std::int64_t rank);

/// The largest rank of the modules.
[[nodiscard]] std::int64_t largest_rank(std::span<const lora::Factors> factors);
[[nodiscard]] std::int64_t largest_rank(std::span<const lora::Target> targets);
[[nodiscard]] bool one_rank(std::span<const lora::Factors> factors);
[[nodiscard]] bool one_rank(std::span<const lora::Target> targets);

/// The largest |B A - B' A'| over sampled rows, relative to the largest |B A|, of the same module's
/// update in two forms. 0 when both are zero.
[[nodiscard]] double relative_difference(const lora::Factors& source, const lora::Factors& written);

}  // namespace weft::exporting
