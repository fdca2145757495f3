#pragma once

#include <cstddef>
#include <span>

#include "core/number.h"

// How undo files code numbers (merge/undo.h).

namespace weft::merge {

/// Numbers of type `from`, rounded to nearest in type `to`; little-endian, out.size() /
/// size_of(to) of them.
void convert_words(core::DType from, std::span<const std::byte> in, core::DType to,
                   std::span<std::byte> out);

/// For little-endian words of `width` bytes (1, 2 or 4): own - predicted modulo the word, the sign
/// moved to the lowest bit so that small differences are small numbers, and all first bytes before
/// all second ones, which compresses better. Spans of one length, a multiple of `width`.
void encode_words(std::size_t width, std::span<const std::byte> own,
                  std::span<const std::byte> predicted, std::span<std::byte> out);
/// The inverse: `words` holds the prediction and becomes what was encoded.
void decode_words(std::size_t width, std::span<const std::byte> coded, std::span<std::byte> words);

}  // namespace weft::merge
