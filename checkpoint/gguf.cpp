#include "checkpoint/gguf.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <functional>
#include <limits>
#include <utility>

#include "checkpoint/printable.h"
#include "core/error.h"
#include "core/utf8.h"

namespace weft::checkpoint {
namespace {

static_assert(std::endian::native == std::endian::little,
              "files are little-endian and are mapped, not converted");

constexpr std::uint32_t kMaxDimensions = 4;
constexpr std::uint64_t kMaxNameBytes = 64;  // GGML_MAX_NAME
constexpr std::uint64_t kMaxKeyBytes = 65535;
constexpr std::uint64_t kDefaultAlignment = 32;
// The least a record can take in a file; bounds the counts that a file may claim.
constexpr std::uint64_t kLeastEntryBytes = 8 + 4 + 1;
constexpr std::uint64_t kLeastTensorBytes = 8 + 4 + 4 + 8;

constexpr std::uint32_t kSuper = 256;  // Elements of a super-block (QK_K).
constexpr std::array kGgmlTypes{GgmlType{0, "F32", 1, 4},
                                GgmlType{1, "F16", 1, 2},
                                GgmlType{2, "Q4_0", 32, 18},
                                GgmlType{3, "Q4_1", 32, 20},
                                GgmlType{6, "Q5_0", 32, 22},
                                GgmlType{7, "Q5_1", 32, 24},
                                GgmlType{8, "Q8_0", 32, 34},
                                GgmlType{9, "Q8_1", 32, 40},
                                GgmlType{10, "Q2_K", kSuper, 84},
                                GgmlType{11, "Q3_K", kSuper, 110},
                                GgmlType{12, "Q4_K", kSuper, 144},
                                GgmlType{13, "Q5_K", kSuper, 176},
                                GgmlType{14, "Q6_K", kSuper, 210},
                                GgmlType{15, "Q8_K", kSuper, 292},
                                GgmlType{16, "IQ2_XXS", kSuper, 66},
                                GgmlType{17, "IQ2_XS", kSuper, 74},
                                GgmlType{18, "IQ3_XXS", kSuper, 98},
                                GgmlType{19, "IQ1_S", kSuper, 50},
                                GgmlType{20, "IQ4_NL", 32, 18},
                                GgmlType{21, "IQ3_S", kSuper, 110},
                                GgmlType{22, "IQ2_S", kSuper, 82},
                                GgmlType{23, "IQ4_XS", kSuper, 136},
                                GgmlType{24, "I8", 1, 1},
                                GgmlType{25, "I16", 1, 2},
                                GgmlType{26, "I32", 1, 4},
                                GgmlType{27, "I64", 1, 8},
                                GgmlType{28, "F64", 1, 8},
                                GgmlType{29, "IQ1_M", kSuper, 56},
                                GgmlType{30, "BF16", 1, 2},
                                GgmlType{34, "TQ1_0", kSuper, 54},
                                GgmlType{35, "TQ2_0", kSuper, 66},
                                GgmlType{39, "MXFP4", 32, 17},
                                GgmlType{40, "NVFP4", 64, 36},
                                GgmlType{41, "Q1_0", 128, 18}};

/// Bytes of a value of fixed size; 0 for strings and arrays.
constexpr std::uint64_t width_of(GgufType type) noexcept {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kBool: return 1;
    case GgufType::kU16:
    case GgufType::kI16: return 2;
    case GgufType::kU32:
    case GgufType::kI32:
    case GgufType::kF32: return 4;
    case GgufType::kU64:
    case GgufType::kI64:
    case GgufType::kF64: return 8;
    case GgufType::kString:
    case GgufType::kArray: return 0;
  }
  return 0;
}

template <typename T>
T load(const std::byte* at) noexcept {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

/// Walks through the bytes of a file; every step is checked against what is left.
class Cursor {
 public:
  Cursor(std::span<const std::byte> file, std::string_view where) : file_(file), where_(where) {}

  [[nodiscard]] std::uint64_t position() const noexcept { return position_; }
  [[nodiscard]] std::uint64_t left() const noexcept { return file_.size() - position_; }

  std::span<const std::byte> take(std::uint64_t bytes, std::string_view what) {
    if (bytes > left()) {
      fail("{} needs {} bytes at byte {}, only {} are left (a file cut short?)", what, bytes,
           position_, left());
    }
    const auto taken = file_.subspan(position_, bytes);
    position_ += bytes;
    return taken;
  }

  template <typename T>
  T number(std::string_view what) {
    return load<T>(take(sizeof(T), what).data());
  }

  std::string_view string(std::string_view what) {
    const auto length = number<std::uint64_t>(what);
    const auto bytes = take(length, what);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> text, Args&&... args) const {
    throw InputError("{}: {}", where_, fmt::format(text, std::forward<Args>(args)...));
  }

 private:
  std::span<const std::byte> file_;
  std::string_view where_;
  std::uint64_t position_ = 0;
};

using Value = decltype(GgufEntry::value);

Value scalar(GgufType type, const std::byte* at) {
  switch (type) {
    case GgufType::kU8: return std::uint64_t{load<std::uint8_t>(at)};
    case GgufType::kI8: return std::int64_t{load<std::int8_t>(at)};
    case GgufType::kU16: return std::uint64_t{load<std::uint16_t>(at)};
    case GgufType::kI16: return std::int64_t{load<std::int16_t>(at)};
    case GgufType::kU32: return std::uint64_t{load<std::uint32_t>(at)};
    case GgufType::kI32: return std::int64_t{load<std::int32_t>(at)};
    case GgufType::kF32: return double{load<float>(at)};
    case GgufType::kBool: return load<std::uint8_t>(at) != 0;
    case GgufType::kU64: return load<std::uint64_t>(at);
    case GgufType::kI64: return load<std::int64_t>(at);
    case GgufType::kF64: return load<double>(at);
    case GgufType::kString:
    case GgufType::kArray: break;
  }
  return false;
}

GgufType read_type(Cursor& cursor, std::string_view what) {
  const auto id = cursor.number<std::uint32_t>(what);
  if (id > static_cast<std::uint32_t>(GgufType::kF64)) {
    cursor.fail("{} has the unknown type {}", what, id);
  }
  return static_cast<GgufType>(id);
}

void check_booleans(const Cursor& cursor, std::span<const std::byte> bytes, std::string_view what) {
  if (std::ranges::any_of(bytes, [](std::byte b) { return b > std::byte{1}; })) {
    cursor.fail("{}: a boolean must be 0 or 1", what);
  }
}

GgufArray read_array(Cursor& cursor, std::string_view what) {
  GgufArray array;
  array.element = read_type(cursor, what);
  array.count = cursor.number<std::uint64_t>(what);
  if (array.element == GgufType::kArray) cursor.fail("{} is an array of arrays", what);
  const std::uint64_t least =
      array.element == GgufType::kString ? sizeof(std::uint64_t) : width_of(array.element);
  if (array.count > cursor.left() / least) {
    cursor.fail("{} claims {} elements, only {} bytes are left (a file cut short?)", what,
                array.count, cursor.left());
  }
  if (array.element == GgufType::kString) {
    array.strings.reserve(array.count);
    for (std::uint64_t i = 0; i < array.count; ++i) array.strings.push_back(cursor.string(what));
  } else {
    array.raw = cursor.take(array.count * least, what);
    if (array.element == GgufType::kBool) check_booleans(cursor, array.raw, what);
  }
  return array;
}

GgufEntry read_entry(Cursor& cursor) {
  const std::string_view key = cursor.string("a metadata key");
  if (key.empty() || key.size() > kMaxKeyBytes || !core::is_utf8(key)) {
    cursor.fail("{} is no metadata key", printable(key));
  }
  GgufEntry entry;
  entry.key = key;
  const std::string what = "metadata " + printable(key);
  entry.type = read_type(cursor, what);
  if (entry.type == GgufType::kString) {
    entry.value = cursor.string(what);
  } else if (entry.type == GgufType::kArray) {
    entry.value = read_array(cursor, what);
  } else {
    const auto bytes = cursor.take(width_of(entry.type), what);
    if (entry.type == GgufType::kBool) check_booleans(cursor, bytes, what);
    entry.value = scalar(entry.type, bytes.data());
  }
  return entry;
}

GgufTensor read_tensor(Cursor& cursor) {
  GgufTensor tensor;
  const std::string_view name = cursor.string("a tensor's name");
  if (name.empty() || name.size() > kMaxNameBytes || !core::is_utf8(name)) {
    cursor.fail("{} is no tensor name (1 to {} bytes of UTF-8)", printable(name), kMaxNameBytes);
  }
  tensor.name = name;
  const std::string what = "tensor " + printable(name);
  const auto dimensions = cursor.number<std::uint32_t>(what);
  if (dimensions > kMaxDimensions) {
    cursor.fail("{} has {} dimensions, at most {} are allowed", what, dimensions, kMaxDimensions);
  }
  std::uint64_t elements = 1;
  for (std::uint32_t i = 0; i < dimensions; ++i) {
    const auto size = cursor.number<std::uint64_t>(what);
    if (size > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) ||
        __builtin_mul_overflow(elements, size, &elements)) {
      cursor.fail("{}: its size overflows 64 bits", what);
    }
    tensor.shape.insert(tensor.shape.begin(), static_cast<std::int64_t>(size));
  }
  const auto type = cursor.number<std::uint32_t>(what);
  tensor.type = find_ggml_type(type);
  if (tensor.type == nullptr) cursor.fail("{} has the unknown type {}", what, type);
  const std::uint64_t block = tensor.type->block_elements;
  const auto row = tensor.shape.empty() ? 1U : static_cast<std::uint64_t>(tensor.shape.back());
  if (row % block != 0) {
    cursor.fail("{}: rows of {} elements are not whole {} blocks of {}", what, row,
                tensor.type->name, block);
  }
  if (__builtin_mul_overflow(elements / block, std::uint64_t{tensor.type->block_bytes},
                             &tensor.bytes)) {
    cursor.fail("{}: its size overflows 64 bits", what);
  }
  tensor.offset = cursor.number<std::uint64_t>(what);
  return tensor;
}

/// Sorts by name and refuses names that come twice.
template <typename T>
void sort_by_name(std::vector<T>& items, std::string T::*name, const Cursor& cursor,
                  std::string_view kind) {
  std::ranges::sort(items, {}, name);
  const auto twice = std::ranges::adjacent_find(items, {}, name);
  if (twice != items.end()) {
    cursor.fail("the {} {} appears twice", kind, printable(std::invoke(name, *twice)));
  }
}

std::uint64_t read_alignment(const std::vector<GgufEntry>& metadata, const Cursor& cursor) {
  const auto found = std::ranges::lower_bound(metadata, std::string_view("general.alignment"), {},
                                              &GgufEntry::key);
  if (found == metadata.end() || found->key != "general.alignment") return kDefaultAlignment;
  const auto* value = std::get_if<std::uint64_t>(&found->value);
  if (found->type != GgufType::kU32 || value == nullptr || !std::has_single_bit(*value)) {
    cursor.fail("general.alignment must be a power of two as u32");
  }
  return *value;
}

/// Tensors, still in the order of the file, must follow each other, padded to the alignment.
void check_offsets(std::span<const GgufTensor> tensors, std::uint64_t alignment,
                   std::uint64_t data_bytes, const Cursor& cursor) {
  std::uint64_t reached = 0;
  for (const GgufTensor& tensor : tensors) {
    const std::string name = printable(tensor.name);
    if (tensor.offset != reached) {
      cursor.fail("tensor {} begins at byte {} of the data, expected {}", name, tensor.offset,
                  reached);
    }
    if (tensor.bytes > data_bytes || tensor.offset > data_bytes - tensor.bytes) {
      cursor.fail("tensor {} needs bytes [{}, {} + {}) of the data, the file has {} (cut short?)",
                  name, tensor.offset, tensor.offset, tensor.bytes, data_bytes);
    }
    // Cannot overflow: both are at most the file's size, the alignment at most 2^31.
    reached = (tensor.offset + tensor.bytes + alignment - 1) / alignment * alignment;
  }
}

void read_start(Cursor& cursor, GgufHeader& header) {
  if (cursor.left() < 4 || std::memcmp(cursor.take(4, "the magic").data(), "GGUF", 4) != 0) {
    cursor.fail("not a GGUF file: it does not begin with 'GGUF'");
  }
  header.version = cursor.number<std::uint32_t>("the version");
  if (header.version != 0 && (header.version & 0xffffU) == 0) {
    cursor.fail("a big-endian GGUF file; only little-endian files are read");
  }
  if (header.version != 2 && header.version != 3) {
    cursor.fail("GGUF version {}; versions 2 and 3 are read", header.version);
  }
}

}  // namespace

