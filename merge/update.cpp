#include "merge/update.h"

#include <algorithm>
#include <array>
#include <cstring>

#if defined(__x86_64__)
#define WEFT_X86 1
#endif

namespace weft::merge {
namespace {

// GCC and clang vector types of the processor's own width: of wider ones the compiler makes memory.
// Nothing is passed by value across a function boundary, so their ABI does not matter.
template <int kLanes>
struct Vector {
  typedef double Doubles __attribute__((vector_size(8 * kLanes)));
  typedef float Floats __attribute__((vector_size(4 * kLanes)));
};
constexpr std::int64_t kPanel = 8;
constexpr std::int64_t kRows = Update::kRowBlock;

/// out[row * stride + p * 8 + lane] = sum over k of left[k * 4 + row] * right[p][k][lane].
template <int kLanes>
[[gnu::always_inline]] inline void multiply(const float* right, const double* left,
                                            std::int64_t rank, std::int64_t panels, double* out) {
  using Doubles = typename Vector<kLanes>::Doubles;
  using Floats = typename Vector<kLanes>::Floats;
  constexpr int kParts = kPanel / kLanes;
  const std::int64_t stride = panels * kPanel;
  for (std::int64_t p = 0; p < panels; ++p) {
    const float* panel = right + p * rank * kPanel;
    Doubles sums[kRows][kParts];
    for (std::int64_t row = 0; row < kRows; ++row) {
      for (int part = 0; part < kParts; ++part) sums[row][part] = Doubles{};
    }
    for (std::int64_t k = 0; k < rank; ++k) {
      Doubles a[kParts];
      for (int part = 0; part < kParts; ++part) {
        Floats narrow;
        std::memcpy(&narrow, panel + k * kPanel + part * kLanes, sizeof narrow);
        a[part] = __builtin_convertvector(narrow, Doubles);
      }
      for (std::int64_t row = 0; row < kRows; ++row) {
        for (int part = 0; part < kParts; ++part)
          sums[row][part] += a[part] * left[k * kRows + row];
      }
    }
    for (std::int64_t row = 0; row < kRows; ++row) {
      for (int part = 0; part < kParts; ++part) {
        double* const to = out + row * stride + p * kPanel + part * kLanes;
        std::memcpy(to, &sums[row][part], sizeof sums[row][part]);
      }
    }
  }
}

using Multiply = void (*)(const float*, const double*, std::int64_t, std::int64_t, double*);

void multiply_plain(const float* right, const double* left, std::int64_t rank, std::int64_t panels,
                    double* out) {
  multiply<2>(right, left, rank, panels, out);
}

#ifdef WEFT_X86
// Wider registers, the same sums: each lane is one column, and products are not fused into the
// additions (avx2 and avx512f do not imply it; see -ffp-contract=off).
[[gnu::target("avx2")]] void multiply_avx2(const float* right, const double* left,
                                           std::int64_t rank, std::int64_t panels, double* out) {
  multiply<4>(right, left, rank, panels, out);
}
[[gnu::target("avx512f")]] void multiply_avx512(const float* right, const double* left,
                                                std::int64_t rank, std::int64_t panels,
                                                double* out) {
  multiply<8>(right, left, rank, panels, out);
}
#endif

Multiply best_multiply() {
#ifdef WEFT_X86
  if (__builtin_cpu_supports("avx512f")) return multiply_avx512;
  if (__builtin_cpu_supports("avx2")) return multiply_avx2;
#endif
  return multiply_plain;
}

}  // namespace

Update::Update(std::vector<Term> terms, Layout layout) {
  const lora::Module& module = terms.front().factors.target.module;
  rows_ = layout == Layout::kOutIn ? module.out : module.in;
  columns_ = layout == Layout::kOutIn ? module.in : module.out;
  panels_ = (columns_ + kPanel - 1) / kPanel;
  for (const Term& term : terms) {
    const lora::Target& target = term.factors.target;
    rank_ += target.rank;
    left_scales_.insert(left_scales_.end(), static_cast<std::size_t>(target.rank),
                        term.weight * target.scale);
  }
  pack_right(terms, layout);
  pack_left(terms, layout);
}

void Update::pack_right(const std::vector<Term>& terms, Layout layout) {
  right_.assign(static_cast<std::size_t>(panels_ * rank_ * kPanel), 0.0F);
  std::int64_t first = 0;
  for (const Term& term : terms) {
    const lora::Factors& factors = term.factors;
    const std::int64_t rank = factors.target.rank;
    for (std::int64_t k = 0; k < rank; ++k) {
      for (std::int64_t j = 0; j < columns_; ++j) {
        // A is [rank, in]; the transposed update's right factor is B^T with B [out, rank].
        const float value = layout == Layout::kOutIn
                                ? factors.a[static_cast<std::size_t>(k * columns_ + j)]
                                : factors.b[static_cast<std::size_t>(j * rank + k)];
        const std::int64_t at = (j / kPanel * rank_ + first + k) * kPanel + j % kPanel;
        right_[static_cast<std::size_t>(at)] = value;
      }
    }
    first += rank;
  }
}

void Update::pack_left(const std::vector<Term>& terms, Layout layout) {
  left_.resize(static_cast<std::size_t>(rows_ * rank_));
  std::int64_t first = 0;
  for (const Term& term : terms) {
    const lora::Factors& factors = term.factors;
    const std::int64_t rank = factors.target.rank;
    for (std::int64_t i = 0; i < rows_; ++i) {
      for (std::int64_t k = 0; k < rank; ++k) {
        const float value = layout == Layout::kOutIn
                                ? factors.b[static_cast<std::size_t>(i * rank + k)]
                                : factors.a[static_cast<std::size_t>(k * rows_ + i)];
        left_[static_cast<std::size_t>(i * rank_ + first + k)] = value;
      }
    }
    first += rank;
  }
}

void Update::compute(std::int64_t begin, std::span<double> out) const {
  static const Multiply run = best_multiply();
  std::vector<double> left(static_cast<std::size_t>(rank_ * kRows), 0.0);
  const std::int64_t rows = std::min(kRows, rows_ - begin);
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t k = 0; k < rank_; ++k) {
      left[static_cast<std::size_t>(k * kRows + row)] =
          left_scales_[static_cast<std::size_t>(k)] *
          static_cast<double>(left_[static_cast<std::size_t>((begin + row) * rank_ + k)]);
    }
  }
  run(right_.data(), left.data(), rank_, panels_, out.data());
}

}  // namespace weft::merge
