#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "model/activation.h"
#include "model/kernels/ops.h"
#include "model/linear.h"
#include "model/norm.h"
#include "model/spec.h"

namespace weft::model {

struct RowContext;

/// Which experts the tokens of a row visit. A visit is a token at one of its `chosen` experts;
/// visits lie expert by expert, those of one expert in order of token.
struct Routing {
  std::vector<std::int64_t> tokens;  ///< [T chosen]: of each visit
  std::vector<std::int64_t> begins;  ///< [E + 1]: first visit of each expert
  at::Tensor weights;        ///< [T chosen]: of each visit's output, in the arithmetic's type
  at::Tensor probabilities;  ///< [T, E]: softmax over all experts, likewise
};

/// A layer's MLP as experts of which a router chooses some for each token, and perhaps one that all
/// tokens visit:
///   x -> residual + s (sum of w_e mlp_e(h) over the chosen + sigmoid(g h) mlp_shared(h)),
///   h = norm(x), w = softmax(router h), of the chosen ones alone where `normalised`.
/// Tokens are sorted by expert, so that each expert's matrices are read once for all of them. The
/// experts take adapters, each factors of its own, and so does the shared one; the router is
/// frozen.
struct Experts {
  std::optional<Norm> norm;
  at::Tensor router;       ///< [E, D]
  at::Tensor router_bias;  ///< [E] or undefined
  ExpertsSpec spec;
  struct Expert {
    Linear up;  ///< To [gate | up]
    Linear down;
  };
  std::vector<Expert> experts;
  struct Shared {
    MlpSpec mlp;
    Linear up, down;
    Linear gate;  ///< [1, D]; without rows: the shared expert counts whole
  };
  std::optional<Shared> shared;
  double scale = 1;

  struct State {
    at::Tensor x;
    Norm::Statistics statistics;
    Routing routing;
    std::vector<at::Tensor> up;                      ///< Of each expert's visits
    std::vector<at::Tensor> up_middle;               ///< Of each expert's adapters
    at::Tensor shared_up, shared_out, shared_gate;   ///< Gate before the sigmoid
    at::Tensor middle_up, middle_down, middle_gate;  ///< Of the shared expert's adapters
  };
  [[nodiscard]] at::Tensor forward(const at::Tensor& x, const at::Tensor& residual,
                                   const RowContext& row, State& state, bool keep) const;
  void recompute(const at::Tensor& x, const RowContext& row, State& state) const;
  void backward_(const at::Tensor& into, const at::Tensor& dy, const RowContext& row, State& state,
                 bool want_input) const;
  [[nodiscard]] bool trains() const;
  /// The shared expert's, which are layers of their own.
  [[nodiscard]] std::vector<Linear*> linears();
  /// The experts' own: up of each, down of each.
  [[nodiscard]] std::vector<std::vector<Linear*>> stacks();
  void for_inputs(const State& state,
                  const std::function<void(const Linear&, const at::Tensor&)>& body) const;

 private:
  [[nodiscard]] bool trains_experts() const;
  /// Adds the gradient of h to `dh` where it is defined, and to those of trained adapters.
  void shared_backward(const at::Tensor& dh, const at::Tensor& d_sum, const at::Tensor& h,
                       const RowContext& row, State& state) const;
  void experts_backward(const at::Tensor& dh, const at::Tensor& d_sum, const at::Tensor& h,
                        State& state) const;
  [[nodiscard]] at::Tensor normed(const at::Tensor& x, State* state) const;
  /// What is added to the residual, before the scale; fills `state`.
  [[nodiscard]] at::Tensor sum_of(const at::Tensor& h, const RowContext& row, State& state,
                                  bool keep) const;
};

/// The routing of rows of logits [T, E].
[[nodiscard]] Routing route(const at::Tensor& logits, const ExpertsSpec& spec);

}  // namespace weft::model
