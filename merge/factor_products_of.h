#pragma once

#include <cstdint>
#include <cstring>

#include "core/clones.h"
#include "merge/factor_products.h"

// The loops of merge/factor_products.h, compiled twice: without fused operations, and with them.

namespace weft::merge {

// GCC and clang vector types of the processor's own width: of wider ones the compiler makes memory.
// Nothing is passed by value across a function boundary, so their ABI does not matter.
template <int kLanes>
struct FactorVector {
  typedef double Doubles __attribute__((vector_size(8 * kLanes)));
  typedef float Floats __attribute__((vector_size(4 * kLanes)));
};

template <int kLanes>
WEFT_INLINE void multiply_factors(const float* right, const double* left, std::int64_t rank,
                                  std::int64_t panels, double* out) {
  using Doubles = typename FactorVector<kLanes>::Doubles;
  using Floats = typename FactorVector<kLanes>::Floats;
  constexpr int kParts = kFactorPanel / kLanes;
  constexpr std::int64_t kRows = kFactorRows;
  const std::int64_t stride = panels * kFactorPanel;
  for (std::int64_t p = 0; p < panels; ++p) {
    const float* panel = right + p * rank * kFactorPanel;
    Doubles sums[kRows][kParts];
    for (std::int64_t row = 0; row < kRows; ++row) {
      for (int part = 0; part < kParts; ++part) sums[row][part] = Doubles{};
    }
    for (std::int64_t k = 0; k < rank; ++k) {
      Doubles a[kParts];
      for (int part = 0; part < kParts; ++part) {
        Floats narrow;
        std::memcpy(&narrow, panel + k * kFactorPanel + part * kLanes, sizeof narrow);
        a[part] = __builtin_convertvector(narrow, Doubles);
      }
      for (std::int64_t row = 0; row < kRows; ++row) {
        for (int part = 0; part < kParts; ++part)
          sums[row][part] += a[part] * left[k * kRows + row];
      }
    }
    for (std::int64_t row = 0; row < kRows; ++row) {
      for (int part = 0; part < kParts; ++part) {
        double* const to = out + row * stride + p * kFactorPanel + part * kLanes;
        std::memcpy(to, &sums[row][part], sizeof sums[row][part]);
      }
    }
  }
}

}  // namespace weft::merge
