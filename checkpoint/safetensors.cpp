#include "checkpoint/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <set>
#include <utility>

#include "checkpoint/printable.h"
#include "core/error.h"

namespace weft::checkpoint {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little,
              "files are little-endian and are mapped, not converted");

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::string_view kMetadataKey = "__metadata__";

struct DtypeBits {
  std::string_view name;
  int bits;
};

// In the order of safetensors' own enumeration, which is also the order (reversed) in which its
// writer lays tensors out.
constexpr std::array kDtypes{
    DtypeBits{"BOOL", 8},        DtypeBits{"F4", 4},          DtypeBits{"F6_E2M3", 6},
    DtypeBits{"F6_E3M2", 6},     DtypeBits{"U8", 8},          DtypeBits{"I8", 8},
    DtypeBits{"F8_E5M2", 8},     DtypeBits{"F8_E4M3", 8},     DtypeBits{"F8_E8M0", 8},
    DtypeBits{"F8_E4M3FNUZ", 8}, DtypeBits{"F8_E5M2FNUZ", 8}, DtypeBits{"I16", 16},
    DtypeBits{"U16", 16},        DtypeBits{"F16", 16},        DtypeBits{"BF16", 16},
    DtypeBits{"I32", 32},        DtypeBits{"U32", 32},        DtypeBits{"F32", 32},
    DtypeBits{"C64", 64},        DtypeBits{"F64", 64},        DtypeBits{"I64", 64},
    DtypeBits{"U64", 64}};

constexpr auto kDtypeNames = [] {
  std::array<std::string_view, kDtypes.size()> names{};
  for (std::size_t i = 0; i < names.size(); ++i) names[i] = kDtypes[i].name;
  return names;
}();

/// Follows the parser through the only shape a header may have:
/// {"__metadata__": {"k": "v"}, "name": {"dtype": "F32", "shape": [..], "data_offsets": [..]}}.
/// Everything else ends in an InputError, so depth and memory stay bounded by the header's bytes.
class HeaderReader {
 public:
  using number_integer_t = json::number_integer_t;
  using number_unsigned_t = json::number_unsigned_t;
  using number_float_t = json::number_float_t;
  using string_t = json::string_t;
  using binary_t = json::binary_t;

  HeaderReader(std::string_view where, SafetensorsHeader& header)
      : where_(where), header_(header) {}

  bool start_object(std::size_t) {
    if (place_ == Place::kStart) {
      place_ = Place::kTop;
    } else if (place_ == Place::kTop) {
      place_ = key_ == kMetadataKey ? Place::kMetadata : Place::kTensor;
      if (place_ == Place::kTensor) {
        header_.entries.emplace_back().name = key_;
        has_dtype_ = has_shape_ = has_offsets_ = false;
      }
    } else {
      unexpected("an object");
    }
    return true;
  }

  bool key(string_t& name) {
    if (place_ == Place::kTop) {
      key_ = name;
      if (!names_.insert(name).second) fail("the name {} appears twice", printable(name));
    } else if (place_ == Place::kMetadata) {
      metadata_key_ = name;
      if (header_.metadata.contains(name))
        fail("the metadata key {} appears twice", printable(name));
    } else {
      field_ = name;
      bool* const seen = name == "dtype"          ? &has_dtype_
                         : name == "shape"        ? &has_shape_
                         : name == "data_offsets" ? &has_offsets_
                                                  : nullptr;
      if (seen == nullptr) {
        tensor_fault("unknown key {}; dtype, shape and data_offsets are known", printable(name));
      }
      if (std::exchange(*seen, true)) tensor_fault("the key {} appears twice", printable(name));
    }
    return true;
  }

  bool string(string_t& value) {
    if (place_ == Place::kMetadata) {
      header_.metadata.emplace(metadata_key_, value);
    } else if (place_ == Place::kTensor && field_ == "dtype") {
      if (safetensors_dtype_bits(value) == 0) {
        tensor_fault("unknown dtype {}", printable(value));
      }
      header_.entries.back().dtype = value;
    } else {
      unexpected("a string");
    }
    return true;
  }

  bool start_array(std::size_t) {
    if (place_ != Place::kTensor || field_ == "dtype") unexpected("an array");
    place_ = Place::kNumbers;
    numbers_.clear();
    return true;
  }

  bool number_unsigned(number_unsigned_t value) {
    if (place_ != Place::kNumbers) unexpected("a number");
    numbers_.push_back(value);
    return true;
  }

