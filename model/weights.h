#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "model/head.h"
#include "model/layer.h"
#include "model/spec.h"

namespace weft::model {

/// The frozen tensors of a model, arranged for computing.
struct Weights {
  at::Tensor embedding;  ///< [V, D]; undefined where `stored_embedding` has it
  std::shared_ptr<const QuantisedMatrix> stored_embedding;
  at::Tensor positions;  ///< [P, D]; undefined: none
  std::optional<Norm> embedding_norm;
  at::TensorOptions activations;  ///< Their type and device
  std::vector<Layer> layers;
  std::optional<Norm> final_norm;
  Head head;

  /// Rows of the embedding: [indices, D] of `type`.
  [[nodiscard]] at::Tensor embed(std::span<const std::int64_t> indices, at::ScalarType type) const;
};

/// As in model/decoder.h: writes the named tensor into the given one.
using FillTensor =
    std::function<void(const std::string& name, const at::Tensor& into, std::int64_t first_row)>;

/// Allocates a model's tensors of `type` and fills them: q, k, v and gate, up lie in one matrix
/// each, whatever the family stores. Without a filler they are allocated only (Meter).
/// The linear layers' matrices are kept as `format` says; norms, biases, routers, and, but in
/// kStored, embedding and head are not quantised. `stored`: the checkpoint whose blocks kStored
/// keeps, on the processor; without a filler their room is allocated. On another device than the
/// processor each tensor is filled on the processor and moved, so that one at a time has a copy
/// there.
[[nodiscard]] Weights make_weights(const Spec& spec, at::ScalarType type, BaseFormat format,
                                   const FillTensor& fill,
                                   const checkpoint::Checkpoint* stored = nullptr,
                                   at::Device device = at::kCPU);

}  // namespace weft::model
