#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "model/kernels/attention.h"

namespace weft::model {

/// Keys and values of one sequence: [kv_heads, capacity, head_dim] each, of which the first
/// `length` are the sequence's, its newest token's included.
struct SequenceKeys {
  at::Tensor keys;
  at::Tensor values;
  std::int64_t length = 0;
};

/// Puts the keys and values of row i of `qkv` at the last place of sequence i.
void append_keys(const at::Tensor& qkv, std::span<const SequenceKeys> sequences,
                 const AttentionShape& shape);

/// The newest token of each of several sequences: row i of `qkv` [n, (heads + 2 kv_heads) head_dim]
/// has the query (turned) of sequence i, which sees that sequence alone. Returns [n, heads *
/// head_dim], n = sequences.size().
///
/// The formula and its rounding are those of attend_row(). One query cannot share a packed tile of
/// keys with others, so there is none: keys are read where they lie, once for all heads that share
/// them. A row's bits depend on its own sequence only.
[[nodiscard]] at::Tensor attend_step(const at::Tensor& qkv, std::span<const SequenceKeys> sequences,
                                     const AttentionShape& shape);

}  // namespace weft::model
