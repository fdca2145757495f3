#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "checkpoint/checkpoint.h"
#include "model/spec.h"
#include "model/weights.h"

namespace weft::model {

/// A filler that reads a checkpoint. Checks first that it holds every tensor the spec needs, in its
/// shape, and none that the model would not use (rotary inv_freq buffers aside): InputError naming
/// it.
[[nodiscard]] FillTensor checkpoint_filler(const checkpoint::Checkpoint& checkpoint,
                                           const Spec& spec);

/// Rows of a tensor from `first_row` on as the file's blocks (Checkpoint::read_blocks), as many as
/// `into` [rows, bytes of a row] uint8 takes. InputError where one holds what is no finite number.
void read_blocks(const checkpoint::Checkpoint& checkpoint, const checkpoint::TensorInfo& tensor,
                 const at::Tensor& into, std::int64_t first_row);

}  // namespace weft::model
