#include "checkpoint/dequantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <stdexcept>

#include "core/clones.h"

namespace weft::checkpoint {
namespace {

struct Format {
  Storage storage;
  std::string_view name;
  BlockSize block;
};

constexpr std::array kFormats{
    Format{Storage::kF32, "F32", {1, 4}},       Format{Storage::kF16, "F16", {1, 2}},
    Format{Storage::kBF16, "BF16", {1, 2}},     Format{Storage::kQ8_0, "Q8_0", {32, 34}},
    Format{Storage::kQ4_0, "Q4_0", {32, 18}},   Format{Storage::kQ4_1, "Q4_1", {32, 20}},
    Format{Storage::kQ5_0, "Q5_0", {32, 22}},   Format{Storage::kQ5_1, "Q5_1", {32, 24}},
    Format{Storage::kQ4_K, "Q4_K", {256, 144}}, Format{Storage::kQ5_K, "Q5_K", {256, 176}},
    Format{Storage::kQ6_K, "Q6_K", {256, 210}}, Format{Storage::kMXFP4, "MXFP4", {32, 17}}};

using Bytes = const std::uint8_t*;

/// core::f16_to_float without branches, so that loops over it become vector code.
inline float half(std::uint16_t bits) noexcept {
  const std::uint32_t sign = (bits & 0x8000U) << 16;
  const std::uint32_t magnitude = bits & 0x7fffU;
  const std::uint32_t normal = (magnitude << 13) + 0x38000000U;
  const std::uint32_t special = (magnitude << 13) + 0x70000000U;  // Infinity and NaN.
  const auto small =
      std::bit_cast<std::uint32_t>(static_cast<float>(static_cast<int>(magnitude)) * 0x1p-24F);
  std::uint32_t value = magnitude < 0x400U ? small : normal;
  value = magnitude >= 0x7c00U ? special : value;
  return std::bit_cast<float>(value | sign);
}

inline float half_at(Bytes at) noexcept {
  std::uint16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return half(bits);
}

WEFT_CLONES void from_f16(Bytes in, float* out, std::size_t count) noexcept {
  for (std::size_t i = 0; i < count; ++i) out[i] = half_at(in + 2 * i);
}

WEFT_CLONES void from_bf16(Bytes in, float* out, std::size_t count) noexcept {
  for (std::size_t i = 0; i < count; ++i) {
    std::uint16_t bits;
    std::memcpy(&bits, in + 2 * i, sizeof bits);
    out[i] = core::bf16_to_float(bits);
  }
}

// Each block function turns one block into its 32 or 256 floats.

/// f16 d; i8 q[32]:  x = q d.
inline void block_q8_0(Bytes in, float* out) noexcept {
  const float d = half_at(in);
  for (int i = 0; i < 32; ++i) out[i] = static_cast<float>(static_cast<std::int8_t>(in[2 + i])) * d;
}

/// f16 d; u8 q[16]:  x = d (q - 8); low nibbles are elements 0 to 15, high ones 16 to 31.
inline void block_q4_0(Bytes in, float* out) noexcept {
  const float d = half_at(in);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>((in[2 + i] & 15) - 8);
    out[i + 16] = d * static_cast<float>((in[2 + i] >> 4) - 8);
  }
}

/// f16 d, m; u8 q[16]:  x = d q + m.
inline void block_q4_1(Bytes in, float* out) noexcept {
  const float d = half_at(in);
  const float m = half_at(in + 2);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(in[4 + i] & 15) + m;
    out[i + 16] = d * static_cast<float>(in[4 + i] >> 4) + m;
  }
}

inline std::uint32_t word_at(Bytes at) noexcept {
  std::uint32_t word;
  std::memcpy(&word, at, sizeof word);
  return word;
}

