#include "checkpoint/gguf_writer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <set>
#include <stdexcept>
#include <utility>

#include "checkpoint/dequantize.h"
#include "checkpoint/printable.h"
#include "core/error.h"

namespace weft::checkpoint {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF files are little-endian");

constexpr std::uint64_t kAlignment = 32;  // general.alignment's default
constexpr std::size_t kLongestName = 63;  // GGML_MAX_NAME less the terminator

template <typename T>
void append(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void append_text(std::string& out, std::string_view text) {
  append(out, static_cast<std::uint64_t>(text.size()));
  out += text;
}

std::string typed(GgufType type) {
  std::string out;
  append(out, static_cast<std::uint32_t>(type));
  return out;
}

template <typename T>
std::string scalar_value(GgufType type, T value) {
  std::string out = typed(type);
  append(out, value);
  return out;
}

std::string array_start(GgufType element, std::uint64_t count) {
  std::string out = typed(GgufType::kArray);
  append(out, static_cast<std::uint32_t>(element));
  append(out, count);
  return out;
}

template <typename T>
std::string number_array(GgufType element, std::span<const T> values) {
  std::string out = array_start(element, values.size());
  out.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
  return out;
}

std::string array_value(const GgufArray& array) {
  std::string out = array_start(array.element, array.count);
  if (array.element == GgufType::kString) {
    for (const std::string_view text : array.strings) append_text(out, text);
  } else {
    out.append(reinterpret_cast<const char*>(array.raw.data()), array.raw.size());
  }
  return out;
}

/// An integer in the width its type has; two's complement, so the low bytes are the value.
std::string integer_value(GgufType type, std::uint64_t bits) {
  const std::size_t width = type == GgufType::kU8 || type == GgufType::kI8     ? 1
                            : type == GgufType::kU16 || type == GgufType::kI16 ? 2
                            : type == GgufType::kU32 || type == GgufType::kI32 ? 4
                                                                               : 8;
  std::string out = typed(type);
  out.append(reinterpret_cast<const char*>(&bits), width);
  return out;
}

std::uint64_t padded(std::uint64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

void check_plan(const std::filesystem::path& path, std::span<const GgufTensorPlan> tensors) {
  std::set<std::string_view> names;
  for (const GgufTensorPlan& tensor : tensors) {
    const std::string name = printable(tensor.name);
    if (tensor.name.empty() || tensor.name.size() > kLongestName) {
      throw InputError("{}: the tensor name {} has {} bytes, GGUF allows {}", path.string(), name,
                       tensor.name.size(), kLongestName);
    }
    if (tensor.shape.empty() || tensor.shape.size() > 4) {
      throw InputError("{}: tensor {} has {} dimensions, GGUF allows 1 to 4", path.string(), name,
                       tensor.shape.size());
    }
    if (tensor.bytes() == 0) throw InputError("{}: tensor {} is empty", path.string(), name);
    if (!names.insert(tensor.name).second) {
      throw InputError("{}: two tensors are called {}", path.string(), name);
    }
  }
}

std::string header_of(const GgufFields& fields, std::span<const GgufTensorPlan> tensors) {
  std::string out = "GGUF";
  append(out, std::uint32_t{3});
  append(out, static_cast<std::uint64_t>(tensors.size()));
  append(out, static_cast<std::uint64_t>(fields.size()));
  out += fields.bytes();
  std::uint64_t offset = 0;
  for (const GgufTensorPlan& tensor : tensors) {
    append_text(out, tensor.name);
    append(out, static_cast<std::uint32_t>(tensor.shape.size()));
    for (auto size = tensor.shape.rbegin(); size != tensor.shape.rend(); ++size) {
      append(out, static_cast<std::uint64_t>(*size));
    }
    append(out, find_ggml_type(name_of(tensor.storage))->id);
    append(out, offset);
    offset += padded(tensor.bytes());
  }
  out.resize(padded(out.size()), '\0');
  return out;
}

}  // namespace

void GgufFields::put(std::string_view key, std::string value) {
  const auto found = std::ranges::find(fields_, key, &Field::key);
  if (found != fields_.end()) {
    found->value = std::move(value);
  } else {
    fields_.push_back({std::string(key), std::move(value)});
  }
}

void GgufFields::set_u32(std::string_view key, std::int64_t value) {
  if (!std::in_range<std::uint32_t>(value)) {
    throw InputError("metadata '{}' would be {}, GGUF has 32 bits without sign for it", key, value);
  }
  put(key, scalar_value(GgufType::kU32, static_cast<std::uint32_t>(value)));
}
void GgufFields::set_f32(std::string_view key, double value) {
  put(key, scalar_value(GgufType::kF32, static_cast<float>(value)));
}
void GgufFields::set_bool(std::string_view key, bool value) {
  put(key, scalar_value(GgufType::kBool, static_cast<std::uint8_t>(value ? 1 : 0)));
}
void GgufFields::set_string(std::string_view key, std::string_view value) {
  std::string out = typed(GgufType::kString);
  append_text(out, value);
  put(key, std::move(out));
}
void GgufFields::set_strings(std::string_view key, std::span<const std::string> values) {
  std::string out = array_start(GgufType::kString, values.size());
  for (const std::string& value : values) append_text(out, value);
  put(key, std::move(out));
}
void GgufFields::set_i32s(std::string_view key, std::span<const std::int32_t> values) {
  put(key, number_array(GgufType::kI32, values));
}
void GgufFields::set_f32s(std::string_view key, std::span<const float> values) {
  put(key, number_array(GgufType::kF32, values));
}
void GgufFields::set_bools(std::string_view key, const std::vector<bool>& values) {
  const std::vector<std::uint8_t> bytes(values.begin(), values.end());
  put(key, number_array(GgufType::kBool, std::span<const std::uint8_t>(bytes)));
}

void GgufFields::set_entry(const GgufEntry& entry) {
  if (const auto* array = std::get_if<GgufArray>(&entry.value)) {
    put(entry.key, array_value(*array));
  } else if (const auto* text = std::get_if<std::string_view>(&entry.value)) {
    set_string(entry.key, *text);
  } else if (const auto* flag = std::get_if<bool>(&entry.value)) {
    set_bool(entry.key, *flag);
  } else if (const auto* real = std::get_if<double>(&entry.value)) {
    put(entry.key, entry.type == GgufType::kF64
                       ? scalar_value(GgufType::kF64, *real)
                       : scalar_value(GgufType::kF32, static_cast<float>(*real)));
  } else if (const auto* whole = std::get_if<std::int64_t>(&entry.value)) {
    put(entry.key, integer_value(entry.type, static_cast<std::uint64_t>(*whole)));
  } else {
    put(entry.key, integer_value(entry.type, std::get<std::uint64_t>(entry.value)));
  }
}

bool GgufFields::contains(std::string_view key) const {
  return std::ranges::find(fields_, key, &Field::key) != fields_.end();
}

std::string GgufFields::bytes() const {
  std::string out;
  for (const Field& field : fields_) {
    append_text(out, field.key);
    out += field.value;
  }
  return out;
}

std::uint64_t GgufTensorPlan::bytes() const {
  std::uint64_t elements = 1;
  for (const std::int64_t size : shape) elements *= static_cast<std::uint64_t>(size);
  const BlockSize block = block_size(storage);
  if (block.elements == 0 || shape.empty() ||
      shape.back() % static_cast<std::int64_t>(block.elements) != 0) {
    throw InputError("tensor {}: rows of {} are no whole blocks of {} ({} elements each)",
                     printable(name), shape.empty() ? 0 : shape.back(), name_of(storage),
                     block.elements);
  }
  return elements / block.elements * block.bytes;
}

GgufWriter::GgufWriter(const std::filesystem::path& path, const GgufFields& fields,
                       std::vector<GgufTensorPlan> tensors)
    : tensors_(std::move(tensors)), file_(path) {
  check_plan(path, tensors_);
  const std::string header = header_of(fields, tensors_);
  total_ = header.size();
  for (const GgufTensorPlan& tensor : tensors_) total_ += padded(tensor.bytes());
  file_.write(header);
  if (!tensors_.empty()) missing_ = tensors_.front().bytes();
}

void GgufWriter::write(std::span<const std::byte> bytes) {
  if (bytes.size() > missing_) throw std::logic_error("more bytes than the tensor has");
  file_.write(bytes);
  missing_ -= bytes.size();
  if (missing_ == 0) end_tensor();
}

void GgufWriter::end_tensor() {
  static constexpr std::byte kZeros[kAlignment] = {};
  const std::uint64_t bytes = tensors_[current_].bytes();
  file_.write(std::span(kZeros, padded(bytes) - bytes));
  ++current_;
  if (current_ < tensors_.size()) missing_ = tensors_[current_].bytes();
}

void GgufWriter::finish() {
  if (current_ != tensors_.size()) throw std::logic_error("tensor data are missing");
  file_.commit();
}

}  // namespace weft::checkpoint
