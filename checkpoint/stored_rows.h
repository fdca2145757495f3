#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "checkpoint/open_model.h"

namespace weft::checkpoint {

/// The stored bytes of rows [begin, end), in the order of the file; none of a tensor in pieces.
[[nodiscard]] std::span<const std::byte> rows_of(const StoredTensor& tensor, std::int64_t begin,
                                                 std::int64_t end);

/// Rows [begin, end) of the model as floats: Checkpoint::read_rows(). Thread-safe.
void read_stored_rows(const StoredTensor& tensor, std::int64_t begin, std::int64_t end,
                      std::span<float> out);

/// Columns [begin, end) of a matrix of `rows` rows of `width` numbers, each after the other: what a
/// matrix that another program has transposed is read by. Whole blocks of each row are turned into
/// floats, and no more of it. out.size() == (end - begin) * rows. Thread-safe.
void gather_columns(Storage storage, std::span<const std::byte> bytes, std::int64_t rows,
                    std::int64_t width, std::int64_t begin, std::int64_t end, std::span<float> out);

}  // namespace weft::checkpoint
