#include "model/quantised.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "checkpoint/dequantize.h"
#include "core/parallel.h"
#include "model/constants.h"
#include "model/kernels/kernel_math.h"
#include "model/meter.h"

namespace weft::model {
namespace {

constexpr std::int64_t kBlock = 64;        // elements with one scale
constexpr std::int64_t kScaleBlock = 256;  // scales with one scale

/// NormalFloat: the quantiles of a normal distribution that QLoRA's appendix E lists.
constexpr std::array<float, 16> kNormalFloat = {-1.0F,
                                                -0.6961928009986877F,
                                                -0.5250730514526367F,
                                                -0.39491748809814453F,
                                                -0.28444138169288635F,
                                                -0.18477343022823334F,
                                                -0.09105003625154495F,
                                                0.0F,
                                                0.07958029955625534F,
                                                0.16093020141124725F,
                                                0.24611230194568634F,
                                                0.33791524171829224F,
                                                0.44070982933044434F,
                                                0.5626170039176941F,
                                                0.7229568362236023F,
                                                1.0F};

/// The signed dynamic tree of 8 bits: decades down to 1e-6, each twice as finely divided as the one
/// below, at the middles of equal steps; 0 and 1. In rising order.
std::array<float, 256> dynamic_tree() {
  std::vector<double> values{0, 1};
  for (int decade = 0; decade < 7; ++decade) {
    const int steps = 1 << decade;
    for (int i = 0; i < steps; ++i) {
      const double low = 0.1 + 0.9 * i / steps;
      const double high = 0.1 + 0.9 * (i + 1) / steps;
      const double value = (low + high) / 2 * std::pow(10.0, decade - 6);
      values.push_back(value);
      values.push_back(-value);
    }
  }
  std::ranges::sort(values);
  std::array<float, 256> tree{};
  std::ranges::transform(values, tree.begin(), [](double v) { return static_cast<float>(v); });
  return tree;
}

const std::array<float, 256>& tree() {
  static const std::array<float, 256> kTree = dynamic_tree();
  return kTree;
}

/// The entry of a rising table that is nearest to `value`.
template <std::size_t n>
std::uint8_t nearest(const std::array<float, n>& table, float value) {
  const auto above = std::ranges::lower_bound(table, value) - table.begin();
  if (above == 0) return 0;
  if (above == static_cast<std::ptrdiff_t>(n)) return static_cast<std::uint8_t>(n - 1);
  const auto i = static_cast<std::size_t>(above);
  return static_cast<std::uint8_t>(value - table[i - 1] <= table[i] - value ? i - 1 : i);
}

float most(std::span<const float> values) {
  float m = 0;
  for (const float v : values) m = std::max(m, std::abs(v));
  return m;
}

std::int64_t divide_up(std::int64_t n, std::int64_t by) { return (n + by - 1) / by; }

at::Tensor buffer(std::int64_t count, at::ScalarType type) {
  return at::empty({count}, at::TensorOptions().dtype(type));
}

// --- reading back -------------------------------------------------------------------------------

/// 16 lanes of what a processor without wide registers makes of several.
typedef float Floats __attribute__((vector_size(64), aligned(4), may_alias));
typedef std::uint32_t Words __attribute__((vector_size(64), aligned(2), may_alias));
typedef std::uint8_t Bytes __attribute__((vector_size(16), aligned(1), may_alias));

/// 32 elements from 16 bytes of codes: those of the high halves come first in each pair.
WEFT_INLINE void read_32(const std::uint8_t* codes, float scale, float* to) {
  const auto bytes = __builtin_convertvector(*reinterpret_cast<const Bytes*>(codes), Words);
  const Floats table = *reinterpret_cast<const Floats*>(kNormalFloat.data());
  const Floats first = __builtin_shuffle(table, bytes >> 4) * scale;
  const Floats second = __builtin_shuffle(table, bytes & 15U) * scale;
  *reinterpret_cast<Floats*>(to) = __builtin_shufflevector(first, second, 0, 16, 1, 17, 2, 18, 3,
                                                           19, 4, 20, 5, 21, 6, 22, 7, 23);
  *reinterpret_cast<Floats*>(to + 16) = __builtin_shufflevector(
      first, second, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

/// Upper halves of fp32 numbers after rounding to nearest even; scales and codes are finite.
WEFT_INLINE void round_to_bfloat16(const Floats& values, Words& halves) {
  const Words bits = reinterpret_cast<const Words&>(values);
  halves = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
}

WEFT_INLINE void read_32(const std::uint8_t* codes, float scale, c10::BFloat16* to) {
  const auto bytes = __builtin_convertvector(*reinterpret_cast<const Bytes*>(codes), Words);
  const Floats table = *reinterpret_cast<const Floats*>(kNormalFloat.data());
  const Floats first = __builtin_shuffle(table, bytes >> 4) * scale;
  const Floats second = __builtin_shuffle(table, bytes & 15U) * scale;
  Words low, high;
  round_to_bfloat16(first, low);
  round_to_bfloat16(second, high);
  *reinterpret_cast<Words*>(to) = low | high << 16;
}

WEFT_INLINE void read_32(const std::uint8_t* codes, float scale, double* to) {
  float narrow[32];
  read_32(codes, scale, narrow);
  for (int i = 0; i < 32; ++i) to[i] = static_cast<double>(narrow[i]);
}

/// Elements [first, last), all of one block; codes of the whole matrix.
template <typename T>
WEFT_INLINE void read_nf4_of(const std::uint8_t* codes, float scale, std::int64_t first,
                             std::int64_t last, T* to) {
  const auto one = [&](std::int64_t i) WEFT_INLINED {
    const unsigned code = i % 2 == 0 ? codes[i / 2] >> 4U : codes[i / 2] & 15U;
    *to++ = kernel::narrow<T>(static_cast<kernel::Wide<T>>(kNormalFloat[code] * scale));
  };
  if (first % 2 != 0 && first < last) one(first++);
  for (; first + 32 <= last; first += 32, to += 32) read_32(codes + first / 2, scale, to);
  for (; first < last; ++first) one(first);
}

template <typename T>
WEFT_INLINE void read_int8_of(const std::int8_t* codes, float scale, std::int64_t count, T* to) {
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) {
    to[i] = kernel::narrow<T>(static_cast<kernel::Wide<T>>(static_cast<float>(codes[i]) * scale));
  }
}

#define WEFT_READ(T)                                                                             \
  WEFT_CLONES void read_nf4(const std::uint8_t* codes, float scale, std::int64_t first,          \
                            std::int64_t last, T* to) {                                          \
    read_nf4_of(codes, scale, first, last, to);                                                  \
  }                                                                                              \
  WEFT_CLONES void read_int8(const std::int8_t* codes, float scale, std::int64_t count, T* to) { \
    read_int8_of(codes, scale, count, to);                                                       \
  }
WEFT_READ(float)
WEFT_READ(double)
WEFT_READ(c10::BFloat16)
#undef WEFT_READ

}  // namespace

std::string_view name_of(BaseFormat format) {
  switch (format) {
    case BaseFormat::kInt8: return "int8";
    case BaseFormat::kNf4: return "nf4";
    case BaseFormat::kStored: return "stored";
    default: return "none";
  }
}

bool stores_blocks(const checkpoint::Checkpoint& checkpoint) {
  return std::ranges::any_of(checkpoint.tensors(), [&](const checkpoint::TensorInfo& tensor) {
    return checkpoint.row_blocks(tensor) != checkpoint::Storage::kOther;
  });
}

std::uint64_t frozen_bytes(BaseFormat format, std::int64_t rows, std::int64_t columns,
                           std::int64_t element) {
  TORCH_INTERNAL_ASSERT(format != BaseFormat::kStored);
  const std::int64_t elements = rows * columns;
  const auto bytes = [&] {
    switch (format) {
      case BaseFormat::kInt8: return elements + 4 * rows;
      case BaseFormat::kNf4: {
        const std::int64_t blocks = divide_up(elements, kBlock);
        return divide_up(elements, 2) + blocks + 4 * divide_up(blocks, kScaleBlock);
      }
      default: return elements * element;
    }
  };
  return static_cast<std::uint64_t>(bytes());
}

QuantisedMatrix::QuantisedMatrix(BaseFormat format, std::span<const float> values,
                                 std::int64_t rows, std::int64_t columns)
    : QuantisedMatrix(format, rows, columns) {
  TORCH_INTERNAL_ASSERT(std::ssize(values) == rows * columns && format != BaseFormat::kDense);
  format == BaseFormat::kInt8 ? make_int8(values) : make_nf4(values);
}

QuantisedMatrix::QuantisedMatrix(BaseFormat format, std::int64_t rows, std::int64_t columns)
    : format_(format), rows_(rows), columns_(columns) {
  const std::int64_t elements = rows * columns;
  if (format == BaseFormat::kInt8) {
    codes_ = buffer(elements, at::kByte);
    scales_ = buffer(rows, at::kFloat);
    return;
  }
  const std::int64_t blocks = divide_up(elements, kBlock);
  codes_ = buffer(divide_up(elements, 2), at::kByte);
  scale_codes_ = buffer(blocks, at::kByte);
  scales_ = buffer(divide_up(blocks, kScaleBlock), at::kFloat);
}

QuantisedMatrix::QuantisedMatrix(checkpoint::Storage storage, at::Tensor rows, std::int64_t columns)
    : format_(BaseFormat::kStored),
      storage_(storage),
      is_woven_(kernel::is_woven(storage) && columns % kernel::woven_elements(storage) == 0),
      rows_(rows.size(0)),
      columns_(columns),
      codes_(std::move(rows)) {
  const checkpoint::BlockSize block = checkpoint::block_size(storage);
  TORCH_INTERNAL_ASSERT(codes_.is_contiguous() && columns % block.elements == 0 &&
                        codes_.size(1) == columns / block.elements * block.bytes);
  if (is_woven_) weave();
}

void QuantisedMatrix::weave() {
  const std::int64_t row_bytes = codes_.size(1);
  const std::int64_t strips = divide_up(rows_, kernel::kLanes);
  if (rows_ % kernel::kLanes != 0) {
    at::Tensor filled = at::empty({strips * kernel::kLanes, row_bytes}, codes_.options());
    if (!Meter::running()) {
      filled.zero_();
      filled.narrow(0, 0, rows_).copy_(codes_);
    }
    codes_ = std::move(filled);
  }
  if (Meter::running()) return;
  auto* const data = codes_.mutable_data_ptr<std::uint8_t>();
  const std::int64_t strip_bytes = kernel::kLanes * row_bytes;
  core::parallel_for(strips, 4, [&](std::int64_t first, std::int64_t last) {
    std::vector<std::uint8_t> rows(static_cast<std::size_t>(strip_bytes));
    for (std::int64_t strip = first; strip < last; ++strip) {
      std::uint8_t* const at = data + strip * strip_bytes;
      std::copy_n(at, strip_bytes, rows.data());
      kernel::weave(storage_, rows.data(), row_bytes, at);
    }
  });
}

kernel::WovenRows QuantisedMatrix::woven() const {
  if (!is_woven_) return {};
  return {storage_, codes_.const_data_ptr<std::uint8_t>(), codes_.size(1)};
}

void QuantisedMatrix::make_int8(std::span<const float> values) {
  auto* codes = reinterpret_cast<std::int8_t*>(codes_.mutable_data_ptr<std::uint8_t>());
  float* scales = scales_.mutable_data_ptr<float>();
  const auto width = static_cast<std::size_t>(columns_);
  core::parallel_for(rows_, 16, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t row = first; row < last; ++row) {
      const auto in = values.subspan(static_cast<std::size_t>(row) * width, width);
      const float m = most(in);
      const float inverse = m > 0 ? 127.0F / m : 0.0F;
      scales[row] = m / 127.0F;
      std::ranges::transform(in, codes + row * columns_, [&](float value) {
        return static_cast<std::int8_t>(
            std::clamp(std::nearbyint(value * inverse), -127.0F, 127.0F));
      });
    }
  });
}

