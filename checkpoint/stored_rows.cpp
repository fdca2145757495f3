#include "checkpoint/stored_rows.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "checkpoint/dequantize.h"
#include "checkpoint/mxfp4.h"
#include "checkpoint/printable.h"
#include "core/error.h"
#include "core/number.h"

namespace weft::checkpoint {
namespace {

using core::index;

std::size_t row_bytes(Storage storage, std::int64_t width) {
  const BlockSize block = block_size(storage);
  return index(width) / block.elements * block.bytes;
}

/// All of a vector.
void read_arranged_vector(const Arrangement& arranged, std::span<float> out) {
  std::vector<float> stored(out.size());
  std::size_t at = 0;
  for (const Arrangement::Piece& piece : arranged.pieces) {
    dequantize(piece.storage, piece.bytes,
               std::span(stored).subspan(at, static_cast<std::size_t>(piece.rows)));
    at += static_cast<std::size_t>(piece.rows);
  }
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = stored[arranged.rows.empty() ? i : index(arranged.rows[i])] + arranged.shift;
  }
}

/// A row as a piece has it.
struct StoredRow {
  Storage storage = Storage::kOther;
  std::span<const std::byte> bytes;
};

/// Row `row` of a matrix whose pieces lie one below the other.
StoredRow stored_row(const Arrangement& arranged, std::int64_t row, std::int64_t width) {
  std::int64_t from = arranged.rows.empty() ? row : arranged.rows[index(row)];
  auto piece = arranged.pieces.begin();
  while (from >= piece->rows) from -= (piece++)->rows;
  const std::size_t size = row_bytes(piece->storage, width);
  return {piece->storage, piece->bytes.subspan(index(from) * size, size)};
}

void read_arranged_rows(const Arrangement& arranged, std::int64_t width, std::int64_t begin,
                        std::int64_t end, std::span<float> out) {
  for (std::int64_t row = begin; row < end; ++row) {
    const StoredRow stored = stored_row(arranged, row, width);
    dequantize(stored.storage, stored.bytes,
               out.subspan(index((row - begin) * width), index(width)));
  }
}

/// Rows of a matrix whose columns the pieces have by turns.
void read_rows_by_turns(const Arrangement& arranged, std::int64_t width, std::int64_t begin,
                        std::int64_t end, std::span<float> out) {
  const auto pieces = std::ssize(arranged.pieces);
  std::vector<float> part(index(width / pieces));
  for (std::int64_t row = begin; row < end; ++row) {
    float* const to = out.data() + (row - begin) * width;
    for (std::int64_t p = 0; p < pieces; ++p) {
      const Arrangement::Piece& piece = arranged.pieces[index(p)];
      const std::size_t size = row_bytes(piece.storage, width / pieces);
      dequantize(piece.storage, piece.bytes.subspan(index(row) * size, size), part);
      for (std::int64_t i = 0; i < width / pieces; ++i) to[i * pieces + p] = part[index(i)];
    }
  }
}

/// Of a stack of transposed matrices of `rows` rows each: rows [begin, end), counted through all.
void read_stack_rows(const Arrangement& stack, std::int64_t rows, std::int64_t width,
                     std::int64_t begin, std::int64_t end, std::span<float> out) {
  const auto pieces = std::ssize(stack.pieces);
  const std::int64_t outputs = width / pieces;
  std::vector<float> part;
  while (begin < end) {
    const std::int64_t first = begin % rows;
    const std::int64_t last = std::min(rows, first + end - begin);
    for (std::int64_t p = 0; p < pieces; ++p) {
      const Arrangement::Piece& piece = stack.pieces[index(p)];
      const std::size_t size = piece.bytes.size() / index(stack.matrices);
      const auto matrix = piece.bytes.subspan(index(begin / rows) * size, size);
      if (pieces == 1) {
        gather_columns(piece.storage, matrix, outputs, rows, first, last,
                       out.first(index((last - first) * width)));
        break;
      }
      part.resize(index((last - first) * outputs));
      gather_columns(piece.storage, matrix, outputs, rows, first, last, part);
      for (std::int64_t row = 0; row < last - first; ++row) {
        for (std::int64_t i = 0; i < outputs; ++i)
          out[index(row * width + i * pieces + p)] = part[index(row * outputs + i)];
      }
    }
    out = out.subspan(index((last - first) * width));
    begin += last - first;
  }
}

/// Of such a stack, or of one such matrix: columns [begin, end) of one matrix.
void read_stack_columns(const Arrangement& stack, std::int64_t rows, std::int64_t matrix,
                        std::int64_t begin, std::int64_t end, std::span<float> out) {
  const auto pieces = std::ssize(stack.pieces);
  for (std::int64_t column = begin; column < end; ++column) {
    const Arrangement::Piece& piece = stack.pieces[index(column % pieces)];
    const std::size_t size = row_bytes(piece.storage, rows);
    const std::int64_t each = piece.rows / std::max<std::int64_t>(1, stack.matrices);
    const std::int64_t row = matrix * each + column / pieces;
    dequantize(piece.storage, piece.bytes.subspan(index(row) * size, size),
               out.subspan(index((column - begin) * rows), index(rows)));
  }
}

void require_numbers(const StoredTensor& tensor) {
  const TensorInfo& info = tensor.info;
  if (info.storage != Storage::kOther) return;
  throw InputError("{}: tensor {} is stored as {}, which cannot be computed with; {} can",
                   info.file.string(), printable(info.name), info.storage_name,
                   readable_storages());
}

/// The stored bytes of rows [begin, end), in the order of the file.
std::span<const std::byte> rows_of(const StoredTensor& tensor, std::int64_t begin,
                                   std::int64_t end) {
  const std::int64_t rows = tensor.info.rows();
  const std::size_t size = rows == 0 ? 0 : tensor.bytes.size() / index(rows);
  return tensor.bytes.subspan(index(begin) * size, index(end - begin) * size);
}

/// Of a stack of matrices of `rows` rows each: those whose last row is one of [begin, end). A row
/// is spread over all of its matrix.
std::vector<StoredPart> finished_matrices(const Arrangement& stack, std::int64_t rows,
                                          std::int64_t begin, std::int64_t end) {
  std::vector<StoredPart> parts;
  if (rows == 0 || begin / rows == end / rows) return parts;
  for (const Arrangement::Piece& piece : stack.pieces) {
    const std::size_t size = piece.bytes.size() / index(stack.matrices);
    parts.push_back({piece.shard, piece.bytes.subspan(index(begin / rows) * size,
                                                      index(end / rows - begin / rows) * size)});
  }
  return parts;
}

void require_columns(const TensorInfo& tensor, std::int64_t matrix, std::int64_t begin,
                     std::int64_t end, bool fits) {
  const std::int64_t matrices = tensor.rows() / std::max<std::int64_t>(1, matrix_rows(tensor));
  if (tensor.shape.size() >= 2 && matrix >= 0 && matrix < matrices && begin >= 0 && end >= begin &&
      end <= tensor.row_elements() && fits) {
    return;
  }
  throw std::logic_error("read_columns: columns or room do not fit the tensor " + tensor.name);
}

}  // namespace

