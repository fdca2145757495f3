#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "model/kernels/alibi.h"
#include "model/kernels/attention.h"
#include "model/kernels/bf16_rows.h"
#include "model/kernels/buffer.h"
#include "model/kernels/kernel_math.h"
#include "model/kernels/multiply.h"
#include "model/kernels/pack.h"

// What attention's forward and backward share: where heads lie in memory, how tiles become operands
// of products, which keys a query sees, and how tasks are spread over threads.
namespace weft::model::attention {

using kernel::Buffer;
using kernel::kLanes;
using kernel::round_up;
using kernel::Wide;
using kernel::widen;

constexpr std::int64_t kKeys = 64;  ///< Keys of a tile in the backward
/// In the forward: most sequences are one tile, whose weights are rounded to bf16 as transformers'
/// eager attention rounds them.
constexpr std::int64_t kForwardKeys = 512;
constexpr std::int64_t kQueries = 64;  ///< Tokens of a block of queries, at most
/// Rows of a block: its tokens times the heads that share keys. Beyond it the sums leave the cache.
constexpr std::int64_t kRows = 192;

inline double scale_of(const AttentionShape& shape) {
  return shape.score.scale != 0 ? shape.score.scale
                                : 1 / std::sqrt(static_cast<double>(shape.head_dim));
}

/// Tokens of a block of queries.
inline std::int64_t block_tokens(const AttentionShape& shape) {
  return std::clamp<std::int64_t>(kRows / (shape.heads / shape.kv_heads), 1, kQueries);
}

/// Vectors of head_dim elements, by head and row.
template <typename T>
struct Rows {
  T* data = nullptr;
  std::int64_t head_stride = 0;
  std::int64_t row_stride = 0;
  std::int64_t first = 0;  ///< Token that row 0 is

  WEFT_INLINE T* at(std::int64_t head, std::int64_t token) const {
    return data + head * head_stride + (token - first) * row_stride;
  }
};

/// What all tasks of one call share. T: element type of tensors, W: of sums.
template <typename T>
struct Job {
  using W = Wide<T>;
  const Visibility& visible;
  const AttentionShape& shape;
  W scale;
  W cap;  ///< 0: none
  bool plain;
  std::int64_t tokens;  ///< Columns of log_sums and delta
  Rows<const T> q{}, k{}, v{};
  Rows<T> out{};          ///< Of the forward
  Rows<const T> d_out{};  ///< Of the backward: gradient of the result
  Rows<T> dq{}, dk{}, dv{};
  W* log_sums = nullptr;     ///< [heads, tokens]
  const W* delta = nullptr;  ///< [heads, tokens]: sum over head_dim of d_out * out

  [[nodiscard]] std::int64_t group() const { return shape.heads / shape.kv_heads; }
};

/// Buffers of one thread.
template <typename T>
struct Scratch {
  using W = Wide<T>;
  std::int64_t unit;                    ///< What products over keys are filled up to
  std::int64_t depth;                   ///< head_dim, filled up as the kernels want it
  std::int64_t columns;                 ///< head_dim, filled up to whole registers
  std::int64_t rows;                    ///< of a block of queries, filled up
  Buffer<T> staged;                     // [max(rows, kForwardKeys), depth]
  Buffer<T> left, left_gradient;        // [max(rows, kKeys), depth]
  Buffer<T> across, across_gradient;    // packed [depth, rows or kForwardKeys]
  Buffer<T> along, along_gradient;      // packed [rows or kForwardKeys, columns]
  Buffer<T> weights, weights_gradient;  // [rows, keys] or [keys, rows]
  Buffer<W> scores, scores_gradient;    // the same
  Buffer<W> sums, sums_gradient;        // [max(rows, kKeys), columns]
  Buffer<W> most, total;                // [rows]

  static std::int64_t unit_of() { return std::max(kLanes, kernel::layout_of<T>().depth); }
  static std::int64_t tall_of(const AttentionShape& shape) {
    return round_up(std::max(block_tokens(shape) * (shape.heads / shape.kv_heads), kKeys),
                    unit_of());
  }

