#include "core/stop.h"

#include "core/error.h"

namespace weft::core {
namespace {

std::atomic<bool> own_flag{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may only set such a flag");
std::atomic<std::atomic<bool>*> shared_flag{&own_flag};

}  // namespace

std::atomic<bool>& stop_flag() noexcept { return *shared_flag.load(std::memory_order_relaxed); }

bool stop_requested() noexcept { return stop_flag().load(std::memory_order_relaxed); }

void share_stop_flag(std::atomic<bool>& flag) noexcept { shared_flag.store(&flag); }

void leave_if_stopped(std::string_view doing) {
  if (stop_requested()) throw Interrupted("interrupted while {}; nothing was changed", doing);
}

}  // namespace weft::core
