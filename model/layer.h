#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "data/row.h"
#include "model/attention.h"
#include "model/attention_step.h"
#include "model/linear.h"
#include "model/ops.h"
#include "model/spec.h"

namespace weft::model {

/// What a row's layers share.
struct RowContext {
  const Spec& spec;
  Visibility visible;
  RotaryTable table;
  Dropout dropout;
};

/// What a layer's backward needs of its forward. Norms' and the activation's outputs are computed
/// again from it.
struct LayerState {
  at::Tensor x;  ///< [T, D] input
  at::Tensor x_inverse_rms;
  at::Tensor qkv;       ///< [T, (heads + 2 kv_heads) head_dim], q and k turned
  at::Tensor log_sums;  ///< see attend_row()
  at::Tensor attended;  ///< [T, heads * head_dim]
  at::Tensor y;         ///< [T, D] after attention
  at::Tensor y_inverse_rms;
  at::Tensor gate_up;                                            ///< [T, 2F]
  at::Tensor middle_qkv, middle_o, middle_gate_up, middle_down;  ///< see Linear
};

/// Keys and values of one layer for the tokens so far: [kv_heads, capacity, head_dim].
struct LayerCache {
  at::Tensor keys;
  at::Tensor values;
};

/// One decoder layer: x += o(attention(norm(x))), x += down(swiglu(gate_up(norm(x)))).
struct Layer {
  at::Tensor input_norm;  ///< [D]
  Linear qkv;
  Linear o;
  at::Tensor mlp_norm;  ///< [D]
  Linear gate_up;
  Linear down;
  AttentionShape shape;

  /// x [T, D] -> [T, D]. Fills `state` where not null.
  [[nodiscard]] at::Tensor forward(const at::Tensor& x, const RowContext& row,
                                   LayerState* state) const;

  /// What forward() would put into a state, from its input alone: for layers whose states are not
  /// kept. The same bits; costs the forward without the down product.
  [[nodiscard]] LayerState recompute(const at::Tensor& x, const RowContext& row) const;

  /// The next n tokens x [n, D] after `past` cached ones; their keys and values are added to
  /// `cache`, whose capacity suffices.
  [[nodiscard]] at::Tensor forward_cached(const at::Tensor& x, const RowContext& row,
                                          LayerCache& cache, std::int64_t past) const;

  /// The newest token of each of several sequences: x [n, D], n = sequences.size(). Their keys and
  /// values are written to the last places of `sequences`.
  [[nodiscard]] at::Tensor forward_step(const at::Tensor& x, const RowContext& row,
                                        std::span<const SequenceKeys> sequences) const;

  /// Turns d [T, D], the gradient of the output, into that of the input, and adds to the gradients
  /// of trained adapters. Overwrites parts of `state`. With `lowest` the gradient ends at the first
  /// trained adapter of this layer: what lies below it is not computed and d is not the input's.
  void backward(const at::Tensor& d, const RowContext& row, LayerState& state, bool lowest) const;

  [[nodiscard]] bool trains() const;

 private:
  /// Up to and with the sum after attention, which is returned.
  [[nodiscard]] at::Tensor attention_half(const at::Tensor& x, const RowContext& row,
                                          LayerState& state) const;
  [[nodiscard]] at::Tensor gate_up_of(const at::Tensor& y, const RowContext& row,
                                      LayerState& state) const;
};

}  // namespace weft::model
