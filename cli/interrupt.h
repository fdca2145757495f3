#pragma once

#include <atomic>

namespace weft::cli {

/// Turns SIGINT and SIGTERM into a flag that long work polls. A second signal ends the program at
/// once (exit status 130). Returns the flag; call it once per program.
const std::atomic<bool>& catch_interrupts();

/// Lowers the flag, for programs that go on after an interrupt (a chat whose answer was stopped).
void clear_interrupt() noexcept;

}  // namespace weft::cli
