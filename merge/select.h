#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <span>

#include "core/clones.h"

namespace weft::merge {

/// The order in which a method ranks elements: by magnitude as a float, largest first, and among
/// equals by place, first first. As unsigned integers the bits of non-negative floats have the
/// order of the floats.
[[nodiscard]] WEFT_INLINE std::uint32_t magnitude_key(double value) noexcept {
  return std::bit_cast<std::uint32_t>(static_cast<float>(std::abs(value)));
}

/// The first k elements in that order, described so that each can be asked for alone.
struct TopSet {
  std::uint32_t threshold = 0;  ///< Key of the last element that belongs to it.
  std::int64_t last = -1;       ///< Place of the last such element; -1: the set is empty.

  [[nodiscard]] bool contains(std::uint32_t key, std::int64_t place) const noexcept {
    return key >= lowest_key(place);
  }
  /// The lowest key that belongs to the set at a place; beyond every key when it is empty.
  [[nodiscard]] std::uint64_t lowest_key(std::int64_t place) const noexcept {
    if (last < 0) return std::uint64_t{1} << 32;
    return std::uint64_t{threshold} + (place > last ? 1 : 0);
  }
};

/// Keys of rows [begin, end), one after the other.
using RowKeys = std::function<void(std::int64_t begin, std::int64_t end, std::span<std::uint32_t>)>;
/// Calls the given function on a few rows at a time, over all rows, in parallel (for_row_blocks).
using RowLoop = std::function<void(const std::function<void(std::int64_t, std::int64_t)>&)>;

/// The k largest of rows * columns elements, exactly: two passes that count the upper and lower
/// halves of the keys, and a third that finds the place of the last one where equals are cut. Holds
/// the keys of tensors of up to kHeldKeys elements, and reads them again for larger ones; beyond
/// that memory is the counters'.
[[nodiscard]] TopSet select_top(std::int64_t rows, std::int64_t columns, std::int64_t k,
                                const RowKeys& keys, const RowLoop& loop);

inline constexpr std::int64_t kHeldKeys = std::int64_t{24} << 20;

}  // namespace weft::merge
