#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

#include "model/kernels/multiply.h"

namespace weft::model::kernel {

/// A matrix whose element (i, j) is data[i * row_stride + j * column_stride]; one stride is 1.
template <typename E>
struct MatrixView {
  const E* data = nullptr;
  std::int64_t row_stride = 0;
  std::int64_t column_stride = 1;
};

// Operands of kernel::multiply() (model/kernels/multiply.h) from matrices as they are stored, for
// the chosen kernels or for those that read `layout`. What is filled up is written as zeros.

/// Columns [first, first + columns) of b's k rows, k being filled up to the layout's depth and the
/// columns to kLanes.
void pack_panel(float* to, const MatrixView<float>& b, std::int64_t first, std::int64_t columns,
                std::int64_t k, const Layout& layout = layout_of<float>());
void pack_panel(double* to, const MatrixView<double>& b, std::int64_t first, std::int64_t columns,
                std::int64_t k, const Layout& layout = layout_of<double>());
void pack_panel(c10::BFloat16* to, const MatrixView<c10::BFloat16>& b, std::int64_t first,
                std::int64_t columns, std::int64_t k,
                const Layout& layout = layout_of<c10::BFloat16>());

/// Rows [first, last) of a's k columns: [last - first][k filled up].
void pack_left(float* to, const MatrixView<float>& a, std::int64_t first, std::int64_t last,
               std::int64_t k, const Layout& layout = layout_of<float>());
void pack_left(double* to, const MatrixView<double>& a, std::int64_t first, std::int64_t last,
               std::int64_t k, const Layout& layout = layout_of<double>());
void pack_left(c10::BFloat16* to, const MatrixView<c10::BFloat16>& a, std::int64_t first,
               std::int64_t last, std::int64_t k,
               const Layout& layout = layout_of<c10::BFloat16>());

}  // namespace weft::model::kernel