std::string_view name_of(GgufType type) noexcept {
  static constexpr std::array<std::string_view, 13> kNames{"u8",  "i8",  "u16",  "i16",    "u32",
                                                           "i32", "f32", "bool", "string", "array",
                                                           "u64", "i64", "f64"};
  return kNames[static_cast<std::size_t>(type)];
}

const GgmlType* find_ggml_type(std::uint32_t id) noexcept {
  const auto found = std::ranges::find(kGgmlTypes, id, &GgmlType::id);
  return found == kGgmlTypes.end() ? nullptr : &*found;
}

const GgmlType* find_ggml_type(std::string_view name) noexcept {
  const auto found = std::ranges::find(kGgmlTypes, name, &GgmlType::name);
  return found == kGgmlTypes.end() ? nullptr : &*found;
}

GgufHeader parse_gguf(std::span<const std::byte> file, std::string_view where) {
  Cursor cursor(file, where);
  GgufHeader header;
  read_start(cursor, header);
  const auto tensor_count = cursor.number<std::uint64_t>("the number of tensors");
  const auto entry_count = cursor.number<std::uint64_t>("the number of metadata keys");
  if (entry_count > cursor.left() / kLeastEntryBytes ||
      tensor_count > cursor.left() / kLeastTensorBytes) {
    cursor.fail(
        "claims {} metadata keys and {} tensors, only {} bytes are left (a file cut short?)",
        entry_count, tensor_count, cursor.left());
  }
  // Grown as records are read: a claimed count alone reserves nothing.
  for (std::uint64_t i = 0; i < entry_count; ++i) header.metadata.push_back(read_entry(cursor));
  sort_by_name(header.metadata, &GgufEntry::key, cursor, "metadata key");
  const std::uint64_t alignment = read_alignment(header.metadata, cursor);
  for (std::uint64_t i = 0; i < tensor_count; ++i) header.tensors.push_back(read_tensor(cursor));

  const std::uint64_t padding = (alignment - cursor.position() % alignment) % alignment;
  // A file without tensors may end without the padding.
  header.data_offset = cursor.position() + std::min(padding, cursor.left());
  check_offsets(header.tensors, alignment, file.size() - header.data_offset, cursor);
  sort_by_name(header.tensors, &GgufTensor::name, cursor, "tensor");
  return header;
}

