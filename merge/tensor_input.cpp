#include "merge/tensor_input.h"

#include <algorithm>
#include <numeric>

#include "core/parallel.h"

namespace weft::merge {
namespace {

/// Numbers of one input that pass between two calls of release().
constexpr std::int64_t kTileElements = std::int64_t{8} << 20;

/// out += sign * update, rows [begin, end) of `columns` numbers.
void add_update(const Update& update, double sign, std::int64_t begin, std::int64_t end,
                std::int64_t columns, std::span<double> out) {
  std::vector<double> block(static_cast<std::size_t>(RowDeltas::kRowBlock * update.stride()));
  for (std::int64_t first = begin; first < end; first += RowDeltas::kRowBlock) {
    update.compute(first, block);
    for (std::int64_t row = first; row < std::min(end, first + RowDeltas::kRowBlock); ++row) {
      const double* from = block.data() + (row - first) * update.stride();
      double* to = out.data() + (row - begin) * columns;
      for (std::int64_t j = 0; j < columns; ++j) to[j] += sign * from[j];
    }
  }
}

/// The checkpoint's numbers in `buffer`, which grows to hold them.
std::span<const float> read_floats(const TensorInput& input, std::int64_t begin, std::int64_t end,
                                   std::vector<float>& buffer) {
  const auto count = static_cast<std::size_t>((end - begin) * input.columns());
  if (buffer.size() < count) buffer.resize(count);
  const std::span<float> numbers = std::span(buffer).first(count);
  input.model->read_rows(*input.info, begin, end, numbers);
  return numbers;
}

}  // namespace

void TensorInput::read(std::int64_t begin, std::int64_t end, std::span<double> out) const {
  thread_local std::vector<float> buffer;
  std::ranges::copy(read_floats(*this, begin, end, buffer), out.begin());
  if (update) add_update(*update, 1, begin, end, columns(), out);
}

void read_difference(const TensorInput& a, const TensorInput& b, std::int64_t begin,
                     std::int64_t end, std::span<double> out) {
  thread_local std::vector<float> left;
  thread_local std::vector<float> right;
  const auto count = static_cast<std::size_t>((end - begin) * a.columns());
  if (a.same_numbers(b)) {
    std::fill_n(out.begin(), count, 0.0);
  } else {
    const std::span<const float> x = read_floats(a, begin, end, left);
    const std::span<const float> y = read_floats(b, begin, end, right);
    for (std::size_t j = 0; j < count; ++j) {
      out[j] = static_cast<double>(x[j]) - static_cast<double>(y[j]);
    }
  }
  if (a.update) add_update(*a.update, 1, begin, end, a.columns(), out);
  if (b.update) add_update(*b.update, -1, begin, end, a.columns(), out);
}

void for_row_blocks(std::span<const TensorInput> inputs,
                    const std::function<void(std::int64_t, std::int64_t)>& body) {
  const std::int64_t rows = inputs.front().rows();
  const std::int64_t columns = std::max<std::int64_t>(1, inputs.front().columns());
  const std::int64_t block = RowDeltas::kRowBlock;
  const std::int64_t tile = std::max(block, kTileElements / columns / block * block);
  const std::int64_t grain = std::max<std::int64_t>(1, (std::int64_t{1} << 16) / (block * columns));
  for (std::int64_t begin = 0; begin < rows; begin += tile) {
    const std::int64_t end = std::min(rows, begin + tile);
    core::parallel_for((end - begin + block - 1) / block, grain,
                       [&](std::int64_t first, std::int64_t last) {
                         for (std::int64_t b = first; b < last; ++b) {
                           const std::int64_t row = begin + b * block;
                           body(row, std::min(end, row + block));
                         }
                       });
    for (const TensorInput& input : inputs) input.release();
  }
}

double sum_in_order(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

}  // namespace weft::merge
