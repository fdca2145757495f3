#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

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

/// The elements of a tensor by their keys. Keys of up to kHeldKeys elements are held, those of
/// larger tensors asked for again by each pass; beyond that memory is the counters'.
class Ranking {
 public:
  static constexpr std::int64_t kHeldKeys = std::int64_t{24} << 20;

  /// Computes all keys once, and counts them by their upper halves.
  Ranking(std::int64_t rows, std::int64_t columns, RowKeys keys, RowLoop loop);
  Ranking(const Ranking&) = delete;
  Ranking& operator=(const Ranking&) = delete;
  /// Leaves the memory of its keys to the next one.
  ~Ranking();

  /// Elements whose key is not 0.
  [[nodiscard]] std::int64_t nonzero() const noexcept { return rows_ * columns_ - zeros_; }
  /// The k largest, exactly: a pass that counts the lower halves of the keys at the cut, and a
  /// second that finds the place of the last element where equals are cut.
  [[nodiscard]] TopSet top(std::int64_t k);

 private:
  using Counts = std::vector<std::int64_t>;
  using Visit = std::function<void(std::int64_t begin, std::span<const std::uint32_t>)>;

  [[nodiscard]] std::span<std::uint32_t> held(std::int64_t begin, std::int64_t end);
  /// Calls visit(begin, keys) for the rows from `begin` on, in parallel.
  void each(const Visit& visit);
  [[nodiscard]] std::int64_t place_of(std::uint32_t key, std::int64_t wanted);

  std::int64_t rows_;
  std::int64_t columns_;
  RowKeys keys_;
  RowLoop loop_;
  std::vector<std::uint32_t> held_;  ///< At least a key for each element, or empty.
  Counts upper_;
  std::int64_t zeros_ = 0;
};

/// Places 0 .. values.size() of a row in order of magnitude, smallest first, equals by place.
void rank_row(std::span<const double> values, std::vector<std::uint32_t>& order);

}  // namespace weft::merge
