#include "model/divergence.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "model/kernels/kernel_math.h"

namespace weft::model {
namespace {

/// Sums of so many terms are in float, which vectorises; the sums of sums in double.
constexpr std::int64_t kColumns = 256;

/// max and ln sum exp of a row.
struct LogSum {
  float most = 0;
  double value = 0;
};

WEFT_INLINE LogSum log_sum(const float* z, std::int64_t size) {
  LogSum result{.most = -std::numeric_limits<float>::infinity()};
  float most = result.most;
#pragma omp simd reduction(max : most)
  for (std::int64_t j = 0; j < size; ++j) most = std::max(most, z[j]);
  double sum = 0;
  for (std::int64_t begin = 0; begin < size; begin += kColumns) {
    const std::int64_t end = std::min(size, begin + kColumns);
    float part = 0;
#pragma omp simd reduction(+ : part)
    for (std::int64_t j = begin; j < end; ++j) part += kernel::exponential(z[j] - most);
    sum += static_cast<double>(part);
  }
  result.most = most;
  result.value = static_cast<double>(most) + std::log(sum);
  return result;
}

/// sum p (ln p - ln q) from logits y of p and z of q.
WEFT_INLINE double relative_entropy(const float* y, const float* z, std::int64_t size,
                                    const LogSum& of_y, const LogSum& of_z) {
  const auto log_sum_y = static_cast<float>(of_y.value);
  const double offset = of_y.value - of_z.value;
  double sum = 0, mass = 0;
  for (std::int64_t begin = 0; begin < size; begin += kColumns) {
    const std::int64_t end = std::min(size, begin + kColumns);
    float part = 0, weight = 0;
#pragma omp simd reduction(+ : part, weight)
    for (std::int64_t j = begin; j < end; ++j) {
      const float p = kernel::exponential(y[j] - log_sum_y);
      part += p * (y[j] - z[j]);
      weight += p;
    }
    sum += static_cast<double>(part);
    mass += static_cast<double>(weight);
  }
  // ln p - ln q = (y - z) - offset; dividing by the mass undoes its rounding.
  return sum / mass - offset;
}

WEFT_CLONES void divergence_rows(const float* reference, const float* logits,
                                 const std::int32_t* targets, std::int64_t size,
                                 Divergence* results, std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    const float* y = reference + row * size;
    const float* z = logits + row * size;
    const LogSum of_y = log_sum(y, size), of_z = log_sum(z, size);
    const std::int64_t target = targets[row];
    Divergence& result = results[row];
    result.kl = relative_entropy(y, z, size, of_y, of_z);
    result.reference_loss = of_y.value - static_cast<double>(y[target]);
    result.loss = of_z.value - static_cast<double>(z[target]);
    result.same_top =
        std::find(y, y + size, of_y.most) - y == std::find(z, z + size, of_z.most) - z;
  }
}

}  // namespace

std::vector<Divergence> divergence(const at::Tensor& reference, const at::Tensor& logits,
                                   std::span<const std::int32_t> targets) {
  TORCH_INTERNAL_ASSERT(reference.sizes() == logits.sizes() &&
                        reference.size(0) == static_cast<std::int64_t>(targets.size()));
  std::vector<Divergence> results(targets.size());
  const std::int64_t size = reference.size(1);
  const at::Tensor p = reference.cpu();
  const at::Tensor q = logits.cpu();
  at::parallel_for(0, reference.size(0), 1, [&](std::int64_t begin, std::int64_t end) {
    divergence_rows(kernel::data<float>(p), kernel::data<float>(q), targets.data(), size,
                    results.data(), begin, end);
  });
  return results;
}

}  // namespace weft::model
