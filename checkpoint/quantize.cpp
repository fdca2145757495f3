#include "checkpoint/quantize.h"

#include <algorithm>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "checkpoint/dequantize.h"
#include "checkpoint/quantize_blocks.h"

namespace weft::checkpoint {
namespace {

constexpr int kBlock = 32;

/// Truncation to a byte as x86 converts: what has no 32-bit integer (1 / d overflowed, because a
/// block's numbers are below 1e-38) becomes the smallest one, whose low byte is 0.
inline int low_byte(float value) noexcept {
  const bool representable = std::abs(value) < 2147483648.0F;
  return static_cast<std::int8_t>(representable ? static_cast<int>(value) : INT_MIN);
}

/// roundf(): to nearest, ties away from zero.
inline float round_away(float value) noexcept {
  const auto whole = static_cast<float>(static_cast<int>(value));
  const float rest = value - whole;  // Exact.
  return whole + (rest >= 0.5F ? 1.0F : 0.0F) - (rest <= -0.5F ? 1.0F : 0.0F);
}

inline float inverse(float d) noexcept { return d != 0.0F ? 1.0F / d : 0.0F; }

void block_q8_0(const float* x, std::uint8_t* out) noexcept {
  float largest = 0.0F;
  for (int j = 0; j < kBlock; ++j) largest = std::max(largest, std::abs(x[j]));
  const float d = largest / 127.0F;
  const float id = inverse(d);
  store_half(out, d);
  if (!std::isfinite(id)) {
    for (int j = 0; j < kBlock; ++j) out[2 + j] = static_cast<std::uint8_t>(low_byte(x[j] * id));
    return;
  }
  for (int j = 0; j < kBlock; ++j) {
    out[2 + j] = static_cast<std::uint8_t>(static_cast<int>(round_away(x[j] * id)));
  }
}

/// The number of largest magnitude with its sign; the first of several.
float extreme(const float* x) noexcept {
  float magnitude = 0.0F;
  float value = 0.0F;
  for (int j = 0; j < kBlock; ++j) {
    if (magnitude < std::abs(x[j])) {
      magnitude = std::abs(x[j]);
      value = x[j];
    }
  }
  return value;
}

/// Codes of a block without a minimum: min(limit, trunc(x / d + half)).
void codes_from_zero(const float* x, float id, float half, int limit, std::uint8_t* codes) {
  for (int j = 0; j < kBlock; ++j) {
    codes[j] = static_cast<std::uint8_t>(std::min(limit, low_byte(x[j] * id + half)));
  }
}

void codes_from_least(const float* x, float least, float id, int limit, std::uint8_t* codes) {
  for (int j = 0; j < kBlock; ++j) {
    codes[j] = static_cast<std::uint8_t>(std::min(limit, low_byte((x[j] - least) * id + 0.5F)));
  }
}

void block_q4_0(const float* x, std::uint8_t* out) noexcept {
  std::uint8_t codes[kBlock];
  const float d = extreme(x) / -8.0F;
  codes_from_zero(x, inverse(d), 8.5F, 15, codes);
  store_half(out, d);
  store_nibbles(codes, out + 2);
}

void block_q5_0(const float* x, std::uint8_t* out) noexcept {
  std::uint8_t codes[kBlock];
  const float d = extreme(x) / -16.0F;
  codes_from_zero(x, inverse(d), 16.5F, 31, codes);
  store_half(out, d);
  store_fifth_bits(codes, out + 2);
  store_nibbles(codes, out + 6);
}

struct Range {
  float least = FLT_MAX;
  float most = -FLT_MAX;
};

Range range_of(const float* x) noexcept {
  Range range;
  for (int j = 0; j < kBlock; ++j) {
    range.least = x[j] < range.least ? x[j] : range.least;
    range.most = x[j] > range.most ? x[j] : range.most;
  }
  return range;
}

void block_q4_1(const float* x, std::uint8_t* out) noexcept {
  std::uint8_t codes[kBlock];
  const Range range = range_of(x);
  const float d = (range.most - range.least) / 15.0F;
  codes_from_least(x, range.least, inverse(d), 15, codes);
  store_half(out, d);
  store_half(out + 2, range.least);
  store_nibbles(codes, out + 4);
}

void block_q5_1(const float* x, std::uint8_t* out) noexcept {
  std::uint8_t codes[kBlock];
  const Range range = range_of(x);
  const float d = (range.most - range.least) / 31.0F;
  // The reference does not cap these: (x - least) / d + 0.5 is below 32.
  codes_from_least(x, range.least, inverse(d), 255, codes);
  store_half(out, d);
  store_half(out + 2, range.least);
  store_fifth_bits(codes, out + 4);
  store_nibbles(codes, out + 8);
}

template <typename Block>
void each_block(std::span<const float> values, std::uint8_t* out, std::size_t bytes, Block block) {
  for (std::size_t at = 0; at < values.size(); at += kBlock, out += bytes) {
    block(values.data() + at, out);
  }
}

template <typename Round>
void each_number(std::span<const float> values, std::uint8_t* out, Round round) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t bits = round(values[i]);
    std::memcpy(out + 2 * i, &bits, sizeof bits);
  }
}

}  // namespace