void QuantisedMatrix::make_nf4(std::span<const float> values) {
  const auto elements = std::ssize(values);
  const std::int64_t blocks = divide_up(elements, kBlock);
  auto* codes = codes_.mutable_data_ptr<std::uint8_t>();
  std::vector<float> scales(static_cast<std::size_t>(blocks));
  core::parallel_for(blocks, 64, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t block = first; block < last; ++block) {
      const std::int64_t begin = block * kBlock;
      const std::int64_t count = std::min(kBlock, elements - begin);
      const auto in =
          values.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count));
      const float scale = most(in);
      const float inverse = scale > 0 ? 1.0F / scale : 0.0F;
      scales[static_cast<std::size_t>(block)] = scale;
      for (std::size_t i = 0; i < in.size(); i += 2) {
        const unsigned high = nearest(kNormalFloat, in[i] * inverse);
        const unsigned low = i + 1 < in.size() ? nearest(kNormalFloat, in[i + 1] * inverse) : 0U;
        codes[begin / 2 + static_cast<std::int64_t>(i / 2)] =
            static_cast<std::uint8_t>(high << 4U | low);
      }
    }
  });
  compress_scales(scales);
}

void QuantisedMatrix::compress_scales(std::span<const float> scales) {
  double sum = 0;
  for (const float scale : scales) sum += static_cast<double>(scale);
  scale_mean_ =
      scales.empty() ? 0.0F : static_cast<float>(sum / static_cast<double>(scales.size()));
  const std::int64_t groups = divide_up(std::ssize(scales), kScaleBlock);
  auto* codes = scale_codes_.mutable_data_ptr<std::uint8_t>();
  for (std::int64_t group = 0; group < groups; ++group) {
    const std::int64_t first = group * kScaleBlock;
    const std::int64_t last = std::min(first + kScaleBlock, std::ssize(scales));
    const auto centred = [&](std::int64_t i) {
      return scales[static_cast<std::size_t>(i)] - scale_mean_;
    };
    float m = 0;
    for (std::int64_t i = first; i < last; ++i) m = std::max(m, std::abs(centred(i)));
    scales_.mutable_data_ptr<float>()[group] = m;
    for (std::int64_t i = first; i < last; ++i)
      codes[i] = nearest(tree(), m > 0 ? centred(i) / m : 0.0F);
  }
}

