#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "core/file.h"
#include "core/hash.h"
#include "data/example_table.h"

namespace weft::data {

// A token file holds the examples of a run as they are trained, to be mapped. All numbers are
// little-endian, as the machine's:
//
//   head      "WEFTTOK1", then the key: 64 hexadecimal digits that say what the tokens were made of
//   examples  each: tokens int32[n], marks uint8[n], zeros up to a multiple of 4
//   index     each: offset uint64, tokens uint32, zero uint32; in the order of the examples
//   facts     JSON: what was found while the examples were made
//   tail      offset of the index uint64, number of examples uint64, bytes of the facts uint64,
//             SHA-256 of everything before it as 64 digits, "WEFTTOK1"

/// Writes a token file piece by piece; only the index (16 bytes an example) is held.
class TokenFileWriter {
 public:
  using Sink = std::function<void(std::span<const std::byte>)>;

  /// `sink` gets the bytes in order. `key` has 64 characters.
  TokenFileWriter(Sink sink, const std::string& key);

  /// Examples end up in ascending order of `place`, those of one place as they came.
  void add(const ExampleView& example, std::int64_t place);
  void finish(const nlohmann::json& facts);

 private:
  void write(const void* data, std::size_t bytes);
  void flush();

  struct Entry {
    std::uint64_t offset;
    std::uint32_t tokens;
    std::uint32_t zero;
  };

  Sink sink_;
  core::Sha256 hash_;
  std::vector<std::byte> buffer_;
  std::uint64_t position_ = 0;
  std::vector<Entry> index_;
  std::vector<std::int64_t> places_;
};

/// A mapped token file.
class TokenFile {
 public:
  enum class Trust : std::uint8_t {
    kVerify,  ///< Read everything once and compare its SHA-256.
    kOwn      ///< This process has just written it: sizes are looked at, contents are not.
  };
  /// InputError, with the reason, for a file that is no token file, is cut off or damaged, or was
  /// made for another key.
  TokenFile(const std::filesystem::path& path, const std::string& key, Trust trust);

  [[nodiscard]] std::size_t size() const noexcept { return count_; }
  [[nodiscard]] ExampleView operator[](std::size_t i) const;
  [[nodiscard]] const nlohmann::json& facts() const { return facts_; }
  [[nodiscard]] std::uint64_t bytes() const noexcept { return file_.bytes().size(); }
  void release() const noexcept { file_.release(file_.bytes()); }

 private:
  void verify(std::size_t body) const;

  core::MappedFile file_;
  std::size_t index_ = 0;
  std::size_t count_ = 0;
  nlohmann::json facts_;
};

}  // namespace weft::data
