#pragma once

#include "checkpoint/checkpoint.h"

namespace weft::exporting {

/// A GGUF architecture has one way to compute: InputError, naming the key and its value, where
/// config.json asks for another one, which would be written as if it had not; naming the tensor
/// where some layers have no experts; and where the output head is not the one that the
/// architecture takes.
void refuse_other_arithmetic(const checkpoint::Checkpoint& model);

}  // namespace weft::exporting
