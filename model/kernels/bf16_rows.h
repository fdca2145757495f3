#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

#include "model/kernels/sets.h"

// Row kernels of BFloat16, written in the processor's own instructions: rounding, e^x by a power of
// two and a polynomial of degree 6, reciprocals (within 2^-22 of the value, before it is rounded to
// eight bits). The compiler makes none of these of the plain loops that compute the same elsewhere.
// They belong to the kernel sets (model/kernels/sets.h), so that one set always gives the same
// bits.
namespace weft::model::kernel {

/// to = rounded(scale sums + bias) + residual, each rounded; bias [columns] and residual may be
/// null. Rows lie `..._stride` apart.
struct Finish {
  c10::BFloat16* to = nullptr;
  const float* sums = nullptr;
  const c10::BFloat16* bias = nullptr;
  const c10::BFloat16* residual = nullptr;
  std::int64_t to_stride = 0, sums_stride = 0, residual_stride = 0;
  std::int64_t rows = 0, columns = 0;
  float scale = 1;
};

/// Rows 2 i and 2 i + 1 of `from` [rows, columns] become row i of `to`, their elements by turns;
/// the pairs of 16 columns lie together, the next 16 `strip_stride` on. `rows` is even.
struct Interleave {
  c10::BFloat16* to = nullptr;
  const c10::BFloat16* from = nullptr;
  std::int64_t to_stride = 0, strip_stride = 0, from_stride = 0;
  std::int64_t rows = 0, columns = 0;
};

/// Keys or values [count, head_dim] of one head.
struct KeysOfHead {
  const c10::BFloat16* rows = nullptr;
  std::int64_t count = 0;
  std::int64_t head_dim = 0;
};

/// The row kernels of one set.
struct RowKernels {
  /// y = rounded(silu(gate)) up for rows [begin, end) of in [T, gate width + up width].
  void (*silu_rows)(const c10::BFloat16* in, c10::BFloat16* y, std::int64_t width,
                    std::int64_t begin, std::int64_t end);
  /// Puts the gradients of gate and up in their place.
  void (*silu_backward_rows)(c10::BFloat16* in_out, const c10::BFloat16* dy, std::int64_t width,
                             std::int64_t begin, std::int64_t end);
  void (*finish_rows)(const Finish& finish);
  void (*interleave_pairs)(const Interleave& pairs);

  /// y = rounded(x s) (weight + plus), s = 1 / sqrt(mean of x^2 + eps), which is returned.
  float (*rms_row)(const c10::BFloat16* x, const c10::BFloat16* weight, float plus, float eps,
                   c10::BFloat16* y, std::int64_t width);
  /// dx = around + s (weight + plus) dy - back x with back = s^3 / width sum of dy (weight + plus)
  /// x; around: dx itself where it `adds`, else 0.
  void (*rms_backward_row)(const c10::BFloat16* x, const c10::BFloat16* weight, float plus, float s,
                           const c10::BFloat16* dy, c10::BFloat16* dx, bool adds,
                           std::int64_t width);

  // Of a softmax over scores that come out of a product, which are first rounded to BFloat16 as
  // transformers' matrix product rounds them.

  /// score = rounded(score) scale; the largest of them and `most`.
  float (*scale_scores)(float* score, std::int64_t count, float scale, float most);
  /// score = e^(score - most); their sum.
  float (*exponentials)(float* score, std::int64_t count, float most);
  /// to = rounded(score share)
  void (*weights_row)(c10::BFloat16* to, const float* score, std::int64_t count, float share);
  /// to = rounded(p (gradient - delta) scale), p = e^(rounded(score) scale - log_sum)
  void (*score_gradients)(c10::BFloat16* to, const float* score, const float* gradient,
                          std::int64_t count, float scale, float log_sum, float delta);
  /// The same with a log_sum and a delta for each element, and weight = rounded(p).
  void (*score_gradients_across)(c10::BFloat16* weight, c10::BFloat16* to, const float* score,
                                 const float* gradient, const float* log_sum, const float* delta,
                                 std::int64_t count, float scale);

  // Of one token that reads the keys and values of one head.

  /// scores [group, count] = queries [group, head_dim] times the keys.
  void (*products_with_keys)(const KeysOfHead& keys, const float* queries, std::int64_t group,
                             float* scores);
  /// sums [group, head_dim] = weights [group, count] times the values.
  void (*sums_of_values)(const KeysOfHead& values, const float* weights, std::int64_t group,
                         float* sums);
};

/// Those of the chosen set; null where it has none.
[[nodiscard]] const RowKernels* bf16_rows();
/// Those of a set that is available.
[[nodiscard]] const RowKernels* bf16_rows_of(Set set);

#if defined(__x86_64__) && defined(__GNUC__)
extern const RowKernels kRowsOfAvx512Bf16;
extern const RowKernels kRowsOfAvx512;
extern const RowKernels kRowsOfAvx2;
#endif

}  // namespace weft::model::kernel