  bool end_array() {
    place_ = Place::kTensor;
    SafetensorsEntry& entry = header_.entries.back();
    if (field_ == "shape") {
      for (const std::uint64_t size : numbers_) {
        if (size > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
          tensor_fault("a size of {} is too large", size);
        }
        entry.shape.push_back(static_cast<std::int64_t>(size));
      }
    } else {
      if (numbers_.size() != 2) {
        tensor_fault("expected 2 data_offsets, found {}", numbers_.size());
      }
      entry.begin = numbers_[0];
      entry.end = numbers_[1];
    }
    return true;
  }

  bool end_object() {
    if (place_ == Place::kTensor) {
      if (!has_dtype_) tensor_fault("dtype is missing");
      if (!has_shape_) tensor_fault("shape is missing");
      if (!has_offsets_) tensor_fault("data_offsets are missing");
    }
    place_ = place_ == Place::kTop ? Place::kEnd : Place::kTop;
    return true;
  }

  bool null() {  // Python's reader takes a null for no metadata.
    return (place_ == Place::kTop && key_ == kMetadataKey) || unexpected("null");
  }
  bool boolean(bool) { return unexpected("a boolean"); }
  bool number_integer(number_integer_t value) {
    return unexpected(fmt::format("the negative number {}", value));
  }
  bool number_float(number_float_t, const string_t& text) {
    return unexpected(fmt::format("the number {}", printable(text)));
  }
  bool binary(binary_t&) { return unexpected("binary data"); }
  bool parse_error(std::size_t position, const std::string&, const json::exception&) {
    fail("the header is not JSON (at its byte {})", position);
  }

 private:
  enum class Place { kStart, kTop, kMetadata, kTensor, kNumbers, kEnd };

  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> text, Args&&... args) const {
    throw InputError("{}: {}", where_, fmt::format(text, std::forward<Args>(args)...));
  }
  template <typename... Args>
  [[noreturn]] void tensor_fault(fmt::format_string<Args...> text, Args&&... args) const {
    fail("tensor {}: {}", printable(key_), fmt::format(text, std::forward<Args>(args)...));
  }
  [[noreturn]] bool unexpected(std::string_view what) const {
    switch (place_) {
      case Place::kMetadata:
        fail("the metadata {} must be a string, found {}", printable(metadata_key_), what);
      case Place::kTensor:
      case Place::kNumbers: tensor_fault("{} cannot be or hold {}", field_, what);
      default: fail("{} must be an object, found {}", printable(key_), what);
    }
  }

  std::string_view where_;
  SafetensorsHeader& header_;
  Place place_ = Place::kStart;
  std::set<std::string> names_;
  std::string key_, metadata_key_, field_;
  std::vector<std::uint64_t> numbers_;
  bool has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
};

/// Bytes of a tensor; nothing when the product overflows or ends inside a byte.
std::optional<std::uint64_t> byte_count(std::span<const std::int64_t> shape, int bits_per_element) {
  std::uint64_t bits = static_cast<std::uint64_t>(bits_per_element);
  // An empty tensor is empty however large its other sizes are.
  if (std::ranges::find(shape, 0) != shape.end()) return 0;
  for (const std::int64_t size : shape) {
    if (size < 0 || __builtin_mul_overflow(bits, static_cast<std::uint64_t>(size), &bits)) {
      return std::nullopt;
    }
  }
  if (bits % 8 != 0) return std::nullopt;
  return bits / 8;
}

void check_tensor(const SafetensorsEntry& entry, std::uint64_t data_bytes, std::string_view where) {
  if (entry.begin > entry.end || entry.end > data_bytes) {
    throw InputError(
        "{}: tensor {}: its bytes [{}, {}) are not inside the file's {} bytes of data{}", where,
        printable(entry.name), entry.begin, entry.end, data_bytes,
        entry.begin > entry.end ? "" : " (a file cut short?)");
  }
  const auto expected = byte_count(entry.shape, safetensors_dtype_bits(entry.dtype));
  if (!expected) {
    throw InputError(
        "{}: tensor {}: {} of shape [{}] is no whole number of bytes that fits 64 bits", where,
        printable(entry.name), entry.dtype, fmt::join(entry.shape, ", "));
  }
  if (*expected != entry.bytes()) {
    throw InputError("{}: tensor {}: {} of shape [{}] takes {} bytes, its data_offsets say {}",
                     where, printable(entry.name), entry.dtype, fmt::join(entry.shape, ", "),
                     *expected, entry.bytes());
  }
}

