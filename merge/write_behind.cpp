#include "merge/write_behind.h"

#include <utility>

namespace weft::merge {

WriteBehind::WriteBehind(Sink sink) : sink_(std::move(sink)), thread_([this] { run(); }) {}

WriteBehind::~WriteBehind() {
  {
    const std::scoped_lock lock(guard_);
    waiting_.clear();
    stopped_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

std::vector<std::byte> WriteBehind::buffer() {
  std::unique_lock lock(guard_);
  changed_.wait(lock, [&] { return failure_ || !free_.empty(); });
  rethrow();
  std::vector<std::byte> bytes = std::move(free_.back());
  free_.pop_back();
  return bytes;
}

void WriteBehind::put(std::vector<std::byte> bytes) {
  {
    const std::scoped_lock lock(guard_);
    rethrow();
    waiting_.push_back(std::move(bytes));
  }
  changed_.notify_all();
}

void WriteBehind::finish() {
  std::unique_lock lock(guard_);
  changed_.wait(lock, [&] { return failure_ || (waiting_.empty() && !busy_); });
  rethrow();
}

void WriteBehind::rethrow() {
  if (failure_) std::rethrow_exception(failure_);
}

void WriteBehind::run() {
  std::unique_lock lock(guard_);
  while (true) {
    changed_.wait(lock, [&] { return stopped_ || (!waiting_.empty() && !failure_); });
    if (stopped_) return;
    std::vector<std::byte> bytes = std::move(waiting_.front());
    waiting_.pop_front();
    busy_ = true;
    lock.unlock();
    std::exception_ptr failure;
    try {
      sink_(bytes);
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    busy_ = false;
    failure_ = failure;
    free_.push_back(std::move(bytes));
    changed_.notify_all();
  }
}

}  // namespace weft::merge
