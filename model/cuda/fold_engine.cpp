// Folds on a GPU (lora/fold_engine.h): two tiles at a time, each with a stream, memory of the GPU
// and pinned memory of its own, so that one is copied while the other is computed.

#include "lora/fold_engine.h"

#include <cuda_runtime_api.h>

#include <array>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/error.h"
#include "model/cuda/cuda.h"
#include "model/cuda/fold.h"
#include "model/cuda/launch.h"

namespace weft::cuda {
namespace {

void check(cudaError_t status) {
  if (status != cudaSuccess) throw IoError("the GPU: {}", cudaGetErrorString(status));
}

/// Bytes up to the next place where any type of number may begin.
constexpr std::size_t aligned(std::size_t bytes) { return (bytes + 15) / 16 * 16; }

enum class Where { kGpu, kPinned };

/// Memory that grows when more is asked for and then holds anything. Nothing may use it then.
template <Where where>
class Memory {
 public:
  Memory() = default;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { release(); }

  std::byte* room(std::size_t bytes) {
    if (bytes <= size_) return static_cast<std::byte*>(data_);
    release();
    check(where == Where::kGpu ? cudaMalloc(&data_, bytes) : cudaMallocHost(&data_, bytes));
    size_ = bytes;
    return static_cast<std::byte*>(data_);
  }
  [[nodiscard]] std::byte* data() const { return static_cast<std::byte*>(data_); }

 private:
  void release() noexcept {
    // What a failure here could say was said by the call that failed.
    if (data_ != nullptr) (void)(where == Where::kGpu ? cudaFree(data_) : cudaFreeHost(data_));
    data_ = nullptr;
    size_ = 0;
  }
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

class Stream {
 public:
  Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() {
    (void)cudaStreamSynchronize(stream_);
    (void)cudaStreamDestroy(stream_);
  }
  [[nodiscard]] cudaStream_t get() const { return stream_; }
  void wait() const { check(cudaStreamSynchronize(stream_)); }

 private:
  cudaStream_t stream_ = nullptr;
};

/// A tile under way.
struct Slot {
  // [base | left factor] go up in one copy, [numbers | figures of rows] come down in one.
  Memory<Where::kPinned> pinned_in, pinned_out;
  Memory<Where::kGpu> in, parts, out;
  std::int64_t rows = 0;
  Stream stream;  ///< Last, so that it is waited for before the memory goes.
};

class GpuFold final : public lora::FoldEngine {
 public:
  GpuFold(int index, std::string description)
      : index_(index), description_(std::move(description)) {}

  [[nodiscard]] const std::string& description() const override { return description_; }

  void begin(const lora::ScaledPairs& pairs, core::DType from, core::DType to) override {
    check(cudaSetDevice(index_));
    for (const Slot& slot : slots_) slot.stream.wait();
    first_ = 0;
    under_way_ = 0;
    pairs_ = pairs;
    from_ = from;
    to_ = to;
    const cudaStream_t stream = slots_.front().stream.get();
    check(cudaMemcpyAsync(right_.room(pairs.right.size_bytes()), pairs.right.data(),
                          pairs.right.size_bytes(), cudaMemcpyHostToDevice, stream));
    check(cudaMemcpyAsync(scales_.room(pairs.scales.size_bytes()), pairs.scales.data(),
                          pairs.scales.size_bytes(), cudaMemcpyHostToDevice, stream));
    slots_.front().stream.wait();
  }

  void submit(std::int64_t first_row, std::span<const std::byte> base) override {
    if (under_way_ == kInFlight) throw std::logic_error("submit() of more tiles than kInFlight");
    check(cudaSetDevice(index_));
    Slot& slot = slots_[(first_ + under_way_) % kInFlight];
    slot.rows = static_cast<std::int64_t>(base.size()) / (pairs_.columns * core::size_of(from_));
    const auto left = pairs_.left.subspan(static_cast<std::size_t>(first_row * pairs_.rank),
                                          static_cast<std::size_t>(slot.rows * pairs_.rank));
    const std::size_t left_at = aligned(base.size());
    const std::size_t bytes = left_at + left.size_bytes();
    std::byte* const pinned = slot.pinned_in.room(bytes);
    std::memcpy(pinned, base.data(), base.size());
    std::memcpy(pinned + left_at, left.data(), left.size_bytes());
    const cudaStream_t stream = slot.stream.get();
    check(cudaMemcpyAsync(slot.in.room(bytes), pinned, bytes, cudaMemcpyHostToDevice, stream));
    compute(slot, left_at);
    check(cudaMemcpyAsync(slot.pinned_out.room(bytes_of(slot)), slot.out.data(), bytes_of(slot),
                          cudaMemcpyDeviceToHost, stream));
    ++under_way_;
  }

