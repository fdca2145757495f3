#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/logaddexp.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/tanh.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "model/aten/aten.h"
#include "model/aten/common.h"
#include "model/constants.h"

namespace weft::model {
namespace {

using aten::wide_type;
using aten::widened;

/// Scores that are held at a time: 64 MiB of fp32, of which a backward holds a few.
constexpr std::int64_t kMostScores = std::int64_t{1} << 24;

/// Queries of one block whose scores are no more than that.
std::int64_t block_tokens(const AttentionShape& shape, std::int64_t longest) {
  return std::clamp<std::int64_t>(kMostScores / (shape.heads * std::max<std::int64_t>(longest, 1)),
                                  16, 1024);
}

std::int64_t longest_sequence(const Visibility& visible) {
  std::int64_t longest = 0;
  for (std::int64_t i = 0; i < visible.segments(); ++i) {
    const Visibility::Range& own = visible.own(i);
    longest = std::max(longest, own.position + (own.end - own.begin));
  }
  return longest;
}

/// Some queries and the keys that one of them sees or more. Positions are those in the sequence.
struct Block {
  at::Tensor q;        ///< [K, G n, d]: heads that share keys one after the other
  at::Tensor k, v;     ///< [K, m, d]
  at::Tensor queries;  ///< Positions, [n] int64
  at::Tensor keys;     ///< [m] int64
  std::int64_t n = 0;
};

/// [n, K G d] of tokens -> [K, G n, d], and back.
at::Tensor by_kv_head(const at::Tensor& rows, const AttentionShape& s) {
  return rows.reshape({rows.size(0), s.kv_heads, s.heads / s.kv_heads, s.head_dim})
      .permute({1, 2, 0, 3})
      .reshape({s.kv_heads, -1, s.head_dim});
}
at::Tensor by_token(const at::Tensor& heads, const AttentionShape& s, std::int64_t n) {
  return heads.reshape({s.kv_heads, s.heads / s.kv_heads, n, s.head_dim})
      .permute({2, 0, 1, 3})
      .reshape({n, s.heads * s.head_dim});
}

/// One number a head, [H, 1, 1], in the arithmetic's type.
at::Tensor per_head(const std::vector<float>& values, const at::Tensor& like) {
  return constant(values, like.device()).to(wide_type(like.scalar_type())).view({-1, 1, 1});
}

double scale_of(const AttentionShape& s) {
  return s.score.scale != 0 ? s.score.scale : 1 / std::sqrt(static_cast<double>(s.head_dim));
}

/// What slopes add to scores: [H, n, m] (Score).
at::Tensor slopes_of(const Block& block, const AttentionShape& s) {
  at::Tensor slopes = per_head(s.score.slopes, block.q);
  const at::Tensor keys = block.keys.to(slopes.scalar_type()).unsqueeze(0);
  const at::Tensor queries = block.queries.to(slopes.scalar_type()).unsqueeze(1);
  if (!s.score.slopes_in_bf16) return slopes * (keys - queries);
  const auto in_bf16 = [](const at::Tensor& x) { return aten::rounded(x, at::kBFloat16); };
  slopes = in_bf16(slopes);
  return (in_bf16(slopes * in_bf16(keys)) - in_bf16(slopes * in_bf16(queries))) * scale_of(s);
}

/// Scores as the softmax takes them, [H, n, m]; what a query does not see is -infinity.
at::Tensor scores_of(const Block& block, const AttentionShape& s) {
  const at::Tensor products = at::bmm(block.q, block.k.transpose(1, 2));  // rounded, as elsewhere
  at::Tensor scores = widened(products).view({s.heads, block.n, -1}) * scale_of(s);
  if (s.score.soft_cap != 0) scores = at::tanh(scores / s.score.soft_cap) * s.score.soft_cap;
  if (!s.score.slopes.empty()) scores = scores + slopes_of(block, s);
  const at::Tensor ahead = block.keys.unsqueeze(0) - block.queries.unsqueeze(1);  // [n, m]
  at::Tensor hidden = ahead.gt(0);
  if (s.window > 0) hidden = hidden.logical_or(ahead.le(-s.window));
  return scores.masked_fill_(hidden, -std::numeric_limits<double>::infinity());
}

/// The output [n, H d], and log sum exp of the scores [H, n] where `log_sums` is given.
at::Tensor attend(const Block& block, const AttentionShape& s, at::Tensor* log_sums) {
  const at::Tensor scores = scores_of(block, s);
  at::Tensor totals = at::logsumexp(scores, {2}, true);
  if (!s.score.sinks.empty()) totals = at::logaddexp(totals, per_head(s.score.sinks, block.q));
  const at::Tensor weights = at::exp(scores - totals).to(block.q.scalar_type());
  if (log_sums != nullptr) *log_sums = totals.squeeze(2);
  return by_token(at::bmm(weights.view({s.kv_heads, -1, weights.size(2)}), block.v), s, block.n);
}

/// Rows of q, k and v.
struct Packed {
  at::Tensor q, k, v;  ///< [T, H d], [T, K d], [T, K d]
  Packed(const at::Tensor& qkv, const AttentionShape& s)
      : q(qkv.narrow(1, 0, s.heads * s.head_dim)),
        k(qkv.narrow(1, s.heads * s.head_dim, s.kv_heads * s.head_dim)),
        v(qkv.narrow(1, (s.heads + s.kv_heads) * s.head_dim, s.kv_heads * s.head_dim)) {}
};

/// What the queries of a block of a row see: parts of its segment and of those it continues.
std::vector<Visibility::Range> ranges_of(const Visibility& visible, const Visibility::Block& block,
                                         std::int64_t window) {
  const Visibility::Range& own = visible.own(block.segment);
  const std::int64_t first_query = own.position + (block.begin - own.begin);
  std::vector<Visibility::Range> ranges;
  const auto add = [&](Visibility::Range range) {
    if (window > 0) {  // the first key that the first query sees
      const std::int64_t skipped =
          std::max<std::int64_t>(0, first_query - window + 1 - range.position);
      range.begin += skipped;
      range.position += skipped;
    }
    if (range.begin < range.end) ranges.push_back(range);
  };
  for (const std::int64_t above : visible.ancestors(block.segment)) add(visible.own(above));
  add({own.begin, block.end, own.position});
  return ranges;
}

Block block_of(const Packed& packed, const AttentionShape& s, const Visibility& visible,
               const Visibility::Block& block, const std::vector<Visibility::Range>& ranges) {
  const Visibility::Range& own = visible.own(block.segment);
  const auto whole = packed.q.options().dtype(at::kLong);
  Block result;
  result.n = block.end - block.begin;
  result.q = by_kv_head(packed.q.narrow(0, block.begin, result.n), s);
  std::vector<at::Tensor> k, v, keys;
  for (const Visibility::Range& range : ranges) {
    const std::int64_t count = range.end - range.begin;
    k.push_back(packed.k.narrow(0, range.begin, count));
    v.push_back(packed.v.narrow(0, range.begin, count));
    keys.push_back(at::arange(range.position, range.position + count, whole));
  }
  const auto of_heads = [&](const std::vector<at::Tensor>& parts) {
    const at::Tensor rows = parts.size() == 1 ? parts.front() : at::cat(parts);
    return rows.unflatten(1, {s.kv_heads, s.head_dim}).transpose(0, 1);
  };
  result.k = of_heads(k);
  result.v = of_heads(v);
  result.keys = at::cat(keys);
  const std::int64_t first = own.position + (block.begin - own.begin);
  result.queries = at::arange(first, first + result.n, whole);
  return result;
}

/// The last n of m tokens of a sequence, whose keys and values a cache holds.
at::Tensor attend_last(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values,
                       std::int64_t m, const AttentionShape& s) {
  const std::int64_t most = block_tokens(s, m);
  const std::int64_t n = q.size(0);
  const auto whole = q.options().dtype(at::kLong);
  at::Tensor out = at::empty_like(q);
  for (std::int64_t begin = 0; begin < n; begin += most) {
    const std::int64_t count = std::min(most, n - begin);
    const std::int64_t position = m - n + begin;
    const std::int64_t end = position + count;
    const std::int64_t first =
        s.window > 0 ? std::max<std::int64_t>(0, position - s.window + 1) : 0;
    Block block;
    block.n = count;
    block.q = by_kv_head(q.narrow(0, begin, count), s);
    block.k = keys.narrow(1, first, end - first);
    block.v = values.narrow(1, first, end - first);
    block.queries = at::arange(position, end, whole);
    block.keys = at::arange(first, end, whole);
    out.narrow(0, begin, count).copy_(attend(block, s, nullptr));
  }
  return out;
}

}  // namespace

at::Tensor Aten::attend_row(const at::Tensor& qkv, const AttentionShape& shape,
                            const Visibility& visible, at::Tensor* log_sums) const {
  const std::int64_t tokens = qkv.size(0);
  const Packed packed(qkv, shape);
  at::Tensor out = at::empty({tokens, shape.heads * shape.head_dim}, qkv.options());
  at::Tensor totals =
      at::empty({shape.heads, tokens}, qkv.options().dtype(wide_type(qkv.scalar_type())));
  for (const Visibility::Block& block :
       visible.blocks(block_tokens(shape, longest_sequence(visible)))) {
    const std::int64_t n = block.end - block.begin;
    at::Tensor of_block;
    out.narrow(0, block.begin, n)
        .copy_(
            attend(block_of(packed, shape, visible, block, ranges_of(visible, block, shape.window)),
                   shape, &of_block));
    totals.narrow(1, block.begin, n).copy_(of_block);
  }
  if (log_sums != nullptr) *log_sums = totals;
  return out;
}

at::Tensor Aten::attend_row_backward(const at::Tensor& gradient, const at::Tensor& output,
                                     const at::Tensor& qkv, const at::Tensor& log_sums,
                                     const AttentionShape& shape, const Visibility& visible) const {
  const at::ScalarType type = qkv.scalar_type();
  const Packed packed(qkv, shape);
  at::Tensor result = at::empty_like(qkv);
  const Packed into(result, shape);
  // Of keys and values, to which many blocks add: [T, K d].
  const auto wide = qkv.options().dtype(wide_type(type));
  const at::Tensor dk = zeros(packed.k.sizes(), wide);
  const at::Tensor dv = zeros(packed.v.sizes(), wide);
  const auto heads_to_rows = [&](const at::Tensor& heads) {  // [K, m, d] -> [m, K d]
    return widened(heads).transpose(0, 1).flatten(1);
  };
  for (const Visibility::Block& place :
       visible.blocks(block_tokens(shape, longest_sequence(visible)))) {
    const std::int64_t n = place.end - place.begin;
    const std::vector<Visibility::Range> ranges = ranges_of(visible, place, shape.window);
    const Block block = block_of(packed, shape, visible, place, ranges);
    const at::Tensor scores = scores_of(block, shape);
    const at::Tensor p = at::exp(scores - log_sums.narrow(1, place.begin, n).unsqueeze(2));
    const at::Tensor d_rows = gradient.narrow(0, place.begin, n);
    const at::Tensor d_out = by_kv_head(d_rows, shape);
    const at::Tensor delta = (widened(d_rows) * widened(output.narrow(0, place.begin, n)))
                                 .unflatten(1, {shape.heads, shape.head_dim})
                                 .sum(2)
                                 .t()
                                 .unsqueeze(2);  // [H, n, 1]
    const at::Tensor d_weights =
        at::bmm(widened(d_out), widened(block.v).transpose(1, 2)).view(p.sizes());
    at::Tensor d_scores = p * (d_weights - delta) * scale_of(shape);
    if (shape.score.soft_cap != 0) {
      const at::Tensor slope = 1 - (scores / shape.score.soft_cap).square();
      d_scores = d_scores * slope.masked_fill(scores.isinf(), 0);
    }
    const auto operand = [&](const at::Tensor& of_scores) {
      return of_scores.to(type).view({shape.kv_heads, -1, of_scores.size(2)});
    };
    const at::Tensor ds = operand(d_scores);
    into.q.narrow(0, place.begin, n).copy_(by_token(at::bmm(ds, block.k), shape, n));
    const at::Tensor dk_block =
        heads_to_rows(at::bmm(widened(ds).transpose(1, 2), widened(block.q)));
    const at::Tensor dv_block =
        heads_to_rows(at::bmm(widened(operand(p)).transpose(1, 2), widened(d_out)));
    std::int64_t first = 0;
    for (const Visibility::Range& range : ranges) {
      const std::int64_t count = range.end - range.begin;
      dk.narrow(0, range.begin, count).add_(dk_block.narrow(0, first, count));
      dv.narrow(0, range.begin, count).add_(dv_block.narrow(0, first, count));
      first += count;
    }
  }
  into.k.copy_(dk);
  into.v.copy_(dv);
  return result;
}

at::Tensor Aten::attend_cached(const at::Tensor& qkv, const at::Tensor& keys,
                               const at::Tensor& values, std::int64_t m,
                               const AttentionShape& shape) const {
  const at::Tensor q = qkv.narrow(1, 0, shape.heads * shape.head_dim).contiguous();
  return attend_last(q, keys, values, m, shape);
}

void Aten::append_keys(const at::Tensor& qkv, std::span<const SequenceKeys> sequences,
                       const AttentionShape& shape) const {
  const Packed packed(qkv, shape);
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const SequenceKeys& one = sequences[i];
    const auto row = static_cast<std::int64_t>(i);
    const auto of_heads = [&](const at::Tensor& rows) {
      return rows.select(0, row).view({shape.kv_heads, shape.head_dim});
    };
    one.keys.select(1, one.length - 1).copy_(of_heads(packed.k));
    one.values.select(1, one.length - 1).copy_(of_heads(packed.v));
  }
}

at::Tensor Aten::attend_step(const at::Tensor& qkv, std::span<const SequenceKeys> sequences,
                             const AttentionShape& shape) const {
  at::Tensor out = at::empty({qkv.size(0), shape.heads * shape.head_dim}, qkv.options());
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const SequenceKeys& one = sequences[i];
    const auto row = static_cast<std::int64_t>(i);
    out.narrow(0, row, 1).copy_(
        attend_cached(qkv.narrow(0, row, 1), one.keys, one.values, one.length, shape));
  }
  return out;
}

}  // namespace weft::model
