#include "merge/update.h"

#include <algorithm>

#include "merge/factor_products.h"

namespace weft::merge {

Update::Update(std::vector<Term> terms, Layout layout) {
  const lora::Module& module = terms.front().factors.target.module;
  rows_ = layout == Layout::kOutIn ? module.out : module.in;
  columns_ = layout == Layout::kOutIn ? module.in : module.out;
  panels_ = (columns_ + kFactorPanel - 1) / kFactorPanel;
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
  right_.assign(static_cast<std::size_t>(panels_ * rank_ * kFactorPanel), 0.0F);
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
        const std::int64_t at =
            (j / kFactorPanel * rank_ + first + k) * kFactorPanel + j % kFactorPanel;
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
        const double scale = left_scales_[static_cast<std::size_t>(first + k)];
        exact_ = exact_ && multiplies_exactly(scale * static_cast<double>(value));
      }
    }
    first += rank;
  }
}

void Update::compute(std::int64_t begin, std::span<double> out) const {
  std::vector<double> left(static_cast<std::size_t>(rank_ * kRowBlock), 0.0);
  const std::int64_t rows = std::min(kRowBlock, rows_ - begin);
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t k = 0; k < rank_; ++k) {
      left[static_cast<std::size_t>(k * kRowBlock + row)] =
          left_scales_[static_cast<std::size_t>(k)] *
          static_cast<double>(left_[static_cast<std::size_t>((begin + row) * rank_ + k)]);
    }
  }
  factor_products(exact_)(right_.data(), left.data(), rank_, panels_, out.data());
}

}  // namespace weft::merge
