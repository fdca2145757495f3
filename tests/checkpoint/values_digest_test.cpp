#include "checkpoint/values_digest.h"

#include <gtest/gtest.h>

#include <atomic>
#include <random>

#include "checkpoint/stored_rows.h"
#include "core/hash.h"
#include "core/parallel.h"

// Whether tensors are hashed side by side or one by one must not show in a digest.

namespace weft::checkpoint {
namespace {

/// Tensors of every way a lane reads, and the bytes that hold them.
class Tensors {
 public:
  Tensors() {
    for (std::int64_t count = 0; count < 70; ++count)
      add(Storage::kBF16, "BF16", {count}, 2 * count);
    for (std::int64_t count = 0; count < 40; ++count) add(Storage::kF32, "F32", {count}, 4 * count);
    for (std::int64_t rows = 1; rows < 30; ++rows) {
      add(Storage::kBF16, "BF16", {rows, 129}, rows * 129 * 2);
      add(Storage::kF16, "F16", {rows, 129}, rows * 129 * 2);
      add(Storage::kF32, "F32", {8 * rows, 96}, rows * 8 * 96 * 4, 8);
      add(Storage::kBF16, "BF16", {8 * rows}, rows * 8 * 2, 8);
      add(Storage::kQ8_0, "Q8_0", {rows, 64}, rows * 2 * 34);
    }
    add(Storage::kBF16, "BF16", {700, 1000}, 700 * 1000 * 2);  // One that outweighs the rest.
    add(Storage::kF16, "F16", {40, 20000}, 40 * 20000 * 2);
    add(Storage::kOther, "I64", {77}, 77 * 8);
  }

  [[nodiscard]] std::vector<const StoredTensor*> all() const {
    std::vector<const StoredTensor*> pointers;
    for (const auto& tensor : tensors_) pointers.push_back(&tensor);
    return pointers;
  }

 private:
  void add(Storage storage, std::string name, std::vector<std::int64_t> shape, std::int64_t bytes,
           std::int64_t head = 0) {
    held_.push_back(std::vector<std::byte>(static_cast<std::size_t>(bytes)));
    for (std::byte& byte : held_.back()) byte = static_cast<std::byte>(engine_() & 0x3bU);
    StoredTensor tensor;
    tensor.info.name = name + std::to_string(tensors_.size());
    tensor.info.shape = std::move(shape);
    tensor.info.storage = storage;
    tensor.info.storage_name = std::move(name);
    tensor.info.bytes = held_.back().size();
    tensor.bytes = held_.back();
    tensor.shard = tensors_.size();
    if (head > 0) tensor.arrangement = interleaved(tensor, head);
    tensors_.push_back(std::move(tensor));
  }

  /// Rows as llama.cpp's rotary kernel wants them, the two halves of each head by turns.
  static std::shared_ptr<const Arrangement> interleaved(const StoredTensor& tensor,
                                                        std::int64_t head) {
    auto arranged = std::make_shared<Arrangement>();
    const std::int64_t rows = tensor.info.shape.front();
    arranged->pieces.push_back({tensor.bytes, tensor.info.storage, rows});
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::int64_t within = row % head;
      arranged->rows.push_back(row - within + 2 * (within % (head / 2)) + within / (head / 2));
    }
    return arranged;
  }

  std::mt19937 engine_{7};
  std::vector<std::vector<std::byte>> held_;
  std::vector<StoredTensor> tensors_;
};

std::string definition(const StoredTensor& tensor) {
  core::Sha256 hash;
  if (tensor.info.storage == Storage::kOther) {
    hash.update(tensor.bytes);
    return hash.finish();
  }
  std::vector<float> values(static_cast<std::size_t>(tensor.info.elements()));
  read_stored_rows(tensor, 0, tensor.info.rows(), values);
  hash.update(std::as_bytes(std::span(values)));
  return hash.finish();
}

void expect_definition(bool side_by_side) {
  const Tensors tensors;
  const std::vector<const StoredTensor*> all = tensors.all();
  for (const int threads : {1, 3}) {
    core::set_thread_count(threads);
    std::vector<std::atomic<std::size_t>> heard(all.size());
    const BytesRead read = [&](std::size_t shard, std::span<const std::byte> part) {
      heard[shard] += part.size();
    };
    const std::vector<std::string> digests = values_digests(all, read, side_by_side);
    for (std::size_t i = 0; i < all.size(); ++i) {
      EXPECT_EQ(definition(*all[i]), digests[i]) << all[i]->info.name;
      EXPECT_EQ(all[i]->bytes.size(), heard[i]) << all[i]->info.name;
    }
  }
  core::set_thread_count(0);
}

TEST(ValuesDigest, IsThatOfTheFloatsOneByOne) { expect_definition(false); }

TEST(ValuesDigest, IsThatOfTheFloatsSideBySide) {
  if (!core::Sha256Lanes::available())
    GTEST_SKIP() << "the processor has no AVX-512BW and no SHA instructions";
  expect_definition(true);
}

}  // namespace
}  // namespace weft::checkpoint
