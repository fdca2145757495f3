#include "data/token_file.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>
#include <string_view>
#include <utility>

#include "core/error.h"

namespace weft::data {
namespace {

static_assert(std::endian::native == std::endian::little, "token files are mapped as they are");

constexpr std::string_view kMagic = "WEFTTOK1";
constexpr std::size_t kDigits = 64;
constexpr std::size_t kHead = kMagic.size() + kDigits;
constexpr std::size_t kEntry = 16;
constexpr std::size_t kTail = 3 * sizeof(std::uint64_t) + kDigits + kMagic.size();
constexpr std::size_t kBuffer = std::size_t{1} << 20;
constexpr std::size_t kHashedAtOnce = std::size_t{16} << 20;

template <typename T>
T number_at(const std::byte* place) {
  T value;
  std::memcpy(&value, place, sizeof(T));
  return value;
}

std::string_view text_at(const std::byte* place, std::size_t size) {
  return {reinterpret_cast<const char*>(place), size};
}

}  // namespace

TokenFileWriter::TokenFileWriter(Sink sink, const std::string& key) : sink_(std::move(sink)) {
  buffer_.reserve(kBuffer);
  write(kMagic.data(), kMagic.size());
  write(key.data(), kDigits);
}

void TokenFileWriter::write(const void* data, std::size_t bytes) {
  if (bytes == 0) return;
  const auto* begin = static_cast<const std::byte*>(data);
  buffer_.insert(buffer_.end(), begin, begin + bytes);
  position_ += bytes;
  if (buffer_.size() >= kBuffer) flush();
}

void TokenFileWriter::flush() {
  hash_.update(buffer_);
  sink_(buffer_);
  buffer_.clear();
}

void TokenFileWriter::add(const ExampleView& example, std::int64_t place) {
  constexpr std::uint32_t kZeros = 0;
  const std::size_t count = example.tokens.size();
  index_.push_back({position_, static_cast<std::uint32_t>(count), 0});
  places_.push_back(place);
  write(example.tokens.data(), count * sizeof(std::int32_t));
  write(example.supervised.data(), count);
  write(&kZeros, (4 - count % 4) % 4);
}

void TokenFileWriter::finish(const nlohmann::json& facts) {
  if (!std::ranges::is_sorted(places_)) {
    std::vector<std::uint32_t> order(index_.size());
    std::iota(order.begin(), order.end(), 0U);
    std::ranges::stable_sort(order, {}, [&](std::uint32_t i) { return places_[i]; });
    std::vector<Entry> sorted;
    sorted.reserve(index_.size());
    for (const std::uint32_t i : order) sorted.push_back(index_[i]);
    index_ = std::move(sorted);
  }
  static_assert(sizeof(Entry) == kEntry);
  const std::uint64_t index_at = position_;
  const std::uint64_t count = index_.size();
  for (const Entry& entry : index_) write(&entry, sizeof(entry));
  // What is said of a bad row may quote bytes that are no text.
  const std::string text = facts.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  const std::uint64_t facts_bytes = text.size();
  write(text.data(), text.size());
  for (const std::uint64_t number : {index_at, count, facts_bytes}) write(&number, sizeof(number));
  flush();
  const std::string tail = hash_.finish() + std::string(kMagic);
  sink_(std::as_bytes(std::span(tail)));
}

TokenFile::TokenFile(const std::filesystem::path& path, const std::string& key, Trust trust)
    : file_(path) {
  const std::span<const std::byte> all = file_.bytes();
  if (all.size() < kHead + kTail || text_at(all.data(), kMagic.size()) != kMagic) {
    throw InputError("it is no token file of this version");
  }
  if (text_at(all.data() + kMagic.size(), kDigits) != key) {
    throw InputError("it was made of other data");
  }
  if (text_at(all.data() + all.size() - kMagic.size(), kMagic.size()) != kMagic) {
    throw InputError("it is cut off");
  }
  const std::byte* tail = all.data() + all.size() - kTail;
  const auto index = number_at<std::uint64_t>(tail);
  const auto count = number_at<std::uint64_t>(tail + 8);
  const auto facts = number_at<std::uint64_t>(tail + 16);
  const std::uint64_t end = all.size() - kTail;  // of the facts
  if (facts > end - kHead || index < kHead || index > end - facts || index % 4 != 0 ||
      count != (end - facts - index) / kEntry || (end - facts - index) % kEntry != 0) {
    throw InputError("its sizes do not agree");
  }
  if (trust == Trust::kVerify) verify(all.size() - kMagic.size() - kDigits);
  index_ = index;
  count_ = count;
  for (std::size_t i = 0; i < count_; ++i) {
    const std::byte* entry = all.data() + index_ + i * kEntry;
    const auto offset = number_at<std::uint64_t>(entry);
    const std::uint64_t bytes = 5 * std::uint64_t{number_at<std::uint32_t>(entry + 8)};
    if (offset < kHead || offset % 4 != 0 || offset > index || bytes > index - offset) {
      throw InputError("example {} lies outside of it", i);
    }
  }
  facts_ = nlohmann::json::parse(text_at(all.data() + end - facts, facts), nullptr, false);
  if (!facts_.is_object()) throw InputError("its facts cannot be read");
}

void TokenFile::verify(std::size_t body) const {
  core::Sha256 hash;
  const std::span<const std::byte> all = file_.bytes();
  for (std::size_t at = 0; at < body; at += kHashedAtOnce) {
    const auto chunk = all.subspan(at, std::min(kHashedAtOnce, body - at));
    hash.update(chunk);
    file_.release(chunk);
  }
  if (text_at(all.data() + body, kDigits) != hash.finish()) {
    throw InputError("its contents do not have the hash they were written with");
  }
}

ExampleView TokenFile::operator[](std::size_t i) const {
  const std::byte* all = file_.bytes().data();
  const std::byte* entry = all + index_ + i * kEntry;
  const std::byte* tokens = all + number_at<std::uint64_t>(entry);
  const std::size_t count = number_at<std::uint32_t>(entry + 8);
  return {{reinterpret_cast<const std::int32_t*>(tokens), count},
          {reinterpret_cast<const std::uint8_t*>(tokens + count * sizeof(std::int32_t)), count}};
}

}  // namespace weft::data
