#pragma once

#include <cstdint>

#include "model/arena.h"

namespace weft::model {

/// Measures the memory of a computation by running its own code without computing: while one lives,
/// this thread's tensors of kArenaLeast bytes and more come from an arena of its own, of addresses
/// that are never written, and kernels (kernel::parallel_for) do nothing. What an operation keeps,
/// and for how long, is so counted by construction.
///
/// Tensors made meanwhile must be gone before it is.
class Meter {
 public:
  Meter();
  ~Meter();
  Meter(const Meter&) = delete;
  Meter& operator=(const Meter&) = delete;

  [[nodiscard]] std::uint64_t now() const { return arena_.usage().now; }
  [[nodiscard]] std::uint64_t most() const { return arena_.usage().most; }
  void reset_most() { arena_.reset_most(); }
  [[nodiscard]] Arena& arena() { return arena_; }

  /// Whether one lives on this thread.
  [[nodiscard]] static bool running() noexcept { return current_ != nullptr; }
  [[nodiscard]] static Meter* current() noexcept { return current_; }

 private:
  static thread_local Meter* current_;
  Arena arena_;
};

}  // namespace weft::model
