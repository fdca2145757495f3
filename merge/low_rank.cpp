#include "merge/low_rank.h"

#include <Eigen/Eigenvalues>
#include <Eigen/QR>
#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "core/parallel.h"
#include "lora/random.h"

namespace weft::merge {
namespace {

using Matrix = Eigen::MatrixXd;
using Rows = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr std::int64_t kTileElements = std::int64_t{1} << 20;
constexpr std::int64_t kColumns = 256;  ///< That a thread multiplies at a time, whatever its count.
constexpr std::int64_t kOversampling = 16;
constexpr int kIterations = 4;

/// Columns that span those of `matrix`, orthonormal.
Matrix orthonormal(const Matrix& matrix) {
  const Eigen::HouseholderQR<Matrix> qr(matrix);
  return qr.householderQ() * Matrix::Identity(matrix.rows(), matrix.cols());
}

/// Singular values of `matrix` [rows, n] and the vectors to the `kept` largest, from the
/// eigenvectors of its Gram matrix, which are its right singular vectors. Those on the left are
/// their images, in size and direction. Vectors to values below 1e-8 of the largest are mixed by
/// rounding; what is kept is a projection all the same, matrix * right * right^T, and may miss the
/// best one by so much, which is a sixth of the step of the floats that it becomes.
struct Singular {
  Matrix left;             ///< [rows, kept]; zero where the value is.
  Eigen::VectorXd values;  ///< [kept], from the largest on.
  Matrix right;            ///< [n, kept]
};

Singular singular(const Matrix& matrix, std::int64_t kept) {
  const Matrix gram = matrix.transpose() * matrix;
  const Eigen::SelfAdjointEigenSolver<Matrix> eigen(gram);
  Singular found;
  found.right =
      eigen.eigenvectors().rightCols(std::min<Eigen::Index>(kept, gram.rows())).rowwise().reverse();
  found.left = matrix * found.right;
  found.values.resize(found.right.cols());
  for (Eigen::Index k = 0; k < found.values.size(); ++k) {
    found.values[k] = found.left.col(k).norm();
    if (found.values[k] > 0) found.left.col(k) /= found.values[k];
  }
  return found;
}

/// left [rows, rank] * diag(values) * right [columns, rank]^T, cut to `rank`.
LowRank spread(const Matrix& left, const Eigen::VectorXd& values, const Matrix& right,
               std::int64_t rank) {
  LowRank result;
  result.rank = std::min<std::int64_t>(rank, values.size());
  result.left.resize(static_cast<std::size_t>(left.rows() * result.rank));
  result.right.resize(static_cast<std::size_t>(right.rows() * result.rank));
  for (std::int64_t k = 0; k < result.rank; ++k) {
    const double root = std::sqrt(std::max(0.0, values[k]));
    for (std::int64_t i = 0; i < left.rows(); ++i) {
      result.left[static_cast<std::size_t>(i * result.rank + k)] =
          static_cast<float>(root * left(i, k));
    }
    for (std::int64_t j = 0; j < right.rows(); ++j) {
      result.right[static_cast<std::size_t>(k * right.rows() + j)] =
          static_cast<float>(root * right(j, k));
    }
  }
  return result;
}

/// The matrix a tile of rows after the other: visit(first row, tile). Rows of a tile are computed
/// in parallel.
void each_tile(const RowMatrix& matrix,
               const std::function<void(std::int64_t, const Rows&)>& visit) {
  const std::int64_t block = RowDeltas::kRowBlock;
  const std::int64_t most =
      std::max(block, kTileElements / std::max<std::int64_t>(1, matrix.columns) / block * block);
  for (std::int64_t begin = 0; begin < matrix.rows; begin += most) {
    const std::int64_t count = std::min(most, matrix.rows - begin);
    Rows tile(count, matrix.columns);
    core::parallel_for((count + block - 1) / block, 1, [&](std::int64_t first, std::int64_t last) {
      std::vector<double> rows(static_cast<std::size_t>(block * matrix.source->stride()));
      for (std::int64_t at = first * block; at < std::min(count, last * block); at += block) {
        matrix.source->compute(begin + at, rows);
        for (std::int64_t i = 0; i < std::min(block, count - at); ++i) {
          std::copy_n(rows.data() + i * matrix.source->stride(), matrix.columns,
                      tile.data() + (at + i) * matrix.columns);
        }
      }
    });
    visit(begin, tile);
  }
}

/// D * right.
Matrix times(const RowMatrix& matrix, const Matrix& right) {
  Matrix product(matrix.rows, right.cols());
  each_tile(matrix, [&](std::int64_t begin, const Rows& tile) {
    const std::int64_t parts = (tile.rows() + kColumns - 1) / kColumns;
    core::parallel_for(parts, 1, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t part = first; part < last; ++part) {
        const std::int64_t from = part * kColumns;
        const std::int64_t count = std::min<std::int64_t>(kColumns, tile.rows() - from);
        product.middleRows(begin + from, count).noalias() = tile.middleRows(from, count) * right;
      }
    });
  });
  return product;
}