Gguf::Gguf(core::MappedFile file, GgufHeader header)
    : file_(std::move(file)), header_(std::move(header)) {}

Gguf Gguf::open(const std::filesystem::path& path) {
  core::MappedFile file(path);
  GgufHeader header = parse_gguf(file.bytes(), path.string());
  return {std::move(file), std::move(header)};
}

const GgufEntry* Gguf::find(std::string_view key) const {
  const auto found = std::ranges::lower_bound(header_.metadata, key, {}, &GgufEntry::key);
  return found != header_.metadata.end() && found->key == key ? &*found : nullptr;
}

namespace {

[[noreturn]] void wrong_type(const Gguf& file, const GgufEntry& entry, std::string_view expected) {
  const auto* array = std::get_if<GgufArray>(&entry.value);
  throw InputError("{}: metadata {} must be {}, found {}{}", file.path().string(),
                   printable(entry.key), expected, array == nullptr ? "" : "an array of ",
                   name_of(array == nullptr ? entry.type : array->element));
}

/// The value as 64 signed bits; nothing when it is no integer or too large.
std::optional<std::int64_t> as_integer(const Value& value) {
  if (const auto* number = std::get_if<std::int64_t>(&value)) return *number;
  if (const auto* number = std::get_if<std::uint64_t>(&value)) {
    if (std::in_range<std::int64_t>(*number)) return static_cast<std::int64_t>(*number);
  }
  return std::nullopt;
}

std::optional<double> as_real(const Value& value) {
  if (const auto* number = std::get_if<double>(&value)) return *number;
  if (const auto* number = std::get_if<std::int64_t>(&value)) return static_cast<double>(*number);
  if (const auto* number = std::get_if<std::uint64_t>(&value)) return static_cast<double>(*number);
  return std::nullopt;
}

/// The elements of an array of numbers, each through `convert`.
template <typename T, typename Convert>
std::optional<std::vector<T>> numbers(const Gguf& file, std::string_view key,
                                      std::string_view expected, Convert convert) {
  const GgufEntry* entry = file.find(key);
  if (entry == nullptr) return std::nullopt;
  const auto* array = std::get_if<GgufArray>(&entry->value);
  if (array == nullptr || array->element == GgufType::kString ||
      array->element == GgufType::kBool) {
    wrong_type(file, *entry, expected);
  }
  std::vector<T> result(array->count);
  const std::uint64_t width = width_of(array->element);
  for (std::uint64_t i = 0; i < array->count; ++i) {
    const auto value = convert(scalar(array->element, array->raw.data() + i * width));
    if (!value) wrong_type(file, *entry, expected);
    result[i] = static_cast<T>(*value);
  }
  return result;
}

}  // namespace

