#pragma once

#include <cmath>
#include <cstdint>

#include "model/cuda/block.h"

// Attention over trees of segments (model/visibility.h), tile by tile with a running maximum and
// sum (arXiv 2205.14135): no matrix of scores is ever whole. A block of threads has some queries of
// one segment (or some keys) in one head, and goes through tiles of what they see (or are seen by).
// Every number is written by one thread in one order: no atomics.

namespace weft::cuda {

/// Tokens [begin, end) of a row.
struct TokenRange {
  std::int32_t begin = 0;
  std::int32_t end = 0;
};

/// Tokens of one segment, and which ranges of tokens they see, or see them.
struct TokenBlock {
  TokenRange own;
  std::int32_t first_range = 0;
  std::int32_t ranges = 0;
};

inline constexpr int kBlockTokens = 16;   ///< Of a TokenBlock, at most
inline constexpr int kTileTokens = 32;    ///< Of what it meets, at a time
inline constexpr int kThreadsPerRow = 8;  ///< That share a token of the block
inline constexpr int kAttentionThreads = kBlockTokens * kThreadsPerRow;
inline constexpr int kMostHeadDim = 256;
inline constexpr int kMostColumns = kMostHeadDim / kThreadsPerRow;  ///< Of a thread

WEFT_BODY float dot(const float* a, const float* b, std::int64_t dim) {
  float sum = 0;
  for (std::int64_t d = 0; d < dim; ++d) sum += a[d] * b[d];
  return sum;
}

/// What all attention kernels read.
template <typename T>
struct AttentionInput {
  const T* qkv;  ///< [tokens, (heads + 2 kv_heads) head_dim], turned
  const std::int32_t* positions;
  const TokenBlock* blocks;
  const TokenRange* ranges;
  std::int64_t tokens, heads, kv_heads, head_dim, window;
  float scale, soft_cap;
  const float* slopes;  ///< [heads] or null
  bool slopes_in_bf16;
  const float* sinks;  ///< [heads] or null

  [[nodiscard]] WEFT_BODY std::int64_t width() const { return (heads + 2 * kv_heads) * head_dim; }
  [[nodiscard]] WEFT_BODY const T* q(std::int64_t head, std::int64_t token) const {
    return qkv + token * width() + head * head_dim;
  }
  [[nodiscard]] WEFT_BODY const T* k(std::int64_t kv_head, std::int64_t token) const {
    return q(heads + kv_head, token);
  }
  [[nodiscard]] WEFT_BODY const T* v(std::int64_t kv_head, std::int64_t token) const {
    return q(heads + kv_heads + kv_head, token);
  }

  [[nodiscard]] WEFT_BODY bool sees(std::int64_t query, std::int64_t key) const {
    const std::int32_t ahead = positions[key] - positions[query];
    return ahead <= 0 && (window == 0 || ahead > -window);
  }

  /// The score of a product, as the softmax takes it (model/kernels/attention.h).
  [[nodiscard]] WEFT_BODY float score(float product, std::int64_t head, std::int64_t query,
                                      std::int64_t key) const {
    const float s = rounded<T>(product) * scale;
    if (soft_cap != 0) return soft_cap * tanhf(s / soft_cap);
    if (slopes == nullptr) return s;
    const auto k = static_cast<float>(positions[key]);
    const auto q = static_cast<float>(positions[query]);
    if (!slopes_in_bf16)
      return s + slopes[head] * static_cast<float>(positions[key] - positions[query]);
    const float slope = rounded<Bf16>(slopes[head]);
    return s + scale * (rounded<Bf16>(slope * rounded<Bf16>(k)) -
                        rounded<Bf16>(slope * rounded<Bf16>(q)));
  }

  /// d score / d scaled product.
  [[nodiscard]] WEFT_BODY float slope_of(float s) const {
    return soft_cap == 0 ? 1.0F : 1 - (s / soft_cap) * (s / soft_cap);
  }

