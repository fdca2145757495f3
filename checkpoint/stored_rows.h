#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "checkpoint/open_model.h"

namespace weft::checkpoint {

/// The stored bytes of rows [begin, end), in the order of the file.
[[nodiscard]] std::span<const std::byte> rows_of(const StoredTensor& tensor, std::int64_t begin,
                                                 std::int64_t end);

/// Rows [begin, end) of the model as floats: Checkpoint::read_rows(). Thread-safe.
void read_stored_rows(const StoredTensor& tensor, std::int64_t begin, std::int64_t end,
                      std::span<float> out);

}  // namespace weft::checkpoint
