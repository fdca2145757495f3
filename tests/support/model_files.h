#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// Bytes of model files, made by hand so that a test can also make wrong ones.

namespace weft::tests {

/// The bytes of a number as they lie in memory (little-endian).
template <typename T>
std::string bytes_of(T value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

inline std::string bytes_of(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

/// A safetensors file: the header as given, then the data.
inline std::string safetensors_bytes(std::string_view header, std::string_view data = "") {
  return bytes_of(std::uint64_t{header.size()}) + std::string(header) + std::string(data);
}

/// A GGUF file, record by record.
class GgufBuilder {
 public:
  static constexpr std::uint32_t kU8 = 0, kI8 = 1, kU16 = 2, kI16 = 3, kU32 = 4, kI32 = 5, kF32 = 6,
                                 kBool = 7, kString = 8, kArray = 9, kU64 = 10, kI64 = 11,
                                 kF64 = 12;

  static std::string string(std::string_view text) {
    return bytes_of(std::uint64_t{text.size()}) + std::string(text);
  }

  /// A metadata record with the value's bytes as given.
  GgufBuilder& raw(std::string_view key, std::uint32_t type, std::string_view value) {
    metadata_ += string(key) + bytes_of(type) + std::string(value);
    ++metadata_count_;
    return *this;
  }
  GgufBuilder& text(std::string_view key, std::string_view value) {
    return raw(key, kString, string(value));
  }
  GgufBuilder& u32(std::string_view key, std::uint32_t value) {
    return raw(key, kU32, bytes_of(value));
  }
  GgufBuilder& f32(std::string_view key, float value) { return raw(key, kF32, bytes_of(value)); }
  GgufBuilder& array(std::string_view key, std::uint32_t element, std::uint64_t count,
                     std::string_view elements) {
    return raw(key, kArray, bytes_of(element) + bytes_of(count) + std::string(elements));
  }
  GgufBuilder& texts(std::string_view key, const std::vector<std::string>& values) {
    std::string elements;
    for (const std::string& value : values) elements += string(value);
    return array(key, kString, values.size(), elements);
  }

  /// A tensor record with every field as given; `dimensions` in the file's order (fastest first).
  GgufBuilder& raw_tensor(std::string_view name, const std::vector<std::uint64_t>& dimensions,
                          std::uint32_t type, std::uint64_t offset) {
    tensors_ += string(name) + bytes_of(static_cast<std::uint32_t>(dimensions.size()));
    for (const std::uint64_t size : dimensions) tensors_ += bytes_of(size);
    tensors_ += bytes_of(type) + bytes_of(offset);
    ++tensor_count_;
    return *this;
  }
  /// A tensor with its data, placed where it belongs.
  GgufBuilder& tensor(std::string_view name, const std::vector<std::uint64_t>& dimensions,
                      std::uint32_t type, std::string_view data) {
    raw_tensor(name, dimensions, type, data_.size());
    data_ += data;
    data_.resize((data_.size() + alignment - 1) / alignment * alignment);
    return *this;
  }
  GgufBuilder& f32_tensor(std::string_view name, const std::vector<std::uint64_t>& dimensions,
                          const std::vector<float>& values) {
    return tensor(name, dimensions, 0, bytes_of(values));
  }

  [[nodiscard]] std::string build() const {
    std::string file = magic + bytes_of(version);
    file += bytes_of(tensor_count_ + extra_tensors) + bytes_of(metadata_count_ + extra_metadata);
    file += metadata_ + tensors_;
    file.resize((file.size() + alignment - 1) / alignment * alignment);
    return file + data_;
  }

  // What a test may get wrong on purpose.
  std::string magic = "GGUF";
  std::uint32_t version = 3;
  std::size_t alignment = 32;
  std::uint64_t extra_tensors = 0;
  std::uint64_t extra_metadata = 0;

 private:
  std::string metadata_, tensors_, data_;
  std::uint64_t metadata_count_ = 0, tensor_count_ = 0;
};

/// The metadata of a model of one layer with experts, of which two are visited.
inline void add_expert_metadata(GgufBuilder& file, const std::string& architecture,
                                std::uint32_t hidden, std::uint32_t width, std::uint32_t experts) {
  file.text("general.architecture", architecture);
  for (const auto& [key, value] : {std::pair<const char*, std::uint32_t>("block_count", 1),
                                   {"embedding_length", hidden},
                                   {"feed_forward_length", width},
                                   {"context_length", 32},
                                   {"attention.head_count", 2},
                                   {"expert_feed_forward_length", width},
                                   {"attention.sliding_window", 4},
                                   {"expert_used_count", 2},
                                   {"expert_count", experts}}) {
    file.u32(architecture + "." + key, value);
  }
  file.f32(architecture + ".attention.layer_norm_rms_epsilon", 1e-5F);
}

}  // namespace weft::tests