/// D^T * left.
Matrix transposed_times(const RowMatrix& matrix, const Matrix& left) {
  Matrix product = Matrix::Zero(matrix.columns, left.cols());
  each_tile(matrix, [&](std::int64_t begin, const Rows& tile) {
    const std::int64_t parts = (tile.cols() + kColumns - 1) / kColumns;
    core::parallel_for(parts, 1, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t part = first; part < last; ++part) {
        const std::int64_t from = part * kColumns;
        const std::int64_t count = std::min<std::int64_t>(kColumns, tile.cols() - from);
        product.middleRows(from, count).noalias() +=
            tile.middleCols(from, count).transpose() * left.middleRows(begin, tile.rows());
      }
    });
  });
  return product;
}

double squared_norm(const RowMatrix& matrix) {
  double sum = 0;
  each_tile(matrix, [&](std::int64_t, const Rows& tile) { sum += tile.squaredNorm(); });
  return sum;
}

/// Norm and error from the kept singular values: what is left is orthogonal to what is kept.
void set_error(LowRank& result, double squared, const Eigen::VectorXd& values) {
  result.norm = std::sqrt(squared);
  const double kept = values.head(result.rank).squaredNorm();
  result.error = std::sqrt(std::max(0.0, squared - kept));
}

LowRank randomised(const RowMatrix& matrix, std::int64_t rank) {
  const std::int64_t width = std::min({rank + kOversampling, matrix.rows, matrix.columns});
  Matrix start(matrix.columns, width);
  std::vector<float> draws(static_cast<std::size_t>(start.size()));
  lora::RandomStream(0, "range finder").fill(0, draws);
  for (Eigen::Index i = 0; i < start.size(); ++i) {
    start.data()[i] = static_cast<double>(draws[static_cast<std::size_t>(i)]) - 0.5;
  }
  Matrix left = orthonormal(times(matrix, start));
  for (int i = 0; i < kIterations; ++i) {
    left = orthonormal(times(matrix, orthonormal(transposed_times(matrix, left))));
  }
  // D ~ left (D^T left)^T; the singular values are those of the thin matrix D^T left.
  const Singular thin = singular(transposed_times(matrix, left), rank);
  LowRank result = spread(left * thin.right, thin.values, thin.left, rank);
  set_error(result, squared_norm(matrix), thin.values);
  return result;
}

LowRank exact(const RowMatrix& matrix, std::int64_t rank) {
  Matrix whole(matrix.rows, matrix.columns);
  each_tile(matrix, [&](std::int64_t begin, const Rows& tile) {
    whole.middleRows(begin, tile.rows()) = tile;
  });
  const double squared = whole.squaredNorm();
  const bool wide = matrix.rows < matrix.columns;
  if (wide) whole.transposeInPlace();
  const Singular found = singular(whole, rank);
  LowRank result = wide ? spread(found.right, found.values, found.left, rank)
                        : spread(found.left, found.values, found.right, rank);
  set_error(result, squared, found.values);
  return result;
}

}  // namespace

