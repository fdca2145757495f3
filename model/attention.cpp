#include "model/attention.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "model/kernel_math.h"
#include "model/tile_product.h"

namespace weft::model {
namespace {

using kernel::kLanes;
using kernel::narrow;
using kernel::Operand;
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

/// Tokens of a block of queries.
std::int64_t block_tokens(const AttentionShape& shape) {
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
  AttentionShape shape;
  W scale;
  std::int64_t tokens;  ///< Columns of log_sums and delta
  Rows<const T> q{}, k{}, v{};
  Rows<T> out{};          ///< Of the forward
  Rows<const T> d_out{};  ///< Of the backward: gradient of the result
  Rows<T> dq{}, dk{}, dv{};
  W* log_sums = nullptr;     ///< [heads, tokens]
  const W* delta = nullptr;  ///< [heads, tokens]: sum over head_dim of d_out * out

  [[nodiscard]] std::int64_t group() const { return shape.heads / shape.kv_heads; }
};

/// Not zeroed: every element is written before it is read, and there is one for each call.
template <typename Element>
using Buffer = std::unique_ptr<Element[]>;

/// Buffers of one thread. E: element type of operands.
template <typename T, typename E>
struct Scratch {
  using W = Wide<T>;
  std::int64_t depth;                   ///< head_dim, filled up to whole pairs
  std::int64_t columns;                 ///< head_dim, filled up to whole registers
  std::int64_t rows;                    ///< of a block of queries, filled up
  Buffer<E> left, left_gradient;        // [max(rows, kKeys), depth]
  Buffer<E> across, across_gradient;    // packed [depth, rows or kForwardKeys]
  Buffer<E> along, along_gradient;      // packed [rows or kForwardKeys, columns]
  Buffer<E> weights, weights_gradient;  // [rows, keys] or [keys, rows]
  Buffer<W> scores, scores_gradient;    // the same
  Buffer<W> sums, sums_gradient;        // [max(rows, kKeys), columns]
  Buffer<W> most, total;                // [rows]

  static std::int64_t tall_of(const AttentionShape& shape) {
    return round_up(std::max(block_tokens(shape) * (shape.heads / shape.kv_heads), kKeys), kLanes);
  }