void quantize(Storage storage, std::span<const float> values, std::span<std::byte> blocks) {
  const BlockSize block = block_size(storage);
  if (block.elements == 0 || storage == Storage::kMXFP4 || values.size() % block.elements != 0 ||
      blocks.size() != values.size() / block.elements * block.bytes) {
    throw std::logic_error("quantize: values and room are not the same whole blocks");
  }
  auto* const out = reinterpret_cast<std::uint8_t*>(blocks.data());
  switch (storage) {
    case Storage::kF32: std::memcpy(out, values.data(), values.size_bytes()); return;
    case Storage::kF16: each_number(values, out, core::float_to_f16); return;
    case Storage::kBF16: each_number(values, out, core::float_to_bf16); return;
    case Storage::kQ8_0: each_block(values, out, block.bytes, block_q8_0); return;
    case Storage::kQ4_0: each_block(values, out, block.bytes, block_q4_0); return;
    case Storage::kQ4_1: each_block(values, out, block.bytes, block_q4_1); return;
    case Storage::kQ5_0: each_block(values, out, block.bytes, block_q5_0); return;
    case Storage::kQ5_1: each_block(values, out, block.bytes, block_q5_1); return;
    case Storage::kQ4_K:
    case Storage::kQ5_K:
    case Storage::kQ6_K:
      quantize_super_blocks(storage, values.data(), nullptr, values.size() / block.elements, out);
      return;
    case Storage::kMXFP4:
    case Storage::kOther: break;
  }
}

void quantize_row(Storage storage, std::span<const float> row, std::span<const float> importance,
                  std::span<std::byte> blocks) {
  const BlockSize block = block_size(storage);
  if (importance.empty() || block.elements <= 1 || storage == Storage::kQ8_0) {
    return quantize(storage, row, blocks);
  }
  if (importance.size() != row.size() || row.size() % block.elements != 0 ||
      blocks.size() != row.size() / block.elements * block.bytes) {
    throw std::logic_error("quantize_row: row, importance and room do not agree");
  }
  auto* const out = reinterpret_cast<std::uint8_t*>(blocks.data());
  const std::size_t count = row.size() / block.elements;
  if (block.elements == kBlock) {
    quantize_weighted_row(storage, row.data(), importance.data(), count, out);
  } else {
    quantize_super_blocks(storage, row.data(), importance.data(), count, out);
  }
}

bool fits(Storage storage, std::span<const float> values) noexcept {
  // The bits of a float's magnitude are ordered as the magnitudes are; infinity and NaN come last.
  std::uint32_t largest = 0;
  for (const float value : values) {
    largest = std::max(largest, std::bit_cast<std::uint32_t>(value) & 0x7fffffffU);
  }
  const bool wide = storage == Storage::kF32 || storage == Storage::kBF16;
  return largest <= std::bit_cast<std::uint32_t>(wide ? FLT_MAX : 65504.0F);
}

}  // namespace weft::checkpoint
