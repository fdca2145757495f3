#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>

#include "model/arena.h"

namespace weft::model {

/// Measures the memory of a computation by running its own code without computing: while one lives,
/// this thread's tensors are counted, those of kArenaLeast bytes and more come from an arena of its
/// own, of addresses that are never written, and kernels (kernel::parallel_for) do nothing. What an
/// operation keeps, and for how long, is so counted by construction.
///
/// Tensors made meanwhile must be gone before it is.
class Meter {
 public:
  Meter();
  ~Meter();
  Meter(const Meter&) = delete;
  Meter& operator=(const Meter&) = delete;

  /// Bytes of the tensors that there are, and the most there were at a time.
  [[nodiscard]] std::uint64_t now() const { return now_; }
  [[nodiscard]] std::uint64_t most() const { return most_; }

  // For the allocator. take() gives null where the block is to come from elsewhere; note() tells of
  // such a block; give() takes a block back, or says that it is to be freed elsewhere.
  [[nodiscard]] void* take(std::size_t n);
  void note(void* block, std::size_t n);
  [[nodiscard]] bool give(void* block);

  /// Whether one lives on this thread.
  [[nodiscard]] static bool running() noexcept { return current_ != nullptr; }
  [[nodiscard]] static Meter* current() noexcept { return current_; }

 private:
  static thread_local Meter* current_;
  Arena arena_;
  std::unordered_map<void*, std::size_t> blocks_;
  std::uint64_t now_ = 0;
  std::uint64_t most_ = 0;
};

}  // namespace weft::model
