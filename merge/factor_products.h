#pragma once

#include <cstdint>

namespace weft::merge {

/// Columns of a panel of the right factor.
constexpr std::int64_t kFactorPanel = 8;
/// Rows that are multiplied at a time.
constexpr std::int64_t kFactorRows = 4;

/// out[row * stride + p * kFactorPanel + lane] = sum over k of left[k * kFactorRows + row] *
/// right[p][k][lane], with stride = panels * kFactorPanel: products and sums in double, k upwards.
using MultiplyFactors = void (*)(const float* right, const double* left, std::int64_t rank,
                                 std::int64_t panels, double* out);

/// Whether every product of `left` and a finite float is a double without rounding: 24 bits of a
/// float and 29 of `left` make 53. Multiplying and adding in one operation then gives
/// the sum of doing one after the other.
[[nodiscard]] bool multiplies_exactly(double left);

/// The widest form that the processor has. All give the same bits. `exact`: multiplies_exactly()
/// holds for all of `left`, so that fused operations may be used, which are twice as fast.
[[nodiscard]] MultiplyFactors factor_products(bool exact);

/// The forms with fused operations, of factor_products_fused.cpp; null where the processor has
/// none.
[[nodiscard]] MultiplyFactors fused_factor_products();

}  // namespace weft::merge
