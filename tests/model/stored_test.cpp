#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/rand.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "checkpoint/dequantize.h"
#include "checkpoint/gguf.h"
#include "checkpoint/quantize.h"
#include "core/number.h"
#include "model/decoder.h"
#include "model/generate.h"
#include "model/kernels/blocks.h"
#include "model/kernels/pack.h"
#include "model/kernels/product.h"
#include "model/memory.h"
#include "model/quantised.h"
#include "tests/model/tiny.h"
#include "tests/support/model_files.h"
#include "tests/support/temp_dir.h"

// Frozen matrices that stay in the blocks of a GGUF file.

namespace weft::tests {
namespace {

using checkpoint::Storage;
using model::BaseFormat;
using model::QuantisedMatrix;

constexpr std::array kBlockFormats{Storage::kQ8_0, Storage::kQ4_0, Storage::kQ4_1, Storage::kQ5_0,
                                   Storage::kQ5_1, Storage::kQ4_K, Storage::kQ5_K, Storage::kQ6_K};

std::vector<float> normal(std::int64_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> distribution(0.01F, 0.05F);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& v : values) v = distribution(random);
  return values;
}

/// Rows of blocks of normal numbers.
at::Tensor blocks_of(Storage storage, std::int64_t rows, std::int64_t columns,
                     std::uint64_t seed = 3) {
  const checkpoint::BlockSize size = checkpoint::block_size(storage);
  at::Tensor blocks =
      at::empty({rows, columns / size.elements * size.bytes}, at::TensorOptions().dtype(at::kByte));
  checkpoint::quantize(storage, normal(rows * columns, seed),
                       {static_cast<std::byte*>(blocks.mutable_data_ptr()),
                        static_cast<std::size_t>(blocks.numel())});
  return blocks;
}

at::Tensor numbers_of(Storage storage, const at::Tensor& blocks, std::int64_t columns) {
  at::Tensor values = at::empty({blocks.size(0), columns}, at::TensorOptions().dtype(at::kFloat));
  checkpoint::dequantize(
      storage,
      {static_cast<const std::byte*>(blocks.const_data_ptr()),
       static_cast<std::size_t>(blocks.numel())},
      {values.mutable_data_ptr<float>(), static_cast<std::size_t>(values.numel())});
  return values;
}

/// Panels of rows [first, first + columns), elements [begin, begin + k), from blocks and from
/// numbers.
template <typename E>
void expect_equal_panels(Storage storage, const model::kernel::Layout& layout) {
  namespace kernel = model::kernel;
  constexpr std::int64_t kRows = 41, kWidth = 768;
  const at::Tensor blocks = blocks_of(storage, kRows, kWidth);
  const at::Tensor numbers =
      numbers_of(storage, blocks, kWidth).to(c10::CppTypeToScalarType<E>::value);
  const QuantisedMatrix matrix(storage, blocks, kWidth);
  for (const auto& [first, columns] :
       {std::pair<std::int64_t, std::int64_t>{0, 41}, {16, 25}, {32, 9}}) {
    for (const auto& [begin, k] :
         {std::pair<std::int64_t, std::int64_t>{0, 768}, {256, 512}, {512, 256}}) {
      const auto size = static_cast<std::size_t>(kernel::round_up(columns, kernel::kLanes) * k);
      std::vector<E> packed(size), expected(size);
      kernel::pack_woven(packed.data(), matrix.woven(), first, columns, begin, k, layout);
      kernel::pack_panel(expected.data(), {numbers.const_data_ptr<E>() + begin, 1, kWidth}, first,
                         columns, k, layout);
      ASSERT_EQ(packed, expected) << checkpoint::name_of(storage) << ", rows from " << first
                                  << ", elements from " << begin;
    }
  }
}

TEST(Stored, BlocksArePackedAsTheNumbersTheyHoldToTheBit) {
  for (const Storage storage : kBlockFormats) {
    expect_equal_panels<float>(storage, {});
    expect_equal_panels<c10::BFloat16>(storage, {.depth = 2});
    expect_equal_panels<c10::BFloat16>(storage, {.depth = 32, .strip = 16});
  }
}

TEST(Stored, PartsOfRowsAreTheNumbersOfTheWholeRoundedOnce) {
  for (const Storage storage : {Storage::kQ4_K, Storage::kQ4_1, Storage::kBF16, Storage::kF32}) {
    const at::Tensor blocks = blocks_of(storage, 5, 512);
    const at::Tensor numbers = numbers_of(storage, blocks, 512);
    const QuantisedMatrix matrix(storage, blocks, 512);
    std::array<c10::BFloat16, 3 * 77> part;
    matrix.read({1, 3, 250, 77}, part.data(), 77);
    for (std::int64_t i = 0; i < 3; ++i) {
      for (std::int64_t j = 0; j < 77; ++j) {
        const float exact = numbers[1 + i][250 + j].item<float>();
        ASSERT_EQ(part[static_cast<std::size_t>(i * 77 + j)].x, core::float_to_bf16(exact));
      }
    }
  }
}

// A step of generation takes panels of another size than a long row does.
TEST(Stored, ProductsHaveTheBitsOfTheDenseMatrixInAnyBatch) {
  WEFT_SKIP_WITHOUT_KERNELS();
  at::manual_seed(7);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const Storage storage : kBlockFormats) {
      constexpr std::int64_t kOut = 150, kIn = 2304;
      const at::Tensor blocks = blocks_of(storage, kOut, kIn);
      const at::Tensor dense = numbers_of(storage, blocks, kIn).to(type);
      const QuantisedMatrix matrix(storage, blocks, kIn);
      const at::Tensor x = (at::rand({40, kIn}) - 0.5).to(type);
      const at::Tensor low = (at::rand({40, 16}) - 0.5).to(type);
      const at::Tensor b = (at::rand({16, kOut}) - 0.5).to(type);
      at::Tensor all = at::empty({40, kOut}, x.options());
      model::product_(all, {{x, dense.t()}, {low, b}});
      for (const std::int64_t rows : {1, 2, 5, 16, 17, 40}) {
        at::Tensor y = at::empty({rows, kOut}, x.options());
        model::product_(
            y, {{x.narrow(0, 40 - rows, rows), matrix, true}, {low.narrow(0, 40 - rows, rows), b}});
        EXPECT_TRUE(y.equal(all.narrow(0, 40 - rows, rows)))
            << checkpoint::name_of(storage) << ", " << rows << " rows";
      }
      const at::Tensor dy = (at::rand({33, kOut}) - 0.5).to(type);
      at::Tensor dx = at::empty({33, kIn}, x.options());
      model::product_(dx, {{dy, matrix, false}});
      EXPECT_TRUE(dx.equal(model::product(dy, dense)));
    }
  }
}

