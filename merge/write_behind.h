#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

namespace weft::merge {

/// Hands blocks of bytes to a sink in order, on a thread of its own, while the next ones are
/// computed. At most kDepth blocks exist at a time. What the sink throws is thrown again by the
/// next call of buffer(), put() or finish(). For use by one thread.
class WriteBehind {
 public:
  static constexpr std::size_t kDepth = 3;
  using Sink = std::function<void(std::span<const std::byte>)>;

  explicit WriteBehind(Sink sink);
  /// Blocks that have not reached the sink are given up.
  ~WriteBehind();
  WriteBehind(const WriteBehind&) = delete;
  WriteBehind& operator=(const WriteBehind&) = delete;

  /// A block to fill, of any size and content; waits for one that has been written.
  [[nodiscard]] std::vector<std::byte> buffer();
  void put(std::vector<std::byte> bytes);
  /// Returns when all has reached the sink.
  void finish();

 private:
  void run();
  void rethrow();

  Sink sink_;
  std::mutex guard_;
  std::condition_variable changed_;
  std::deque<std::vector<std::byte>> waiting_;
  std::vector<std::vector<std::byte>> free_{kDepth};
  std::exception_ptr failure_;
  bool busy_ = false;
  bool stopped_ = false;
  std::thread thread_;  ///< Last, so that it starts when all else is there.
};

}  // namespace weft::merge
