#include "model/attention.h"

#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "model/kernel_math.h"

namespace weft::model {
namespace {

using kernel::narrow;
using kernel::Wide;
using kernel::widen;

/// Scores of one block of queries: matrix [groups * queries, keys], row r of query r mod queries.
struct Block {
  std::int64_t first_query = 0;  // among the n queries
  std::int64_t queries = 0;
  std::int64_t first_key = 0;
  std::int64_t keys = 0;
  std::int64_t offset = 0;  // position of query 0
  std::int64_t window = 0;
  double scale = 1;

  /// Keys [begin, end) that the query of a row sees, counted from first_key.
  WEFT_INLINE std::int64_t begin(std::int64_t row) const {
    const std::int64_t position = offset + first_query + row % queries;
    return window == 0 ? 0 : std::max<std::int64_t>(0, position - window + 1 - first_key);
  }
  WEFT_INLINE std::int64_t end(std::int64_t row) const {
    return offset + first_query + row % queries + 1 - first_key;
  }
};

template <typename T>
WEFT_INLINE void softmax_rows_of(T* scores, Wide<T>* buffer, const Block& block, std::int64_t first,
                                 std::int64_t last) {
  const auto scale = static_cast<Wide<T>>(block.scale);
  for (std::int64_t row = first; row < last; ++row) {
    T* s = scores + row * block.keys;
    const std::int64_t begin = block.begin(row);
    const std::int64_t end = block.end(row);
    Wide<T> most = -std::numeric_limits<Wide<T>>::infinity();
#pragma omp simd reduction(max : most)
    for (std::int64_t j = begin; j < end; ++j) most = std::max(most, widen(s[j]));
    Wide<T> sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t j = begin; j < end; ++j) {
      buffer[j] = kernel::exponential((widen(s[j]) - most) * scale);
      sum += buffer[j];
    }
    const Wide<T> inverse = 1 / sum;
    for (std::int64_t j = 0; j < begin; ++j) s[j] = narrow<T>(Wide<T>(0));
    for (std::int64_t j = begin; j < end; ++j) s[j] = narrow<T>(buffer[j] * inverse);
    for (std::int64_t j = end; j < block.keys; ++j) s[j] = narrow<T>(Wide<T>(0));
  }
}

/// Gradient of the probabilities to that of q k^T, in place: p (dp - sum(p dp)) scale.
template <typename T>
WEFT_INLINE void softmax_backward_rows_of(const T* probabilities, T* gradient, const Block& block,
                                          std::int64_t first, std::int64_t last) {
  const auto scale = static_cast<Wide<T>>(block.scale);
  for (std::int64_t row = first; row < last; ++row) {
    const T* p = probabilities + row * block.keys;
    T* d = gradient + row * block.keys;
    const std::int64_t begin = block.begin(row);
    const std::int64_t end = block.end(row);
    Wide<T> dot = 0;
#pragma omp simd reduction(+ : dot)
    for (std::int64_t j = begin; j < end; ++j) dot += widen(p[j]) * widen(d[j]);
    for (std::int64_t j = 0; j < begin; ++j) d[j] = narrow<T>(Wide<T>(0));
    for (std::int64_t j = begin; j < end; ++j) d[j] = narrow<T>(widen(p[j]) * (widen(d[j]) - dot) * scale);
    for (std::int64_t j = end; j < block.keys; ++j) d[j] = narrow<T>(Wide<T>(0));
  }
}

#define WEFT_SOFTMAX_KERNELS(T)                                                                      \
  WEFT_CLONES void softmax_rows(T* scores, Wide<T>* buffer, const Block& block, std::int64_t first,  \
                                std::int64_t last) {                                                 \
    softmax_rows_of(scores, buffer, block, first, last);                                             \
  }                                                                                                  \
  WEFT_CLONES void softmax_backward_rows(const T* probabilities, T* gradient, const Block& block,    \
                                         std::int64_t first, std::int64_t last) {                    \
    softmax_backward_rows_of(probabilities, gradient, block, first, last);                           \
  }
WEFT_SOFTMAX_KERNELS(float)
WEFT_SOFTMAX_KERNELS(double)
WEFT_SOFTMAX_KERNELS(c10::BFloat16)

void softmax_(const at::Tensor& scores, const Block& block) {
  const std::int64_t rows = scores.size(0) * scores.size(1);
  kernel::for_type(scores.scalar_type(), [&]<typename T>(T) {
    T* data = kernel::mutable_data<T>(scores);
    at::parallel_for(0, rows, kernel::grain(block.keys), [&](std::int64_t first, std::int64_t last) {
      std::vector<Wide<T>> buffer(static_cast<std::size_t>(block.keys));
      softmax_rows(data, buffer.data(), block, first, last);
    });
  });
}

void softmax_backward_(const at::Tensor& gradient, const at::Tensor& probabilities, const Block& block) {
  const std::int64_t rows = gradient.size(0) * gradient.size(1);
  kernel::for_type(gradient.scalar_type(), [&]<typename T>(T) {
    const T* p = kernel::data<T>(probabilities);
    T* d = kernel::mutable_data<T>(gradient);
    at::parallel_for(0, rows, kernel::grain(block.keys), [&](std::int64_t first, std::int64_t last) {
      softmax_backward_rows(p, d, block, first, last);
    });
  });
}

/// Calls body(block) for blocks that cover n queries over m keys.
template <typename Body>
void for_blocks(std::int64_t n, std::int64_t m, const AttentionShape& shape, const Body& body) {
  for (std::int64_t first = 0; first < n; first += kQueryBlock) {
    Block block;
    block.first_query = first;
    block.queries = std::min(kQueryBlock, n - first);
    block.offset = m - n;
    block.window = shape.window;
    const std::int64_t position = block.offset + first;
    block.first_key = shape.window == 0 ? 0 : std::max<std::int64_t>(0, position - shape.window + 1);
    block.keys = position + block.queries - block.first_key;
    block.scale = 1 / std::sqrt(static_cast<double>(shape.head_dim));
    body(block);
  }
}

/// The block's rows of x [heads, n, dim] as [kv_heads, groups * queries, dim]: the queries that share
/// keys are one matrix, so that keys need not be repeated.
at::Tensor grouped(const at::Tensor& x, const Block& block, std::int64_t kv_heads) {
  const at::Tensor part = x.narrow(1, block.first_query, block.queries);
  return part.reshape({kv_heads, x.size(0) / kv_heads * block.queries, x.size(2)});
}

at::Tensor probabilities(const at::Tensor& queries, const at::Tensor& keys, const Block& block) {
  const at::Tensor scores = at::bmm(queries, keys.transpose(1, 2)).contiguous();
  softmax_(scores, block);
  return scores;
}

void attend_into(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const AttentionShape& shape,
                 const at::Tensor& out) {
  const std::int64_t n = q.size(1);
  const at::Tensor rows = out.view({n, shape.heads, shape.head_dim});
  for_blocks(n, k.size(1), shape, [&](const Block& block) {
    const at::Tensor p = probabilities(grouped(q, block, shape.kv_heads),
                                       k.narrow(1, block.first_key, block.keys), block);
    const at::Tensor sums = at::bmm(p, v.narrow(1, block.first_key, block.keys));
    rows.narrow(0, block.first_query, block.queries)
        .copy_(sums.view({shape.heads, block.queries, shape.head_dim}).transpose(0, 1));
  });
}

/// A segment's block as [heads, length, dim].
at::Tensor block_view(const at::Tensor& flat, data::Segment segment, std::int64_t heads, std::int64_t dim) {
  const std::int64_t length = segment.end - segment.begin;
  return flat.narrow(0, segment.begin * heads * dim, length * heads * dim).view({heads, length, dim});
}

struct Views {
  at::Tensor q, k, v;
};

Views views_of(const HeadBlocks& blocks, data::Segment segment, const AttentionShape& shape) {
  return {block_view(blocks.q, segment, shape.heads, shape.head_dim),
          block_view(blocks.k, segment, shape.kv_heads, shape.head_dim),
          block_view(blocks.v, segment, shape.kv_heads, shape.head_dim)};
}

/// `gradient` [heads, n, dim]; the sums over several blocks of queries are kept in fp32.
void attend_backward(const at::Tensor& gradient, const Views& in, const AttentionShape& shape,
                     const Views& out) {
  const std::int64_t n = in.q.size(1);
  const bool one_block = n <= kQueryBlock;
  const auto sum_type = in.q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  at::Tensor dk = one_block ? out.k : at::zeros(out.k.sizes(), out.k.options().dtype(sum_type));
  at::Tensor dv = one_block ? out.v : at::zeros(out.v.sizes(), out.v.options().dtype(sum_type));
  for_blocks(n, n, shape, [&](const Block& block) {
    const at::Tensor keys = in.k.narrow(1, block.first_key, block.keys);
    const at::Tensor values = in.v.narrow(1, block.first_key, block.keys);
    const at::Tensor queries = grouped(in.q, block, shape.kv_heads);
    const at::Tensor dy = grouped(gradient, block, shape.kv_heads);
    const at::Tensor p = probabilities(queries, keys, block);
    const at::Tensor ds = at::bmm(dy, values.transpose(1, 2)).contiguous();
    softmax_backward_(ds, p, block);
    out.q.narrow(1, block.first_query, block.queries)
        .copy_(at::bmm(ds, keys).view({shape.heads, block.queries, shape.head_dim}));
    if (one_block) {
      at::bmm_out(dk, ds.transpose(1, 2), queries);
      at::bmm_out(dv, p.transpose(1, 2), dy);
    } else {
      dk.narrow(1, block.first_key, block.keys).add_(at::bmm(ds.transpose(1, 2), queries));
      dv.narrow(1, block.first_key, block.keys).add_(at::bmm(p.transpose(1, 2), dy));
    }
  });
  if (!one_block) {
    out.k.copy_(dk);
    out.v.copy_(dv);
  }
}

}  // namespace