  explicit Scratch(const AttentionShape& shape)
      : unit(unit_of()),
        depth(round_up(shape.head_dim, kernel::layout_of<T>().depth)),
        columns(round_up(shape.head_dim, kLanes)),
        rows(tall_of(shape)) {
    for (auto* b : {&left, &left_gradient}) b->grow(rows * depth);
    const std::int64_t most_keys = std::max(rows, kForwardKeys);
    staged.grow(most_keys * depth);
    for (auto* b : {&across, &across_gradient}) b->grow(depth * most_keys);
    for (auto* b : {&along, &along_gradient}) b->grow(most_keys * columns);
    for (auto* b : {&weights, &weights_gradient}) b->grow(rows * kForwardKeys);
    for (auto* b : {&scores, &scores_gradient}) b->grow(rows * kForwardKeys);
    for (auto* b : {&sums, &sums_gradient}) b->grow(rows * columns);
    for (auto* b : {&most, &total}) b->grow(rows);
  }
};

/// Copies `count` elements, which do not overlap, in pieces whose size the compiler knows: rows are
/// too short for a call each.
template <typename T>
WEFT_INLINE void copy_row(T* to, const T* from, std::int64_t count) {
  constexpr std::int64_t kPiece = 32;
  std::int64_t i = 0;
  for (; i + kPiece <= count; i += kPiece) __builtin_memcpy(to + i, from + i, kPiece * sizeof(T));
  for (; i < count; ++i) to[i] = from[i];
}

template <typename T>
WEFT_INLINE void zero(T* to, std::int64_t count) {
  std::memset(static_cast<void*>(to), 0, static_cast<std::size_t>(count) * sizeof(T));
}

/// Tokens [begin, begin + count) of one head, made operands, one under the other: [count, depth],
/// depth being head_dim filled up. A left operand as it is.
template <typename T>
WEFT_INLINE void stage(T* to, const Rows<const T>& rows, std::int64_t head, std::int64_t begin,
                       std::int64_t count, std::int64_t dim, std::int64_t depth) {
  const T* from = rows.at(head, begin);
  for (std::int64_t i = 0; i < count; ++i, from += rows.row_stride) {
    T* const row = to + i * depth;
    copy_row(row, from, dim);
    for (std::int64_t d = dim; d < depth; ++d) row[d] = T(0);
  }
}

/// Packs staged rows, a multiple of kLanes, as the right operand of a product over head_dim: its
/// columns are the rows.
template <typename T>
WEFT_INLINE void pack_across(T* packed, const T* staged, std::int64_t rows, std::int64_t depth) {
  kernel::pack_panel(packed, kernel::MatrixView<T>{staged, 1, depth}, 0, rows, depth);
}

/// The same of a product over rows: its columns are the elements.
template <typename T>
WEFT_INLINE void pack_along(T* packed, const T* staged, std::int64_t rows, std::int64_t dim,
                            std::int64_t depth) {
  kernel::pack_panel(packed, kernel::MatrixView<T>{staged, depth, 1}, 0, dim, rows);
}

/// A score as the softmax takes it: rounded as the output of transformers' matrix product is, and
/// scaled.
template <typename T>
WEFT_INLINE Wide<T> scaled(Wide<T> score, Wide<T> scale) {
  return kernel::rounded<T>(score) * scale;
}

/// Positions of the key and the query of the first of a row of products, one of which is 1 more
/// from element to element.
struct Places {
  std::int64_t key = 0;
  std::int64_t query = 0;
  bool along_keys = true;
};

/// Scores of one head that are not plain, made what the softmax takes: [first, last) of a row of
/// products.
template <typename T>
WEFT_INLINE void adjust(const Job<T>& job, std::int64_t head, Wide<T>* score, std::int64_t first,
                        std::int64_t last, const Places& places) {
  using W = Wide<T>;
  if (job.cap != 0) {
#pragma omp simd
    for (std::int64_t j = first; j < last; ++j)
      score[j] = job.cap * kernel::hyperbolic_tangent(scaled<T>(score[j], job.scale) / job.cap);
    return;
  }
  const Alibi<W> alibi(job.shape.score, head, job.scale);
  const std::int64_t key_step = places.along_keys ? 1 : 0;
  for (std::int64_t j = first; j < last; ++j) {
    const W added = alibi(places.key + key_step * j, places.query + (1 - key_step) * j);
    score[j] = scaled<T>(score[j], job.scale) + added;
  }
}

/// d adjusted score / d scaled product.
template <typename W>
WEFT_INLINE W slope_of(W score, W cap) {
  return cap == 0 ? W(1) : 1 - (score / cap) * (score / cap);
}

// Loops over [first, last) of a row of plain scores, by model/kernels/bf16_rows.h where it has
// them.

/// Scores as the softmax takes them; the largest of them and `most`.
template <typename T>
WEFT_INLINE Wide<T> scale_scores(Wide<T>* score, std::int64_t first, std::int64_t last,
                                 Wide<T> scale, Wide<T> most) {
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    if (const kernel::RowKernels* const fast = kernel::bf16_rows())
      return fast->scale_scores(score + first, last - first, scale, most);
  }
#pragma omp simd reduction(max : most)
  for (std::int64_t j = first; j < last; ++j) {
    score[j] = scaled<T>(score[j], scale);
    most = std::max(most, score[j]);
  }
  return most;
}

/// e^(score - most) in their place; their sum.
template <typename T>
WEFT_INLINE Wide<T> exponentials(Wide<T>* score, std::int64_t first, std::int64_t last,
                                 Wide<T> most) {
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    if (const kernel::RowKernels* const fast = kernel::bf16_rows())
      return fast->exponentials(score + first, last - first, most);
  }
  Wide<T> total = 0;
