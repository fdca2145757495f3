#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/open_model.h"
#include "core/sha256_lanes.h"

namespace weft::checkpoint {

/// Hears which bytes of a file have been read (StoredTensor::shard); called by several threads.
using BytesRead = std::function<void(std::size_t shard, std::span<const std::byte>)>;

/// For each tensor, SHA-256 of its values as little-endian floats; of its bytes where they are no
/// numbers of ours. Tensors are hashed by the threads of core/parallel.h, and side by side
/// (core::Sha256Lanes) if `side_by_side`, which the processor must be able to.
[[nodiscard]] std::vector<std::string> values_digests(
    std::span<const StoredTensor* const> tensors, const BytesRead& read,
    bool side_by_side = core::Sha256Lanes::available());

}  // namespace weft::checkpoint