// ---- a model -----------------------------------------------------------------------------------

constexpr std::int64_t kHidden = 256, kInner = 512, kWords = 50, kHeads = 4, kKeyHeads = 2,
                       kHeadDim = 64;

/// A Llama of one layer whose matrices are stored in several formats, as files of mixed types are;
/// with experts, a Mixtral.
class StoredModel : public testing::TestWithParam<int> {
 protected:
  StoredModel() {
    const int experts = GetParam();
    GgufBuilder file;
    add_expert_metadata(file, "llama", kHidden, kInner, static_cast<std::uint32_t>(experts));
    if (experts == 0) {
      file = GgufBuilder();
      file.text("general.architecture", "llama")
          .u32("llama.context_length", 64)
          .u32("llama.embedding_length", kHidden)
          .u32("llama.block_count", 1)
          .u32("llama.feed_forward_length", kInner)
          .u32("llama.attention.head_count", kHeads)
          .f32("llama.attention.layer_norm_rms_epsilon", 1e-5F);
    }
    file.u32("llama.attention.head_count_kv", experts == 0 ? kKeyHeads : 1)
        .u32("llama.rope.dimension_count", experts == 0 ? kHeadDim : kHidden / 2);
    const std::int64_t query = kHidden;
    const std::int64_t key = kHidden / 2;
    add(file, "token_embd", Storage::kQ6_K, {kHidden, kWords});
    if (experts > 0) add(file, "output", Storage::kQ8_0, {kHidden, kWords});
    add(file, "blk.0.attn_q", Storage::kQ4_K, {kHidden, query});
    add(file, "blk.0.attn_k", Storage::kQ4_K, {kHidden, key});
    add(file, "blk.0.attn_v", Storage::kQ6_K, {kHidden, key});
    add(file, "blk.0.attn_output", Storage::kQ5_K, {query, kHidden});
    for (const char* norm : {"blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"})
      file.f32_tensor(std::string(norm) + ".weight", {kHidden}, normal(kHidden, ++seed_));
    if (experts == 0) {
      add(file, "blk.0.ffn_gate", Storage::kQ4_1, {kHidden, kInner});
      add(file, "blk.0.ffn_up", Storage::kF16, {kHidden, kInner});
      add(file, "blk.0.ffn_down", Storage::kQ8_0, {kInner, kHidden});
    } else {
      file.f32_tensor("blk.0.ffn_gate_inp.weight", {kHidden, static_cast<std::uint64_t>(experts)},
                      normal(kHidden * experts, ++seed_));
      add(file, "blk.0.ffn_gate_exps", Storage::kQ4_0, {kHidden, kInner, experts});
      add(file, "blk.0.ffn_up_exps", Storage::kQ4_0, {kHidden, kInner, experts});
      add(file, "blk.0.ffn_down_exps", Storage::kQ5_0, {kInner, kHidden, experts});
    }
    path_ = dir_.write("model.gguf", file.build());
  }

