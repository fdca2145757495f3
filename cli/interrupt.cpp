#include "cli/interrupt.h"

#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <ctime>
#include <string_view>

#include "core/stop.h"

namespace weft::cli {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
/// When the first request came, in nanoseconds of the monotonic clock; 0: none yet.
std::atomic<std::int64_t> requested_at{0};
static_assert(std::atomic<std::int64_t>::is_always_lock_free, "a signal handler writes it");

std::int64_t now() noexcept {
  timespec time{};
  ::clock_gettime(CLOCK_MONOTONIC, &time);  // may be called in signal handlers
  return time.tv_sec * kSecond + time.tv_nsec;
}

void on_signal(int signal) {
  std::int64_t first = 0;
  const std::int64_t moment = now();
  if (requested_at.compare_exchange_strong(first, moment)) {
    core::stop_flag().store(true);
    return;
  }
  if (signal != SIGINT || moment - first < kSecond) return;
  constexpr std::string_view kText =
      "\nweft: ended at once by a second interrupt; what was not saved yet is lost\n";
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, kText.data(), kText.size());
  ::_exit(1);
}

}  // namespace

const std::atomic<bool>& catch_interrupts() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  ::sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2}) {
    struct sigaction before {};
    ::sigaction(signal, nullptr, &before);
    if (signal == SIGHUP && before.sa_handler == SIG_IGN) continue;
    ::sigaction(signal, &action, nullptr);
  }
  ::signal(SIGPIPE, SIG_IGN);
  return core::stop_flag();
}

void clear_interrupt() noexcept {
  requested_at.store(0);
  core::stop_flag().store(false);
}

}  // namespace weft::cli
