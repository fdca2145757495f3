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

/// A bit for each signal that has come.
std::atomic<std::uint64_t> received{0};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free, "a signal handler writes it");

constexpr std::uint64_t bit_of(int signal) { return std::uint64_t{1} << signal; }

std::int64_t now() noexcept {
  timespec time{};
  ::clock_gettime(CLOCK_MONOTONIC, &time);  // may be called in signal handlers
  return time.tv_sec * kSecond + time.tv_nsec;
}

void on_signal(int signal) {
  received.fetch_or(bit_of(signal));
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

bool warned_of_limit() noexcept {
  constexpr std::uint64_t kEnds = bit_of(SIGINT) | bit_of(SIGTERM) | bit_of(SIGHUP);
  const std::uint64_t all = received.load();
  return (all & bit_of(SIGUSR1)) != 0 && (all & kEnds) == 0;
}

void clear_interrupt() noexcept {
  received.store(0);
  requested_at.store(0);
  core::stop_flag().store(false);
}

}  // namespace weft::cli
