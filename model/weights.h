#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "model/head.h"
#include "model/layer.h"
#include "model/spec.h"

namespace weft::model {

/// The frozen tensors of a model, arranged for computing.
struct Weights {
  at::Tensor embedding;  ///< [V, D]
  at::Tensor positions;  ///< [P, D]; undefined: none
  std::optional<Norm> embedding_norm;
  std::vector<Layer> layers;
  std::optional<Norm> final_norm;
  Head head;
};

/// As in model/decoder.h: writes the named tensor into the given one.
using FillTensor =
    std::function<void(const std::string& name, const at::Tensor& into, std::int64_t first_row)>;

/// Allocates a model's tensors of `type` and fills them: q, k, v and gate, up lie in one matrix
/// each, whatever the family stores. Without a filler they are allocated only (Meter). On another
/// device than the processor each is filled on the processor and moved, so that one at a time has a
/// copy there.
/// The linear layers' matrices are kept as `format` says; embedding, norms, biases and head are not
/// quantised.
[[nodiscard]] Weights make_weights(const Spec& spec, at::ScalarType type, BaseFormat format,
                                   const FillTensor& fill, at::Device device = at::kCPU);

/// A filler that reads a checkpoint. Checks first that it holds every tensor the spec needs, in its
/// shape, and none that the model would not use (rotary inv_freq buffers aside): InputError naming
/// it.
[[nodiscard]] FillTensor checkpoint_filler(const checkpoint::Checkpoint& checkpoint,
                                           const Spec& spec);

}  // namespace weft::model