float QuantisedMatrix::scale_of(std::int64_t block) const {
  const std::uint8_t code = scale_codes_.const_data_ptr<std::uint8_t>()[block];
  return tree()[code] * scales_.const_data_ptr<float>()[block / kScaleBlock] + scale_mean_;
}

template <typename T>
void QuantisedMatrix::read_stored(std::int64_t row, std::int64_t column, std::int64_t count,
                                  T* to) const {
  const checkpoint::BlockSize size = checkpoint::block_size(storage_);
  const std::int64_t elements =
      is_woven_ ? kernel::woven_elements(storage_) : static_cast<std::int64_t>(size.elements);
  const std::int64_t bytes = elements / size.elements * size.bytes;
  const std::uint8_t* const data = codes_.const_data_ptr<std::uint8_t>();
  std::array<std::byte, 256> room;
  std::array<float, 256> values;
  const std::span<float> numbers = std::span(values).first(static_cast<std::size_t>(elements));
  const kernel::WovenRows rows = woven();
  for (const std::int64_t end = column + count; column < end;) {
    const std::int64_t index = column / elements;
    const std::int64_t last = std::min((index + 1) * elements, end);
    if (is_woven_) {
      kernel::unweave(rows, row, index, room.data());
    } else {
      std::memcpy(room.data(), data + row * codes_.size(1) + index * bytes,
                  static_cast<std::size_t>(bytes));
    }
    checkpoint::dequantize(storage_, std::span(room).first(static_cast<std::size_t>(bytes)),
                           numbers);
    for (; column < last; ++column) {
      const float value = values[static_cast<std::size_t>(column - index * elements)];
      *to++ = kernel::narrow<T>(static_cast<kernel::Wide<T>>(value));
    }
  }
}

