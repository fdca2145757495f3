#include "merge/row_kernels.h"

#include <algorithm>
#include <bit>

#include "merge/row_math.h"
#include "merge/select.h"

// Clones cannot be overloaded by template, so each is a function of its own around row_math.h.

namespace weft::merge {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data are little-endian");

WEFT_CLONES RowSums add_f32(const float* base, const double* update, std::size_t count,
                            std::byte* out) {
  return row_math::add_row<row_math::F32>(base, update, count, out);
}
WEFT_CLONES RowSums add_f16(const float* base, const double* update, std::size_t count,
                            std::byte* out) {
  return row_math::add_row<row_math::F16>(base, update, count, out);
}
WEFT_CLONES RowSums add_bf16(const float* base, const double* update, std::size_t count,
                             std::byte* out) {
  return row_math::add_row<row_math::BF16>(base, update, count, out);
}
WEFT_CLONES RowSums convert_f32(const float* base, std::size_t count, std::byte* out) {
  return row_math::convert_row<row_math::F32>(base, count, out);
}
WEFT_CLONES RowSums convert_f16(const float* base, std::size_t count, std::byte* out) {
  return row_math::convert_row<row_math::F16>(base, count, out);
}
WEFT_CLONES RowSums convert_bf16(const float* base, std::size_t count, std::byte* out) {
  return row_math::convert_row<row_math::BF16>(base, count, out);
}

WEFT_CLONES void subtract(const float* x, const float* y, double* out, std::size_t count) {
  for (std::size_t j = 0; j < count; ++j) {
    out[j] = static_cast<double>(x[j]) - static_cast<double>(y[j]);
  }
}
WEFT_CLONES void add_both(double a, double b, const double* x, const double* y, double* out,
                          std::size_t count) {
  for (std::size_t j = 0; j < count; ++j) out[j] += a * x[j] + b * y[j];
}
WEFT_CLONES void add_doubles(double weight, const double* x, double* out, std::size_t count) {
  for (std::size_t j = 0; j < count; ++j) out[j] += weight * x[j];
}
WEFT_CLONES void scale(double factor, double* values, std::size_t count) {
  for (std::size_t j = 0; j < count; ++j) values[j] *= factor;
}
WEFT_CLONES double sum_magnitudes(const double* values, std::size_t count) {
  return row_math::sum_magnitudes(values, count);
}
WEFT_CLONES Products products(const double* a, const double* b, std::size_t count) {
  return {row_math::dot(a, a, count), row_math::dot(b, b, count), row_math::dot(a, b, count)};
}
WEFT_CLONES void magnitude_keys(const double* values, std::uint32_t* out, std::size_t count) {
  for (std::size_t j = 0; j < count; ++j) out[j] = magnitude_key(values[j]);
}
WEFT_CLONES void keep_between(std::uint64_t low, std::uint64_t high, double* values,
                              std::size_t count) {
  row_math::keep_between(low, high, values, count);
}
WEFT_CLONES void keep_drawn(const float* draws, double probability, double* values,
                            std::size_t count) {
  for (std::size_t j = 0; j < count; ++j) {
    values[j] = static_cast<double>(draws[j]) < probability ? values[j] : 0.0;
  }
}
WEFT_CLONES void mark_nonzero(const double* values, std::uint8_t* marks, std::size_t count) {
  row_math::mark_nonzero(values, marks, count);
}
WEFT_CLONES void keep_marked(const std::uint8_t* marks, double* values, std::size_t count) {
  row_math::keep_marked(marks, values, count);
}
WEFT_CLONES MarkedSums sum_marked(const std::uint8_t* marks, const double* values,
                                  std::size_t count) {
  return row_math::sum_marked(marks, values, count);
}
WEFT_CLONES void variance_keys(const double* deltas, std::size_t models, std::uint32_t* out,
                               std::size_t count) {
  for (std::size_t done = 0; done < count; done += row_math::kChunk) {
    row_math::variance_chunk(deltas + done, models, count, std::min(row_math::kChunk, count - done),
                             out + done);
  }
}
WEFT_CLONES void mean_agreeing(std::span<const double> weights, const double* deltas, double* out,
                               std::size_t count) {
  for (std::size_t done = 0; done < count; done += row_math::kChunk) {
    row_math::mean_chunk(weights, deltas + done, count, std::min(row_math::kChunk, count - done),
                         out + done);
  }
}
WEFT_CLONES void mix_agreeing(const Mix& mix, const double* deltas, double* out,
                              std::size_t count) {
  for (std::size_t done = 0; done < count; done += row_math::kChunk) {
    row_math::mix_chunk(mix, deltas + done, count, std::min(row_math::kChunk, count - done),
                        out + done);
  }
}

}  // namespace

