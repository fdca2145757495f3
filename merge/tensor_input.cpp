#include "merge/tensor_input.h"

#include <algorithm>
#include <atomic>
#include <numeric>

#include "core/parallel.h"
#include "merge/row_kernels.h"

namespace weft::merge {
namespace {

/// Numbers of each input that a thread takes at a time, and then gives back the pages of.
constexpr std::int64_t kTileElements = std::int64_t{1} << 19;

/// out += sign * update, rows [begin, end) of `columns` numbers.
void add_update(const RowDeltas& update, double sign, std::int64_t begin, std::int64_t end,
                std::int64_t columns, std::span<double> out) {
  std::vector<double> block(static_cast<std::size_t>(RowDeltas::kRowBlock * update.stride()));
  for (std::int64_t first = begin; first < end; first += RowDeltas::kRowBlock) {
    update.compute(first, block);
    for (std::int64_t row = first; row < std::min(end, first + RowDeltas::kRowBlock); ++row) {
      const double* from = block.data() + (row - first) * update.stride();
      double* to = out.data() + (row - begin) * columns;
      add_scaled(sign, std::span(from, static_cast<std::size_t>(columns)),
                 std::span(to, static_cast<std::size_t>(columns)));
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
    subtract(x, y, out.first(count));
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
  const std::int64_t tiles = (rows + tile - 1) / tile;
  // Tiles are taken one by one, since other work may hold up a thread.
  std::atomic<std::int64_t> next{0};
  core::parallel_for(std::min<std::int64_t>(tiles, core::thread_count()), 1,
                     [&](std::int64_t, std::int64_t) {
                       for (std::int64_t at = next++; at < tiles; at = next++) {
                         const std::int64_t begin = at * tile;
                         const std::int64_t end = std::min(rows, begin + tile);
                         for (std::int64_t row = begin; row < end; row += block) {
                           body(row, std::min(end, row + block));
                         }
                         for (const TensorInput& input : inputs) input.release(begin, end);
                       }
                     });
}

double sum_in_order(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

}  // namespace weft::merge
