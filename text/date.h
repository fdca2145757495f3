#pragma once

#include <string>
#include <string_view>

/// The day that chat templates print with strftime_now. A run has one, so that its tokens do not
/// depend on when they were made.
namespace weft::text {

/// "2026-11-29": the day of SOURCE_DATE_EPOCH (seconds since 1970, UTC) where that variable is set,
/// else the day on this machine. It is looked up once and then stays the same for the process.
/// ConfigError when SOURCE_DATE_EPOCH is no number.
[[nodiscard]] const std::string& default_date();

/// Whether `text` is a day of the calendar, as "2026-11-29".
[[nodiscard]] bool is_date(std::string_view text);

}  // namespace weft::text
