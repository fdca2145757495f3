#include "checkpoint/stored_rows.h"

#include <stdexcept>
#include <vector>

#include "checkpoint/dequantize.h"
#include "checkpoint/printable.h"
#include "core/error.h"

namespace weft::checkpoint {
namespace {

/// The row of the file that holds row `row` of the model (RowOrder).
constexpr std::int64_t stored_row(std::int64_t row, std::int64_t head_dim) noexcept {
  const std::int64_t head = row / head_dim;
  const std::int64_t within = row % head_dim;
  const std::int64_t half = head_dim / 2;
  return head * head_dim + 2 * (within % half) + within / half;
}

/// A bias whose elements are interleaved: it is one row.
void read_interleaved_vector(const StoredTensor& tensor, std::span<float> out) {
  std::vector<float> stored(out.size());
  dequantize(tensor.info.storage, tensor.bytes, stored);
  for (std::size_t i = 0; i < out.size(); ++i) {
    const auto from = stored_row(static_cast<std::int64_t>(i), tensor.interleaved_head);
    out[i] = stored[static_cast<std::size_t>(from)];
  }
}

}  // namespace

std::span<const std::byte> rows_of(const StoredTensor& tensor, std::int64_t begin,
                                   std::int64_t end) {
  const std::int64_t rows = tensor.info.rows();
  const std::size_t row_bytes =
      rows == 0 ? 0 : tensor.bytes.size() / static_cast<std::size_t>(rows);
  return tensor.bytes.subspan(static_cast<std::size_t>(begin) * row_bytes,
                              static_cast<std::size_t>(end - begin) * row_bytes);
}

void read_stored_rows(const StoredTensor& tensor, std::int64_t begin, std::int64_t end,
                      std::span<float> out) {
  const TensorInfo& info = tensor.info;
  if (info.storage == Storage::kOther) {
    throw InputError("{}: tensor {} is stored as {}, which cannot be computed with; {} can",
                     info.file.string(), printable(info.name), info.storage_name,
                     readable_storages());
  }
  if (begin < 0 || end < begin || end > info.rows() ||
      out.size() != static_cast<std::size_t>((end - begin) * info.row_elements())) {
    throw std::logic_error("read_rows: rows or room do not fit the tensor " + info.name);
  }
  if (tensor.interleaved_head == 0 || out.empty()) {
    dequantize(info.storage, rows_of(tensor, begin, end), out);
  } else if (info.shape.size() < 2) {
    read_interleaved_vector(tensor, out);
  } else {
    const auto width = static_cast<std::size_t>(info.row_elements());
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t from = stored_row(row, tensor.interleaved_head);
      dequantize(info.storage, rows_of(tensor, from, from + 1),
                 out.subspan(static_cast<std::size_t>(row - begin) * width, width));
    }
  }
}

}  // namespace weft::checkpoint