  void collect(std::span<std::byte> out, std::span<lora::FoldedRow> rows) override {
    if (under_way_ == 0) throw std::logic_error("collect() of a tile that was not submitted");
    check(cudaSetDevice(index_));
    const Slot& slot = slots_[first_];
    first_ = (first_ + 1) % kInFlight;
    --under_way_;
    slot.stream.wait();
    if (out.size() != numbers_of(slot) || rows.size() != static_cast<std::size_t>(slot.rows))
      throw std::logic_error("collect() of a tile of another size");
    std::memcpy(out.data(), slot.pinned_out.data(), out.size());
    std::memcpy(rows.data(), slot.pinned_out.data() + aligned(out.size()), rows.size_bytes());
  }

 private:
  /// Bytes of a tile's numbers as they are written.
  [[nodiscard]] std::size_t numbers_of(const Slot& slot) const {
    return static_cast<std::size_t>(slot.rows * pairs_.columns * core::size_of(to_));
  }
  /// Of all that comes down.
  [[nodiscard]] std::size_t bytes_of(const Slot& slot) const {
    return aligned(numbers_of(slot)) +
           static_cast<std::size_t>(slot.rows) * sizeof(lora::FoldedRow);
  }

  /// Starts the kernels of a tile whose input goes to slot.in.
  void compute(Slot& slot, std::size_t left_at) {
    FoldTile tile{};
    tile.base = slot.in.data();
    tile.left = reinterpret_cast<const float*>(slot.in.data() + left_at);
    tile.right = reinterpret_cast<const float*>(right_.data());
    tile.scales = reinterpret_cast<const double*>(scales_.data());
    tile.rows = slot.rows;
    tile.columns = pairs_.columns;
    tile.rank = pairs_.rank;
    tile.from = from_;
    tile.to = to_;
    std::byte* const out = slot.out.room(bytes_of(slot));
    tile.out = out;
    const auto parts = static_cast<std::size_t>(tile.rows * tile.chunks());
    tile.parts =
        reinterpret_cast<lora::FoldedRow*>(slot.parts.room(parts * sizeof(lora::FoldedRow)));
    launch(tile, tile.blocks(), FoldTile::kThreads, FoldTile::kSharedFloats, slot.stream.get());
    FoldRows rows{};
    rows.parts = tile.parts;
    rows.rows = reinterpret_cast<lora::FoldedRow*>(out + aligned(numbers_of(slot)));
    rows.count = tile.rows;
    rows.chunks = tile.chunks();
    launch_elements(rows, rows.count, slot.stream.get());
  }

  int index_;
  std::string description_;
  lora::ScaledPairs pairs_;
  core::DType from_ = core::DType::kF32;
  core::DType to_ = core::DType::kF32;
  Memory<Where::kGpu> right_, scales_;
  std::array<Slot, kInFlight> slots_;
  std::size_t first_ = 0;  ///< Of slots_: the tile that was submitted first.
  std::size_t under_way_ = 0;
};

}  // namespace
}  // namespace weft::cuda

extern "C" [[gnu::visibility("default")]] const char* weft_cuda_fold(
    int index, const char* description, weft::lora::FoldEngine** engine) {
  static std::string problem;
  try {
    weft::cuda::check(cudaSetDevice(index));
    *engine = new weft::cuda::GpuFold(index, description);
    return nullptr;
  } catch (const std::exception& error) {
    problem = error.what();
    return problem.c_str();
  }
}
