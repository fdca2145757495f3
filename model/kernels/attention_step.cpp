#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "model/kernels/alibi.h"
#include "model/kernels/bf16_rows.h"
#include "model/kernels/kernel_math.h"
#include "model/kernels/processor.h"

namespace weft::model {
namespace {

using kernel::narrow;
using kernel::Wide;
using kernel::widen;

/// The heads that share one head of keys, of one sequence.
template <typename T>
struct Step {
  const T* queries;  ///< [group, head_dim]
  const T* keys;     ///< [count, head_dim]
  const T* values;   ///< [count, head_dim]
  T* out;            ///< [group, head_dim]
  std::int64_t group;
  std::int64_t count;
  std::int64_t head_dim;
  Wide<T> scale;
  Wide<T> cap;  ///< 0: none
  const Score& score;
  std::int64_t head;   ///< The first of the group
  std::int64_t first;  ///< Position of the first key
  const float* sinks;  ///< [group]; null: none
  Wide<T>* scores;     ///< [group, count]: room
  Wide<T>* wide;       ///< [2 group, head_dim]: room for queries and sums
};

template <typename T>
WEFT_INLINE void add_slopes(const Step<T>& s, std::int64_t g) {
  const attention::Alibi<Wide<T>> alibi(s.score, s.head + g, s.scale);
  Wide<T>* const scores = s.scores + g * s.count;
  const std::int64_t query = s.first + s.count - 1;
  for (std::int64_t j = 0; j < s.count; ++j) scores[j] += alibi(s.first + j, query);
}

/// Scores of head g become weights that add up to 1 with the sink's, rounded as the element type
/// holds them.
template <typename T>
WEFT_INLINE void softmax(const Step<T>& s, std::int64_t g) {
  using W = Wide<T>;
  W* const scores = s.scores + g * s.count;
  const std::int64_t count = s.count;
  const W scale = s.scale;
  const W sink = s.sinks == nullptr ? -std::numeric_limits<W>::infinity() : W(s.sinks[g]);
#pragma omp simd
  for (std::int64_t j = 0; j < count; ++j) {
    scores[j] = kernel::rounded<T>(scores[j]) * scale;
    if (s.cap != 0) scores[j] = s.cap * kernel::hyperbolic_tangent(scores[j] / s.cap);
  }
  if (!s.score.slopes.empty()) add_slopes(s, g);
  W most = sink;
#pragma omp simd reduction(max : most)
  for (std::int64_t j = 0; j < count; ++j) most = std::max(most, scores[j]);
  W total = s.sinks == nullptr ? W(0) : kernel::exponential(sink - most);
#pragma omp simd reduction(+ : total)
  for (std::int64_t j = 0; j < count; ++j) {
    scores[j] = kernel::exponential(scores[j] - most);
    total += scores[j];
  }
  const W share = 1 / total;
  for (std::int64_t j = 0; j < count; ++j) scores[j] = kernel::rounded<T>(scores[j] * share);
}

template <typename T>
WEFT_INLINE void multiply_keys(const Step<T>& s, const Wide<T>* queries) {
  using W = Wide<T>;
  const std::int64_t dim = s.head_dim;
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    if (const kernel::RowKernels* const fast = kernel::bf16_rows())
      return fast->products_with_keys({s.keys, s.count, dim}, queries, s.group, s.scores);
  }
  for (std::int64_t j = 0; j < s.count; ++j) {
    const T* const key = s.keys + j * dim;
    for (std::int64_t g = 0; g < s.group; ++g) {
      const W* const query = queries + g * dim;
      W dot = 0;
#pragma omp simd reduction(+ : dot)
      for (std::int64_t d = 0; d < dim; ++d) dot += query[d] * widen(key[d]);
      s.scores[g * s.count + j] = dot;
    }
  }
}

template <typename T>
WEFT_INLINE void sum_values(const Step<T>& s, Wide<T>* sums) {
  using W = Wide<T>;
  const std::int64_t dim = s.head_dim;
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    if (const kernel::RowKernels* const fast = kernel::bf16_rows())
      return fast->sums_of_values({s.values, s.count, dim}, s.scores, s.group, sums);
  }
  std::fill_n(sums, s.group * dim, W(0));
  for (std::int64_t j = 0; j < s.count; ++j) {
    const T* const value = s.values + j * dim;
    for (std::int64_t g = 0; g < s.group; ++g) {
      const W weight = s.scores[g * s.count + j];
      W* const sum = sums + g * dim;
#pragma omp simd
      for (std::int64_t d = 0; d < dim; ++d) sum[d] += weight * widen(value[d]);
    }
  }
}

