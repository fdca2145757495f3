#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "checkpoint/open_model.h"

namespace weft::checkpoint {

/// Bytes of a file of the model.
struct StoredPart {
  std::size_t shard = 0;
  std::span<const std::byte> bytes;
};

/// The stored bytes that are not needed once rows [begin, end) have been read in order: as many
/// rows of the file; none of a tensor in pieces, but of a transposed stack the matrices that end
/// among these rows.
[[nodiscard]] std::vector<StoredPart> parts_of(const StoredTensor& tensor, std::int64_t begin,
                                               std::int64_t end);

/// Rows of each matrix of a stack, or of the one; 1 of a vector.
[[nodiscard]] std::int64_t matrix_rows(const TensorInfo& tensor);

/// Rows [begin, end) of the model as floats: Checkpoint::read_rows(). Thread-safe.
void read_stored_rows(const StoredTensor& tensor, std::int64_t begin, std::int64_t end,
                      std::span<float> out);

/// Checkpoint::read_columns() and read_mxfp4_columns(). Thread-safe.
void read_stored_columns(const StoredTensor& tensor, std::int64_t matrix, std::int64_t begin,
                         std::int64_t end, std::span<float> out);
void read_stored_mxfp4(const StoredTensor& tensor, std::int64_t matrix, std::int64_t begin,
                       std::int64_t end, std::span<std::byte> out);

/// Checkpoint::row_blocks() and read_blocks(). Thread-safe.
[[nodiscard]] Storage stored_row_blocks(const StoredTensor& tensor);
void read_stored_blocks(const StoredTensor& tensor, std::int64_t begin, std::int64_t end,
                        std::span<std::byte> out);

/// Columns [begin, end) of a matrix of `rows` rows of `width` numbers, each after the other: what a
/// matrix that another program has transposed is read by. Whole blocks of each row are turned into
/// floats, and no more of it. out.size() == (end - begin) * rows. Thread-safe.
void gather_columns(Storage storage, std::span<const std::byte> bytes, std::int64_t rows,
                    std::int64_t width, std::int64_t begin, std::int64_t end, std::span<float> out);

}  // namespace weft::checkpoint
