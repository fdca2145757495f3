#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

namespace weft::train {

/// How a command wants to begin.
enum class Start : std::uint8_t {
  kFresh,   ///< A run that is already there is an error.
  kResume,  ///< Goes on from the last checkpoint; starts when there is no run yet.
  kReplace  ///< Removes the run that is there.
};

/// The folder of one run (docs/run_folder.md): where its files are, who may write them.
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

  /// Makes the folder if needed and claims it until destruction. InputError when it cannot be made,
  /// or when another process has claimed it. A folder made here and not begun is removed.
  void claim();
  /// The run starts: with kReplace, the files of the old one are removed (others stay).
  void begin();

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
  int claim_ = -1;
};

}  // namespace weft::train
