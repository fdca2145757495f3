#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <initializer_list>
#include <span>
#include <utility>
#include <vector>

#include "model/quantised.h"

namespace weft::model {

/// One product of a sum: a [m, k] times b [k, n], of float, BFloat16 or double. Either may be the
/// transpose of a contiguous matrix, or a block of one: neighbours lie together along one of the
/// dimensions.
struct Factors {
  Factors(at::Tensor left, at::Tensor right) : a(std::move(left)), b(std::move(right)) {}
  /// b is a quantised matrix, or its transpose: read back panel by panel.
  Factors(at::Tensor left, const QuantisedMatrix& right, bool transpose)
      : a(std::move(left)), quantised(&right), turned(transpose) {}

  at::Tensor a;
  at::Tensor b{};
  const QuantisedMatrix* quantised = nullptr;
  bool turned = false;
};

/// What becomes of the sum of products.
struct Epilogue {
  at::Tensor bias{};      ///< [n], added to each row before rounding; may be undefined
  at::Tensor residual{};  ///< [m, n], added after the sum was rounded; may be undefined
  double scale = 1;       ///< of the products
  bool add = false;       ///< Adds to c instead of replacing it
};

/// c [m, n] = scale * sum of a b over `terms` (+ bias), rounded once to c's type, then + residual.
/// c's rows are contiguous and may be apart; its type is that of the operands, or float.
///
/// Products of BFloat16 are exact in fp32 and summed there, by the instructions that are chosen for
/// the process (model/kernels/sets.h). An element's sum takes the terms in turn and the parts of k
/// in an order that is the kernel's alone, so its bits depend neither on m and n nor on the
/// threads: a row has the same result in any batch.
///
/// Why not LibTorch's: oneDNN keeps some 0.6 MB for every shape it meets and its bits depend on the
/// shape; MKL chooses slower kernels on processors of other makers; and neither can add an
/// adapter's product before rounding. bench_product compares the speed.
void product_(const at::Tensor& c, std::span<const Factors> terms, const Epilogue& finish = {});
inline void product_(const at::Tensor& c, std::initializer_list<Factors> terms,
                     const Epilogue& finish = {}) {
  product_(c, std::span(terms.begin(), terms.size()), finish);
}

/// One of several products that are computed together.
struct ProductOf {
  at::Tensor c;
  std::vector<Factors> terms;
  Epilogue finish{};
};

/// product_() of each, of which none reads what another writes. Threads go from one to the next
/// without waiting for each other.
void products_(std::span<const ProductOf> all);

/// product_() into a new tensor of the operands' type.
[[nodiscard]] at::Tensor product(const at::Tensor& a, const at::Tensor& b);

}  // namespace weft::model