template <typename T>
WEFT_INLINE void attend_of(const Step<T>& s) {
  const std::int64_t size = s.group * s.head_dim;
  Wide<T>* const queries = s.wide;
  Wide<T>* const sums = s.wide + size;
  for (std::int64_t i = 0; i < size; ++i) queries[i] = widen(s.queries[i]);
  multiply_keys<T>(s, queries);
  for (std::int64_t g = 0; g < s.group; ++g) softmax<T>(s, g);
  sum_values<T>(s, sums);
  for (std::int64_t i = 0; i < size; ++i) s.out[i] = narrow<T>(sums[i]);
}

#define WEFT_STEP_KERNEL(T) \
  WEFT_CLONES void attend(const Step<T>& step) { attend_of(step); }
WEFT_STEP_KERNEL(float)
WEFT_STEP_KERNEL(double)
WEFT_STEP_KERNEL(c10::BFloat16)

}  // namespace

void Processor::append_keys(const at::Tensor& qkv, std::span<const SequenceKeys> sequences,
                            const AttentionShape& shape) const {
  const std::int64_t dim = shape.head_dim;
  kernel::for_type(qkv.scalar_type(), [&]<typename T>(T) {
    const T* row = kernel::data<T>(qkv) + shape.heads * dim;
    for (const SequenceKeys& sequence : sequences) {
      for (std::int64_t head = 0; head < shape.kv_heads; ++head) {
        const std::int64_t place = head * sequence.keys.stride(0) + (sequence.length - 1) * dim;
        std::copy_n(row + head * dim, dim, kernel::mutable_data<T>(sequence.keys) + place);
        std::copy_n(row + (shape.kv_heads + head) * dim, dim,
                    kernel::mutable_data<T>(sequence.values) + place);
      }
      row += qkv.size(1);
    }
  });
}

at::Tensor Processor::attend_step(const at::Tensor& qkv, std::span<const SequenceKeys> sequences,
                                  const AttentionShape& shape) const {
  const std::int64_t dim = shape.head_dim;
  const std::int64_t group = shape.heads / shape.kv_heads;
  at::Tensor out = at::empty({qkv.size(0), shape.heads * dim}, qkv.options());
  std::int64_t longest = 0;
  for (const SequenceKeys& sequence : sequences) longest = std::max(longest, sequence.length);
  kernel::for_type(qkv.scalar_type(), [&]<typename T>(T) {
    const T* const rows = kernel::data<T>(qkv);
    T* const results = kernel::mutable_data<T>(out);
    const Score& score = shape.score;
    const auto scale = static_cast<Wide<T>>(
        score.scale != 0 ? score.scale : 1 / std::sqrt(static_cast<double>(dim)));
    const auto of_heads = [&](const std::vector<float>& values, std::int64_t head) {
      return values.empty() ? nullptr : values.data() + head * group;
    };
    kernel::parallel_for(
        std::ssize(sequences) * shape.kv_heads, 1, [&](std::int64_t begin, std::int64_t end) {
          std::vector<Wide<T>> scores(static_cast<std::size_t>(group * longest));
          std::vector<Wide<T>> wide(static_cast<std::size_t>(2 * group * dim));
          for (std::int64_t task = begin; task < end; ++task) {
            const std::int64_t row = task / shape.kv_heads;
            const std::int64_t head = task % shape.kv_heads;
            const SequenceKeys& sequence = sequences[static_cast<std::size_t>(row)];
            const std::int64_t first =
                shape.window > 0 ? std::max<std::int64_t>(0, sequence.length - shape.window) : 0;
            const std::int64_t place = head * sequence.keys.stride(0) + first * dim;
            attend({.queries = rows + row * qkv.size(1) + head * group * dim,
                    .keys = kernel::data<T>(sequence.keys) + place,
                    .values = kernel::data<T>(sequence.values) + place,
                    .out = results + (row * shape.heads + head * group) * dim,
                    .group = group,
                    .count = sequence.length - first,
                    .head_dim = dim,
                    .scale = scale,
                    .cap = static_cast<Wide<T>>(score.soft_cap),
                    .score = score,
                    .head = head * group,
                    .first = first,
                    .sinks = of_heads(score.sinks, head),
                    .scores = scores.data(),
                    .wide = wide.data()});
          }
        });
  });
  return out;
}

}  // namespace weft::model
