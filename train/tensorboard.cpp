#include "train/tensorboard.h"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <system_error>

#include "core/error.h"

namespace weft::train {
namespace {

constexpr std::array<std::uint32_t, 256> make_crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1U) != 0 ? 0x82f63b78U : 0U);
    table[i] = crc;
  }
  return table;
}
constexpr std::array<std::uint32_t, 256> kCrcTable = make_crc_table();

/// TFRecord stores checksums rotated and shifted, so that a checksum of checksums works.
std::uint32_t masked_crc(std::string_view bytes) {
  return std::rotr(crc32c(bytes), 15) + 0xa282ead8U;
}

/// Just enough of the protobuf wire format. Field numbers are those of
/// tensorflow/core/util/event.proto and framework/summary.proto.
class Message {
 public:
  void varint(int field, std::uint64_t value) {
    key(field, 0);
    raw_varint(value);
  }
  void fixed64(int field, double value) {
    key(field, 1);
    append_little_endian(std::bit_cast<std::uint64_t>(value), 8);
  }
  void fixed32(int field, float value) {
    key(field, 5);
    append_little_endian(std::bit_cast<std::uint32_t>(value), 4);
  }
  void bytes(int field, std::string_view value) {
    key(field, 2);
    raw_varint(value.size());
    text_.append(value);
  }
  [[nodiscard]] const std::string& text() const { return text_; }

  void append_little_endian(std::uint64_t value, int size) {
    for (int i = 0; i < size; ++i) text_.push_back(static_cast<char>((value >> (8 * i)) & 0xffU));
  }

 private:
  void key(int field, unsigned wire_type) {
    raw_varint((static_cast<std::uint64_t>(field) << 3) | wire_type);
  }
  void raw_varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) text_.push_back(static_cast<char>((value & 0x7fU) | 0x80U));
    text_.push_back(static_cast<char>(value));
  }

  std::string text_;
};

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

Message event_at(std::int64_t update) {
  Message event;
  event.fixed64(1, wall_time());
  if (update != 0) event.varint(2, static_cast<std::uint64_t>(update));
  return event;
}

std::filesystem::path unused_name(const std::filesystem::path& folder) {
  const std::string stem =
      fmt::format("events.out.tfevents.{:010}.weft", static_cast<std::int64_t>(wall_time()));
  std::filesystem::path path = folder / stem;
  for (int i = 1; std::filesystem::exists(path); ++i) path = folder / fmt::format("{}.{}", stem, i);
  return path;
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  std::uint32_t crc = 0xffffffffU;
  for (const char c : bytes)
    crc = (crc >> 8) ^ kCrcTable[(crc ^ static_cast<std::uint8_t>(c)) & 0xffU];
  return ~crc;
}

EventFile::EventFile(const std::filesystem::path& folder, std::int64_t first_update)
    : path_(unused_name(folder)), file_(std::fopen(path_.c_str(), "wbx")) {
  if (!file_) throw IoError("cannot create {}: {}", path_.string(), std::strerror(errno));
  Message version = event_at(0);
  version.bytes(3, "brain.Event:2");
  record(version.text());
  if (first_update > 1) {
    Message session;
    session.varint(1, 1);  // SessionLog.START: readers drop this update and later ones
    Message start = event_at(first_update);
    start.bytes(7, session.text());
    record(start.text());
  }
  flush();
}

void EventFile::scalar(std::string_view tag, std::int64_t update, float value) {
  Message point;
  point.bytes(1, tag);
  point.fixed32(2, value);
  Message summary;
  summary.bytes(1, point.text());
  Message event = event_at(update);
  event.bytes(5, summary.text());
  record(event.text());
}

void EventFile::record(std::string_view event) {
  Message length;
  length.append_little_endian(event.size(), 8);
  const std::string size_bytes = length.text();
  Message framed;
  framed.append_little_endian(event.size(), 8);
  framed.append_little_endian(masked_crc(size_bytes), 4);
  const std::string head = framed.text();
  Message tail;
  tail.append_little_endian(masked_crc(event), 4);
  for (const std::string_view part :
       {std::string_view(head), event, std::string_view(tail.text())}) {
    if (std::fwrite(part.data(), 1, part.size(), file_.get()) != part.size()) {
      throw IoError("cannot write {}: {}", path_.string(), std::strerror(errno));
    }
  }
}

void EventFile::flush() {
  if (std::fflush(file_.get()) != 0) {
    throw IoError("cannot write {}: {}", path_.string(), std::strerror(errno));
  }
}

}  // namespace weft::train
