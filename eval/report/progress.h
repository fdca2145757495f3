#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace weft::eval {

/// How far a suite of a stage is.
struct Progress {
  std::string_view stage;
  std::string_view suite;
  std::string_view what;  ///< "scored" or "answered"
  std::int64_t done = 0;
  std::int64_t total = 0;
};

using ProgressFunction = std::function<void(const Progress&)>;

/// "merged: nahuatl scored 120/500, 8.1/s, 47.2 s left" after so many seconds of this suite; cut at
/// the end to `columns` of a terminal, and without what would move its cursor.
[[nodiscard]] std::string progress_text(const Progress& progress, double seconds, int columns);

}  // namespace weft::eval
