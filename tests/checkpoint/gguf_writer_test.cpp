#include "checkpoint/gguf_writer.h"

#include <gtest/gtest.h>

#include <cstring>
#include <stdexcept>
#include <vector>

#include "core/error.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"

namespace weft::checkpoint {
namespace {

using tests::TempDir;

std::vector<std::byte> bytes_of(std::size_t count, int value) {
  return std::vector<std::byte>(count, static_cast<std::byte>(value));
}

GgufFields some_fields() {
  GgufFields fields;
  fields.set_string("general.architecture", "llama");
  fields.set_u32("llama.block_count", 2);
  fields.set_f32("llama.rope.freq_base", 10000);
  fields.set_bool("tokenizer.ggml.add_bos_token", true);
  fields.set_strings("tokenizer.ggml.tokens", std::vector<std::string>{"", "ā", "b\n"});
  fields.set_i32s("tokenizer.ggml.token_type", std::vector<std::int32_t>{1, -1, 3});
  fields.set_f32s("tokenizer.ggml.scores", std::vector<float>{0.5F, -1000.0F});
  return fields;
}

TEST(GgufWriter, WhatIsWrittenIsReadBack) {
  const TempDir folder;
  const auto path = folder / "x.gguf";
  GgufWriter writer(path, some_fields(),
                    {{"odd", {3}, Storage::kF32}, {"blocks", {2, 32}, Storage::kQ8_0}});
  writer.write(bytes_of(5, 1));  // In pieces that are no whole numbers,
  writer.write(bytes_of(7, 2));
  writer.write(bytes_of(68, 3));
  EXPECT_FALSE(std::filesystem::exists(path));
  writer.finish();
  EXPECT_EQ(writer.total_bytes(), std::filesystem::file_size(path));

  const Gguf file = Gguf::open(path);
  EXPECT_EQ(file.version(), 3U);
  EXPECT_EQ(file.string("general.architecture"), "llama");
  EXPECT_EQ(file.integer("llama.block_count"), 2);
  EXPECT_EQ(file.real("llama.rope.freq_base"), 10000.0);
  EXPECT_EQ(file.boolean("tokenizer.ggml.add_bos_token"), true);
  EXPECT_EQ(file.strings("tokenizer.ggml.tokens")->back(), "b\n");
  EXPECT_EQ(file.integers("tokenizer.ggml.token_type"), (std::vector<std::int64_t>{1, -1, 3}));
  EXPECT_EQ(file.reals("tokenizer.ggml.scores"), (std::vector<float>{0.5F, -1000.0F}));
  const GgufTensor* const odd = file.find_tensor("odd");
  const GgufTensor* const blocks = file.find_tensor("blocks");
  ASSERT_TRUE(odd != nullptr && blocks != nullptr);
  EXPECT_EQ(blocks->offset, 32U);  // The 12 bytes before it are padded to the alignment.
  EXPECT_EQ(blocks->shape, (std::vector<std::int64_t>{2, 32}));
  EXPECT_EQ(file.bytes(*odd)[4], std::byte{1});
  EXPECT_EQ(file.bytes(*odd)[5], std::byte{2});
  EXPECT_EQ(file.bytes(*blocks)[67], std::byte{3});
}

TEST(GgufWriter, AKeyThatIsSetAgainKeepsItsPlaceAndTakesTheNewValue) {
  GgufFields fields = some_fields();
  const std::size_t count = fields.size();
  fields.set_u32("llama.block_count", 5);
  EXPECT_EQ(fields.size(), count);
  const TempDir folder;
  GgufWriter(folder / "x.gguf", fields, {}).finish();
  EXPECT_EQ(Gguf::open(folder / "x.gguf").integer("llama.block_count"), 5);
}

TEST(GgufWriter, CarriesKeysOfAnotherFileWithTheirTypes) {
  const TempDir folder;
  GgufWriter(folder / "x.gguf", some_fields(), {}).finish();
  const Gguf before = Gguf::open(folder / "x.gguf");
  GgufFields carried;
  for (const GgufEntry& entry : before.metadata()) carried.set_entry(entry);
  GgufWriter(folder / "y.gguf", carried, {}).finish();
  const Gguf after = Gguf::open(folder / "y.gguf");
  ASSERT_EQ(before.metadata().size(), after.metadata().size());
  for (std::size_t i = 0; i < before.metadata().size(); ++i) {
    EXPECT_EQ(before.metadata()[i].key, after.metadata()[i].key);
    EXPECT_EQ(before.metadata()[i].type, after.metadata()[i].type);
  }
  EXPECT_EQ(after.reals("tokenizer.ggml.scores"), before.reals("tokenizer.ggml.scores"));
}

TEST(GgufWriter, RefusesWhatReadersWouldNotTake) {
  const TempDir folder;
  const auto path = folder / "x.gguf";
  const auto writing = [&](std::vector<GgufTensorPlan> plan) {
    GgufWriter(path, some_fields(), std::move(plan));
  };
  EXPECT_THROWS_WITH(writing({{std::string(64, 'n'), {1}}}), InputError, "nnn");
  EXPECT_THROWS_WITH(writing({{"twice", {1}}, {"twice", {1}}}), InputError, "twice");
  EXPECT_THROWS_WITH(writing({{"deep", {1, 1, 1, 1, 1}}}), InputError, "deep");
  EXPECT_THROWS_WITH(writing({{"ragged", {2, 48}, Storage::kQ4_0}}), InputError, "ragged", "48");
  GgufFields fields;
  EXPECT_THROWS_WITH(fields.set_u32("too.large", std::int64_t{1} << 32), InputError, "too.large");
  EXPECT_THROWS_WITH(fields.set_u32("negative", -1), InputError, "negative");
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(GgufWriter, AFileThatIsNotCompleteNeverAppears) {
  const TempDir folder;
  const auto path = folder / "x.gguf";
  {
    GgufWriter writer(path, some_fields(), {{"one", {4}}, {"two", {4}}});
    writer.write(bytes_of(16, 0));
    EXPECT_THROW(writer.finish(), std::logic_error);
    EXPECT_THROW(writer.write(bytes_of(17, 0)), std::logic_error);
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

}  // namespace
}  // namespace weft::checkpoint
