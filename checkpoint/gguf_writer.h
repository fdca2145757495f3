#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf.h"
#include "core/file.h"

namespace weft::checkpoint {

/// The metadata of a GGUF file that is to be written, in the order in which keys are first set.
/// Setting a key again replaces its value. The types are those that llama.cpp insists on.
class GgufFields {
 public:
  void set_u32(std::string_view key, std::int64_t value);  ///< InputError when it does not fit.
  void set_f32(std::string_view key, double value);
  void set_bool(std::string_view key, bool value);
  void set_string(std::string_view key, std::string_view value);
  void set_strings(std::string_view key, std::span<const std::string> values);
  void set_i32s(std::string_view key, std::span<const std::int32_t> values);
  void set_f32s(std::string_view key, std::span<const float> values);
  void set_bools(std::string_view key, const std::vector<bool>& values);
  /// A key as another file has it: same type, same value.
  void set_entry(const GgufEntry& entry);

  [[nodiscard]] bool contains(std::string_view key) const;
  [[nodiscard]] std::size_t size() const noexcept { return fields_.size(); }
  /// All fields, encoded.
  [[nodiscard]] std::string bytes() const;

 private:
  struct Field {
    std::string key;
    std::string value;  ///< The type's number and the value, as in the file.
  };
  void put(std::string_view key, std::string value);
  std::vector<Field> fields_;
};

/// A tensor that is to be written, under its GGUF name.
struct GgufTensorPlan {
  std::string name;
  std::vector<std::int64_t> shape;  ///< Row-major: [out, in]; the file lists it reversed.
  Storage storage = Storage::kF32;

  /// Bytes of the data. InputError, naming the tensor, when a row is no whole number of blocks.
  [[nodiscard]] std::uint64_t bytes() const;
};

/// Writes a GGUF file (version 3) as a stream: header and offsets follow from the plan, the data
/// are given tensor by tensor in the order of the plan, each in as many pieces as suit. The file
/// appears on finish() (core::AtomicFile).
class GgufWriter {
 public:
  /// InputError for names of 64 bytes or more (ggml's limit), duplicates, and more than 4
  /// dimensions; IoError when the file cannot be written.
  GgufWriter(const std::filesystem::path& path, const GgufFields& fields,
             std::vector<GgufTensorPlan> tensors);

  [[nodiscard]] const std::vector<GgufTensorPlan>& tensors() const noexcept { return tensors_; }
  /// The next bytes of the current tensor; std::logic_error when they go beyond it.
  void write(std::span<const std::byte> bytes);
  /// Makes the file appear. Throws std::logic_error when bytes are missing, IoError on failure.
  void finish();
  /// Bytes of the whole file, known before any data are written.
  [[nodiscard]] std::uint64_t total_bytes() const noexcept { return total_; }

 private:
  void end_tensor();

  std::vector<GgufTensorPlan> tensors_;
  std::size_t current_ = 0;
  std::uint64_t missing_ = 0;  ///< Bytes that the current tensor still lacks.
  std::uint64_t total_ = 0;
  core::AtomicFile file_;
};

}  // namespace weft::checkpoint