  /// The score of a query's row with a key's; -infinity where it does not see it.
  [[nodiscard]] WEFT_BODY float score_of(const float* query_row, const float* key_row,
                                         std::int64_t head, std::int64_t query,
                                         std::int64_t key) const {
    if (!sees(query, key)) return -INFINITY;
    return score(dot(query_row, key_row, head_dim), head, query, key);
  }

  [[nodiscard]] WEFT_BODY int tiles(const TokenBlock& block) const {
    int count = 0;
    for (int r = 0; r < block.ranges; ++r) count += tiles(ranges[block.first_range + r]);
    return count;
  }
  [[nodiscard]] WEFT_BODY TokenRange tile(const TokenBlock& block, int index) const {
    for (int r = 0; r < block.ranges; ++r) {
      const TokenRange& range = ranges[block.first_range + r];
      const int here = tiles(range);
      if (index < here) {
        const std::int32_t begin = range.begin + index * kTileTokens;
        return {begin, begin + kTileTokens < range.end ? begin + kTileTokens : range.end};
      }
      index -= here;
    }
    return {};
  }
  [[nodiscard]] WEFT_BODY static int tiles(const TokenRange& range) {
    return (range.end - range.begin + kTileTokens - 1) / kTileTokens;
  }
};

/// Which row of the block a thread works for, and which of its columns (every kThreadsPerRow-th).
struct Part {
  int row, column;
  WEFT_BODY explicit Part(const Place& at)
      : row(at.thread / kThreadsPerRow), column(at.thread % kThreadsPerRow) {}
};

/// Rows of one head, as fp32, into shared memory: to[i dim + d] of token range.begin + i.
template <typename Row>
WEFT_BODY void load_rows(const Place& at, float* to, const TokenRange& range, std::int64_t dim,
                         const Row& row) {
  const std::int64_t elements = (range.end - range.begin) * dim;
  for (std::int64_t i = at.thread; i < elements; i += at.threads)
    to[i] = widen(row(range.begin + i / dim)[i % dim]);
}

/// Calls body(c, d) for the elements d < dim of a row that are the thread's, the c-th of each.
template <typename Body>
WEFT_BODY void for_columns(int column, std::int64_t dim, const Body& body) {
  WEFT_UNROLL for (int c = 0; c < kMostColumns; ++c) {
    const std::int64_t d = column + c * kThreadsPerRow;
    if (d < dim) body(c, d);
  }
}

/// acc[c] += sum over i < count of weights[i] rows[i], of the thread's columns.
WEFT_BODY void accumulate(float (&acc)[kMostColumns], const float* weights, int count,
                          const float* rows, std::int64_t dim, int column) {
  for (int i = 0; i < count; ++i) {
    for_columns(column, dim,
                [&](int c, std::int64_t d) { acc[c] += weights[i] * rows[i * dim + d]; });
  }
}

/// Operations::attend_row. Blocks: (block of queries, head), heads fastest.
template <typename T>
struct AttentionForward {
  AttentionInput<T> in;
  T* out;           ///< [tokens, heads head_dim]
  float* log_sums;  ///< [heads, tokens]

  struct Thread {
    float sums[kMostColumns] = {};
  };
  static constexpr int kPhasesPerTile = 5;

  [[nodiscard]] WEFT_BODY int phases(std::int64_t block) const {
    return 2 + kPhasesPerTile * in.tiles(in.blocks[block / in.heads]);
  }
  static std::int64_t shared_floats(std::int64_t dim) {
    return (kBlockTokens + kTileTokens) * dim + kBlockTokens * kTileTokens + 3 * kBlockTokens;
  }

