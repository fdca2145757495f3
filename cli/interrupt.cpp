#include "cli/interrupt.h"

#include <unistd.h>

#include <csignal>

namespace weft::cli {
namespace {

std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may only set such a flag");

void on_signal(int) {
  if (interrupted.exchange(true)) ::_exit(130);
}

}  // namespace

const std::atomic<bool>& catch_interrupts() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  ::sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  return interrupted;
}

void clear_interrupt() noexcept { interrupted.store(false); }

}  // namespace weft::cli