/// f16 d; u32 h; u8 q[16]:  x = d (q - 16), where bit i of h is bit 4 of element i.
inline void block_q5_0(Bytes in, float* out) noexcept {
  const float d = half_at(in);
  const std::uint32_t high = word_at(in + 2);
  for (int i = 0; i < 16; ++i) {
    const auto low_half = static_cast<int>((in[6 + i] & 15U) | ((high >> i & 1U) << 4));
    const auto high_half = static_cast<int>((in[6 + i] >> 4U) | ((high >> (i + 16) & 1U) << 4));
    out[i] = d * static_cast<float>(low_half - 16);
    out[i + 16] = d * static_cast<float>(high_half - 16);
  }
}

/// f16 d, m; u32 h; u8 q[16]:  x = d q + m.
inline void block_q5_1(Bytes in, float* out) noexcept {
  const float d = half_at(in);
  const float m = half_at(in + 2);
  const std::uint32_t high = word_at(in + 4);
  for (int i = 0; i < 16; ++i) {
    const auto low_half = static_cast<int>((in[8 + i] & 15U) | ((high >> i & 1U) << 4));
    const auto high_half = static_cast<int>((in[8 + i] >> 4U) | ((high >> (i + 16) & 1U) << 4));
    out[i] = d * static_cast<float>(low_half) + m;
    out[i + 16] = d * static_cast<float>(high_half) + m;
  }
}

/// The 6-bit scale and minimum of sub-block `j` of 8, packed into 12 bytes.
struct ScaleMin {
  int scale;
  int min;
};
inline ScaleMin scale_min(Bytes packed, int j) noexcept {
  if (j < 4) return {packed[j] & 63, packed[j + 4] & 63};
  return {(packed[j + 4] & 15) | (packed[j - 4] >> 6 << 4),
          (packed[j + 4] >> 4) | (packed[j] >> 6 << 4)};
}

/// f16 d, dmin; u8 scales[12]; u8 q[128]:  x = (d scale) q - dmin min, 8 sub-blocks of 32; 32 bytes
/// hold two sub-blocks, low nibbles first.
inline void block_q4_k(Bytes in, float* out) noexcept {
  const float d = half_at(in);
  const float dmin = half_at(in + 2);
  for (int j = 0; j < 8; ++j) {
    const ScaleMin s = scale_min(in + 4, j);
    const float scale = d * static_cast<float>(s.scale);
    const float min = dmin * static_cast<float>(s.min);
    const Bytes q = in + 16 + j / 2 * 32;
    const int shift = j % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      out[j * 32 + i] = scale * static_cast<float>((q[i] >> shift) & 15) - min;
    }
  }
}

/// As Q4_K with u8 h[32] before q: bit j of h[i] is bit 4 of element i of sub-block j.
inline void block_q5_k(Bytes in, float* out) noexcept {
  const float d = half_at(in);
  const float dmin = half_at(in + 2);
  const Bytes high = in + 16;
  for (int j = 0; j < 8; ++j) {
    const ScaleMin s = scale_min(in + 4, j);
    const float scale = d * static_cast<float>(s.scale);
    const float min = dmin * static_cast<float>(s.min);
    const Bytes q = in + 48 + j / 2 * 32;
    const int shift = j % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      const int code = ((q[i] >> shift) & 15) | ((high[i] >> j & 1) << 4);
      out[j * 32 + i] = scale * static_cast<float>(code) - min;
    }
  }
}

/// u8 low[128]; u8 high[64]; i8 scales[16]; f16 d:  x = (d scale) (q - 32), scales for 16 elements.
/// In each half of 128: group g of 32 takes nibble g / 2 of low[32 (g % 2) + i] and bits 2 g of
/// high[i].
inline void block_q6_k(Bytes in, float* out) noexcept {
  const float d = half_at(in + 208);
  for (int group = 0; group < 8; ++group) {
    const int g = group % 4;
    const Bytes low = in + group / 4 * 64 + g % 2 * 32;
    const Bytes high = in + 128 + group / 4 * 32;
    for (int part = 0; part < 2; ++part) {
      const auto code = static_cast<std::int8_t>(in[192 + group * 2 + part]);
      const float scale = d * static_cast<float>(code);
      for (int k = 0; k < 16; ++k) {
        const int i = part * 16 + k;
        const int q = ((low[i] >> (g / 2 * 4)) & 15) | ((high[i] >> (2 * g) & 3) << 4);
        out[group * 32 + i] = scale * static_cast<float>(q - 32);
      }
    }
  }
}