std::int64_t matrix_rows(const TensorInfo& tensor) {
  return tensor.shape.size() < 2 ? 1 : tensor.shape[tensor.shape.size() - 2];
}

void gather_columns(Storage storage, std::span<const std::byte> bytes, std::int64_t rows,
                    std::int64_t width, std::int64_t begin, std::int64_t end,
                    std::span<float> out) {
  const BlockSize block = block_size(storage);
  const auto elements = static_cast<std::int64_t>(block.elements);
  const std::int64_t first = begin / elements;
  const std::int64_t last = (end + elements - 1) / elements;
  std::vector<float> part(index((last - first) * elements));
  for (std::int64_t row = 0; row < rows; ++row) {
    dequantize(storage,
               bytes.subspan(index(row) * row_bytes(storage, width) + index(first) * block.bytes,
                             index(last - first) * block.bytes),
               part);
    for (std::int64_t column = begin; column < end; ++column) {
      out[index((column - begin) * rows + row)] = part[index(column - first * elements)];
    }
  }
}

std::vector<StoredPart> parts_of(const StoredTensor& tensor, std::int64_t begin, std::int64_t end) {
  const Arrangement* const arranged = tensor.arrangement.get();
  if (arranged != nullptr && arranged->matrices > 0) {
    return finished_matrices(*arranged, tensor.info.shape[1], begin, end);
  }
  if (arranged != nullptr && arranged->pieces.size() > 1) return {};
  return {{tensor.shard, rows_of(tensor, begin, end)}};
}

