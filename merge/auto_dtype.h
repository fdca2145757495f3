#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "merge/dither.h"
#include "merge/fold.h"

namespace weft::merge {

/// Below this share of a tensor's update, rounding takes a visible part of it away.
inline constexpr double kRetainedEnough = 0.95;

/// The share of one tensor's update that survives rounding to nearest, <M - W, D> / <D, D>, from a
/// sample of its rows.
struct RetainedShare {
  std::string name;
  double as_planned = 1;  ///< In the type of the plan.
  double f16 = 1;
};

/// What `--dtype auto` found and chose.
struct TypeChoice {
  std::vector<RetainedShare> tensors;  ///< The changed ones, in order of name.
  /// Why F16 does not hold the base, in words; empty: it does. Only looked at where F16 would keep
  /// enough of the update.
  std::string f16_loses{};
  std::optional<core::DType> dtype;  ///< To write everything in; empty: the plan's types do.

  /// Tensors of which less than kRetainedEnough would be left in the plan's types.
  [[nodiscard]] std::size_t below() const;
};

/// Measures what rounding to the plan's types leaves of each tensor's update, in at most 128 rows
/// of it, and chooses: the plan's types where every tensor keeps 95 %, else F16 where every tensor
/// does and holds the numbers of the whole base, changed or not, else F32. One type is chosen for
/// all, since a reader loads a model in the one type of its config.json. Reads the sampled rows,
/// and all of the base once where F16 is considered.
[[nodiscard]] TypeChoice choose_dtype(const checkpoint::Checkpoint& base,
                                      std::span<const WeightedAdapter> adapters,
                                      const FoldPlan& plan);

/// The sentence that says what was found and done.
[[nodiscard]] std::string text_of(const TypeChoice& choice, const FoldPlan& plan,
                                  Rounding rounding);

}  // namespace weft::merge