/// The ranges must follow each other from the first byte to the last.
void check_tiling(std::span<const SafetensorsEntry> entries, std::uint64_t data_bytes,
                  std::string_view where) {
  std::vector<std::size_t> order(entries.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, {},
                    [&](std::size_t i) { return std::pair(entries[i].begin, entries[i].end); });
  std::uint64_t reached = 0;
  for (const std::size_t i : order) {
    const SafetensorsEntry& entry = entries[i];
    if (entry.begin != reached) {
      throw InputError("{}: tensor {} begins at byte {} of the data, expected {}: {}", where,
                       printable(entry.name), entry.begin, reached,
                       entry.begin < reached ? "tensors overlap" : "there is a hole");
    }
    reached = entry.end;
  }
  if (reached != data_bytes) {
    throw InputError("{}: the tensors end at byte {} of the data, the file has {} bytes of data",
                     where, reached, data_bytes);
  }
}

}  // namespace

std::span<const std::string_view> safetensors_dtypes() noexcept { return kDtypeNames; }

int safetensors_dtype_bits(std::string_view dtype) noexcept {
  const auto found = std::ranges::find(kDtypes, dtype, &DtypeBits::name);
  return found == kDtypes.end() ? 0 : found->bits;
}

std::uint64_t TensorPlan::bytes() const {
  const int bits = safetensors_dtype_bits(dtype);
  if (bits == 0) throw InputError("tensor {}: unknown dtype {}", printable(name), printable(dtype));
  const auto count = byte_count(shape, bits);
  if (!count) {
    throw InputError("tensor {}: {} of shape [{}] is no whole number of bytes that fits 64 bits",
                     printable(name), dtype, fmt::join(shape, ", "));
  }
  return *count;
}

SafetensorsHeader parse_safetensors(std::span<const std::byte> file, std::string_view where) {
  if (file.size() < kLengthBytes) {
    throw InputError("{}: expected a safetensors file, found only {} bytes", where, file.size());
  }
  std::uint64_t length = 0;
  std::copy_n(file.begin(), kLengthBytes, std::as_writable_bytes(std::span(&length, 1)).begin());
  if (length > kMaxSafetensorsHeader) {
    throw InputError(
        "{}: not a safetensors file: it announces a header of {} bytes, at most {} are "
        "allowed",
        where, length, kMaxSafetensorsHeader);
  }
  if (length > file.size() - kLengthBytes) {
    throw InputError("{}: announces a header of {} bytes, only {} bytes follow (a file cut short?)",
                     where, length, file.size() - kLengthBytes);
  }
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + kLengthBytes, length);
  if (!text.starts_with('{')) {
    throw InputError("{}: not a safetensors file: its header must start with '{{'", where);
  }

  // The parser takes a zero byte for the end of its input.
  if (text.find('\0') != std::string_view::npos) {
    throw InputError("{}: the header is not JSON (at its byte {})", where, text.find('\0') + 1);
  }

  SafetensorsHeader header;
  header.data_offset = kLengthBytes + length;
  HeaderReader reader(where, header);
  json::sax_parse(text, &reader);

  const std::uint64_t data_bytes = file.size() - header.data_offset;
  for (const SafetensorsEntry& entry : header.entries) check_tensor(entry, data_bytes, where);
  check_tiling(header.entries, data_bytes, where);
  std::ranges::sort(header.entries, {}, &SafetensorsEntry::name);
  return header;
}

Safetensors::Safetensors(core::MappedFile file, SafetensorsHeader header)
    : file_(std::move(file)), header_(std::move(header)) {}

Safetensors Safetensors::open(const std::filesystem::path& path) {
  core::MappedFile file(path);
  SafetensorsHeader header = parse_safetensors(file.bytes(), path.string());
  return {std::move(file), std::move(header)};
}

const SafetensorsEntry* Safetensors::find(std::string_view name) const {
  const auto found = std::ranges::lower_bound(header_.entries, name, {}, &SafetensorsEntry::name);
  return found != header_.entries.end() && found->name == name ? &*found : nullptr;
}

std::span<const std::byte> Safetensors::bytes(const SafetensorsEntry& entry) const {
  return file_.bytes().subspan(header_.data_offset + entry.begin, entry.bytes());
}

void Safetensors::release(const SafetensorsEntry& entry) const { file_.release(bytes(entry)); }

}  // namespace weft::checkpoint
