#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/number.h"
#include "lora/random.h"
#include "merge/row_kernels.h"

namespace weft::merge {

/// How W + D becomes a number of the output's type.
enum class Rounding {
  kNearest,  ///< To the nearest, ties to even. Small updates shrink: most steps are larger.
  /// Up with the probability that makes the mean exact (arXiv 1502.02551): the update survives in
  /// the mean, at the price of noise of up to one step. Draws depend on seed, tensor and element.
  kStochastic,
  /// To the nearest after adding what the element before it in the row lost (error diffusion):
  /// sums over a row survive; no randomness.
  kErrorFeedback
};

/// "nearest", "stochastic", "error_feedback".
[[nodiscard]] std::string_view name_of(Rounding rounding) noexcept;
/// The rounding of that name, or nothing.
[[nodiscard]] std::optional<Rounding> parse_rounding(std::string_view name) noexcept;

/// round_row() (merge/row_kernels.h) with another rounding than to nearest: for F16 and BF16.
/// `draws` gives element j of the row the number first + j; unused by kErrorFeedback.
/// RowSums::error may reach one step of the type, or with kErrorFeedback one and a half.
[[nodiscard]] RowSums dither_row(Rounding rounding, core::DType type, std::span<const float> base,
                                 std::span<const double> update, const lora::RandomStream& draws,
                                 std::uint64_t first, std::byte* out);

}  // namespace weft::merge