#pragma omp simd reduction(+ : total)
  for (std::int64_t j = first; j < last; ++j) {
    score[j] = kernel::exponential(score[j] - most);
    total += score[j];
  }
  return total;
}

template <typename T>
WEFT_INLINE void put_weights(T* weight, const Wide<T>* score, std::int64_t first, std::int64_t last,
                             Wide<T> share) {
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    if (const kernel::RowKernels* const fast = kernel::bf16_rows())
      return fast->weights_row(weight + first, score + first, last - first, share);
  }
  for (std::int64_t j = first; j < last; ++j) weight[j] = kernel::narrow<T>(score[j] * share);
}

/// Part of a tile that a query sees: keys [first, last) of it.
struct Seen {
  std::int64_t first = 0;
  std::int64_t last = 0;
};

/// Keys [begin, begin + count) of `keys` that the query at `position`, token `token`, sees.
WEFT_INLINE Seen seen_by_query(const Visibility::Range& keys, bool own, std::int64_t begin,
                               std::int64_t count, std::int64_t token, std::int64_t position,
                               std::int64_t window) {
  Seen seen{0, count};
  if (own) seen.last = std::clamp<std::int64_t>(token + 1 - begin, 0, count);
  if (window > 0) {
    const std::int64_t key_position = keys.position + (begin - keys.begin);
    seen.first = std::clamp<std::int64_t>(position - window + 1 - key_position, 0, count);
  }
  return seen;
}

/// Calls body(range, own, begin, count) for the tiles of `keys` keys that some token of `block`
/// sees.
template <typename Body>
WEFT_INLINE void for_key_tiles(const Visibility& visible, const Visibility::Block& block,
                               std::int64_t window, std::int64_t keys, const Body& body) {
  const Visibility::Range& own = visible.own(block.segment);
  const std::int64_t first_position = own.position + (block.begin - own.begin);
  const auto tiles = [&](const Visibility::Range& range, bool is_own,
                         std::int64_t end) WEFT_INLINED {
    std::int64_t begin = range.begin;
    if (window > 0) {  // the first key that the first query sees
      begin = std::max(begin, range.begin + (first_position - window + 1 - range.position));
    }
    for (; begin < end; begin += keys) body(range, is_own, begin, std::min(keys, end - begin));
  };
  for (const std::int64_t above : visible.ancestors(block.segment)) {
    tiles(visible.own(above), false, visible.own(above).end);
  }
  tiles(own, true, block.end);
}

/// Calls run(scratch, task) for every task, each once, on all threads; whoever is free takes the
/// next. Tasks write to places of their own, so who takes which does not matter.
template <typename T, typename Run>
void run_tasks(const AttentionShape& shape, std::int64_t tasks, const Run& run) {
  std::atomic<std::int64_t> next = 0;
  const std::int64_t workers = std::min<std::int64_t>(tasks, at::get_num_threads());
  kernel::parallel_for(workers, 1, [&](std::int64_t, std::int64_t) {
    Scratch<T> scratch(shape);
    for (std::int64_t task = next++; task < tasks; task = next++) run(scratch, task);
  });
}

/// Tasks over blocks and heads of keys; the later blocks of a segment, which see more, come first.
template <typename T, typename Run>
void run_blocks(const Job<T>& job, const std::vector<Visibility::Block>& blocks, const Run& run) {
  const auto count = std::ssize(blocks);
  run_tasks<T>(job.shape, count * job.shape.kv_heads, [&](Scratch<T>& scratch, std::int64_t task) {
    const auto block = static_cast<std::size_t>(count - 1 - task / job.shape.kv_heads);
    run(job, blocks[block], task % job.shape.kv_heads, scratch);
  });
}

template <typename T>
Job<T> make_job(const AttentionShape& shape, const Visibility& visible, std::int64_t tokens) {
  return {.visible = visible,
          .shape = shape,
          .scale = static_cast<Wide<T>>(scale_of(shape)),
          .cap = static_cast<Wide<T>>(shape.score.soft_cap),
          .plain = shape.score.plain(),
          .tokens = tokens};
}

/// Heads [first, ...) of rows that hold `width` elements.
template <typename T>
Rows<T> heads_of(T* data, std::int64_t first, std::int64_t width, const AttentionShape& shape) {
  return {
      .data = data + first * shape.head_dim, .head_stride = shape.head_dim, .row_stride = width};
}

template <typename T>
void set_qkv(Job<T>& job, const at::Tensor& qkv) {
  const T* const data = kernel::data<T>(qkv);
  const AttentionShape& s = job.shape;
  job.q = heads_of(data, 0, qkv.size(1), s);
  job.k = heads_of(data, s.heads, qkv.size(1), s);
  job.v = heads_of(data, s.heads + s.kv_heads, qkv.size(1), s);
}

inline at::ScalarType sum_type(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

}  // namespace weft::model::attention
