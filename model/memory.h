#pragma once

#include <cstdint>
#include <span>

#include "lora/adapter.h"
#include "model/decoder.h"
#include "model/quantised.h"
#include "model/spec.h"

namespace weft::model {

/// What a decoder is going to do.
struct Workload {
  Compute compute = Compute::kF32;
  BaseFormat base = BaseFormat::kDense;
  const checkpoint::Checkpoint* stored = nullptr;  ///< Whose blocks BaseFormat::kStored keeps
  std::int64_t row_tokens = 0;                     ///< Of the longest row
  bool training = false;                           ///< Backward as well
  bool dropout = false;                            ///< Of the adapters' inputs
  std::int64_t recomputed_layers = 0;              ///< TrainPass::recomputed_layers
};

/// Bytes of tensors (model/arena.h); what the program, its data and LibTorch's code take comes on
/// top.
struct MemoryNeed {
  std::uint64_t weights = 0;
  std::uint64_t activations = 0;  ///< Of one row, at most
  std::uint64_t adapter =
      0;  ///< Masters, gradients, Adam's two moments, and the copy for computing
  [[nodiscard]] std::uint64_t total() const { return weights + activations + adapter; }
};

/// What the decoder's own code takes for a full row of one example, all of it supervised, run
/// without computing (model/meter.h).
[[nodiscard]] MemoryNeed memory_need(const Spec& spec, std::span<const lora::Target> targets,
                                     const Workload& workload);

}  // namespace weft::model
