#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/log.h"

namespace weft::train {

/// metrics.jsonl: one JSON object a line. A resumed run cuts the file to where its checkpoint left
/// it, so that every update is told once.
class MetricsFile {
 public:
  /// Opens or creates the file and cuts it to `position` bytes. It is a log and no state: one that
  /// is shorter is told to `log` and appended to. Throws IoError.
  MetricsFile(std::filesystem::path path, std::uint64_t position, const core::Log& log = {});
  ~MetricsFile();
  MetricsFile(const MetricsFile&) = delete;
  MetricsFile& operator=(const MetricsFile&) = delete;

  /// Appends one line; a reader that follows the file sees whole lines.
  void append(const nlohmann::ordered_json& line);
  /// Waits until what was appended is on the disk.
  void flush();
  /// Bytes of the file.
  [[nodiscard]] std::uint64_t position() const { return position_; }

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  std::uint64_t position_ = 0;
};

}  // namespace weft::train