  explicit Scratch(const AttentionShape& shape)
      : depth(round_up(shape.head_dim, Operand<E>::kPair)),
        columns(round_up(shape.head_dim, kLanes)),
        rows(tall_of(shape)) {
    const auto make = []<typename Element>(Buffer<Element>& buffer, std::int64_t count) {
      buffer = std::make_unique_for_overwrite<Element[]>(static_cast<std::size_t>(count));
    };
    for (auto* b : {&left, &left_gradient}) make(*b, rows * depth);
    const std::int64_t most_keys = std::max(rows, kForwardKeys);
    for (auto* b : {&across, &across_gradient}) make(*b, depth * most_keys);
    for (auto* b : {&along, &along_gradient}) make(*b, most_keys * columns);
    for (auto* b : {&weights, &weights_gradient}) make(*b, rows * kForwardKeys);
    for (auto* b : {&scores, &scores_gradient}) make(*b, rows * kForwardKeys);
    for (auto* b : {&sums, &sums_gradient}) make(*b, rows * columns);
    for (auto* b : {&most, &total}) make(*b, rows);
  }
};

template <typename E, typename T>
WEFT_INLINE E operand(T value) {
  if constexpr (std::is_same_v<E, T>) {
    return value;
  } else {
    return static_cast<E>(widen(value));
  }
}

/// A head's row as left operand.
template <typename E, typename T>
WEFT_INLINE void load(E* to, const T* from, std::int64_t count, std::int64_t depth) {
  for (std::int64_t d = 0; d < count; ++d) to[d] = operand<E>(from[d]);
  for (std::int64_t d = count; d < depth; ++d) to[d] = E(0);
}

/// Packs rows of head_dim elements as the right operand of a product over head_dim: columns are
/// rows.
template <typename E, typename T>
WEFT_INLINE void pack_across_row(E* packed, const T* row, std::int64_t column, std::int64_t columns,
                                 std::int64_t count, std::int64_t depth) {
  constexpr std::int64_t kPair = Operand<E>::kPair;
  E* to = packed + column * kPair;
  if constexpr (kPair == 2 && std::is_same_v<E, T>) {  // a pair is one word
    for (std::int64_t d = 0; d + 1 < count; d += 2)
      std::memcpy(to + d * columns, row + d, 2 * sizeof(E));
    if (count < depth) {
      to[count / 2 * 2 * columns] = row[count - 1];
      to[count / 2 * 2 * columns + 1] = E(0);
    }
    return;
  }
  for (std::int64_t d = 0; d < depth; ++d) {
    to[d / kPair * columns * kPair + d % kPair] = d < count ? operand<E>(row[d]) : E(0);
  }
}
template <typename E>
WEFT_INLINE void fill_across(E* packed, std::int64_t from, std::int64_t columns,
                             std::int64_t depth) {
  constexpr std::int64_t kPair = Operand<E>::kPair;
  for (std::int64_t d = 0; d < depth / kPair; ++d) {
    for (std::int64_t c = from * kPair; c < columns * kPair; ++c)
      packed[d * columns * kPair + c] = E(0);
  }
}

/// Packs rows of head_dim elements as the right operand of a product over rows: columns are
/// elements.
template <typename E, typename T>
WEFT_INLINE void pack_along_row(E* packed, const T* row, std::int64_t index, std::int64_t count,
                                std::int64_t columns) {
  constexpr std::int64_t kPair = Operand<E>::kPair;
  E* to = packed + index / kPair * columns * kPair + index % kPair;
  for (std::int64_t d = 0; d < count; ++d) to[d * kPair] = operand<E>(row[d]);
  for (std::int64_t d = count; d < columns; ++d) to[d * kPair] = E(0);
}
template <typename E>
WEFT_INLINE void fill_along(E* packed, std::int64_t from, std::int64_t rows, std::int64_t columns) {
  constexpr std::int64_t kPair = Operand<E>::kPair;
  for (std::int64_t r = from; r < rows; ++r) {
    E* to = packed + r / kPair * columns * kPair + r % kPair;
    for (std::int64_t c = 0; c < columns; ++c) to[c * kPair] = E(0);
  }
}

/// A score as the softmax takes it: rounded as the output of transformers' matrix product is, and
/// scaled.
template <typename T>
WEFT_INLINE Wide<T> scaled(Wide<T> score, Wide<T> scale) {
  return kernel::rounded<T>(score) * scale;
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

/// Output of one block of queries in the heads that read one head of keys.
template <typename T, typename E>
WEFT_INLINE void forward_of(const Job<T>& job, const Visibility::Block& block, std::int64_t kv_head,
                            Scratch<T, E>& s) {
  using W = Wide<T>;
  const std::int64_t dim = job.shape.head_dim;
  const std::int64_t group = job.group();
  const std::int64_t n = block.end - block.begin;
  const std::int64_t rows = group * n;
  const Visibility::Range& own = job.visible.own(block.segment);
  // Where all keys are in one tile their weights are known before they are rounded, and add up
  // to 1.
  const bool is_one_tile =
      job.visible.ancestors(block.segment).empty() && block.end - own.begin <= kForwardKeys;
  for (std::int64_t row = 0; row < rows; ++row) {
    load(s.left.get() + row * s.depth, job.q.at(kv_head * group + row / n, block.begin + row % n),
         dim, s.depth);
    s.most[static_cast<std::size_t>(row)] = -std::numeric_limits<W>::infinity();
    s.total[static_cast<std::size_t>(row)] = 0;
  }
  std::fill_n(s.sums.get(), rows * s.columns, W(0));
  for_key_tiles(
      job.visible, block, job.shape.window, kForwardKeys,
      [&](const Visibility::Range& range, bool is_own, std::int64_t begin, std::int64_t count)
          WEFT_INLINED {
            const std::int64_t keys = round_up(count, kLanes);
            for (std::int64_t j = 0; j < count; ++j) {
              pack_across_row(s.across.get(), job.k.at(kv_head, begin + j), j, keys, dim, s.depth);
              pack_along_row(s.along.get(), job.v.at(kv_head, begin + j), j, dim, s.columns);
            }
            fill_across(s.across.get(), count, keys, s.depth);
            fill_along(s.along.get(), count, keys, s.columns);
            kernel::multiply(s.scores.get(), keys, s.left.get(), s.depth, s.across.get(),
                             {rows, keys, s.depth}, false);
            for (std::int64_t row = 0; row < rows; ++row) {
              const std::int64_t token = block.begin + row % n;
              const Seen seen = seen_by_query(range, is_own, begin, count, token,
                                              own.position + (token - own.begin), job.shape.window);
              W* const score = s.scores.get() + row * keys;
              E* const weight = s.weights.get() + row * keys;
              if (seen.first >= seen.last) {
                std::fill_n(weight, keys, E(0));
                continue;
              }
              W most = s.most[static_cast<std::size_t>(row)];
              const W before = most;
#pragma omp simd reduction(max : most)
              for (std::int64_t j = seen.first; j < seen.last; ++j) {
                score[j] = scaled<T>(score[j], job.scale);
                most = std::max(most, score[j]);
              }
              W total = 0;
#pragma omp simd reduction(+ : total)
              for (std::int64_t j = seen.first; j < seen.last; ++j) {
                score[j] = kernel::exponential(score[j] - most);
                total += score[j];
              }
              for (std::int64_t j = 0; j < seen.first; ++j) weight[j] = E(0);
              const W share = is_one_tile ? 1 / total : W(1);
              for (std::int64_t j = seen.first; j < seen.last; ++j)
                weight[j] = narrow<E>(score[j] * share);
              for (std::int64_t j = seen.last; j < keys; ++j) weight[j] = E(0);
              if (most > before) {
                // The first time it multiplies by e^-infinity what is zero.
                const W shrink = kernel::exponential(before - most);
                s.total[static_cast<std::size_t>(row)] *= shrink;
                W* const sum = s.sums.get() + row * s.columns;
                for (std::int64_t d = 0; d < s.columns; ++d) sum[d] *= shrink;
                s.most[static_cast<std::size_t>(row)] = most;
              }
              s.total[static_cast<std::size_t>(row)] += total;
            }
            kernel::multiply(s.sums.get(), s.columns, s.weights.get(), keys, s.along.get(),
                             {rows, s.columns, keys}, true);
          });
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t head = kv_head * group + row / n;
    const std::int64_t token = block.begin + row % n;
    const W total = s.total[static_cast<std::size_t>(row)];
    const W inverse = is_one_tile ? W(1) : 1 / total;
    const W* const sum = s.sums.get() + row * s.columns;
    T* const out = job.out.at(head, token);
    for (std::int64_t d = 0; d < dim; ++d) out[d] = narrow<T>(sum[d] * inverse);
    if (job.log_sums != nullptr) {
      job.log_sums[head * job.tokens + token] =
          s.most[static_cast<std::size_t>(row)] + std::log(total);
    }
  }
}

/// Gradient of one block of queries.
template <typename T, typename E>
WEFT_INLINE void backward_queries_of(const Job<T>& job, const Visibility::Block& block,
                                     std::int64_t kv_head, Scratch<T, E>& s) {
  using W = Wide<T>;
  const std::int64_t dim = job.shape.head_dim;
  const std::int64_t group = job.group();
  const std::int64_t n = block.end - block.begin;
  const std::int64_t rows = group * n;
  const Visibility::Range& own = job.visible.own(block.segment);
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t head = kv_head * group + row / n;
    const std::int64_t token = block.begin + row % n;
    load(s.left.get() + row * s.depth, job.q.at(head, token), dim, s.depth);
    load(s.left_gradient.get() + row * s.depth, job.d_out.at(head, token), dim, s.depth);
  }
  std::fill_n(s.sums.get(), rows * s.columns, W(0));
  for_key_tiles(
      job.visible, block, job.shape.window, kKeys,
      [&](const Visibility::Range& range, bool is_own, std::int64_t begin, std::int64_t count)
          WEFT_INLINED {
            const std::int64_t keys = round_up(count, kLanes);
            for (std::int64_t j = 0; j < count; ++j) {
              pack_across_row(s.across.get(), job.k.at(kv_head, begin + j), j, keys, dim, s.depth);
              pack_across_row(s.across_gradient.get(), job.v.at(kv_head, begin + j), j, keys, dim,
                              s.depth);
              pack_along_row(s.along.get(), job.k.at(kv_head, begin + j), j, dim, s.columns);
            }
            fill_across(s.across.get(), count, keys, s.depth);
            fill_across(s.across_gradient.get(), count, keys, s.depth);
            fill_along(s.along.get(), count, keys, s.columns);
            const kernel::Extent extent{rows, keys, s.depth};
            kernel::multiply(s.scores.get(), keys, s.left.get(), s.depth, s.across.get(), extent,
                             false);
            kernel::multiply(s.scores_gradient.get(), keys, s.left_gradient.get(), s.depth,
                             s.across_gradient.get(), extent, false);
            for (std::int64_t row = 0; row < rows; ++row) {
              const std::int64_t token = block.begin + row % n;
              const std::int64_t place = (kv_head * group + row / n) * job.tokens + token;
              const Seen seen = seen_by_query(range, is_own, begin, count, token,
                                              own.position + (token - own.begin), job.shape.window);
              const W log_sum = job.log_sums[place];
              const W delta = job.delta[place];
              const W* const score = s.scores.get() + row * keys;
              const W* const gradient = s.scores_gradient.get() + row * keys;
              E* const weight = s.weights.get() + row * keys;
              for (std::int64_t j = 0; j < seen.first; ++j) weight[j] = E(0);
              for (std::int64_t j = seen.first; j < seen.last; ++j) {
                const W p = kernel::exponential(scaled<T>(score[j], job.scale) - log_sum);
                weight[j] = narrow<E>(p * (gradient[j] - delta) * job.scale);
              }
              for (std::int64_t j = std::max(seen.first, seen.last); j < keys; ++j)
                weight[j] = E(0);
            }
            kernel::multiply(s.sums.get(), s.columns, s.weights.get(), keys, s.along.get(),
                             {rows, s.columns, keys}, true);
          });
  for (std::int64_t row = 0; row < rows; ++row) {
    const W* const sum = s.sums.get() + row * s.columns;
    T* const dq = job.dq.at(kv_head * group + row / n, block.begin + row % n);
    for (std::int64_t d = 0; d < dim; ++d) dq[d] = narrow<T>(sum[d]);
  }
}

/// Adds to the gradients of a tile of keys what `block`, some of whose queries may see it, has to
/// say. Scores are transposed: a row for each key.
template <typename T, typename E>
WEFT_INLINE void add_key_gradients(const Job<T>& job, const Visibility::Block& tile,
                                   const Visibility::Block& block, std::int64_t kv_head,
                                   Scratch<T, E>& s) {
  using W = Wide<T>;
  const std::int64_t dim = job.shape.head_dim;
  const std::int64_t group = job.group();
  const std::int64_t count = tile.end - tile.begin;
  const std::int64_t n = block.end - block.begin;
  const std::int64_t queries = group * n;
  const std::int64_t columns = round_up(queries, kLanes);
  for (std::int64_t c = 0; c < queries; ++c) {
    const T* const q = job.q.at(kv_head * group + c / n, block.begin + c % n);
    const T* const d_out = job.d_out.at(kv_head * group + c / n, block.begin + c % n);
    pack_across_row(s.across.get(), q, c, columns, dim, s.depth);
    pack_across_row(s.across_gradient.get(), d_out, c, columns, dim, s.depth);
    pack_along_row(s.along.get(), q, c, dim, s.columns);
    pack_along_row(s.along_gradient.get(), d_out, c, dim, s.columns);
  }
  fill_across(s.across.get(), queries, columns, s.depth);
  fill_across(s.across_gradient.get(), queries, columns, s.depth);
  fill_along(s.along.get(), queries, columns, s.columns);
  fill_along(s.along_gradient.get(), queries, columns, s.columns);
  const kernel::Extent extent{count, columns, s.depth};
  kernel::multiply(s.scores.get(), columns, s.left.get(), s.depth, s.across.get(), extent, false);
  kernel::multiply(s.scores_gradient.get(), columns, s.left_gradient.get(), s.depth,
                   s.across_gradient.get(), extent, false);

  const Visibility::Range& keys = job.visible.own(tile.segment);
  const Visibility::Range& own = job.visible.own(block.segment);
  const bool is_own = tile.segment == block.segment;
  for (std::int64_t j = 0; j < count; ++j) {
    // Queries [first, last) of the block see key j.
    std::int64_t first = 0;
    std::int64_t last = n;
    if (is_own) first = std::clamp<std::int64_t>(tile.begin + j - block.begin, 0, n);
    if (job.shape.window > 0) {
      const std::int64_t key_position = keys.position + (tile.begin + j - keys.begin);
      const std::int64_t query_position = own.position + (block.begin - own.begin);
      last = std::clamp<std::int64_t>(key_position + job.shape.window - query_position, 0, n);
    }
    const W* const score = s.scores.get() + j * columns;
    const W* const gradient = s.scores_gradient.get() + j * columns;
    E* const weight = s.weights.get() + j * columns;
    E* const weight_gradient = s.weights_gradient.get() + j * columns;
    std::fill_n(weight, columns, E(0));
    std::fill_n(weight_gradient, columns, E(0));
    for (std::int64_t g = 0; g < group; ++g) {
      const std::int64_t place = (kv_head * group + g) * job.tokens + block.begin;
      const W* const log_sum = job.log_sums + place;
      const W* const delta = job.delta + place;
      for (std::int64_t i = first; i < last; ++i) {
        const std::int64_t c = g * n + i;
        const W p = kernel::exponential(scaled<T>(score[c], job.scale) - log_sum[i]);
        weight[c] = narrow<E>(p);
        weight_gradient[c] = narrow<E>(p * (gradient[c] - delta[i]) * job.scale);
      }
    }
  }
  const kernel::Extent sums{count, s.columns, columns};
  kernel::multiply(s.sums.get(), s.columns, s.weights_gradient.get(), columns, s.along.get(), sums,
                   true);
  kernel::multiply(s.sums_gradient.get(), s.columns, s.weights.get(), columns,
                   s.along_gradient.get(), sums, true);
}

/// Gradients of one tile of keys and values.
template <typename T, typename E>
WEFT_INLINE void backward_keys_of(const Job<T>& job, const Visibility::Block& tile,
                                  std::int64_t kv_head, Scratch<T, E>& s) {
  using W = Wide<T>;
  const std::int64_t dim = job.shape.head_dim;
  const std::int64_t count = tile.end - tile.begin;
  const std::int64_t step = block_tokens(job.shape);
  for (std::int64_t j = 0; j < count; ++j) {
    load(s.left.get() + j * s.depth, job.k.at(kv_head, tile.begin + j), dim, s.depth);
    load(s.left_gradient.get() + j * s.depth, job.v.at(kv_head, tile.begin + j), dim, s.depth);
  }
  std::fill_n(s.sums.get(), count * s.columns, W(0));
  std::fill_n(s.sums_gradient.get(), count * s.columns, W(0));
  const Visibility::Range& keys = job.visible.own(tile.segment);
  const auto add = [&](std::int64_t segment, std::int64_t first) WEFT_INLINED {
    const Visibility::Range& own = job.visible.own(segment);
    std::int64_t end = own.end;
    if (job.shape.window > 0) {  // beyond it no query sees even the tile's last key
      const std::int64_t last_position = keys.position + (tile.end - 1 - keys.begin);
      end = std::min(end, own.begin + (last_position + job.shape.window - own.position));
    }
    for (std::int64_t begin = first; begin < end; begin += step) {
      add_key_gradients(job, tile, {segment, begin, std::min(begin + step, end)}, kv_head, s);
    }
  };
  add(tile.segment, tile.begin);
  for (const std::int64_t below : job.visible.descendants(tile.segment))
    add(below, job.visible.own(below).begin);
  for (std::int64_t j = 0; j < count; ++j) {
    const W* const d_key = s.sums.get() + j * s.columns;
    const W* const d_value = s.sums_gradient.get() + j * s.columns;
    T* const dk = job.dk.at(kv_head, tile.begin + j);
    T* const dv = job.dv.at(kv_head, tile.begin + j);
    for (std::int64_t d = 0; d < dim; ++d) {
      dk[d] = narrow<T>(d_key[d]);
      dv[d] = narrow<T>(d_value[d]);
    }
  }
}

#define WEFT_ATTENTION_KERNELS(T, E)                                                   \
  WEFT_CLONES void forward(const Job<T>& job, const Visibility::Block& block,          \
                           std::int64_t kv_head, Scratch<T, E>& scratch) {             \
    forward_of(job, block, kv_head, scratch);                                          \
  }                                                                                    \
  WEFT_CLONES void backward_queries(const Job<T>& job, const Visibility::Block& block, \
                                    std::int64_t kv_head, Scratch<T, E>& scratch) {    \
    backward_queries_of(job, block, kv_head, scratch);                                 \
  }                                                                                    \
  WEFT_CLONES void backward_keys(const Job<T>& job, const Visibility::Block& tile,     \
                                 std::int64_t kv_head, Scratch<T, E>& scratch) {       \
    backward_keys_of(job, tile, kv_head, scratch);                                     \
  }
WEFT_ATTENTION_KERNELS(float, float)
WEFT_ATTENTION_KERNELS(double, double)
WEFT_ATTENTION_KERNELS(c10::BFloat16, float)
WEFT_ATTENTION_KERNELS(c10::BFloat16, c10::BFloat16)

template <typename T>
WEFT_INLINE void delta_rows_of(const T* output, const T* gradient, Wide<T>* delta,
                               const AttentionShape& shape, std::int64_t tokens, std::int64_t begin,
                               std::int64_t end) {
  for (std::int64_t token = begin; token < end; ++token) {
    for (std::int64_t head = 0; head < shape.heads; ++head) {
      const std::int64_t place = (token * shape.heads + head) * shape.head_dim;
      Wide<T> sum = 0;
#pragma omp simd reduction(+ : sum)
      for (std::int64_t d = 0; d < shape.head_dim; ++d)
        sum += widen(output[place + d]) * widen(gradient[place + d]);
      delta[head * tokens + token] = sum;
    }
  }
}
#define WEFT_DELTA_KERNEL(T)                                                      \
  WEFT_CLONES void delta_rows(const T* output, const T* gradient, Wide<T>* delta, \
                              const AttentionShape& shape, std::int64_t tokens,   \
                              std::int64_t begin, std::int64_t end) {             \
    delta_rows_of(output, gradient, delta, shape, tokens, begin, end);            \
  }
WEFT_DELTA_KERNEL(float)
WEFT_DELTA_KERNEL(double)
WEFT_DELTA_KERNEL(c10::BFloat16)

/// Calls run(scratch, task) for every task, each once, on all threads; whoever is free takes the
/// next. Tasks write to places of their own, so who takes which does not matter.
template <typename T, typename E, typename Run>
void run_tasks(const AttentionShape& shape, std::int64_t tasks, const Run& run) {
  std::atomic<std::int64_t> next = 0;
  const std::int64_t workers = std::min<std::int64_t>(tasks, at::get_num_threads());
  at::parallel_for(0, workers, 1, [&](std::int64_t, std::int64_t) {
    Scratch<T, E> scratch(shape);
    for (std::int64_t task = next++; task < tasks; task = next++) run(scratch, task);
  });
}

/// Tasks over blocks and heads of keys; the later blocks of a segment, which see more, come first.
template <typename T, typename E, typename Run>
void run_blocks(const Job<T>& job, const std::vector<Visibility::Block>& blocks, const Run& run) {
  const auto count = std::ssize(blocks);
  run_tasks<T, E>(
      job.shape, count * job.shape.kv_heads, [&](Scratch<T, E>& scratch, std::int64_t task) {
        const auto block = static_cast<std::size_t>(count - 1 - task / job.shape.kv_heads);
        run(job, blocks[block], task % job.shape.kv_heads, scratch);
      });
}

/// Calls body(T{}, E{}) for the tensor's type and the operands that its products take.
template <typename Body>
void for_operands(at::ScalarType type, const Body& body) {
  kernel::for_type(type, [&]<typename T>(T) {
    if constexpr (std::is_same_v<T, c10::BFloat16>) {
      if (kernel::has_bf16_pairs()) return body(T{}, c10::BFloat16{});
      return body(T{}, float{});
    } else {
      return body(T{}, T{});
    }
  });
}

template <typename T>
Job<T> make_job(const AttentionShape& shape, const Visibility& visible, std::int64_t tokens) {
  return {.visible = visible,
          .shape = shape,
          .scale = static_cast<Wide<T>>(1 / std::sqrt(static_cast<double>(shape.head_dim))),
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

at::ScalarType sum_type(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

}  // namespace

at::Tensor attend_row(const at::Tensor& qkv, const AttentionShape& shape, const Visibility& visible,
                      at::Tensor* log_sums) {
  const std::int64_t tokens = qkv.size(0);
  at::Tensor out = at::empty({tokens, shape.heads * shape.head_dim}, qkv.options());
  if (log_sums != nullptr)
    *log_sums = at::empty({shape.heads, tokens}, qkv.options().dtype(sum_type(qkv)));
  const std::vector<Visibility::Block> blocks = visible.blocks(block_tokens(shape));
  for_operands(qkv.scalar_type(), [&]<typename T, typename E>(T, E) {
    Job<T> job = make_job<T>(shape, visible, tokens);
    set_qkv(job, qkv);
    job.out = heads_of(kernel::mutable_data<T>(out), 0, out.size(1), shape);
    if (log_sums != nullptr) job.log_sums = kernel::mutable_data<Wide<T>>(*log_sums);
    run_blocks<T, E>(job, blocks, [](auto&&... arguments) { forward(arguments...); });
  });
  return out;
}

at::Tensor attend_row_backward(const at::Tensor& gradient, const at::Tensor& output,
                               const at::Tensor& qkv, const at::Tensor& log_sums,
                               const AttentionShape& shape, const Visibility& visible) {
  const std::int64_t tokens = qkv.size(0);
  at::Tensor result = at::empty_like(qkv);
  const at::Tensor delta = at::empty_like(log_sums);
  const std::vector<Visibility::Block> query_blocks = visible.blocks(block_tokens(shape));
  const std::vector<Visibility::Block> key_tiles = visible.blocks(kKeys);
  for_operands(qkv.scalar_type(), [&]<typename T, typename E>(T, E) {
    at::parallel_for(0, tokens, kernel::grain(gradient.size(1)),
                     [&](std::int64_t begin, std::int64_t end) {
                       delta_rows(kernel::data<T>(output), kernel::data<T>(gradient),
                                  kernel::mutable_data<Wide<T>>(delta), shape, tokens, begin, end);
                     });
    Job<T> job = make_job<T>(shape, visible, tokens);
    set_qkv(job, qkv);
    job.d_out = heads_of(kernel::data<T>(gradient), 0, gradient.size(1), shape);
    job.log_sums = const_cast<Wide<T>*>(kernel::data<Wide<T>>(log_sums));  // only read
    job.delta = kernel::data<Wide<T>>(delta);
    T* const data = kernel::mutable_data<T>(result);
    job.dq = heads_of(data, 0, result.size(1), shape);
    job.dk = heads_of(data, shape.heads, result.size(1), shape);
    job.dv = heads_of(data, shape.heads + shape.kv_heads, result.size(1), shape);
    run_blocks<T, E>(job, query_blocks,
                     [](auto&&... arguments) { backward_queries(arguments...); });
    run_blocks<T, E>(job, key_tiles, [](auto&&... arguments) { backward_keys(arguments...); });
  });
  return result;
}

at::Tensor attend_cached(const at::Tensor& qkv, const at::Tensor& keys, const at::Tensor& values,
                         std::int64_t m, const AttentionShape& shape) {
  const std::int64_t n = qkv.size(0);
  at::Tensor out = at::empty({n, shape.heads * shape.head_dim}, qkv.options());
  const Visibility visible(m);
  const std::vector<Visibility::Block> blocks = visible.blocks(block_tokens(shape), m - n);
  for_operands(qkv.scalar_type(), [&]<typename T, typename E>(T, E) {
    Job<T> job = make_job<T>(shape, visible, m);
    set_qkv(job, qkv);
    job.q.first = m - n;
    job.k = {
        .data = kernel::data<T>(keys), .head_stride = keys.stride(0), .row_stride = shape.head_dim};
    job.v = {.data = kernel::data<T>(values),
             .head_stride = values.stride(0),
             .row_stride = shape.head_dim};
    job.out = heads_of(kernel::mutable_data<T>(out), 0, out.size(1), shape);
    job.out.first = m - n;
    run_blocks<T, E>(job, blocks, [](auto&&... arguments) { forward(arguments...); });
  });
  return out;
}

}  // namespace weft::model