template <typename T>
void QuantisedMatrix::read(const Block& block, T* to, std::int64_t stride) const {
  const auto* codes = codes_.const_data_ptr<std::uint8_t>();
  for (std::int64_t i = 0; i < block.rows; ++i, to += stride) {
    const std::int64_t row = block.row + i;
    if (format_ == BaseFormat::kStored) {
      read_stored(row, block.column, block.columns, to);
      continue;
    }
    const std::int64_t begin = row * columns_ + block.column;
    if (format_ == BaseFormat::kInt8) {
      read_int8(reinterpret_cast<const std::int8_t*>(codes) + begin,
                scales_.const_data_ptr<float>()[row], block.columns, to);
      continue;
    }
    const std::int64_t end = begin + block.columns;
    for (std::int64_t first = begin; first < end;) {
      const std::int64_t last = std::min((first / kBlock + 1) * kBlock, end);
      read_nf4(codes, scale_of(first / kBlock), first, last, to + (first - begin));
      first = last;
    }
  }
}
template void QuantisedMatrix::read(const Block&, float*, std::int64_t) const;
template void QuantisedMatrix::read(const Block&, double*, std::int64_t) const;
template void QuantisedMatrix::read(const Block&, c10::BFloat16*, std::int64_t) const;

QuantisedMatrix::Codes QuantisedMatrix::codes() const {
  return {codes_, scales_, scale_codes_, scale_mean_, kNormalFloat, tree()};
}

