#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "model/visibility.h"

namespace weft::model {

/// What the softmax takes of the product of query i and key j, s = scale q k:
/// cap tanh(s / cap), or s + slope (j - i). Sinks join each head's softmax without a value.
/// Falcon's slopes are in bf16: slope j is rounded to it, as j itself is, and scaled as q k is;
/// s + scale (slope j - slope i) (modeling_falcon.py, build_alibi_tensor).
struct Score {
  double scale = 0;             ///< 0: 1 / sqrt(head_dim)
  double soft_cap = 0;          ///< 0: none
  std::vector<float> slopes{};  ///< One a head (ALiBi); empty: none. Not together with a cap.
  bool slopes_in_bf16 = false;
  std::vector<float> sinks{};  ///< One a head; empty: none

  [[nodiscard]] bool plain() const { return soft_cap == 0 && slopes.empty(); }
};

/// The shape of one layer's attention.
struct AttentionShape {
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;  ///< Head h reads keys and values of kv head h / (heads / kv_heads).
  std::int64_t head_dim = 0;
  std::int64_t window = 0;  ///< i sees j with i - window < j <= i; 0: all j <= i
  Score score{};
};

/// The slopes of ALiBi for a number of heads (arXiv 2108.12409): 2^(-8 h / n) for a power of two n,
/// and every other one of the next power's for the heads beyond.
[[nodiscard]] std::vector<float> alibi_slopes(std::int64_t heads);

/// What attention reads: q, k and v of each token, one after the other, turned (rotate_).
/// [T, (heads + 2 kv_heads) head_dim].
///
/// softmax(score(q k^T)) v over the keys that `visible` allows: tile by tile with a
/// running maximum and sum (arXiv 2205.14135), so that no matrix of scores is ever whole. Products
/// are in the element type (bf16 in pairs where the processor has them, else fp32), sums and
/// softmax in fp32. Returns [T, heads * head_dim]. `log_sums`, where not null, receives log sum exp
/// of each query's scores, [heads, T], which the backward needs.
[[nodiscard]] at::Tensor attend_row(const at::Tensor& qkv, const AttentionShape& shape,
                                    const Visibility& visible, at::Tensor* log_sums = nullptr);

/// Its backward: the gradient of qkv from that of the output. `output` is what attend_row() gave.
/// Every number is written by one thread, in one order: the bits do not depend on scheduling.
[[nodiscard]] at::Tensor attend_row_backward(const at::Tensor& gradient, const at::Tensor& output,
                                             const at::Tensor& qkv, const at::Tensor& log_sums,
                                             const AttentionShape& shape,
                                             const Visibility& visible);

/// The last n of m tokens of one sequence: `qkv` [n, (heads + 2 kv_heads) head_dim] has their
/// queries, `keys` and `values` [kv_heads, capacity, head_dim] hold all m. Returns [n, heads *
/// head_dim].
[[nodiscard]] at::Tensor attend_cached(const at::Tensor& qkv, const at::Tensor& keys,
                                       const at::Tensor& values, std::int64_t m,
                                       const AttentionShape& shape);

}  // namespace weft::model
