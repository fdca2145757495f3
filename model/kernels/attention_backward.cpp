#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <span>
#include <vector>

#include "model/kernels/attention_tiles.h"
#include "model/kernels/processor.h"

namespace weft::model {
namespace {

using namespace attention;
using kernel::narrow;

/// Gradients of one query's plain scores.
template <typename T>
WEFT_INLINE void put_gradients(const Job<T>& job, T* to, const Wide<T>* score,
                               const Wide<T>* gradient, const Seen& seen, Wide<T> log_sum,
                               Wide<T> delta) {
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    if (const kernel::RowKernels* const fast = kernel::bf16_rows()) {
      return fast->score_gradients(to + seen.first, score + seen.first, gradient + seen.first,
                                   seen.last - seen.first, job.scale, log_sum, delta);
    }
  }
  for (std::int64_t j = seen.first; j < seen.last; ++j) {
    const Wide<T> p = kernel::exponential(scaled<T>(score[j], job.scale) - log_sum);
    to[j] = narrow<T>(p * (gradient[j] - delta) * job.scale);
  }
}

/// Gradient of one block of queries.
template <typename T>
WEFT_INLINE void backward_queries_of(const Job<T>& job, const Visibility::Block& block,
                                     std::int64_t kv_head, Scratch<T>& s) {
  using W = Wide<T>;
  const std::int64_t dim = job.shape.head_dim;
  const std::int64_t group = job.group();
  const std::int64_t n = block.end - block.begin;
  const std::int64_t rows = group * n;
  const Visibility::Range& own = job.visible.own(block.segment);
  for (std::int64_t g = 0; g < group; ++g) {
    const std::int64_t head = kv_head * group + g;
    const std::int64_t at = g * n * s.depth;
    stage(s.left.get() + at, job.q, head, block.begin, n, dim, s.depth);
    stage(s.left_gradient.get() + at, job.d_out, head, block.begin, n, dim, s.depth);
  }
  zero(s.sums.get(), rows * s.columns);
  for_key_tiles(
      job.visible, block, job.shape.window, kKeys,
      [&](const Visibility::Range& range, bool is_own, std::int64_t begin,
          std::int64_t count) WEFT_INLINED {
        const std::int64_t keys = round_up(count, s.unit);
        zero(s.staged.get() + count * s.depth, (keys - count) * s.depth);
        stage(s.staged.get(), job.v, kv_head, begin, count, dim, s.depth);
        pack_across(s.across_gradient.get(), s.staged.get(), keys, s.depth);
        stage(s.staged.get(), job.k, kv_head, begin, count, dim, s.depth);
        pack_across(s.across.get(), s.staged.get(), keys, s.depth);
        pack_along(s.along.get(), s.staged.get(), keys, dim, s.depth);
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
          W* const score = s.scores.get() + row * keys;
          const W* const gradient = s.scores_gradient.get() + row * keys;
          T* const weight = s.weights.get() + row * keys;
          for (std::int64_t j = 0; j < seen.first; ++j) weight[j] = T(0);
          if (job.plain) {
            put_gradients(job, weight, score, gradient, seen, log_sum, delta);
          } else {
            adjust(
                job, kv_head * group + row / n, score, seen.first, seen.last,
                Places{range.position + (begin - range.begin), own.position + (token - own.begin)});
            for (std::int64_t j = seen.first; j < seen.last; ++j) {
              const W p = kernel::exponential(score[j] - log_sum);
              weight[j] =
                  narrow<T>(p * (gradient[j] - delta) * job.scale * slope_of(score[j], job.cap));
            }
          }
          for (std::int64_t j = std::max(seen.first, seen.last); j < keys; ++j) weight[j] = T(0);
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

/// A block of queries among the columns of a product: head g of the group has its tokens from
/// column + g * count() on.
struct Column {
  Visibility::Block block;
  std::int64_t column = 0;
  [[nodiscard]] std::int64_t count() const { return block.end - block.begin; }
};

/// Weights and their gradients of `column`'s queries for key j of `tile`; what they do not see
/// stays as it is.
template <typename T>
WEFT_INLINE void weigh(const Job<T>& job, const Visibility::Block& tile, const Column& column,
                       std::int64_t kv_head, std::int64_t j, std::int64_t row, Scratch<T>& s) {
  using W = Wide<T>;
  const Visibility::Range& keys = job.visible.own(tile.segment);
  const Visibility::Range& own = job.visible.own(column.block.segment);
  const std::int64_t n = column.count();
  // Queries [first, last) of the block see the key.
  std::int64_t first = 0;
  std::int64_t last = n;
  if (tile.segment == column.block.segment)
    first = std::clamp<std::int64_t>(tile.begin + j - column.block.begin, 0, n);
  if (job.shape.window > 0) {
    const std::int64_t key_position = keys.position + (tile.begin + j - keys.begin);
    const std::int64_t query_position = own.position + (column.block.begin - own.begin);
    last = std::clamp<std::int64_t>(key_position + job.shape.window - query_position, 0, n);
  }
  for (std::int64_t g = 0; g < job.group(); ++g) {
    const std::int64_t place = (kv_head * job.group() + g) * job.tokens + column.block.begin;
    const W* const log_sum = job.log_sums + place;
    const W* const delta = job.delta + place;
    const std::int64_t at = row + column.column + g * n;
    W* const score = s.scores.get() + at;
    const W* const gradient = s.scores_gradient.get() + at;
    T* const weight = s.weights.get() + at;
    T* const weight_gradient = s.weights_gradient.get() + at;
    if (!job.plain) {
      const std::int64_t key_position = keys.position + (tile.begin + j - keys.begin);
      const std::int64_t query_position = own.position + (column.block.begin - own.begin);
      adjust(job, kv_head * job.group() + g, score, first, last,
             {.key = key_position, .query = query_position, .along_keys = false});
      for (std::int64_t i = first; i < last; ++i) {
        const W p = kernel::exponential(score[i] - log_sum[i]);
        weight[i] = narrow<T>(p);
        weight_gradient[i] =
            narrow<T>(p * (gradient[i] - delta[i]) * job.scale * slope_of(score[i], job.cap));
      }
      continue;
    }
    if constexpr (std::is_same_v<T, c10::BFloat16>) {
      if (const kernel::RowKernels* const fast = kernel::bf16_rows()) {
        fast->score_gradients_across(weight + first, weight_gradient + first, score + first,
                                     gradient + first, log_sum + first, delta + first, last - first,
                                     job.scale);
        continue;
      }
    }
    for (std::int64_t i = first; i < last; ++i) {
      const W p = kernel::exponential(scaled<T>(score[i], job.scale) - log_sum[i]);
      weight[i] = narrow<T>(p);
      weight_gradient[i] = narrow<T>(p * (gradient[i] - delta[i]) * job.scale);
    }
  }
}

/// Adds to the gradients of a tile of keys what blocks of queries, some of which may see it, have
/// to say. Scores are transposed: a row for each key.
template <typename T>
WEFT_INLINE void add_key_gradients(const Job<T>& job, const Visibility::Block& tile,
                                   std::span<const Column> blocks, std::int64_t kv_head,
                                   Scratch<T>& s) {
  const std::int64_t dim = job.shape.head_dim;
  const std::int64_t group = job.group();
  const std::int64_t count = tile.end - tile.begin;
  const std::int64_t queries = blocks.back().column + group * blocks.back().count();
  const std::int64_t columns = round_up(queries, s.unit);
  const auto pack = [&](const Rows<const T>& rows, T* across, T* along) WEFT_INLINED {
    for (const Column& one : blocks) {
      for (std::int64_t g = 0; g < group; ++g) {
        stage(s.staged.get() + (one.column + g * one.count()) * s.depth, rows, kv_head * group + g,
              one.block.begin, one.count(), dim, s.depth);
      }
    }
    zero(s.staged.get() + queries * s.depth, (columns - queries) * s.depth);
    pack_across(across, s.staged.get(), columns, s.depth);
    pack_along(along, s.staged.get(), columns, dim, s.depth);
  };
  pack(job.q, s.across.get(), s.along.get());
  pack(job.d_out, s.across_gradient.get(), s.along_gradient.get());
  const kernel::Extent extent{count, columns, s.depth};
  kernel::multiply(s.scores.get(), columns, s.left.get(), s.depth, s.across.get(), extent, false);
  kernel::multiply(s.scores_gradient.get(), columns, s.left_gradient.get(), s.depth,
                   s.across_gradient.get(), extent, false);
  zero(s.weights.get(), count * columns);
  zero(s.weights_gradient.get(), count * columns);
  for (std::int64_t j = 0; j < count; ++j) {
    for (const Column& one : blocks) weigh(job, tile, one, kv_head, j, j * columns, s);
  }
  const kernel::Extent sums{count, s.columns, columns};
  kernel::multiply(s.sums.get(), s.columns, s.weights_gradient.get(), columns, s.along.get(), sums,
                   true);
  kernel::multiply(s.sums_gradient.get(), s.columns, s.weights.get(), columns,
                   s.along_gradient.get(), sums, true);
}

/// The queries that may see a key of `tile`, in groups of as many as a product takes: short
/// continuations of one beginning share a product.
inline std::vector<std::vector<Column>> queries_of(const AttentionShape& shape,
                                                   const Visibility& visible,
                                                   const Visibility::Block& tile) {
  const std::int64_t group = shape.heads / shape.kv_heads;
  const std::int64_t most = block_tokens(shape);
  const Visibility::Range& keys = visible.own(tile.segment);
  std::vector<std::vector<Column>> groups;
  std::int64_t tokens = most;  // of the last group
  const auto add = [&](std::int64_t segment, std::int64_t first) {
    const Visibility::Range& own = visible.own(segment);
    std::int64_t end = own.end;
    if (shape.window > 0) {  // beyond it no query sees even the tile's last key
      const std::int64_t last_position = keys.position + (tile.end - 1 - keys.begin);
      end = std::min(end, own.begin + (last_position + shape.window - own.position));
    }
    for (std::int64_t begin = first; begin < end;) {
      if (tokens == most) {
        groups.emplace_back();
        tokens = 0;
      }
      const std::int64_t count = std::min(most - tokens, end - begin);
      groups.back().push_back({{segment, begin, begin + count}, group * tokens});
      tokens += count;
      begin += count;
    }
  };
  add(tile.segment, tile.begin);
  for (const std::int64_t below : visible.descendants(tile.segment))
    add(below, visible.own(below).begin);
  return groups;
}

/// Gradients of one tile of keys and values.
template <typename T>
WEFT_INLINE void backward_keys_of(const Job<T>& job, const Visibility::Block& tile,
                                  std::span<const std::vector<Column>> queries,
                                  std::int64_t kv_head, Scratch<T>& s) {
  using W = Wide<T>;
  const std::int64_t dim = job.shape.head_dim;
  const std::int64_t count = tile.end - tile.begin;
  stage(s.left.get(), job.k, kv_head, tile.begin, count, dim, s.depth);
  stage(s.left_gradient.get(), job.v, kv_head, tile.begin, count, dim, s.depth);
  zero(s.sums.get(), count * s.columns);
  zero(s.sums_gradient.get(), count * s.columns);
  for (const std::vector<Column>& blocks : queries) {
    add_key_gradients(job, tile, std::span<const Column>(blocks), kv_head, s);
  }
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

#define WEFT_BACKWARD_KERNELS(T)                                                       \
  WEFT_CLONES void backward_queries(const Job<T>& job, const Visibility::Block& block, \
                                    std::int64_t kv_head, Scratch<T>& scratch) {       \
    backward_queries_of(job, block, kv_head, scratch);                                 \
  }                                                                                    \
  WEFT_CLONES void backward_keys(const Job<T>& job, const Visibility::Block& tile,     \
                                 std::span<const std::vector<Column>> queries,         \
                                 std::int64_t kv_head, Scratch<T>& scratch) {          \
    backward_keys_of(job, tile, queries, kv_head, scratch);                            \
  }
WEFT_BACKWARD_KERNELS(float)
WEFT_BACKWARD_KERNELS(double)
WEFT_BACKWARD_KERNELS(c10::BFloat16)

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

}  // namespace

at::Tensor Processor::attend_row_backward(const at::Tensor& gradient, const at::Tensor& output,
                                          const at::Tensor& qkv, const at::Tensor& log_sums,
                                          const AttentionShape& shape,
                                          const Visibility& visible) const {
  const std::int64_t tokens = qkv.size(0);
  at::Tensor result = at::empty_like(qkv);
  const at::Tensor delta = at::empty_like(log_sums);
  const std::vector<Visibility::Block> query_blocks = visible.blocks(block_tokens(shape));
  const std::vector<Visibility::Block> key_tiles = visible.blocks(kKeys);
  kernel::for_type(qkv.scalar_type(), [&]<typename T>(T) {
    kernel::parallel_for(
        tokens, kernel::grain(gradient.size(1)), [&](std::int64_t begin, std::int64_t end) {
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
    run_blocks<T>(job, query_blocks, [](auto&&... arguments) { backward_queries(arguments...); });
    run_blocks<T>(job, key_tiles,
                  [](const Job<T>& all, const Visibility::Block& tile, std::int64_t kv_head,
                     Scratch<T>& scratch) {
                    backward_keys(all, tile, queries_of(all.shape, all.visible, tile), kv_head,
                                  scratch);
                  });
  });
  return result;
}

}  // namespace weft::model
