#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/file.h"

// GGUF versions 2 and 3, little-endian (ggml-org/ggml, docs/gguf.md): magic, version, counts, the
// metadata (typed key-value pairs), one record per tensor, padding, the data.

namespace weft::checkpoint {

/// Types of metadata values, with the numbers of the format.
enum class GgufType : std::uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12
};

/// "u32", "string", "array", ...
[[nodiscard]] std::string_view name_of(GgufType type) noexcept;

/// A ggml tensor type: elements are stored in blocks of `block_elements`, each `block_bytes` long.
struct GgmlType {
  std::uint32_t id;
  std::string_view name;  ///< "F32", "Q4_K", ... as ggml and gguf-py spell it.
  std::uint32_t block_elements;
  std::uint32_t block_bytes;
};

/// The type with this number in a file, or this name; null when it is not one of ggml's.
[[nodiscard]] const GgmlType* find_ggml_type(std::uint32_t id) noexcept;
[[nodiscard]] const GgmlType* find_ggml_type(std::string_view name) noexcept;

/// An array of a file's metadata: `count` elements. `raw` are the bytes of fixed-size elements,
/// `strings` the elements of an array of strings; both point into the file.
struct GgufArray {
  GgufType element = GgufType::kU8;
  std::uint64_t count = 0;
  std::span<const std::byte> raw;
  std::vector<std::string_view> strings;
};

/// One key of the metadata. Integers of any width are stored as 64 bits, floats as double.
/// Strings point into the file.
struct GgufEntry {
  std::string key;
  GgufType type = GgufType::kU8;
  std::variant<std::int64_t, std::uint64_t, double, bool, std::string_view, GgufArray> value;
};

/// One tensor as the file describes it.
struct GgufTensor {
  std::string name;                 ///< GGUF's own name: "blk.0.attn_q.weight".
  std::vector<std::int64_t> shape;  ///< Row-major: [out, in], the reverse of the file's order.
  const GgmlType* type = nullptr;
  std::uint64_t offset = 0;  ///< From the start of the data.
  std::uint64_t bytes = 0;
};

/// What a file says, after validation.
struct GgufHeader {
  std::uint32_t version = 0;
  std::vector<GgufEntry> metadata;  ///< In order of key.
  std::vector<GgufTensor> tensors;  ///< In order of name.
  std::uint64_t data_offset = 0;    ///< Bytes of the file before the data.
};

/// Reads and validates a whole file in memory: magic, version, counts and lengths against the bytes
/// that are there (before anything is allocated), types, no nested arrays, no duplicate keys or
/// tensors, alignment, block sizes, offsets that follow each other without holes, data inside the
/// file. Strings of the result point into `file`.
/// Throws InputError that begins with `where` (the file) and names the key or tensor.
[[nodiscard]] GgufHeader parse_gguf(std::span<const std::byte> file, std::string_view where);

/// A GGUF file, mapped and validated. Const methods are thread-safe. Views live as long as it does.
class Gguf {
 public:
  /// Throws InputError as parse_gguf() does, IoError when the file cannot be read.
  [[nodiscard]] static Gguf open(const std::filesystem::path& path);

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return file_.path(); }
  [[nodiscard]] std::uint32_t version() const noexcept { return header_.version; }

  /// In order of key.
  [[nodiscard]] const std::vector<GgufEntry>& metadata() const noexcept { return header_.metadata; }
  /// Null when the file has no such key.
  [[nodiscard]] const GgufEntry* find(std::string_view key) const;

  // Typed access: nothing when the key is absent; InputError (file, key, both types) when it holds
  // another kind of value.
  [[nodiscard]] std::optional<std::string_view> string(std::string_view key) const;
  /// Any integer type; InputError when it does not fit.
  [[nodiscard]] std::optional<std::int64_t> integer(std::string_view key) const;
  /// Floats, and integers as floats.
  [[nodiscard]] std::optional<double> real(std::string_view key) const;
  [[nodiscard]] std::optional<bool> boolean(std::string_view key) const;
  [[nodiscard]] std::optional<std::span<const std::string_view>> strings(
      std::string_view key) const;
  [[nodiscard]] std::optional<std::vector<std::int64_t>> integers(std::string_view key) const;
  [[nodiscard]] std::optional<std::vector<float>> reals(std::string_view key) const;

  /// In order of name.
  [[nodiscard]] const std::vector<GgufTensor>& tensors() const noexcept { return header_.tensors; }
  /// Null when there is none of that name.
  [[nodiscard]] const GgufTensor* find_tensor(std::string_view name) const;
  /// The tensor's blocks as stored.
  [[nodiscard]] std::span<const std::byte> bytes(const GgufTensor& tensor) const;
  /// Pages of this tensor will not be needed soon.
  void release(const GgufTensor& tensor) const;
  /// The same for a part of the data.
  void release(std::span<const std::byte> part) const { file_.release(part); }

 private:
  Gguf(core::MappedFile file, GgufHeader header);
  core::MappedFile file_;
  GgufHeader header_;
};

}  // namespace weft::checkpoint