std::optional<std::string_view> Gguf::string(std::string_view key) const {
  const GgufEntry* entry = find(key);
  if (entry == nullptr) return std::nullopt;
  const auto* text = std::get_if<std::string_view>(&entry->value);
  if (text == nullptr) wrong_type(*this, *entry, "a string");
  return *text;
}

std::optional<std::int64_t> Gguf::integer(std::string_view key) const {
  const GgufEntry* entry = find(key);
  if (entry == nullptr) return std::nullopt;
  const auto value = as_integer(entry->value);
  if (!value) wrong_type(*this, *entry, "an integer of at most 63 bits");
  return value;
}

std::optional<double> Gguf::real(std::string_view key) const {
  const GgufEntry* entry = find(key);
  if (entry == nullptr) return std::nullopt;
  const auto value = as_real(entry->value);
  if (!value) wrong_type(*this, *entry, "a number");
  return value;
}

std::optional<bool> Gguf::boolean(std::string_view key) const {
  const GgufEntry* entry = find(key);
  if (entry == nullptr) return std::nullopt;
  const auto* value = std::get_if<bool>(&entry->value);
  if (value == nullptr) wrong_type(*this, *entry, "a bool");
  return *value;
}

std::optional<std::span<const std::string_view>> Gguf::strings(std::string_view key) const {
  const GgufEntry* entry = find(key);
  if (entry == nullptr) return std::nullopt;
  const auto* array = std::get_if<GgufArray>(&entry->value);
  if (array == nullptr || array->element != GgufType::kString) {
    wrong_type(*this, *entry, "an array of string");
  }
  return array->strings;
}

std::optional<std::vector<std::int64_t>> Gguf::integers(std::string_view key) const {
  return numbers<std::int64_t>(*this, key, "an array of integers", as_integer);
}

std::optional<std::vector<float>> Gguf::reals(std::string_view key) const {
  return numbers<float>(*this, key, "an array of numbers", as_real);
}

const GgufTensor* Gguf::find_tensor(std::string_view name) const {
  const auto found = std::ranges::lower_bound(header_.tensors, name, {}, &GgufTensor::name);
  return found != header_.tensors.end() && found->name == name ? &*found : nullptr;
}

std::span<const std::byte> Gguf::bytes(const GgufTensor& tensor) const {
  return file_.bytes().subspan(header_.data_offset + tensor.offset, tensor.bytes);
}

void Gguf::release(const GgufTensor& tensor) const { file_.release(bytes(tensor)); }

}  // namespace weft::checkpoint
