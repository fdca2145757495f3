#include "core/stop.h"

#include "core/error.h"

namespace weft::core {
namespace {

std::atomic<bool> flag{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may only set such a flag");

}  // namespace

std::atomic<bool>& stop_flag() noexcept { return flag; }

bool stop_requested() noexcept { return stop_flag().load(std::memory_order_relaxed); }

void leave_if_stopped(std::string_view doing) {
  if (stop_requested()) throw Interrupted("interrupted while {}; nothing was changed", doing);
}

}  // namespace weft::core
