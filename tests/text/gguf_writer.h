#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

namespace weft::tests {

/// Writes GGUF files that hold metadata only, as llama.cpp's vocabulary files do.
class GgufWriter {
 public:
  GgufWriter& text(std::string_view key, std::string_view value) {
    begin(key, 8);
    put_text(value);
    return *this;
  }
  GgufWriter& number(std::string_view key, std::uint32_t value) {
    begin(key, 4);
    put(value);
    return *this;
  }
  GgufWriter& flag(std::string_view key, bool value) {
    begin(key, 7);
    put(static_cast<std::uint8_t>(value));
    return *this;
  }
  GgufWriter& texts(std::string_view key, const std::vector<std::string>& values) {
    begin_array(key, 8, values.size());
    for (const std::string& value : values) put_text(value);
    return *this;
  }
  GgufWriter& numbers(std::string_view key, const std::vector<std::int32_t>& values) {
    begin_array(key, 5, values.size());
    for (const std::int32_t value : values) put(value);
    return *this;
  }
  GgufWriter& reals(std::string_view key, const std::vector<float>& values) {
    begin_array(key, 6, values.size());
    for (const float value : values) put(value);
    return *this;
  }

  void write(const std::filesystem::path& path) const {
    std::string head = "GGUF";
    const std::uint32_t version = 3;
    const std::uint64_t tensors = 0;
    append(head, version);
    append(head, tensors);
    append(head, keys_);
    std::ofstream(path, std::ios::binary) << head << bytes_;
  }

 private:
  template <typename T>
  static void append(std::string& out, T value) {
    char raw[sizeof(T)];
    std::memcpy(raw, &value, sizeof(T));
    out.append(raw, sizeof(T));
  }
  template <typename T>
  void put(T value) {
    append(bytes_, value);
  }
  void put_text(std::string_view value) {
    put(std::uint64_t{value.size()});
    bytes_ += value;
  }
  void begin(std::string_view key, std::uint32_t type) {
    ++keys_;
    put_text(key);
    put(type);
  }
  void begin_array(std::string_view key, std::uint32_t type, std::size_t count) {
    begin(key, 9);
    put(type);
    put(std::uint64_t{count});
  }

  std::string bytes_;
  std::uint64_t keys_ = 0;
};

}  // namespace weft::tests
