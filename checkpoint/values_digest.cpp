#include "checkpoint/values_digest.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>

#include "checkpoint/mxfp4.h"
#include "checkpoint/stored_rows.h"
#include "core/hash.h"
#include "core/parallel.h"
#include "core/stop.h"

namespace weft::checkpoint {
namespace {

constexpr const char* kDoing = "reading the weights for their digest";

using core::Sha256Lanes;

/// Floats that a thread holds of a tensor that it hashes alone, and of each beside others.
constexpr std::int64_t kTensorChunk = std::int64_t{1} << 18;
constexpr std::int64_t kLaneChunk = std::int64_t{1} << 13;
/// Blocks of each lane between two looks at what has ended.
constexpr std::size_t kLaneBlocks = 256;
/// Bytes of a lane after which their pages are given back.
constexpr std::size_t kReleased = std::size_t{256} << 10;

std::uint64_t float_bytes(const StoredTensor& tensor) {
  return sizeof(float) * static_cast<std::uint64_t>(tensor.info.elements());
}

bool is_plain(const StoredTensor& tensor, Storage storage) {
  return tensor.info.storage == storage && !tensor.arrangement;
}

void tell(const BytesRead& read, const std::vector<StoredPart>& parts) {
  for (const StoredPart& part : parts) read(part.shard, part.bytes);
}

/// Rows that hold about as many floats.
std::int64_t rows_in(const TensorInfo& tensor, std::int64_t floats) {
  const std::int64_t group = row_group(tensor);
  const std::int64_t width = std::max<std::int64_t>(1, tensor.row_elements());
  return std::max(group, floats / width / group * group);
}

/// The digest of one tensor by itself.
std::string digest_alone(const StoredTensor& tensor, const BytesRead& read) {
  core::Sha256 hash;
  const TensorInfo& info = tensor.info;
  if (is_plain(tensor, Storage::kF32) || info.storage == Storage::kOther) {
    constexpr std::size_t kBytes = kTensorChunk * sizeof(float);
    for (std::size_t at = 0; at < tensor.bytes.size(); at += kBytes) {
      core::leave_if_stopped(kDoing);
      const auto part = tensor.bytes.subspan(at, std::min(kBytes, tensor.bytes.size() - at));
      hash.update(part);
      read(tensor.shard, part);
    }
    return hash.finish();
  }
  const std::int64_t step = rows_in(info, kTensorChunk);
  std::vector<float> values;
  for (std::int64_t begin = 0; begin < info.rows(); begin += step) {
    core::leave_if_stopped(kDoing);
    const std::int64_t end = std::min(info.rows(), begin + step);
    values.resize(static_cast<std::size_t>((end - begin) * info.row_elements()));
    read_stored_rows(tensor, begin, end, values);
    hash.update(std::as_bytes(std::span(values)));
    tell(read, parts_of(tensor, begin, end));
  }
  return hash.finish();
}

/// What a lane has in hand: bytes of the file where they are what is hashed, else floats.
enum class Form { kBF16, kFloats };

/// Places of tensors, largest first; threads take them one by one.
struct Queue {
  std::vector<std::size_t> places;
  std::atomic<std::size_t> next{0};
};

/// The tensor of one lane, read piece by piece.
class Reader {
 public:
  void open(std::size_t place, const StoredTensor& tensor, const BytesRead& read) {
    place_ = place;
    tensor_ = &tensor;
    read_ = &read;
    released_ = 0;
    row_ = 0;
    const bool direct = is_plain(tensor, Storage::kF32) || is_plain(tensor, Storage::kBF16);
    ready_ = direct ? tensor.bytes : std::span<const std::byte>();
    rows_ = direct ? 0 : tensor.info.rows();
  }
  void close() { tensor_ = nullptr; }

  [[nodiscard]] bool is_open() const noexcept { return tensor_ != nullptr; }
  [[nodiscard]] std::size_t place() const noexcept { return place_; }
  /// Bytes that were not hashed yet; all that are left when they are fewer than asked for.
  std::span<const std::byte> ready(std::size_t wanted) {
    while (ready_.size() < wanted && row_ < rows_) read_rows();
    return ready_;
  }
  void skip(std::size_t bytes) {
    ready_ = ready_.subspan(bytes);
    if (rows_ == 0) release(kReleased);
  }
  /// The last pages too.
  void finish() {
    if (rows_ == 0) release(1);
  }

 private:
  void read_rows() {
    const TensorInfo& info = tensor_->info;
    const std::int64_t width = info.row_elements();
    const std::int64_t step = rows_in(info, kLaneChunk);
    const std::int64_t end = std::min(rows_, row_ + step);
    std::vector<float> values((ready_.size() / sizeof(float)) +
                              static_cast<std::size_t>((end - row_) * width));
    if (!ready_.empty()) std::memcpy(values.data(), ready_.data(), ready_.size());
    read_stored_rows(*tensor_, row_, end, std::span(values).subspan(ready_.size() / sizeof(float)));
    tell(*read_, parts_of(*tensor_, row_, end));
    values_ = std::move(values);
    ready_ = std::as_bytes(std::span(values_));
    row_ = end;
  }
  void release(std::size_t least) {
    const std::size_t hashed = tensor_->bytes.size() - ready_.size();
    if (hashed - released_ < least) return;
    (*read_)(tensor_->shard, tensor_->bytes.subspan(released_, hashed - released_));
    released_ = hashed;
  }

