#include "core/stop.h"

#include "core/error.h"

namespace weft::core {
namespace {

std::atomic<bool> own_flag{false};
std::atomic<std::atomic<bool>*> flag{&own_flag};
static_assert(std::atomic<bool>::is_always_lock_free &&
                  std::atomic<std::atomic<bool>*>::is_always_lock_free,
              "a signal handler may only touch such atomics");

}  // namespace

std::atomic<bool>& stop_flag() noexcept { return *flag.load(std::memory_order_relaxed); }

void use_stop_flag(std::atomic<bool>& other) noexcept { flag.store(&other); }

bool stop_requested() noexcept { return stop_flag().load(std::memory_order_relaxed); }

void leave_if_stopped(std::string_view doing) {
  if (stop_requested()) throw Interrupted("interrupted while {}; nothing was changed", doing);
}

}  // namespace weft::core