void read_stored_rows(const StoredTensor& tensor, std::int64_t begin, std::int64_t end,
                      std::span<float> out) {
  const TensorInfo& info = tensor.info;
  require_numbers(tensor);
  if (begin < 0 || end < begin || end > info.rows() ||
      out.size() != static_cast<std::size_t>((end - begin) * info.row_elements())) {
    throw std::logic_error("read_rows: rows or room do not fit the tensor " + info.name);
  }
  if (out.empty()) return;
  const Arrangement* const arranged = tensor.arrangement.get();
  if (arranged == nullptr) {
    dequantize(info.storage, rows_of(tensor, begin, end), out);
  } else if (info.shape.size() < 2) {
    read_arranged_vector(*arranged, out);
  } else if (arranged->by_turns) {
    read_rows_by_turns(*arranged, info.row_elements(), begin, end, out);
  } else if (arranged->matrices > 0 && is_mxfp4(*arranged)) {
    read_mxfp4_rows(*arranged, info.row_elements(), begin, end, out);
  } else if (arranged->matrices > 0) {
    read_stack_rows(*arranged, info.shape[1], info.row_elements(), begin, end, out);
  } else if (arranged->transposed) {
    const Arrangement::Piece& piece = arranged->pieces.front();
    gather_columns(piece.storage, piece.bytes, piece.rows, info.rows(), begin, end, out);
  } else {
    read_arranged_rows(*arranged, info.row_elements(), begin, end, out);
  }
}

void read_stored_columns(const StoredTensor& tensor, std::int64_t matrix, std::int64_t begin,
                         std::int64_t end, std::span<float> out) {
  const TensorInfo& info = tensor.info;
  require_numbers(tensor);
  const std::int64_t rows = matrix_rows(info);
  require_columns(info, matrix, begin, end, out.size() == index((end - begin) * rows));
  if (out.empty()) return;
  const Arrangement* const arranged = tensor.arrangement.get();
  if (arranged == nullptr) {
    gather_columns(info.storage, rows_of(tensor, matrix * rows, (matrix + 1) * rows), rows,
                   info.row_elements(), begin, end, out);
  } else if (arranged->matrices > 0 && is_mxfp4(*arranged)) {
    std::vector<std::byte> blocks(index(end - begin) * row_bytes(Storage::kMXFP4, rows));
    read_mxfp4_columns(*arranged, info.row_elements(), matrix, begin, end, blocks);
    dequantize(Storage::kMXFP4, blocks, out);
  } else if (arranged->transposed) {
    read_stack_columns(*arranged, rows, matrix, begin, end, out);
  } else {
    throw std::logic_error("read_columns: the rows of " + info.name + " are moved");
  }
}

void read_stored_mxfp4(const StoredTensor& tensor, std::int64_t matrix, std::int64_t begin,
                       std::int64_t end, std::span<std::byte> out) {
  const TensorInfo& info = tensor.info;
  const std::size_t size = index(end - begin) * row_bytes(Storage::kMXFP4, matrix_rows(info));
  require_columns(info, matrix, begin, end, is_mxfp4(info) && out.size() == size);
  if (out.empty()) return;
  read_mxfp4_columns(*tensor.arrangement, info.row_elements(), matrix, begin, end, out);
}

Storage stored_row_blocks(const StoredTensor& tensor) {
  const TensorInfo& info = tensor.info;
  const BlockSize block = block_size(info.storage);
  if (info.shape.size() < 2 || block.elements < 2 || info.row_elements() % block.elements != 0)
    return Storage::kOther;
  const Arrangement* const arranged = tensor.arrangement.get();
  if (arranged == nullptr) return info.storage;
  const bool whole = !arranged->transposed && !arranged->by_turns && arranged->matrices == 0 &&
                     arranged->shift == 0;
  const bool alike = std::ranges::all_of(arranged->pieces, [&](const Arrangement::Piece& piece) {
    return piece.storage == info.storage;
  });
  return whole && alike ? info.storage : Storage::kOther;
}

void read_stored_blocks(const StoredTensor& tensor, std::int64_t begin, std::int64_t end,
                        std::span<std::byte> out) {
  const TensorInfo& info = tensor.info;
  const Storage storage = stored_row_blocks(tensor);
  const std::size_t size = row_bytes(info.storage, info.row_elements());
  if (storage == Storage::kOther || begin < 0 || end < begin || end > info.rows() ||
      out.size() != index(end - begin) * size) {
    throw std::logic_error("read_blocks: rows or room do not fit the tensor " + info.name);
  }
  if (tensor.arrangement == nullptr) {
    std::ranges::copy(rows_of(tensor, begin, end), out.begin());
    return;
  }
  for (std::int64_t row = begin; row < end; ++row) {
    const auto to = out.subspan(index(row - begin) * size, size);
    std::ranges::copy(stored_row(*tensor.arrangement, row, info.row_elements()).bytes, to.begin());
  }
}

}  // namespace weft::checkpoint
