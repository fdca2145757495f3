#pragma once

#include <cstddef>
#include <cstdint>

#include "checkpoint/checkpoint.h"

// Behind quantize(): the super-blocks of 256, in a file of their own because they are compiled for
// several instruction sets.

namespace weft::checkpoint {

/// `count` super-blocks of Q4_K, Q5_K or Q6_K, from values of count * 256 floats.
void quantize_super_blocks(Storage storage, const float* values, std::size_t count,
                           std::uint8_t* out);

}  // namespace weft::checkpoint