/// u8 e; u8 q[16]:  x = v(q) 2^(e - 127), v a float of 4 bits (a sign, two bits of exponent, one of
/// fraction); low nibbles are elements 0 to 15, high ones 16 to 31. ggml doubles v and halves the
/// power, whose products are the same; its code 8 has lost the sign of zero, which safetensors
/// keep.
inline void block_mxfp4(Bytes in, float* out) noexcept {
  static constexpr std::array<float, 16> kValues{0,     1,  2,  3,  4,  6,  8,  12,
                                                 -0.0F, -1, -2, -3, -4, -6, -8, -12};
  // 2^(e - 128): of e below 2 a number without its leading one.
  const std::uint32_t power = in[0] < 2 ? 0x00200000U << in[0] : (in[0] - 1U) << 23U;
  const auto scale = std::bit_cast<float>(power);
  for (int i = 0; i < 16; ++i) {
    out[i] = kValues[in[1 + i] & 15U] * scale;
    out[i + 16] = kValues[in[1 + i] >> 4U] * scale;
  }
}

template <void (*kBlock)(Bytes, float*) noexcept>
void each_block(Bytes in, float* out, std::size_t count, BlockSize size) noexcept {
  for (std::size_t done = 0; done < count; done += size.elements, in += size.bytes) {
    kBlock(in, out + done);
  }
}

const Format* find(Storage storage) noexcept {
  const auto found = std::ranges::find(kFormats, storage, &Format::storage);
  return found == kFormats.end() ? nullptr : &*found;
}

}  // namespace

BlockSize block_size(Storage storage) noexcept {
  const Format* format = find(storage);
  return format == nullptr ? BlockSize{0, 0} : format->block;
}

Storage storage_of(std::string_view name) noexcept {
  const auto found = std::ranges::find(kFormats, name, &Format::name);
  return found == kFormats.end() ? Storage::kOther : found->storage;
}

std::string_view name_of(Storage storage) noexcept {
  const Format* format = find(storage);
  return format == nullptr ? "other" : format->name;
}

std::string readable_storages() {
  std::string text;
  for (const Format& format : kFormats) {
    text += text.empty() ? "" : ", ";
    text += format.name;
  }
  return text;
}

void dequantize(Storage storage, std::span<const std::byte> blocks, std::span<float> out) {
  const BlockSize size = block_size(storage);
  if (size.elements == 0 || out.size() % size.elements != 0 ||
      blocks.size() != out.size() / size.elements * size.bytes) {
    throw std::logic_error("dequantize: the blocks do not hold the elements asked for");
  }
  const auto* in = reinterpret_cast<Bytes>(blocks.data());
  float* const to = out.data();
  const std::size_t count = out.size();
  switch (storage) {
    case Storage::kF32:
      if (count > 0) std::memcpy(to, in, blocks.size());
      return;
    case Storage::kF16: return from_f16(in, to, count);
    case Storage::kBF16: return from_bf16(in, to, count);
    case Storage::kQ8_0: return each_block<block_q8_0>(in, to, count, size);
    case Storage::kQ4_0: return each_block<block_q4_0>(in, to, count, size);
    case Storage::kQ4_1: return each_block<block_q4_1>(in, to, count, size);
    case Storage::kQ5_0: return each_block<block_q5_0>(in, to, count, size);
    case Storage::kQ5_1: return each_block<block_q5_1>(in, to, count, size);
    case Storage::kQ4_K: return each_block<block_q4_k>(in, to, count, size);
    case Storage::kQ5_K: return each_block<block_q5_k>(in, to, count, size);
    case Storage::kQ6_K: return each_block<block_q6_k>(in, to, count, size);
    case Storage::kMXFP4: return each_block<block_mxfp4>(in, to, count, size);
    case Storage::kOther: break;
  }
}

}  // namespace weft::checkpoint
