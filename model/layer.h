#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "data/row.h"
#include "model/activation.h"
#include "model/experts.h"
#include "model/kernels/attention.h"
#include "model/kernels/attention_step.h"
#include "model/kernels/ops.h"
#include "model/linear.h"
#include "model/norm.h"
#include "model/spec.h"

namespace weft::model {

/// What a row's layers share.
struct RowContext {
  Visibility visible;
  std::vector<RotaryTable> tables;  ///< Spec::rotaries
  Dropout dropout;
};

/// The way into a branch: linear(norm(x)), or linear(x).
struct Entry {
  std::optional<Norm> norm;
  Linear linear;

  struct State {
    at::Tensor x;
    Norm::Statistics statistics;
    at::Tensor middle;  ///< see Linear
  };
  [[nodiscard]] at::Tensor forward(const at::Tensor& x, const RowContext& row, State& state) const;
  /// into_ += the gradient of x, given dy of what forward() gave; adds to the gradients of trained
  /// adapters. Ends there without `want_input`.
  void backward_(const at::Tensor& into, at::Tensor dy, const RowContext& row, State& state,
                 bool want_input) const;
  /// What `linear` reads, from what forward() kept.
  [[nodiscard]] at::Tensor input(const State& state) const;
};

/// The way out of a branch: residual + scale * norm(linear(x)).
struct Exit {
  Linear linear;
  std::optional<Norm> norm;
  double scale = 1;

  struct State {
    at::Tensor middle;
    at::Tensor out;  ///< With a norm: what it reads
    Norm::Statistics statistics;
  };
  [[nodiscard]] at::Tensor forward(const at::Tensor& x, const at::Tensor& residual,
                                   const RowContext& row, State& state) const;
  /// What forward() would put into a state.
  void recompute(const std::function<at::Tensor()>& x, const RowContext& row, State& state) const;
  /// The gradient of x where `want_input`. `x` may be undefined where nothing is trained here.
  [[nodiscard]] at::Tensor backward(const at::Tensor& dy, const at::Tensor& x,
                                    const RowContext& row, const State& state,
                                    bool want_input) const;
};

/// Keys and values of one layer for the tokens so far: [kv_heads, capacity, head_dim].
struct LayerCache {
  at::Tensor keys;
  at::Tensor values;
};

/// Rows [begin, end) of the input are the next tokens of a sequence, after `past` cached ones.
struct CachedRows {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t past = 0;
  LayerCache* cache = nullptr;
};

/// x -> residual + s attend(x).
struct Attention {
  Entry entry;  ///< To q, k, v side by side
  std::optional<Norm> query_norm, key_norm;
  AttentionShape shape;
  std::int64_t rotary = 0;  ///< AttentionSpec::rotary
  Exit exit;

  struct State {
    Entry::State entry;
    at::Tensor qkv;  ///< [T, (heads + 2 kv_heads) head_dim]: turned, or as it was before the norms
    Norm::Statistics query_statistics, key_statistics;
    at::Tensor log_sums;  ///< see attend_row()
    at::Tensor attended;  ///< [T, heads * head_dim]
    Exit::State exit;
  };
  /// `keep`: the state is for a backward.
  [[nodiscard]] at::Tensor forward(const at::Tensor& x, const at::Tensor& residual,
                                   const RowContext& row, State& state, bool keep) const;
  /// The next tokens of several sequences, one after the other in x; their keys and values are
  /// added to the caches, whose capacity suffices.
  [[nodiscard]] at::Tensor forward_cached(const at::Tensor& x, const at::Tensor& residual,
                                          const RowContext& row,
                                          std::span<const CachedRows> sequences) const;
  /// The newest token of each of several sequences, whose keys and values go to the last places.
  [[nodiscard]] at::Tensor forward_step(const at::Tensor& x, const at::Tensor& residual,
                                        const RowContext& row,
                                        std::span<const SequenceKeys> sequences) const;
  /// into_ += the gradient of x, given dy of the branch's part of the sum.
  void backward_(const at::Tensor& into, const at::Tensor& dy, const RowContext& row, State& state,
                 bool want_input) const;
  [[nodiscard]] bool trains() const { return entry.linear.trains() || exit.linear.trains(); }