at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  const AttentionShape& shape) {
  at::Tensor out = at::empty({q.size(1), shape.heads * shape.head_dim}, q.options());
  attend_into(q, k, v, shape, out);
  return out;
}

at::Tensor attend_row(const HeadBlocks& blocks, const AttentionShape& shape,
                      std::span<const data::Segment> segments) {
  const std::int64_t width = shape.heads * shape.head_dim;
  at::Tensor out = at::empty({blocks.q.numel() / width, width}, blocks.q.options());
  for (const data::Segment segment : segments) {
    const Views views = views_of(blocks, segment, shape);
    attend_into(views.q, views.k, views.v, shape, out.narrow(0, segment.begin, segment.end - segment.begin));
  }
  return out;
}

HeadBlocks attend_row_backward(const at::Tensor& gradient, const HeadBlocks& blocks,
                               const AttentionShape& shape, std::span<const data::Segment> segments) {
  HeadBlocks result{at::empty_like(blocks.q), at::empty_like(blocks.k), at::empty_like(blocks.v)};
  for (const data::Segment segment : segments) {
    const std::int64_t length = segment.end - segment.begin;
    const at::Tensor heads_first = gradient.narrow(0, segment.begin, length)
                                       .view({length, shape.heads, shape.head_dim})
                                       .transpose(0, 1)
                                       .contiguous();
    attend_backward(heads_first, views_of(blocks, segment, shape), shape, views_of(result, segment, shape));
  }
  return result;
}

}  // namespace weft::model
