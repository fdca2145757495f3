#pragma once

#include <atomic>

namespace weft::cli {

/// From here on SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 (the warnings of terminals, time-outs
/// and batch systems) raise core::stop_flag(), which long work polls, and a closed pipe is an error
/// of the write instead of the end of the program. Whoever sends the same request again, as srun
/// and timeout do, changes nothing; only SIGINT from a second after the first request on ends the
/// program at once, unsaved, with exit status 1. SIGHUP stays ignored where it was (nohup).
/// Returns the flag. May be called again.
const std::atomic<bool>& catch_interrupts();

/// Whether SIGUSR1 has come, by which a batch system warns of its time limit, and nothing that ends
/// the program for good (SIGINT, SIGTERM, SIGHUP).
[[nodiscard]] bool warned_of_limit() noexcept;

/// Lowers the flag, for programs that go on after an interrupt (a chat whose answer was stopped).
void clear_interrupt() noexcept;

}  // namespace weft::cli