  void add(GgufBuilder& file, const std::string& name, Storage storage,
           const std::vector<std::int64_t>& sizes) {
    std::int64_t rows = 1;
    for (std::size_t i = 1; i < sizes.size(); ++i) rows *= sizes[i];
    const at::Tensor blocks = blocks_of(storage, rows, sizes.front(), ++seed_);
    file.tensor(name + ".weight", {sizes.begin(), sizes.end()},
                checkpoint::find_ggml_type(checkpoint::name_of(storage))->id,
                {static_cast<const char*>(blocks.const_data_ptr()),
                 static_cast<std::size_t>(blocks.numel())});
  }

  TempDir dir_;
  std::uint64_t seed_ = 10;
  std::filesystem::path path_;
};

TEST_P(StoredModel, ComputesTheBitsOfTheDenseOneWithAnAdapterOnTop) {
  const auto file = checkpoint::Checkpoint::open(path_);
  ASSERT_TRUE(model::stores_blocks(file));
  for (const auto compute : {model::Compute::kF32, model::Compute::kBF16}) {
    model::Decoder dense = model::Decoder::load(file, compute);
    model::Decoder stored = model::Decoder::load(file, compute, BaseFormat::kStored);
    const data::Row row = random_row(dense.spec(), {23, 9}, 4);
    for (const bool adapted : {false, true}) {
      if (adapted) {
        const lora::Adapter adapter = random_adapter(dense.spec(), 4, 2, 6);
        dense.attach(adapter, model::Decoder::Use::kInference);
        stored.attach(adapter, model::Decoder::Use::kInference);
      }
      EXPECT_TRUE(stored.logits(row.tokens).equal(dense.logits(row.tokens)));
      EXPECT_EQ(stored.token_losses(row), dense.token_losses(row));
      model::KvCache of_dense, of_stored;
      EXPECT_TRUE(
          stored.next_logits(row.tokens, of_stored).equal(dense.next_logits(row.tokens, of_dense)));
      const std::vector<std::int32_t> next{3};
      EXPECT_TRUE(stored.next_logits(next, of_stored).equal(dense.next_logits(next, of_dense)));
    }
  }
}

TEST_P(StoredModel, TakesTheRoomOfItsBlocks) {
  const auto file = checkpoint::Checkpoint::open(path_);
  const model::Spec spec = model::read_spec(file);
  const auto need = [&](BaseFormat format) {
    return model::memory_need(spec, {},
                              {.compute = model::Compute::kBF16, .base = format, .stored = &file})
        .weights;
  };
  std::uint64_t bytes = 0;
  for (const checkpoint::TensorInfo& tensor : file.tensors())
    bytes += tensor.storage == Storage::kF32 ? tensor.bytes / 2 : tensor.bytes;
  EXPECT_NEAR(static_cast<double>(need(BaseFormat::kStored)), static_cast<double>(bytes),
              0.02 * static_cast<double>(bytes));
  EXPECT_LT(need(BaseFormat::kStored), 2 * need(BaseFormat::kDense) / 3);
}

INSTANTIATE_TEST_SUITE_P(Experts, StoredModel, testing::Values(0, 3));

}  // namespace
}  // namespace weft::tests
