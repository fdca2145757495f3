#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <utility>

namespace weft::model {

/// Memory of large tensors: one range of addresses, filled from below, whose freed blocks join with
/// their free neighbours and are used again.
///
/// LibTorch's own CPU allocator hands every tensor to malloc, where blocks of a few megabytes and
/// small long-lived objects share a heap: it falls into pieces, grows with every new row length,
/// and large blocks are mapped, zeroed by the kernel and unmapped at each use. Here the same row
/// takes the same blocks again, and the peak is known to the byte.
///
/// Thread-safe. Pages are not returned to the system before the end.
class Arena {
 public:
  static constexpr std::size_t kGranularity = 4096;  ///< Blocks begin and end at multiples of it.

  /// Reserves `bytes` of addresses; memory is taken as it is first written. Where that fails (a
  /// limit on addresses) the arena has no room at all.
  explicit Arena(std::size_t bytes);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// A block of at least n > 0 bytes; null when there is no room for it.
  [[nodiscard]] void* take(std::size_t n);
  /// Returns a block that owns() says is one of this arena's.
  void give(void* block);
  [[nodiscard]] bool owns(const void* block) const noexcept;

  struct Usage {
    std::uint64_t now = 0;      ///< Bytes in blocks that are in use
    std::uint64_t most = 0;     ///< The largest `now` since the last reset_most()
    std::uint64_t touched = 0;  ///< From the range's start to the end of the highest block so far
  };
  [[nodiscard]] Usage usage() const;
  void reset_most();

 private:
  using Blocks = std::map<std::size_t, std::size_t>;  // offset -> bytes
  void erase_free(Blocks::iterator block);

  std::byte* base_ = nullptr;
  std::size_t capacity_ = 0;
  mutable std::mutex mutex_;
  std::size_t top_ = 0;  // end of the highest block in use
  Blocks used_;
  Blocks free_;  // below top_; no two touch, none ends at top_
  std::set<std::pair<std::size_t, std::size_t>> by_size_;  // (bytes, offset) of free_
  Usage usage_;
};

/// Lets LibTorch's CPU tensors of kArenaLeast bytes and more come from one Arena of the machine's
/// size, for the rest of the process, and returns it; smaller ones go to malloc.
inline constexpr std::size_t kArenaLeast = std::size_t{16} << 10;
Arena& install_arena();

}  // namespace weft::model
