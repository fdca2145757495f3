#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace weft::train {

/// CRC-32C (Castagnoli), reflected polynomial 0x82f63b78.
[[nodiscard]] std::uint32_t crc32c(std::string_view bytes);

/// Scalars for TensorBoard: an event file of TFRecords (length, masked CRC-32C of the length,
/// payload, masked CRC-32C of the payload) that hold tensorflow.Event messages.
///
/// A training that goes on after an interruption opens a new file beside the old ones; TensorBoard
/// then forgets what the old ones say about updates from `first_update` on.
class EventFile {
 public:
  /// Creates events.out.tfevents.TIME.weft[.N] in `folder`, the name unused so far.
  /// `first_update`: the first update that this file will tell of; above 1 when resumed.
  EventFile(const std::filesystem::path& folder, std::int64_t first_update);

  /// A point of the curve `tag` ("train/loss").
  void scalar(std::string_view tag, std::int64_t update, float value);
  /// Hands what was written to the operating system. Throws IoError.
  void flush();

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  void record(std::string_view event);

  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::filesystem::path path_;
  std::unique_ptr<std::FILE, Close> file_;
};

}  // namespace weft::train
