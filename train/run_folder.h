#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

#include "core/log.h"

namespace weft::train {

/// How a command wants to begin.
enum class Start : std::uint8_t {
  kFresh,   ///< A run that is already there is an error.
  kResume,  ///< Goes on from the last checkpoint; starts when there is no run yet.
  kReplace  ///< Replaces the run that is there, once the new one stands.
};

/// The folder of one run (docs/run_folder.md): where its files are, who may write them.
///
/// A run that is replaced is set aside in a hidden folder until settle() says that the new one
/// stands. Until then everything that ends the process, be it an exception, a signal or the power,
/// leaves the old run: the destructor, or else the next claim(), puts it back.
class RunFolder {
 public:
  /// Looks at the folder without changing anything. InputError when it cannot be written
  /// (core::require_writable), and when `start` does not fit: kFresh on a folder that holds a run,
  /// or any start where a file that is no run's has the name of one that a run writes. Other files
  /// may be there.
  RunFolder(std::filesystem::path path, Start start);
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  /// A run is there and is to be continued.
  [[nodiscard]] bool continues() const { return continues_; }

  /// Makes the folder if needed, claims it until destruction, puts back a run whose replacement
  /// was killed, and looks at the folder again, now that nobody else writes it. InputError when it
  /// cannot be made, when another process has claimed it, and as the constructor. `log` hears of
  /// file systems without locks. A folder made here and not begun is removed.
  void claim(const core::Log& log = {});
  /// The run starts: with kReplace, the files of the old one are set aside (others stay).
  void begin();
  /// The new run stands: what was set aside is removed. Without it nothing happens.
  void settle();
  /// An old run is set aside, and would come back.
  [[nodiscard]] bool replaces() const { return replaces_; }

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::filesystem::path config() const { return path_ / "config.yaml"; }
  [[nodiscard]] std::filesystem::path adapter() const { return path_ / "adapter"; }
  [[nodiscard]] std::filesystem::path checkpoints() const { return path_ / "checkpoints"; }
  [[nodiscard]] std::filesystem::path metrics() const { return path_ / "metrics.jsonl"; }
  [[nodiscard]] std::filesystem::path preflight() const { return path_ / "preflight.json"; }
  [[nodiscard]] std::filesystem::path provenance() const { return path_ / "provenance.json"; }

  /// Appends a line with date and time to log.txt, once the run has begun. A log that cannot be
  /// written ends no run.
  void note(std::string_view line) const noexcept;

 private:
  std::filesystem::path path_;
  Start start_;
  bool continues_ = false;
  int created_ = 0;  ///< Folders made by claim(), this one and those above it.
  bool begun_ = false;
  bool replaces_ = false;
  int claim_ = -1;

  void judge();
};

}  // namespace weft::train