RowSums round_row(core::DType type, std::span<const float> base, std::span<const double> update,
                  std::byte* out) {
  const std::size_t count = base.size();
  if (update.empty()) {
    return type == core::DType::kF32   ? convert_f32(base.data(), count, out)
           : type == core::DType::kF16 ? convert_f16(base.data(), count, out)
                                       : convert_bf16(base.data(), count, out);
  }
  return type == core::DType::kF32   ? add_f32(base.data(), update.data(), count, out)
         : type == core::DType::kF16 ? add_f16(base.data(), update.data(), count, out)
                                     : add_bf16(base.data(), update.data(), count, out);
}

void subtract(std::span<const float> x, std::span<const float> y, std::span<double> out) {
  subtract(x.data(), y.data(), out.data(), x.size());
}
void add_scaled(double a, double b, std::span<const double> x, std::span<const double> y,
                std::span<double> out) {
  add_both(a, b, x.data(), y.data(), out.data(), x.size());
}
void add_scaled(double weight, std::span<const double> x, std::span<double> out) {
  add_doubles(weight, x.data(), out.data(), x.size());
}
void scale(double factor, std::span<double> values) { scale(factor, values.data(), values.size()); }
double sum_magnitudes(std::span<const double> values) {
  return sum_magnitudes(values.data(), values.size());
}
Products products(std::span<const double> a, std::span<const double> b) {
  return products(a.data(), b.data(), a.size());
}
void magnitude_keys(std::span<const double> values, std::span<std::uint32_t> out) {
  magnitude_keys(values.data(), out.data(), values.size());
}
void keep_between(std::uint64_t low, std::uint64_t high, std::span<double> values) {
  keep_between(low, high, values.data(), values.size());
}
void keep_drawn(std::span<const float> draws, double probability, std::span<double> values) {
  keep_drawn(draws.data(), probability, values.data(), values.size());
}
void mark_nonzero(std::span<const double> values, std::span<std::uint8_t> marks) {
  mark_nonzero(values.data(), marks.data(), values.size());
}
void keep_marked(std::span<const std::uint8_t> marks, std::span<double> values) {
  keep_marked(marks.data(), values.data(), values.size());
}
MarkedSums sum_marked(std::span<const std::uint8_t> marks, std::span<const double> values) {
  return sum_marked(marks.data(), values.data(), values.size());
}
void variance_keys(std::span<const double> deltas, std::span<std::uint32_t> out) {
  if (out.empty()) return;
  variance_keys(deltas.data(), deltas.size() / out.size(), out.data(), out.size());
}
void mean_agreeing(std::span<const double> weights, std::span<const double> deltas,
                   std::span<double> out) {
  mean_agreeing(weights, deltas.data(), out.data(), out.size());
}
void add_squares(std::span<const double> values, std::span<double> sums) {
  constexpr std::size_t kChains = 4;  // Additions of several rows, since each waits for the last.
  if (sums.empty()) return;
  const std::size_t width = values.size() / sums.size();
  std::size_t row = 0;
  for (; row + kChains <= sums.size(); row += kChains) {
    const double* from = values.data() + row * width;
    double chain[kChains];
    std::copy_n(sums.begin() + static_cast<std::ptrdiff_t>(row), kChains, chain);
    for (std::size_t j = 0; j < width; ++j) {
      for (std::size_t k = 0; k < kChains; ++k)
        chain[k] += from[k * width + j] * from[k * width + j];
    }
    std::copy_n(chain, kChains, sums.begin() + static_cast<std::ptrdiff_t>(row));
  }
  for (; row < sums.size(); ++row) {
    for (const double value : values.subspan(row * width, width)) sums[row] += value * value;
  }
}
void mix_agreeing(const Mix& mix, std::span<const double> deltas, std::span<double> out) {
  mix_agreeing(mix, deltas.data(), out.data(), out.size());
}

}  // namespace weft::merge
