#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "merge/row_deltas.h"

namespace weft::merge {

/// The best approximation of a matrix D [rows, columns] by a product of rank `rank` or less:
/// D ~ left * right, the root of each singular value in either factor.
struct LowRank {
  std::int64_t rank = 0;
  std::vector<float> left;   ///< [rows, rank], row-major.
  std::vector<float> right;  ///< [rank, columns], row-major.
  double norm = 0;           ///< |D|, Frobenius.
  double error = 0;          ///< |D - left right|, before the factors become floats.
};

/// Of the product of two thin factors, left [rows, inner] and right [inner, columns], row-major:
/// exact, by the QR decomposition of `left` and the singular values of a matrix of as many columns.
/// The product itself is never formed.
[[nodiscard]] LowRank truncate_product(std::span<const double> left, std::span<const double> right,
                                       std::int64_t inner, std::int64_t rank);

/// |left right|, Frobenius, without forming the product.
[[nodiscard]] double product_norm(std::span<const double> left, std::span<const double> right,
                                  std::int64_t inner);

/// Several products B_i A_i seen in one space: [B_1 A_1, B_2 A_2, ...] = left [parts_1, parts_2,
/// ...] with orthonormal `left` (KnOTS, arXiv 2410.19735: U and S V_i of the side-by-side updates'
/// SVD).
struct Aligned {
  std::int64_t rank = 0;
  std::vector<double> left;               ///< [rows, rank]
  std::vector<std::vector<float>> parts;  ///< [rank, columns] each.
};
/// left: [rows, inner]; right: [inner, columns]; owner: which product each inner index belongs to.
[[nodiscard]] Aligned align(std::span<const double> left, std::span<const double> right,
                            std::span<const std::size_t> owner, std::size_t products);

enum class Svd {
  /// A randomised range finder with subspace iteration (Halko, Martinsson and Tropp, SIAM Review
  /// 2011): memory is that of the factors, the rows are computed again in each pass. The reported
  /// error is exact for what was found, which may be slightly worse than the best.
  kRandomised,
  /// The whole matrix is held, and the eigenvectors of its smaller Gram matrix are computed.
  kExact
};

struct RowMatrix {
  const RowDeltas* source = nullptr;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
};

/// Of a matrix that is computed a few rows at a time. The result does not depend on the number of
/// threads.
[[nodiscard]] LowRank truncate_rows(const RowMatrix& matrix, std::int64_t rank, Svd how);

}  // namespace weft::merge