  WEFT_BODY void run(int phase, const Place& at, Thread& t, float* shared) const {
    const TokenBlock& block = in.blocks[at.block / in.heads];
    const std::int64_t head = at.block % in.heads;
    const std::int64_t kv_head = head / (in.heads / in.kv_heads);
    const std::int64_t dim = in.head_dim;
    const int count = block.own.end - block.own.begin;
    const Part part(at);
    float* const queries = shared;
    float* const rows = queries + kBlockTokens * dim;
    float* const scores = rows + kTileTokens * dim;
    float* const most = scores + kBlockTokens * kTileTokens;
    float* const total = most + kBlockTokens;
    float* const shrink = total + kBlockTokens;
    const std::int64_t query = block.own.begin + part.row;
    if (phase == 0) {
      load_rows(at, queries, block.own, dim, [&](std::int64_t token) { return in.q(head, token); });
      if (at.thread < kBlockTokens) {
        most[at.thread] = in.sinks == nullptr ? -INFINITY : in.sinks[head];
        total[at.thread] = in.sinks == nullptr ? 0.0F : 1.0F;
      }
      return;
    }
    const int step = (phase - 1) % kPhasesPerTile;
    const int tile_index = (phase - 1) / kPhasesPerTile;
    if (tile_index == in.tiles(block)) {
      if (part.row >= count) return;
      T* const to = out + (query * in.heads + head) * dim;
      for_columns(part.column, dim,
                  [&](int c, std::int64_t d) { to[d] = narrow<T>(t.sums[c] / total[part.row]); });
      if (part.column == 0)
        log_sums[head * in.tokens + query] = most[part.row] + logf(total[part.row]);
      return;
    }
    const TokenRange tile = in.tile(block, tile_index);
    const int keys = tile.end - tile.begin;
    float* const own_scores = scores + part.row * kTileTokens;
    switch (step) {
      case 0:
        return load_rows(at, rows, tile, dim,
                         [&](std::int64_t token) { return in.k(kv_head, token); });
      case 1:
        for (int j = part.column; part.row < count && j < keys; j += kThreadsPerRow) {
          own_scores[j] =
              in.score_of(queries + part.row * dim, rows + j * dim, head, query, tile.begin + j);
        }
        return;
      case 2:
        if (part.row < count && part.column == 0)
          weigh(own_scores, keys, most[part.row], total[part.row], shrink[part.row]);
        return;
      case 3:
        return load_rows(at, rows, tile, dim,
                         [&](std::int64_t token) { return in.v(kv_head, token); });
      default: break;
    }
    if (part.row >= count) return;
    WEFT_UNROLL for (float& sum : t.sums) sum *= shrink[part.row];
    accumulate(t.sums, own_scores, keys, rows, dim, part.column);
  }

 private:
  /// Scores become weights; the running maximum and sum go on.
  WEFT_BODY static void weigh(float* scores, int keys, float& most, float& total, float& shrink) {
    float now = most;
    for (int j = 0; j < keys; ++j) now = scores[j] > now ? scores[j] : now;
    // Nothing was seen yet, nor is now: all weights are zero.
    shrink = now == -INFINITY ? 1.0F : expf(most - now);
    float sum = 0;
    for (int j = 0; j < keys; ++j) {
      const float weight = now == -INFINITY ? 0.0F : expf(scores[j] - now);
      sum += weight;
      scores[j] = rounded<T>(weight);
    }
    total = total * shrink + sum;
    most = now;
  }
};

/// What the backward kernels read beside that.
template <typename T>
struct AttentionGradients {
  const T* d_out;         ///< [tokens, heads head_dim]
  const float* log_sums;  ///< [heads, tokens]
  const float* delta;     ///< [heads, tokens]: d_out times the output, summed over a head
  T* into;                ///< The gradient of qkv

  [[nodiscard]] WEFT_BODY const T* of_head(const AttentionInput<T>& in, std::int64_t head,
                                           std::int64_t token) const {
    return d_out + (token * in.heads + head) * in.head_dim;
  }
  /// What the softmax makes of a score of a query, which stands at `place` of [heads, tokens].
  [[nodiscard]] WEFT_BODY float weight(float score, std::int64_t place) const {
    return score == -INFINITY ? 0.0F : expf(score - log_sums[place]);
  }
  /// The gradient of the product behind the score, given that of its weight.
  [[nodiscard]] WEFT_BODY float of_product(const AttentionInput<T>& in, float score, float weight,
                                           float d_weight, std::int64_t place) const {
    if (score == -INFINITY) return 0;
    return rounded<T>(weight * (d_weight - delta[place]) * in.scale * in.slope_of(score));
  }
};

/// Gradients of queries. Blocks as of AttentionForward.
template <typename T>
struct AttentionQueries {
  AttentionInput<T> in;
  AttentionGradients<T> gradients;

