#include "merge/undo_words.h"

#include <cstdint>
#include <cstring>
#include <limits>

namespace weft::merge {
namespace {

template <typename Word>
Word load(const std::byte* at) {
  Word word = 0;
  std::memcpy(&word, at, sizeof word);
  return word;
}

template <typename Word>
void encode(const std::byte* own, const std::byte* predicted, std::size_t count, std::byte* out) {
  constexpr int kTop = std::numeric_limits<Word>::digits - 1;
  for (std::size_t i = 0; i < count; ++i) {
    const auto difference = static_cast<Word>(load<Word>(own + i * sizeof(Word)) -
                                              load<Word>(predicted + i * sizeof(Word)));
    const auto sign = static_cast<Word>(0 - (difference >> kTop));
    const auto code = static_cast<Word>(static_cast<Word>(difference << 1) ^ sign);
    for (std::size_t plane = 0; plane < sizeof(Word); ++plane) {
      out[plane * count + i] = static_cast<std::byte>(code >> (8 * plane));
    }
  }
}

template <typename Word>
void decode(const std::byte* coded, std::size_t count, std::byte* words) {
  for (std::size_t i = 0; i < count; ++i) {
    Word code = 0;
    for (std::size_t plane = 0; plane < sizeof(Word); ++plane) {
      const auto byte = static_cast<Word>(coded[plane * count + i]);
      code = static_cast<Word>(code | static_cast<Word>(byte << (8 * plane)));
    }
    const auto sign = static_cast<Word>(0 - (code & 1U));
    const auto difference = static_cast<Word>(static_cast<Word>(code >> 1) ^ sign);
    const auto own = static_cast<Word>(load<Word>(words + i * sizeof(Word)) + difference);
    std::memcpy(words + i * sizeof(Word), &own, sizeof own);
  }
}

float value_of(core::DType type, const std::byte* at) {
  if (type == core::DType::kF16) return core::f16_to_float(load<std::uint16_t>(at));
  if (type == core::DType::kBF16) return core::bf16_to_float(load<std::uint16_t>(at));
  float value = 0;
  std::memcpy(&value, at, sizeof value);
  return value;
}

}  // namespace

void convert_words(core::DType from, std::span<const std::byte> in, core::DType to,
                   std::span<std::byte> out) {
  const auto before = static_cast<std::size_t>(core::size_of(from));
  const auto after = static_cast<std::size_t>(core::size_of(to));
  for (std::size_t i = 0; i < out.size() / after; ++i) {
    const float value = value_of(from, in.data() + i * before);
    if (to == core::DType::kF32) {
      std::memcpy(out.data() + i * after, &value, after);
      continue;
    }
    const std::uint16_t half =
        to == core::DType::kF16 ? core::float_to_f16(value) : core::float_to_bf16(value);
    std::memcpy(out.data() + i * after, &half, after);
  }
}

void encode_words(std::size_t width, std::span<const std::byte> own,
                  std::span<const std::byte> predicted, std::span<std::byte> out) {
  const std::size_t count = own.size() / width;
  if (width == 4) return encode<std::uint32_t>(own.data(), predicted.data(), count, out.data());
  if (width == 2) return encode<std::uint16_t>(own.data(), predicted.data(), count, out.data());
  encode<std::uint8_t>(own.data(), predicted.data(), count, out.data());
}

void decode_words(std::size_t width, std::span<const std::byte> coded, std::span<std::byte> words) {
  const std::size_t count = words.size() / width;
  if (width == 4) return decode<std::uint32_t>(coded.data(), count, words.data());
  if (width == 2) return decode<std::uint16_t>(coded.data(), count, words.data());
  decode<std::uint8_t>(coded.data(), count, words.data());
}

}  // namespace weft::merge