void QuantisedMatrix::move_to(at::Device device) {
  for (at::Tensor* part : {&codes_, &scales_, &scale_codes_})
    if (part->defined()) *part = part->to(device);
}

at::Tensor QuantisedMatrix::dense(at::ScalarType type) const {
  if (format_ == BaseFormat::kStored) {  // on the processor alone
    at::Tensor result = at::empty({rows_, columns_}, at::TensorOptions().dtype(type));
    kernel::for_type(type, [&]<typename T>(T) {
      read({0, rows_, 0, columns_}, result.mutable_data_ptr<T>(), columns_);
    });
    return result;
  }
  if (format_ == BaseFormat::kInt8) {
    const at::Tensor codes = codes_.view(at::kChar).view({rows_, columns_});
    return (codes.to(at::kFloat) * scales_.unsqueeze(1)).to(type);
  }
  const auto entries = [&](std::span<const float> of, const at::Tensor& codes) {
    return constant(of, codes_.device()).index_select(0, codes.reshape({-1}).to(at::kLong));
  };
  const at::Tensor pairs = at::stack({codes_.__rshift__(4), codes_.bitwise_and(15)}, 1);
  const std::int64_t blocks = scale_codes_.numel();
  const at::Tensor scales =
      entries(tree(), scale_codes_) * scales_.repeat_interleave(kScaleBlock).narrow(0, 0, blocks) +
      scale_mean_;
  at::Tensor values = entries(kNormalFloat, pairs);
  if (values.numel() < blocks * kBlock) {
    const at::Tensor filled = at::zeros({blocks * kBlock}, values.options());
    filled.narrow(0, 0, values.numel()).copy_(values);
    values = filled;
  }
  values = values.narrow(0, 0, blocks * kBlock).view({blocks, kBlock}) * scales.unsqueeze(1);
  return values.view({-1}).narrow(0, 0, rows_ * columns_).view({rows_, columns_}).to(type);
}

}  // namespace weft::model