  std::size_t place_ = 0;
  const StoredTensor* tensor_ = nullptr;
  const BytesRead* read_ = nullptr;
  std::span<const std::byte> ready_;
  std::vector<float> values_;
  std::size_t released_ = 0;
  std::int64_t row_ = 0;
  std::int64_t rows_ = 0;  ///< Rows to read; 0: `ready_` has been all of it from the start.
};

/// One thread's lanes, each with a tensor of the queue until none is left.
class SideBySide {
 public:
  SideBySide(Form form, std::span<const StoredTensor* const> tensors, Queue& queue,
             const BytesRead& read, std::span<std::string> digests)
      : block_(form == Form::kBF16 ? Sha256Lanes::kBlock / 2 : Sha256Lanes::kBlock),
        form_(form),
        tensors_(tensors),
        queue_(queue),
        read_(read),
        digests_(digests) {}

  void run() {
    for (std::size_t lane = 0; lane < hash_.streams(); ++lane) take(lane);
    while (std::ranges::any_of(readers_, &Reader::is_open)) {
      core::leave_if_stopped(kDoing);
      step();
    }
  }

 private:
  /// Gives the lane the next tensor that has a whole block, ending those that have none.
  void take(std::size_t lane) {
    Reader& reader = readers_[lane];
    while (true) {
      const std::size_t at = queue_.next++;
      if (at >= queue_.places.size()) return reader.close();
      const std::size_t place = queue_.places[at];
      reader.open(place, *tensors_[place], read_);
      hash_.start(lane);
      if (reader.ready(block_).size() >= block_) return;
      end(lane);
    }
  }

  void end(std::size_t lane) {
    Reader& reader = readers_[lane];
    const std::span<const std::byte> rest = reader.ready(block_);
    std::array<float, Sha256Lanes::kBlock / sizeof(float)> floats{};
    std::span<const std::byte> bytes = rest;
    if (form_ == Form::kBF16) {
      for (std::size_t i = 0; i < rest.size() / 2; ++i) {
        std::uint16_t bits = 0;
        std::memcpy(&bits, rest.data() + 2 * i, sizeof bits);
        floats[i] = core::bf16_to_float(bits);
      }
      bytes = std::as_bytes(std::span(floats)).first(2 * rest.size());
    }
    digests_[reader.place()] = hash_.finish(lane, bytes);
    reader.skip(rest.size());
    reader.finish();
  }

  void step() {
    std::size_t blocks = kLaneBlocks;
    Sha256Lanes::Sources from{};
    for (std::size_t lane = 0; lane < readers_.size(); ++lane) {
      if (!readers_[lane].is_open()) continue;
      const std::span<const std::byte> ready = readers_[lane].ready(block_);
      blocks = std::min(blocks, ready.size() / block_);
      from[lane] = ready.data();
    }
    if (form_ == Form::kBF16) {
      hash_.update_bf16(from, blocks);
    } else {
      hash_.update(from, blocks);
    }
    for (std::size_t lane = 0; lane < readers_.size(); ++lane) {
      if (!readers_[lane].is_open()) continue;
      readers_[lane].skip(blocks * block_);
      if (readers_[lane].ready(block_).size() >= block_) continue;
      end(lane);
      take(lane);
    }
  }

  std::size_t block_;  ///< Bytes of a source that make a block.
  Form form_;
  std::span<const StoredTensor* const> tensors_;
  Queue& queue_;
  const BytesRead& read_;
  std::span<std::string> digests_;
  Sha256Lanes hash_;
  std::array<Reader, Sha256Lanes::kLanes> readers_;
};

/// Moves what would keep a lane busy when all others have ended to those that are hashed alone.
void part_large(Queue& queue, Queue& alone, std::span<const StoredTensor* const> tensors) {
  std::uint64_t total = 0;
  for (const std::size_t place : queue.places) total += float_bytes(*tensors[place]);
  const std::uint64_t share =
      total / (Sha256Lanes().streams() * static_cast<std::uint64_t>(core::thread_count()));
  const auto small = std::ranges::stable_partition(
      queue.places, [&](std::size_t place) { return float_bytes(*tensors[place]) > share; });
  alone.places.insert(alone.places.end(), queue.places.begin(), small.begin());
  queue.places.erase(queue.places.begin(), small.begin());
}

}  // namespace

std::vector<std::string> values_digests(std::span<const StoredTensor* const> tensors,
                                        const BytesRead& read, bool side_by_side) {
  Queue alone;
  Queue halves;
  Queue floats;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const bool together = side_by_side && tensors[i]->info.storage != Storage::kOther;
    Queue& queue = !together ? alone : is_plain(*tensors[i], Storage::kBF16) ? halves : floats;
    queue.places.push_back(i);
  }
  if (side_by_side) {
    part_large(halves, alone, tensors);
    part_large(floats, alone, tensors);
  }
  for (Queue* queue : {&alone, &halves, &floats}) {
    std::ranges::stable_sort(queue->places, std::greater<>(),
                             [&](std::size_t place) { return tensors[place]->info.elements(); });
  }
  std::vector<std::string> digests(tensors.size());
  core::parallel_for(core::thread_count(), 1, [&](std::int64_t, std::int64_t) {
    for (std::size_t at = alone.next++; at < alone.places.size(); at = alone.next++) {
      const std::size_t place = alone.places[at];
      digests[place] = digest_alone(*tensors[place], read);
    }
    SideBySide(Form::kBF16, tensors, halves, read, digests).run();
    SideBySide(Form::kFloats, tensors, floats, read, digests).run();
  });
  return digests;
}

}  // namespace weft::checkpoint
