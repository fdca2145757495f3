#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"

// safetensors (huggingface/safetensors, README "Format"): 8 bytes little-endian header length N, N
// bytes of JSON, then the data. The JSON maps each tensor's name to dtype, shape and the range
// [begin, end) of its bytes in the data; "__metadata__" maps strings to strings. Data are
// little-endian, row-major, without holes.

namespace weft::checkpoint {

/// One tensor of a file. `begin` and `end` count bytes from the start of the data.
struct SafetensorsEntry {
  std::string name;
  std::string dtype;  ///< "F32", "BF16", "I64", ...: one of safetensors_dtypes().
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;

  [[nodiscard]] std::uint64_t bytes() const noexcept { return end - begin; }
};

/// What a file's header says, after validation.
struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  ///< In order of name.
  std::map<std::string, std::string> metadata;
  std::uint64_t data_offset = 0;  ///< Bytes of the file before the data.
};

/// The longest header that the format allows, in bytes.
inline constexpr std::uint64_t kMaxSafetensorsHeader = 100'000'000;

/// Every dtype of the format, from narrow to wide.
[[nodiscard]] std::span<const std::string_view> safetensors_dtypes() noexcept;

/// Bits of one element; 0 for a name that is no dtype.
[[nodiscard]] int safetensors_dtype_bits(std::string_view dtype) noexcept;

/// Reads and validates the header of a whole file in memory: length and start of the header, JSON
/// without duplicate or unknown keys, dtypes, shape times dtype equal to the range's length
/// (checked arithmetic), ranges that tile the data up to the last byte. Nothing is allocated on the
/// word of the file: memory stays proportional to the header's real bytes. Throws InputError that
/// begins with `where` (the file) and names the tensor.
[[nodiscard]] SafetensorsHeader parse_safetensors(std::span<const std::byte> file,
                                                  std::string_view where);

/// A safetensors file, mapped and validated. Const methods are thread-safe.
class Safetensors {
 public:
  /// Throws InputError as parse_safetensors() does, IoError when the file cannot be read.
  [[nodiscard]] static Safetensors open(const std::filesystem::path& path);

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return file_.path(); }
  /// In order of name.
  [[nodiscard]] const std::vector<SafetensorsEntry>& entries() const noexcept {
    return header_.entries;
  }
  /// Null when there is none of that name.
  [[nodiscard]] const SafetensorsEntry* find(std::string_view name) const;
  /// The tensor's bytes as stored; valid while this object lives.
  [[nodiscard]] std::span<const std::byte> bytes(const SafetensorsEntry& entry) const;
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const noexcept {
    return header_.metadata;
  }
  /// Pages of this tensor will not be needed soon.
  void release(const SafetensorsEntry& entry) const;
  /// The same for a part of the data.
  void release(std::span<const std::byte> part) const { file_.release(part); }

 private:
  Safetensors(core::MappedFile file, SafetensorsHeader header);
  core::MappedFile file_;
  SafetensorsHeader header_;
};

/// A tensor that is to be written.
struct TensorPlan {
  std::string name;
  std::string dtype;  ///< One of safetensors_dtypes().
  std::vector<std::int64_t> shape;

  /// Bytes of the data. Throws InputError for an unknown dtype, a negative size or an overflow.
  [[nodiscard]] std::uint64_t bytes() const;
};

/// Writes a safetensors file as a stream: the header follows from the plan, the data are given
/// tensor by tensor in order(), each in as many pieces as suit. The file appears on finish()
/// (core::AtomicFile); memory does not grow with the tensors. The bytes are those the Python
/// package would write (one metadata key).
///
///     SafetensorsWriter writer(path, plans);
///     for (const TensorPlan& tensor : writer.order()) writer.write(bytes_of(tensor));
///     writer.finish();
class SafetensorsWriter {
 public:
  /// Throws InputError for duplicate, reserved or non-UTF-8 names, unknown dtypes and sizes that
  /// overflow; IoError when the file cannot be written.
  SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorPlan> tensors,
                    std::map<std::string, std::string> metadata = {{"format", "pt"}});

  /// The order in which data must be given: wide dtypes first (so that data stay aligned), then by
  /// name.
  [[nodiscard]] const std::vector<TensorPlan>& order() const noexcept { return tensors_; }
  /// The bytes of the file before the data, for who wants a digest of the whole file.
  [[nodiscard]] const std::string& header() const noexcept { return header_; }
  /// The next bytes of the data. A piece may end inside a tensor or go beyond one.
  /// Throws std::logic_error when there are more bytes than the plan says.
  void write(std::span<const std::byte> bytes);
  void write(std::span<const float> values) { write(std::as_bytes(values)); }
  /// Makes the file appear. Throws std::logic_error when bytes are missing, IoError on failure.
  void finish();

 private:
  std::vector<TensorPlan> tensors_;
  std::string header_;
  std::uint64_t missing_ = 0;  ///< Bytes of data still to come.
  core::AtomicFile file_;
};

/// One file of a model and what it holds.
struct Shard {
  std::string file;  ///< "model.safetensors" or "model-00001-of-00003.safetensors".
  std::vector<TensorPlan> tensors;
};

/// The bytes of data in a file of 5 GB, huggingface_hub's default.
inline constexpr std::uint64_t kDefaultShardBytes = 5'000'000'000;

/// Spreads tensors over files of at most `max_shard_bytes` of data, greedily in the order given; a
/// tensor larger than that has a file of its own. One file suffices: "model.safetensors".
[[nodiscard]] std::vector<Shard> plan_shards(std::vector<TensorPlan> tensors,
                                             std::uint64_t max_shard_bytes = kDefaultShardBytes);

/// Writes `folder`/model.safetensors.index.json for several shards; for one it writes nothing.
void write_shard_index(const std::filesystem::path& folder, std::span<const Shard> shards);

}  // namespace weft::checkpoint