 private:
  /// Norms and turns q and k of `packed`, in place.
  void prepare_(const at::Tensor& packed, const RowContext& row, State* state) const;
  [[nodiscard]] bool norms_heads() const { return query_norm || key_norm; }
};

/// x -> residual + s feed(x).
struct Mlp {
  Entry entry;  ///< To [gate | up], or to up alone
  MlpSpec spec;
  Exit exit;

  struct State {
    Entry::State entry;
    at::Tensor up;  ///< [T, 2F] or [T, F]
    Exit::State exit;
  };
  [[nodiscard]] at::Tensor forward(const at::Tensor& x, const at::Tensor& residual,
                                   const RowContext& row, State& state, bool keep) const;
  void recompute(const at::Tensor& x, const RowContext& row, State& state) const;
  void backward_(const at::Tensor& into, const at::Tensor& dy, const RowContext& row, State& state,
                 bool want_input) const;
  [[nodiscard]] bool trains() const { return entry.linear.trains() || exit.linear.trains(); }
};

/// What a layer's backward needs of its forward. What norms and activations give is computed again
/// from it.
struct LayerState {
  Attention::State attention;
  Mlp::State mlp;
  Experts::State experts;
  [[nodiscard]] at::Tensor& x() { return attention.entry.x; }  ///< The layer's input [T, D]
};

/// One decoder layer: its branches in the order that LayerSpec describes.
struct Layer {
  Attention attention;
  Mlp mlp;
  std::optional<Experts> experts;  ///< In place of mlp
  bool parallel = false;

  /// x [T, D] -> [T, D]. Fills `state` where not null.
  [[nodiscard]] at::Tensor forward(const at::Tensor& x, const RowContext& row,
                                   LayerState* state) const;

  /// What forward() would put into a state, from its input alone: for layers whose states are not
  /// kept. The same bits; costs the forward without the last product.
  [[nodiscard]] LayerState recompute(const at::Tensor& x, const RowContext& row) const;

  /// See Attention.
  [[nodiscard]] at::Tensor forward_cached(const at::Tensor& x, const RowContext& row,
                                          std::span<const CachedRows> sequences) const;
  [[nodiscard]] at::Tensor forward_step(const at::Tensor& x, const RowContext& row,
                                        std::span<const SequenceKeys> sequences) const;

  /// Turns d [T, D], the gradient of the output, into that of the input, and adds to the gradients
  /// of trained adapters. Overwrites parts of `state`. With `lowest` the gradient ends at the first
  /// trained adapter of this layer: what lies below it is not computed and d is not the input's.
  void backward(const at::Tensor& d, const RowContext& row, LayerState& state, bool lowest) const;

  [[nodiscard]] bool trains() const { return attention.trains() || feed_trains(); }

  /// The linear layers in the order of linear_modules().
  [[nodiscard]] std::vector<Linear*> linears();
  /// The matrices of the experts: those of each stack in the order of expert_stacks().
  [[nodiscard]] std::vector<std::vector<Linear*>> stacks();
  /// Calls body(linear, input) in that order, with what each read in the forward that `state` is
  /// of.
  void for_inputs(const LayerState& state,
                  const std::function<void(const Linear&, const at::Tensor&)>& body) const;

 private:
  // The MLP, or the experts in its place.
  [[nodiscard]] at::Tensor feed(const at::Tensor& x, const at::Tensor& residual,
                                const RowContext& row, LayerState& state, bool keep) const {
    return experts ? experts->forward(x, residual, row, state.experts, keep)
                   : mlp.forward(x, residual, row, state.mlp, keep);
  }
  [[nodiscard]] bool feed_trains() const { return experts ? experts->trains() : mlp.trains(); }
  void feed_backward_(const at::Tensor& into, const at::Tensor& dy, const RowContext& row,
                      LayerState& state, bool want_input) const;
  void feed_recompute(const at::Tensor& x, const RowContext& row, LayerState& state) const;
};

}  // namespace weft::model