  struct Thread {
    float sums[kMostColumns] = {};
  };
  static constexpr int kPhasesPerTile = 6;

  [[nodiscard]] WEFT_BODY int phases(std::int64_t block) const {
    return 2 + kPhasesPerTile * in.tiles(in.blocks[block / in.heads]);
  }
  static std::int64_t shared_floats(std::int64_t dim) {
    return (2 * kBlockTokens + kTileTokens) * dim + kBlockTokens * kTileTokens;
  }

  WEFT_BODY void run(int phase, const Place& at, Thread& t, float* shared) const {
    const TokenBlock& block = in.blocks[at.block / in.heads];
    const std::int64_t head = at.block % in.heads;
    const std::int64_t kv_head = head / (in.heads / in.kv_heads);
    const std::int64_t dim = in.head_dim;
    const int count = block.own.end - block.own.begin;
    const Part part(at);
    float* const queries = shared;
    float* const d_rows = queries + kBlockTokens * dim;
    float* const rows = d_rows + kBlockTokens * dim;
    float* const scores = rows + kTileTokens * dim;
    const std::int64_t query = block.own.begin + part.row;
    if (phase == 0) {
      load_rows(at, queries, block.own, dim, [&](std::int64_t token) { return in.q(head, token); });
      return load_rows(at, d_rows, block.own, dim,
                       [&](std::int64_t token) { return gradients.of_head(in, head, token); });
    }
    const int step = (phase - 1) % kPhasesPerTile;
    const int tile_index = (phase - 1) / kPhasesPerTile;
    if (tile_index == in.tiles(block)) {
      if (part.row >= count) return;
      T* const to = gradients.into + query * in.width() + head * dim;
      for_columns(part.column, dim, [&](int c, std::int64_t d) { to[d] = narrow<T>(t.sums[c]); });
      return;
    }
    const TokenRange tile = in.tile(block, tile_index);
    const int keys = tile.end - tile.begin;
    float* const own_scores = scores + part.row * kTileTokens;
    const auto load_keys = [&] {
      load_rows(at, rows, tile, dim, [&](std::int64_t token) { return in.k(kv_head, token); });
    };
    switch (step) {
      case 0: return load_keys();
      case 1:
        for (int j = part.column; part.row < count && j < keys; j += kThreadsPerRow) {
          own_scores[j] =
              in.score_of(queries + part.row * dim, rows + j * dim, head, query, tile.begin + j);
        }
        return;
      case 2:
        return load_rows(at, rows, tile, dim,
                         [&](std::int64_t token) { return in.v(kv_head, token); });
      case 3:
        for (int j = part.column; part.row < count && j < keys; j += kThreadsPerRow) {
          const float s = own_scores[j];
          const std::int64_t place = head * in.tokens + query;
          const float d = dot(d_rows + part.row * dim, rows + j * dim, dim);
          own_scores[j] = gradients.of_product(in, s, gradients.weight(s, place), d, place);
        }
        return;
      case 4: return load_keys();
      default: break;
    }
    if (part.row < count) accumulate(t.sums, own_scores, keys, rows, dim, part.column);
  }
};

/// Gradients of keys and values. Blocks: (block of keys, kv head), kv heads fastest; ranges are the
/// tokens that see them.
template <typename T>
struct AttentionKeys {
  AttentionInput<T> in;  ///< `blocks` and `ranges` of keys
  AttentionGradients<T> gradients;

  struct Thread {
    float d_key[kMostColumns] = {};
    float d_value[kMostColumns] = {};
  };
  static constexpr int kPhasesPerTile = 6;

