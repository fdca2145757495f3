#include <ATen/ops/empty.h>

#include <cmath>
#include <limits>
#include <vector>

#include "model/kernels/attention_tiles.h"
#include "model/kernels/processor.h"

namespace weft::model {
namespace {

using namespace attention;
using kernel::narrow;

/// Output of one block of queries in the heads that read one head of keys.
template <typename T>
WEFT_INLINE void forward_of(const Job<T>& job, const Visibility::Block& block, std::int64_t kv_head,
                            Scratch<T>& s) {
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
  for (std::int64_t g = 0; g < group; ++g) {
    stage(s.left.get() + g * n * s.depth, job.q, kv_head * group + g, block.begin, n, dim, s.depth);
  }
  const std::vector<float>& sinks = job.shape.score.sinks;
  for (std::int64_t g = 0; g < group; ++g) {
    const auto head = static_cast<std::size_t>(kv_head * group + g);
    std::fill_n(s.most.get() + g * n, n,
                sinks.empty() ? -std::numeric_limits<W>::infinity() : W(sinks[head]));
  }
  std::fill_n(s.total.get(), rows, W(sinks.empty() ? 0 : 1));
  zero(s.sums.get(), rows * s.columns);
  for_key_tiles(
      job.visible, block, job.shape.window, kForwardKeys,
      [&](const Visibility::Range& range, bool is_own, std::int64_t begin,
          std::int64_t count) WEFT_INLINED {
        const std::int64_t keys = round_up(count, s.unit);
        zero(s.staged.get() + count * s.depth, (keys - count) * s.depth);
        stage(s.staged.get(), job.k, kv_head, begin, count, dim, s.depth);
        pack_across(s.across.get(), s.staged.get(), keys, s.depth);
        stage(s.staged.get(), job.v, kv_head, begin, count, dim, s.depth);
        pack_along(s.along.get(), s.staged.get(), keys, dim, s.depth);
        kernel::multiply(s.scores.get(), keys, s.left.get(), s.depth, s.across.get(),
                         {rows, keys, s.depth}, false);
        for (std::int64_t row = 0; row < rows; ++row) {
          const std::int64_t token = block.begin + row % n;
          const Seen seen = seen_by_query(range, is_own, begin, count, token,
                                          own.position + (token - own.begin), job.shape.window);
          W* const score = s.scores.get() + row * keys;
          T* const weight = s.weights.get() + row * keys;
          if (seen.first >= seen.last) {
            std::fill_n(weight, keys, T(0));
            continue;
          }
          W most = s.most[static_cast<std::size_t>(row)];
          const W before = most;
          if (job.plain) {
            most = scale_scores<T>(score, seen.first, seen.last, job.scale, most);
          } else {
            adjust(
                job, kv_head * group + row / n, score, seen.first, seen.last,
                Places{range.position + (begin - range.begin), own.position + (token - own.begin)});
            for (std::int64_t j = seen.first; j < seen.last; ++j) most = std::max(most, score[j]);
          }
          const W total = exponentials<T>(score, seen.first, seen.last, most);
          for (std::int64_t j = 0; j < seen.first; ++j) weight[j] = T(0);
          const W sunk = sinks.empty() ? W(0) : kernel::exponential(before - most);  // of the sink
          const W share = is_one_tile ? 1 / (total + sunk) : W(1);
          put_weights(weight, score, seen.first, seen.last, share);
          for (std::int64_t j = seen.last; j < keys; ++j) weight[j] = T(0);
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

#define WEFT_FORWARD_KERNEL(T)                                                \
  WEFT_CLONES void forward(const Job<T>& job, const Visibility::Block& block, \
                           std::int64_t kv_head, Scratch<T>& scratch) {       \
    forward_of(job, block, kv_head, scratch);                                 \
  }
WEFT_FORWARD_KERNEL(float)
WEFT_FORWARD_KERNEL(double)
WEFT_FORWARD_KERNEL(c10::BFloat16)

}  // namespace

std::vector<float> alibi_slopes(std::int64_t heads) {
  std::int64_t power = 1;
  while (2 * power <= heads) power *= 2;
  std::vector<float> slopes;
  const auto add = [&](std::int64_t of, std::int64_t step, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) {
      slopes.push_back(static_cast<float>(
          std::exp2(-8.0 * static_cast<double>(1 + step * i) / static_cast<double>(of))));
    }
  };
  add(power, 1, power);
  add(2 * power, 2, heads - power);
  return slopes;
}

at::Tensor Processor::attend_row(const at::Tensor& qkv, const AttentionShape& shape,
                                 const Visibility& visible, at::Tensor* log_sums) const {
  const std::int64_t tokens = qkv.size(0);
  at::Tensor out = at::empty({tokens, shape.heads * shape.head_dim}, qkv.options());
  if (log_sums != nullptr)
    *log_sums = at::empty({shape.heads, tokens}, qkv.options().dtype(sum_type(qkv)));
  const std::vector<Visibility::Block> blocks = visible.blocks(block_tokens(shape));
  kernel::for_type(qkv.scalar_type(), [&]<typename T>(T) {
    Job<T> job = make_job<T>(shape, visible, tokens);
    set_qkv(job, qkv);
    job.out = heads_of(kernel::mutable_data<T>(out), 0, out.size(1), shape);
    if (log_sums != nullptr) job.log_sums = kernel::mutable_data<Wide<T>>(*log_sums);
    run_blocks<T>(job, blocks, [](auto&&... arguments) { forward(arguments...); });
  });
  return out;
}

at::Tensor Processor::attend_cached(const at::Tensor& qkv, const at::Tensor& keys,
                                    const at::Tensor& values, std::int64_t m,
                                    const AttentionShape& shape) const {
  const std::int64_t n = qkv.size(0);
  at::Tensor out = at::empty({n, shape.heads * shape.head_dim}, qkv.options());
  const Visibility visible(m);
  const std::vector<Visibility::Block> blocks = visible.blocks(block_tokens(shape), m - n);
  kernel::for_type(qkv.scalar_type(), [&]<typename T>(T) {
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
    run_blocks<T>(job, blocks, [](auto&&... arguments) { forward(arguments...); });
  });
  return out;
}

}  // namespace weft::model
