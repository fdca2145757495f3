#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace weft::batch {

/// How far a training run is, of its metrics.jsonl (docs/run_folder.md).
struct RunProgress {
  std::int64_t update = 0;
  std::int64_t total_updates = 0;  ///< 0: not known.
  double loss = 0;
  double tokens_per_second = 0;
  double seconds = 0;  ///< Of the run, interruptions not counted.
  std::uint64_t tokens = 0;
  std::uint64_t resident_bytes = 0;
  std::optional<double> validation_loss{};  ///< The lowest so far.

  /// Of training; nothing where it cannot be told.
  [[nodiscard]] std::optional<double> remaining_seconds() const;
};

/// Nothing before the first update. Reads the end of the file alone; `whole`: all of it, for the
/// lowest validation loss.
[[nodiscard]] std::optional<RunProgress> read_progress(const std::filesystem::path& run,
                                                       bool whole = false);

/// The last line of a log that says something; of a line that was redrawn, what it last showed.
[[nodiscard]] std::string last_line(const std::filesystem::path& log);

/// The last bytes of a file, from a line's beginning; empty where it cannot be read.
[[nodiscard]] std::string tail_of(const std::filesystem::path& file, std::uint64_t bytes);

}  // namespace weft::batch
