#pragma once

#include <atomic>

namespace weft::cli {

/// Turns SIGINT and SIGTERM into a flag that long work polls. A second signal ends the program at
/// once (exit status 130). Returns the flag; call it once per program.
const std::atomic<bool>& catch_interrupts();

}  // namespace weft::cli