  [[nodiscard]] WEFT_BODY std::int64_t group() const { return in.heads / in.kv_heads; }
  [[nodiscard]] WEFT_BODY int phases(std::int64_t block) const {
    return 2 +
           kPhasesPerTile * static_cast<int>(group()) * in.tiles(in.blocks[block / in.kv_heads]);
  }
  static std::int64_t shared_floats(std::int64_t dim) {
    return (2 * kBlockTokens + kTileTokens) * dim + 2 * kBlockTokens * kTileTokens;
  }

  WEFT_BODY void run(int phase, const Place& at, Thread& t, float* shared) const {
    const TokenBlock& block = in.blocks[at.block / in.kv_heads];
    const std::int64_t kv_head = at.block % in.kv_heads;
    const std::int64_t dim = in.head_dim;
    const int count = block.own.end - block.own.begin;
    const Part part(at);
    float* const keys = shared;
    float* const values = keys + kBlockTokens * dim;
    float* const rows = values + kBlockTokens * dim;
    float* const weights = rows + kTileTokens * dim;
    float* const d_scores = weights + kBlockTokens * kTileTokens;
    const std::int64_t key = block.own.begin + part.row;
    if (phase == 0) {
      load_rows(at, keys, block.own, dim, [&](std::int64_t token) { return in.k(kv_head, token); });
      return load_rows(at, values, block.own, dim,
                       [&](std::int64_t token) { return in.v(kv_head, token); });
    }
    const int tiles = in.tiles(block);
    const int step = (phase - 1) % kPhasesPerTile;
    const int visit = (phase - 1) / kPhasesPerTile;
    if (visit == tiles * static_cast<int>(group())) {
      if (part.row >= count) return;
      T* const to = gradients.into + key * in.width() + (in.heads + kv_head) * dim;
      for_columns(part.column, dim, [&](int c, std::int64_t d) {
        to[d] = narrow<T>(t.d_key[c]);
        to[in.kv_heads * dim + d] = narrow<T>(t.d_value[c]);
      });
      return;
    }
    const std::int64_t head = kv_head * group() + visit / tiles;
    const TokenRange tile = in.tile(block, visit % tiles);
    const int queries = tile.end - tile.begin;
    float* const own_weights = weights + part.row * kTileTokens;
    float* const own_d_scores = d_scores + part.row * kTileTokens;
    const auto load_queries = [&] {
      load_rows(at, rows, tile, dim, [&](std::int64_t token) { return in.q(head, token); });
    };
    switch (step) {
      case 0: return load_queries();
      case 1:  // scores, for now in the place of their gradients
        for (int j = part.column; part.row < count && j < queries; j += kThreadsPerRow) {
          own_d_scores[j] =
              in.score_of(rows + j * dim, keys + part.row * dim, head, tile.begin + j, key);
        }
        return;
      case 2:
        return load_rows(at, rows, tile, dim,
                         [&](std::int64_t token) { return gradients.of_head(in, head, token); });
      case 3:
        for (int j = part.column; part.row < count && j < queries; j += kThreadsPerRow) {
          const float s = own_d_scores[j];
          const std::int64_t place = head * in.tokens + tile.begin + j;
          const float p = gradients.weight(s, place);
          const float d = dot(rows + j * dim, values + part.row * dim, dim);
          own_weights[j] = rounded<T>(p);
          own_d_scores[j] = gradients.of_product(in, s, p, d, place);
        }
        return;
      case 4:
        if (part.row < count) accumulate(t.d_value, own_weights, queries, rows, dim, part.column);
        return;
      default: break;
    }
    // The rows are those of the gradient: queries come from where they are.
    if (part.row >= count) return;
    for (int i = 0; i < queries; ++i) {
      const T* const q = in.q(head, tile.begin + i);
      for_columns(part.column, dim,
                  [&](int c, std::int64_t d) { t.d_key[c] += own_d_scores[i] * widen(q[d]); });
    }
  }
};

}  // namespace weft::cuda
