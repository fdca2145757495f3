#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "lora/random.h"
#include "merge/select.h"

namespace weft::merge {

/// Which elements of a task vector stay.
enum class Sparsity {
  kNone,
  kMagnitude,    ///< The `density` share of largest magnitude (TIES, arXiv 2306.01708).
  kRandom,       ///< Each with probability `density` (DARE, arXiv 2311.03099).
  kOutliers,     ///< As kMagnitude, below the `gamma` share that is dropped at the top
                 ///< (Model Breadcrumbs, arXiv 2312.06795).
  kRankedRandom  ///< Each with a probability between density -+ epsilon by the rank of its
                 ///< magnitude in its row (DELLA, arXiv 2406.11617).
};

/// What makes up for the elements that went.
enum class Rescale {
  kNone,
  kL1,      ///< The sum of magnitudes is restored (mergekit).
  kDensity  ///< Times 1 / density (DARE as published; PEFT).
};

struct SparsifyRule {
  Sparsity kind = Sparsity::kNone;
  Rescale rescale = Rescale::kNone;
  bool at_least_one = false;  ///< mergekit's magnitude keeps one element of any tensor.
  double density = 1;
  double gamma = 0;
  double epsilon = 0;
};

/// Rows of a task vector.
using RowReader = std::function<void(std::int64_t begin, std::int64_t end, std::span<double>)>;

/// A task vector made sparse: apply() drops and rescales its rows. What has to be known of the
/// whole tensor (thresholds, norms) is found when it is made, in passes over the rows.
/// Elements are ranked as merge/select.h says; draws are number row * columns + column of
/// lora::RandomStream(seed, stream), the element staying when it is below the probability. Of
/// tensors of up to kRemembered elements it is remembered which stay.
class Sparsifier {
 public:
  static constexpr std::int64_t kRemembered = std::int64_t{1} << 27;

  Sparsifier(const SparsifyRule& rule, std::int64_t rows, std::int64_t columns, RowReader read,
             const RowLoop& loop, std::uint64_t seed, const std::string& stream);

  /// Rows [begin, end) as the task vector has them become as the method wants them. Thread-safe.
  void apply(std::int64_t begin, std::int64_t end, std::span<double> values) const;

 private:
  void set_chances();
  void select(const RowReader& read, const RowLoop& loop);
  void measure(const RowReader& read, const RowLoop& loop);
  void drop(std::int64_t begin, std::int64_t end, std::span<double> values) const;
  /// Where, between two places, a top set stops taking the equals of its last element.
  [[nodiscard]] std::array<std::int64_t, 3> cuts(std::int64_t first, std::int64_t past) const;
  void drop_by_chance(std::int64_t begin, std::span<double> values) const;
  void drop_by_rank(std::int64_t row, std::span<double> values) const;

  SparsifyRule rule_;
  std::int64_t rows_;
  std::int64_t columns_;
  TopSet kept_;     ///< Stay,
  TopSet dropped_;  ///< unless they are in this one.
  double factor_ = 1;
  std::optional<lora::RandomStream> random_;
  std::vector<double> chances_;  ///< By rank in a row (kRankedRandom).
  /// A bit for each element, rows padded to whole bytes: whether it stays. Empty where drawing
  /// again costs less memory.
  std::vector<std::uint8_t> stays_;
};

}  // namespace weft::merge
