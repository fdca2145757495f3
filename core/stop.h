#pragma once

#include <atomic>
#include <string_view>

namespace weft::core {

/// Whether somebody asked the program to stop (a signal; cli/interrupt.h). Long work polls it: a
/// loop that has something to save saves it and ends, another calls leave_if_stopped().
[[nodiscard]] bool stop_requested() noexcept;

/// The flag behind stop_requested(), for those who raise it and for code that takes a flag.
[[nodiscard]] std::atomic<bool>& stop_flag() noexcept;

/// From here on stop_flag() is `flag`: that of another copy of this code in the process, as the
/// program and the library that it opens have one each. `flag` must outlive all polling.
void use_stop_flag(std::atomic<bool>& flag) noexcept;

/// For work that has written nothing which counts yet. Throws Interrupted when a stop was asked
/// for: "interrupted while DOING; nothing was changed".
void leave_if_stopped(std::string_view doing);

}  // namespace weft::core