LowRank truncate_product(std::span<const double> left, std::span<const double> right,
                         std::int64_t inner, std::int64_t rank) {
  const auto rows = static_cast<std::int64_t>(left.size()) / inner;
  const auto columns = static_cast<std::int64_t>(right.size()) / inner;
  const Matrix b = Eigen::Map<const Rows>(left.data(), rows, inner);
  const Matrix a = Eigen::Map<const Rows>(right.data(), inner, columns).transpose();
  const Matrix q = orthonormal(b.cols() <= b.rows() ? b : Matrix(Matrix::Identity(rows, rows)));
  // B A = q (a (q^T B)^T)^T with a = A^T, a thin matrix again.
  const Matrix thin = a * (q.transpose() * b).transpose();
  const Singular found = singular(thin, std::min(thin.rows(), thin.cols()));
  LowRank result = spread(q * found.right, found.values, found.left, rank);
  result.norm = found.values.norm();
  result.error = found.values.tail(found.values.size() - result.rank).norm();
  return result;
}

double product_norm(std::span<const double> left, std::span<const double> right,
                    std::int64_t inner) {
  const Eigen::Map<const Rows> b(left.data(), static_cast<std::int64_t>(left.size()) / inner,
                                 inner);
  const Eigen::Map<const Rows> a(right.data(), inner,
                                 static_cast<std::int64_t>(right.size()) / inner);
  // |B A|^2 is the sum of the elements of B^T B times those of A A^T.
  const Matrix outer = b.transpose() * b;
  const Matrix other = a * a.transpose();
  return std::sqrt(std::max(0.0, outer.cwiseProduct(other).sum()));
}

Aligned align(std::span<const double> left, std::span<const double> right,
              std::span<const std::size_t> owner, std::size_t products) {
  const auto inner = static_cast<std::int64_t>(owner.size());
  const auto rows = static_cast<std::int64_t>(left.size()) / inner;
  const auto columns = static_cast<std::int64_t>(right.size()) / inner;
  const Matrix b = Eigen::Map<const Rows>(left.data(), rows, inner);
  const Eigen::Map<const Rows> a(right.data(), inner, columns);
  const Matrix q = orthonormal(b.cols() <= b.rows() ? b : Matrix(Matrix::Identity(rows, rows)));
  const Matrix small = q.transpose() * b;  // [rank, inner]
  // The Gram matrix of the side-by-side products in the basis q: sum_i small_i A_i A_i^T small_i^T.
  Matrix gram = Matrix::Zero(q.cols(), q.cols());
  std::vector<Rows> parts;
  for (std::size_t i = 0; i < products; ++i) {
    Rows part = Rows::Zero(q.cols(), columns);
    for (std::int64_t k = 0; k < inner; ++k) {
      if (owner[static_cast<std::size_t>(k)] == i) part.noalias() += small.col(k) * a.row(k);
    }
    gram.noalias() += part * part.transpose();
    parts.push_back(std::move(part));
  }
  const Eigen::SelfAdjointEigenSolver<Matrix> eigen(gram);
  // Directions that no update has would only dilute what a share of all elements means.
  const double least = 1e-12 * eigen.eigenvalues().maxCoeff();
  const Eigen::Index kept = (eigen.eigenvalues().array() > least).count();
  const Matrix rotation =
      eigen.eigenvectors().rightCols(std::max<Eigen::Index>(1, kept)).rowwise().reverse();
  Aligned aligned;
  aligned.rank = rotation.cols();
  const Rows basis = q * rotation;
  aligned.left.assign(basis.data(), basis.data() + basis.size());
  for (const Rows& part : parts) {
    const Rows turned = rotation.transpose() * part;
    aligned.parts.emplace_back(turned.data(), turned.data() + turned.size());
  }
  return aligned;
}

LowRank truncate_rows(const RowMatrix& matrix, std::int64_t rank, Svd how) {
  return how == Svd::kExact ? exact(matrix, rank) : randomised(matrix, rank);
}

}  // namespace weft::merge
