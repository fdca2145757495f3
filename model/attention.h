#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "data/row.h"
#include "model/ops.h"
#include "model/spec.h"

namespace weft::model {

/// The shape of one layer's attention.
struct AttentionShape {
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;  ///< Head h reads keys and values of kv head h / (heads / kv_heads).
  std::int64_t head_dim = 0;
  std::int64_t window = 0;    ///< i sees j with i - window < j <= i; 0: all j <= i
};

/// Queries whose probabilities exist at once. Beyond it a longer block computes more masked scores
/// than its larger products save.
inline constexpr std::int64_t kQueryBlock = 256;

/// softmax(q k^T / sqrt(head_dim)) v with the causal mask, for the last n of m positions.
/// q [heads, n, head_dim]; k, v [kv_heads, m, head_dim], n <= m (strided over heads where they lie in
/// a cache). Returns [n, heads * head_dim].
/// Probabilities exist for a block of queries at a time, and only up to the block's last key.
[[nodiscard]] at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                const AttentionShape& shape);

/// Attention within each segment of a row (n = m). Returns [T, heads * head_dim].
[[nodiscard]] at::Tensor attend_row(const HeadBlocks& blocks, const AttentionShape& shape,
                                    std::span<const data::Segment> segments);

/// Its backward: gradients of the blocks from that of the output [T, heads * head_dim].
/// Probabilities are computed again.
[[nodiscard]] HeadBlocks attend_row_backward(const at::Tensor& gradient, const HeadBlocks& blocks,
                                             const AttentionShape& shape,
                                             std::span<const data::Segment> segments);

}  // namespace weft::model
