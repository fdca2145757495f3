#include "checkpoint/gguf.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/model_files.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"

namespace weft::checkpoint {
namespace {

using tests::bytes_of;
using tests::GgufBuilder;
using tests::TempDir;

GgufHeader parsed_gguf(const std::string& bytes) {
  return parse_gguf(std::as_bytes(std::span(bytes)), "f.gguf");
}

#define EXPECT_GGUF_HEADER_FAULT(bytes, ...) \
  EXPECT_THROWS_WITH(parsed_gguf(bytes), InputError, "f.gguf: ", __VA_ARGS__)

GgufBuilder one_tensor() {
  GgufBuilder file;
  file.f32_tensor("w", {2, 3}, {1, 2, 3, 4, 5, 6});
  return file;
}

TEST(Gguf, ReadsEveryKindOfMetadata) {
  const TempDir dir;
  GgufBuilder builder;
  builder.raw("u8", GgufBuilder::kU8, bytes_of(std::uint8_t{255}))
      .raw("i8", GgufBuilder::kI8, bytes_of(std::int8_t{-1}))
      .raw("u16", GgufBuilder::kU16, bytes_of(std::uint16_t{65535}))
      .raw("i16", GgufBuilder::kI16, bytes_of(std::int16_t{-2}))
      .u32("u32", 4'000'000'000U)
      .raw("i32", GgufBuilder::kI32, bytes_of(std::int32_t{-3}))
      .raw("u64", GgufBuilder::kU64, bytes_of(std::uint64_t{1} << 62))
      .raw("big", GgufBuilder::kU64, bytes_of(~std::uint64_t{0}))
      .raw("i64", GgufBuilder::kI64, bytes_of(std::int64_t{-4}))
      .f32("f32", 1e-5F)
      .raw("f64", GgufBuilder::kF64, bytes_of(2.5))
      .raw("yes", GgufBuilder::kBool, std::string(1, '\1'))
      .text("text", "náhuatl")
      .texts("texts", {"a", "", "ccc"})
      .array("ints", GgufBuilder::kI32, 2, bytes_of(std::int32_t{7}) + bytes_of(std::int32_t{-7}))
      .array("floats", GgufBuilder::kF32, 1, bytes_of(0.5F))
      .array("none", GgufBuilder::kString, 0, "");
  const Gguf file = Gguf::open(dir.write("m.gguf", builder.build()));
  EXPECT_EQ(3U, file.version());
  EXPECT_EQ(255, file.integer("u8"));
  EXPECT_EQ(-1, file.integer("i8"));
  EXPECT_EQ(65535, file.integer("u16"));
  EXPECT_EQ(-2, file.integer("i16"));
  EXPECT_EQ(4'000'000'000, file.integer("u32"));
  EXPECT_EQ(-3, file.integer("i32"));
  EXPECT_EQ(std::int64_t{1} << 62, file.integer("u64"));
  EXPECT_EQ(-4, file.integer("i64"));
  EXPECT_EQ(static_cast<double>(1e-5F), file.real("f32"));
  EXPECT_EQ(2.5, file.real("f64"));
  EXPECT_EQ(255.0, file.real("u8"));
  EXPECT_EQ(true, file.boolean("yes"));
  EXPECT_EQ("náhuatl", file.string("text"));
  ASSERT_EQ(3U, file.strings("texts")->size());
  EXPECT_EQ("ccc", (*file.strings("texts"))[2]);
  EXPECT_EQ((std::vector<std::int64_t>{7, -7}), file.integers("ints"));
  EXPECT_EQ((std::vector<float>{0.5F}), file.reals("floats"));
  EXPECT_TRUE(file.strings("none")->empty());
  EXPECT_FALSE(file.integer("absent").has_value());
  EXPECT_FALSE(file.strings("absent").has_value());
  EXPECT_THROWS_WITH((void)file.integer("text"), InputError, "m.gguf", "'text'", "found string");
  EXPECT_THROWS_WITH((void)file.integer("big"), InputError, "'big'", "63 bits");
  EXPECT_THROWS_WITH((void)file.strings("ints"), InputError, "'ints'", "found an array of i32");
  EXPECT_THROWS_WITH((void)file.integers("floats"), InputError, "'floats'");
  EXPECT_THROWS_WITH((void)file.integers("texts"), InputError, "'texts'");
  EXPECT_THROWS_WITH((void)file.string("u8"), InputError, "'u8'");
  EXPECT_THROWS_WITH((void)file.boolean("u8"), InputError, "'u8'");
  EXPECT_THROWS_WITH((void)file.real("yes"), InputError, "'yes'");
}

TEST(Gguf, ShapesAreRowMajorAndDataAreAligned) {
  const TempDir dir;
  GgufBuilder builder = one_tensor();
  builder.f32_tensor("v", {1}, {7});
  const Gguf file = Gguf::open(dir.write("m.gguf", builder.build()));
  ASSERT_EQ(2U, file.tensors().size());
  const GgufTensor& w = *file.find_tensor("w");
  EXPECT_EQ((std::vector<std::int64_t>{3, 2}), w.shape);
  EXPECT_EQ("F32", w.type->name);
  EXPECT_EQ(24U, w.bytes);
  EXPECT_EQ(32U, file.find_tensor("v")->offset);
  EXPECT_EQ(
      bytes_of(7.0F),
      std::string(reinterpret_cast<const char*>(file.bytes(*file.find_tensor("v")).data()), 4));
  EXPECT_EQ(nullptr, file.find_tensor("u"));
}

TEST(Gguf, HonoursAnotherAlignmentAndVersionTwo) {
  GgufBuilder builder;
  builder.alignment = 64;
  builder.version = 2;
  builder.u32("general.alignment", 64).f32_tensor("a", {1}, {1}).f32_tensor("b", {1}, {2});
  const GgufHeader header = parsed_gguf(builder.build());
  EXPECT_EQ(0U, header.data_offset % 64);
  EXPECT_EQ(64U, header.tensors[1].offset);
}

TEST(Gguf, AVocabularyNeedsNoPadding) {
  GgufBuilder builder;
  builder.alignment = 1;
  builder.u32("x", 1);
  EXPECT_EQ(1U, parsed_gguf(builder.build()).metadata.size());
}

TEST(GgufFault, AnotherMagic) {
  GgufBuilder file;
  file.magic = "GGML";
  EXPECT_GGUF_HEADER_FAULT(file.build(), "not a GGUF file");
  EXPECT_GGUF_HEADER_FAULT("GG", "not a GGUF file");
}

TEST(GgufFault, VersionsThatAreNotRead) {
  for (const std::uint32_t version : {0U, 1U, 4U}) {
    GgufBuilder file;
    file.version = version;
    EXPECT_GGUF_HEADER_FAULT(file.build(), "versions 2 and 3");
  }
  GgufBuilder file;
  file.version = 0x03000000;
  EXPECT_GGUF_HEADER_FAULT(file.build(), "big-endian");
}

TEST(GgufFault, CountsBeyondTheFile) {
  GgufBuilder tensors = one_tensor();
  tensors.extra_tensors = std::uint64_t{1} << 40;
  EXPECT_GGUF_HEADER_FAULT(tensors.build(), "tensors, only", "cut short");
  GgufBuilder keys;
  keys.extra_metadata = ~std::uint64_t{0};
  EXPECT_GGUF_HEADER_FAULT(keys.build(), "metadata keys");
}

TEST(GgufFault, EveryPrefixOfAFileIsRefused) {
  GgufBuilder builder = one_tensor();
  builder.text("general.name", "a name").texts("tokens", {"a", "b"});
  const std::string whole = builder.build();
  ASSERT_NO_THROW((void)parsed_gguf(whole));
  const std::size_t end = whole.size() - 8;  // The last tensor's padding may be missing.
  for (std::size_t size = 0; size < end; ++size) {
    EXPECT_THROW((void)parsed_gguf(whole.substr(0, size)), InputError) << size;
  }
}

TEST(GgufFault, StringsBeyondTheFile) {
  GgufBuilder file;
  file.raw("k", GgufBuilder::kString, bytes_of(~std::uint64_t{0}) + "abc");
  EXPECT_GGUF_HEADER_FAULT(file.build(), "metadata 'k' needs 18446744073709551615 bytes");
}

TEST(GgufFault, ArraysBeyondTheFile) {
  GgufBuilder numbers;
  numbers.array("k", GgufBuilder::kF64, std::uint64_t{1} << 61, "abc");
  EXPECT_GGUF_HEADER_FAULT(numbers.build(), "'k' claims 2305843009213693952 elements");
  GgufBuilder strings;
  strings.array("k", GgufBuilder::kString, std::uint64_t{1} << 60, "abc");
  EXPECT_GGUF_HEADER_FAULT(strings.build(), "'k' claims");
}

TEST(GgufFault, ArraysOfArrays) {
  GgufBuilder file;
  file.array("k", GgufBuilder::kArray, 1, std::string(32, '\0'));
  EXPECT_GGUF_HEADER_FAULT(file.build(), "'k' is an array of arrays");
}

TEST(GgufFault, UnknownTypes) {
  GgufBuilder value;
  value.raw("k", 13, std::string(16, '\0'));
  EXPECT_GGUF_HEADER_FAULT(value.build(), "'k' has the unknown type 13");
  GgufBuilder tensor;
  tensor.raw_tensor("w", {1}, 4, 0);  // Q4_2, long removed.
  EXPECT_GGUF_HEADER_FAULT(tensor.build(), "tensor 'w' has the unknown type 4");
}

TEST(GgufFault, BooleansThatAreNeither) {
  GgufBuilder file;
  file.raw("k", GgufBuilder::kBool, "\2");
  EXPECT_GGUF_HEADER_FAULT(file.build(), "'k': a boolean must be 0 or 1");
  GgufBuilder array;
  array.array("k", GgufBuilder::kBool, 2, std::string("\1\3", 2));
  EXPECT_GGUF_HEADER_FAULT(array.build(), "'k': a boolean must be 0 or 1");
}

TEST(GgufFault, NamesThatCannotBe) {
  GgufBuilder empty;
  empty.u32("", 1);
  EXPECT_GGUF_HEADER_FAULT(empty.build(), "no metadata key");
  GgufBuilder broken;
  broken.u32("\xff", 1);
  EXPECT_GGUF_HEADER_FAULT(broken.build(), "'\\xff' is no metadata key");
  GgufBuilder tensor;
  tensor.raw_tensor(std::string(65, 'w'), {1}, 0, 0);
  EXPECT_GGUF_HEADER_FAULT(tensor.build(), "no tensor name");
}

TEST(GgufFault, TheSameNameTwice) {
  GgufBuilder keys;
  keys.u32("k", 1).u32("l", 1).u32("k", 2);
  EXPECT_GGUF_HEADER_FAULT(keys.build(), "metadata key 'k' appears twice");
  GgufBuilder tensors = one_tensor();
  tensors.f32_tensor("w", {1}, {1});
  EXPECT_GGUF_HEADER_FAULT(tensors.build(), "tensor 'w' appears twice");
}

TEST(GgufFault, AlignmentsThatAreNone) {
  for (const std::uint32_t alignment : {0U, 3U, 33U}) {
    GgufBuilder file;
    file.u32("general.alignment", alignment);
    EXPECT_GGUF_HEADER_FAULT(file.build(), "general.alignment must be a power of two");
  }
  GgufBuilder wide;
  wide.raw("general.alignment", GgufBuilder::kU64, bytes_of(std::uint64_t{32}));
  EXPECT_GGUF_HEADER_FAULT(wide.build(), "as u32");
}

TEST(GgufFault, TooManyDimensions) {
  GgufBuilder file;
  file.raw_tensor("w", {1, 1, 1, 1, 1}, 0, 0);
  EXPECT_GGUF_HEADER_FAULT(file.build(), "tensor 'w' has 5 dimensions");
}

TEST(GgufFault, SizesThatOverflow) {
  GgufBuilder elements;
  elements.raw_tensor("w", {std::uint64_t{1} << 40, std::uint64_t{1} << 40}, 0, 0);
  EXPECT_GGUF_HEADER_FAULT(elements.build(), "tensor 'w'", "overflows");
  GgufBuilder negative;
  negative.raw_tensor("w", {std::uint64_t{1} << 63}, 0, 0);
  EXPECT_GGUF_HEADER_FAULT(negative.build(), "tensor 'w'", "overflows");
  GgufBuilder bytes;
  bytes.raw_tensor("w", {std::uint64_t{1} << 62}, 28, 0);
  EXPECT_GGUF_HEADER_FAULT(bytes.build(), "tensor 'w'", "overflows");
}

TEST(GgufFault, RowsThatAreNoWholeBlocks) {
  GgufBuilder file;
  file.raw_tensor("w", {48, 2}, 2, 0);
  EXPECT_GGUF_HEADER_FAULT(file.build(), "tensor 'w'", "48", "Q4_0 blocks of 32");
}

TEST(GgufFault, OffsetsWithHolesOrOverlap) {
  GgufBuilder hole;
  hole.raw_tensor("w", {1}, 0, 32);
  EXPECT_GGUF_HEADER_FAULT(hole.build(), "tensor 'w' begins at byte 32", "expected 0");
  GgufBuilder overlap = one_tensor();
  overlap.raw_tensor("v", {1}, 0, 0);
  EXPECT_GGUF_HEADER_FAULT(overlap.build(), "tensor 'v' begins at byte 0", "expected 32");
}

TEST(GgufFault, DataBeyondTheFile) {
  GgufBuilder file;
  file.raw_tensor("w", {std::uint64_t{1} << 40}, 0, 0);
  EXPECT_GGUF_HEADER_FAULT(file.build(), "tensor 'w' needs bytes", "cut short");
}

TEST(GgmlTypes, AreFoundByNumberAndName) {
  EXPECT_EQ("Q4_K", find_ggml_type(12)->name);
  EXPECT_EQ(210U, find_ggml_type("Q6_K")->block_bytes);
  EXPECT_EQ(nullptr, find_ggml_type(5));
  EXPECT_EQ(nullptr, find_ggml_type("Q9"));
}

}  // namespace
}  // namespace weft::checkpoint
