#include "checkpoint/safetensors.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "tests/support/model_files.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"

namespace weft::checkpoint {
namespace {

using tests::safetensors_bytes;
using tests::slurp;
using tests::TempDir;

SafetensorsHeader parsed_safetensors(const std::string& bytes) {
  return parse_safetensors(std::as_bytes(std::span(bytes)), "f.safetensors");
}

#define EXPECT_SAFETENSORS_FAULT(bytes, ...) \
  EXPECT_THROWS_WITH(parsed_safetensors(bytes), InputError, "f.safetensors: ", __VA_ARGS__)

/// A header with one tensor "w" whose record is as given, and `data` bytes of data.
std::string one(std::string_view record, std::size_t data = 4) {
  return safetensors_bytes(R"({"w":)" + std::string(record) + "}", std::string(data, 'x'));
}

constexpr const char* kTwo = R"({"__metadata__":{"format":"pt"},)"
                             R"("b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                             R"("a":{"dtype":"BF16","shape":[1,2],"data_offsets":[8,12]}}   )";

TEST(Safetensors, ReadsNamesShapesAndBytes) {
  const TempDir dir;
  const auto file =
      Safetensors::open(dir.write("m.safetensors", safetensors_bytes(kTwo, "01234567abcd")));
  ASSERT_EQ(2U, file.entries().size());
  EXPECT_EQ("a", file.entries()[0].name);
  EXPECT_EQ("BF16", file.entries()[0].dtype);
  EXPECT_EQ((std::vector<std::int64_t>{1, 2}), file.entries()[0].shape);
  const auto bytes = file.bytes(*file.find("a"));
  EXPECT_EQ("abcd", std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  EXPECT_EQ("pt", file.metadata().at("format"));
  EXPECT_EQ(nullptr, file.find("c"));
}

TEST(Safetensors, ScalarsAndEmptyTensorsAreTensors) {
  const auto header = parsed_safetensors(safetensors_bytes(
      R"({"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
      R"("e":{"dtype":"F32","shape":[0,9223372036854775807],"data_offsets":[4,4]},)"
      R"("half":{"dtype":"F4","shape":[3,2],"data_offsets":[4,7]}})",
      "1234567"));
  EXPECT_EQ(3U, header.entries.size());
}

TEST(Safetensors, AFileWithoutTensorsIsOne) {
  EXPECT_TRUE(parsed_safetensors(safetensors_bytes("{}")).entries.empty());
}

TEST(Safetensors, MetadataThatIsNullIsNone) {
  const std::string file = tests::safetensors_bytes(R"({"__metadata__":null})");
  EXPECT_TRUE(parse_safetensors(std::as_bytes(std::span(file)), "f").metadata.empty());
}

TEST(SafetensorsFault, TooShortForALength) { EXPECT_SAFETENSORS_FAULT("1234567", "only 7 bytes"); }

TEST(SafetensorsFault, HeaderLongerThanTheFormatAllows) {
  EXPECT_SAFETENSORS_FAULT(tests::bytes_of(std::uint64_t{100'000'001}) + "{}", "100000001",
                           "at most 100000000");
  EXPECT_SAFETENSORS_FAULT(tests::bytes_of(~std::uint64_t{0}) + "{}", "18446744073709551615");
}

TEST(SafetensorsFault, HeaderLongerThanTheFile) {
  EXPECT_SAFETENSORS_FAULT(tests::bytes_of(std::uint64_t{3}) + "{}", "header of 3 bytes, only 2",
                           "cut short");
}

TEST(SafetensorsFault, HeaderThatDoesNotStartWithABrace) {
  EXPECT_SAFETENSORS_FAULT(safetensors_bytes(" {}"), "must start with '{'");
  EXPECT_SAFETENSORS_FAULT(safetensors_bytes(""), "must start with '{'");
}

TEST(SafetensorsFault, HeaderThatIsNoJson) {
  EXPECT_SAFETENSORS_FAULT(safetensors_bytes("{]"), "not JSON", "byte 2");
  EXPECT_SAFETENSORS_FAULT(safetensors_bytes("{} x"), "not JSON");
  EXPECT_SAFETENSORS_FAULT(safetensors_bytes(std::string("{}\0", 3)), "not JSON");
}

TEST(SafetensorsFault, NamesThatAreNotUtf8) {
  EXPECT_SAFETENSORS_FAULT(safetensors_bytes("{\"w\xff\":1}"), "not JSON");
}

TEST(SafetensorsFault, TheSameNameTwice) {
  EXPECT_SAFETENSORS_FAULT(
      safetensors_bytes(R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                        R"("w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                        "12"),
      "'w' appears twice");
  EXPECT_SAFETENSORS_FAULT(safetensors_bytes(R"({"__metadata__":{},"__metadata__":{}})"),
                           "appears twice");
  EXPECT_SAFETENSORS_FAULT(safetensors_bytes(R"({"__metadata__":{"a":"1","a":"2"}})"),
                           "metadata key 'a' appears twice");
  EXPECT_SAFETENSORS_FAULT(one(R"({"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]})"),
                           "tensor 'w'", "'dtype' appears twice");
}

TEST(SafetensorsFault, MetadataThatIsNotText) {
  EXPECT_SAFETENSORS_FAULT(safetensors_bytes(R"({"__metadata__":{"a":1}})"),
                           "metadata 'a' must be a string");
  EXPECT_SAFETENSORS_FAULT(safetensors_bytes(R"({"__metadata__":{"a":{}}})"), "found an object");
  EXPECT_SAFETENSORS_FAULT(safetensors_bytes(R"({"__metadata__":[]})"),
                           "must be an object, found an array");
}

TEST(SafetensorsFault, ATensorThatIsNoObject) {
  EXPECT_SAFETENSORS_FAULT(one("null"), "'w' must be an object, found null");
  EXPECT_SAFETENSORS_FAULT(one("[1]"), "'w' must be an object, found an array");
}

TEST(SafetensorsFault, MissingFields) {
  EXPECT_SAFETENSORS_FAULT(one(R"({"shape":[1],"data_offsets":[0,4]})"),
                           "tensor 'w': dtype is missing");
  EXPECT_SAFETENSORS_FAULT(one(R"({"dtype":"F32","data_offsets":[0,4]})"),
                           "tensor 'w': shape is missing");
  EXPECT_SAFETENSORS_FAULT(one(R"({"dtype":"F32","shape":[1]})"),
                           "tensor 'w': data_offsets are missing");
}

TEST(SafetensorsFault, UnknownFieldsAndTypes) {
  EXPECT_SAFETENSORS_FAULT(one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4],"scale":"x"})"),
                           "tensor 'w': unknown key 'scale'");
  EXPECT_SAFETENSORS_FAULT(one(R"({"dtype":"F33","shape":[1],"data_offsets":[0,4]})"),
                           "tensor 'w': unknown dtype 'F33'");
  EXPECT_SAFETENSORS_FAULT(one(R"({"dtype":[],"shape":[1],"data_offsets":[0,4]})"),
                           "dtype cannot be or hold");
}

TEST(SafetensorsFault, ShapesThatAreNoSizes) {
  EXPECT_SAFETENSORS_FAULT(one(R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})"),
                           "negative number -1");
  EXPECT_SAFETENSORS_FAULT(one(R"({"dtype":"F32","shape":[1.0],"data_offsets":[0,4]})"),
                           "number '1.0'");
  EXPECT_SAFETENSORS_FAULT(one(R"({"dtype":"F32","shape":"1","data_offsets":[0,4]})"),
                           "shape cannot be");
  EXPECT_SAFETENSORS_FAULT(one(R"({"dtype":"F32","shape":[[1]],"data_offsets":[0,4]})"),
                           "an array");
  EXPECT_SAFETENSORS_FAULT(
      one(R"({"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,4]})"), "too large");
}

TEST(SafetensorsFault, DepthWithoutEndEndsAtTheFirstWrongLevel) {
  EXPECT_SAFETENSORS_FAULT(one(std::string(1'000'000, '[')), "'w' must be an object");
}

TEST(SafetensorsFault, SizesThatOverflow) {
  EXPECT_SAFETENSORS_FAULT(
      one(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]})"), "tensor 'w'",
      "64 bits");
}

TEST(SafetensorsFault, ElementsThatEndInsideAByte) {
  EXPECT_SAFETENSORS_FAULT(one(R"({"dtype":"F4","shape":[3],"data_offsets":[0,2]})", 2),
                           "whole number of bytes");
}

TEST(SafetensorsFault, OffsetsThatAreNoPair) {
  EXPECT_SAFETENSORS_FAULT(one(R"({"dtype":"F32","shape":[1],"data_offsets":[0]})"),
                           "expected 2 data_offsets");
  EXPECT_SAFETENSORS_FAULT(one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4,8]})"), "found 3");
}

TEST(SafetensorsFault, OffsetsThatDisagreeWithTheShape) {
  EXPECT_SAFETENSORS_FAULT(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})"), "tensor 'w'",
                           "takes 8 bytes, its data_offsets say 4");
}

TEST(SafetensorsFault, OffsetsOutsideTheFile) {
  EXPECT_SAFETENSORS_FAULT(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})"), "tensor 'w'",
                           "[0, 8)", "4 bytes of data", "cut short");
  EXPECT_SAFETENSORS_FAULT(one(R"({"dtype":"F32","shape":[1],"data_offsets":[4,0]})"), "[4, 0)");
}

TEST(SafetensorsFault, AHoleBetweenTensors) {
  EXPECT_SAFETENSORS_FAULT(
      safetensors_bytes(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                        R"("b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
                        "123"),
      "tensor 'b' begins at byte 2", "expected 1", "hole");
}

TEST(SafetensorsFault, TensorsThatOverlap) {
  EXPECT_SAFETENSORS_FAULT(
      safetensors_bytes(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                        R"("b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
                        "123"),
      "tensor 'b' begins at byte 1", "overlap");
}

TEST(SafetensorsFault, DataThatNobodyOwns) {
  EXPECT_SAFETENSORS_FAULT(one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})", 5),
                           "end at byte 4", "5 bytes of data");
}

TEST(SafetensorsFault, MessagesStayOneLineWhateverTheName) {
  EXPECT_SAFETENSORS_FAULT(safetensors_bytes(R"({"a\n\u001b[2J":1})"), R"('a\x0a\x1b[2J')");
}

TEST(SafetensorsWriter, WritesWhatTheReaderReads) {
  const TempDir dir;
  SafetensorsWriter writer(dir / "m.safetensors",
                           {{"z", "F32", {2}}, {"half", "BF16", {1, 2}}, {"a", "F32", {}}});
  ASSERT_EQ(3U, writer.order().size());  // Wide types first, then by name.
  EXPECT_EQ("a", writer.order()[0].name);
  EXPECT_EQ("z", writer.order()[1].name);
  EXPECT_EQ("half", writer.order()[2].name);
  writer.write(std::vector<float>{1.5F});
  writer.write(std::vector<float>{2.5F, 3.5F});
  const std::string pieces = "abcd";
  writer.write(std::as_bytes(std::span(pieces)).first(1));
  writer.write(std::as_bytes(std::span(pieces)).subspan(1));
  EXPECT_FALSE(std::filesystem::exists(dir / "m.safetensors"));
  writer.finish();

  const auto file = Safetensors::open(dir / "m.safetensors");
  EXPECT_EQ(tests::bytes_of(std::vector<float>{2.5F, 3.5F}),
            std::string(reinterpret_cast<const char*>(file.bytes(*file.find("z")).data()), 8));
  EXPECT_EQ("pt", file.metadata().at("format"));
  EXPECT_EQ((std::vector<std::int64_t>{1, 2}), file.find("half")->shape);
}

TEST(SafetensorsWriter, PadsTheHeaderToEightBytes) {
  const TempDir dir;
  for (std::string name = "w"; name.size() < 10; name += "w") {
    SafetensorsWriter writer(dir / "m.safetensors", {{name, "U8", {0}}});
    writer.finish();
    const std::string bytes = slurp(dir / "m.safetensors");
    EXPECT_EQ(0U, bytes.size() % 8) << name;
    EXPECT_NO_THROW((void)parsed_safetensors(bytes));
  }
}

TEST(SafetensorsWriter, WithoutFinishThereIsNoFile) {
  const TempDir dir;
  { const SafetensorsWriter writer(dir / "m.safetensors", {{"w", "F32", {1}}}); }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

TEST(SafetensorsWriter, RefusesTooFewAndTooManyBytes) {
  const TempDir dir;
  SafetensorsWriter writer(dir / "m.safetensors", {{"w", "F32", {1}}});
  EXPECT_THROW(writer.finish(), std::logic_error);
  EXPECT_THROW(writer.write(std::vector<float>{1, 2}), std::logic_error);
}

TEST(SafetensorsWriter, RefusesPlansThatNoReaderAccepts) {
  const TempDir dir;
  const auto write = [&](std::vector<TensorPlan> plan) {
    SafetensorsWriter(dir / "m.safetensors", std::move(plan));
  };
  EXPECT_THROWS_WITH(write({{"w", "F32", {1}}, {"w", "F32", {1}}}), InputError, "two tensors",
                     "'w'");
  EXPECT_THROWS_WITH(write({{"__metadata__", "F32", {1}}}), InputError, "__metadata__");
  EXPECT_THROWS_WITH(write({{"w\xff", "F32", {1}}}), InputError, "\\xff");
  EXPECT_THROWS_WITH(write({{"w", "F33", {1}}}), InputError, "'w'", "'F33'");
  EXPECT_THROWS_WITH(write({{"w", "F32", {-1}}}), InputError, "'w'", "64 bits");
  EXPECT_THROWS_WITH(write({{"w", "F32", {1LL << 40, 1LL << 40}}}), InputError, "'w'", "64 bits");
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

TEST(Shards, OneFileSufficesForASmallModel) {
  const auto shards = plan_shards({{"a", "F32", {10}}, {"b", "F32", {10}}}, 80);
  ASSERT_EQ(1U, shards.size());
  EXPECT_EQ("model.safetensors", shards[0].file);
}

TEST(Shards, AreFilledInOrderUpToTheLimit) {
  const auto shards = plan_shards(
      {{"a", "F32", {5}}, {"b", "F32", {5}}, {"big", "F32", {50}}, {"c", "F32", {1}}}, 40);
  ASSERT_EQ(3U, shards.size());
  EXPECT_EQ("model-00001-of-00003.safetensors", shards[0].file);
  EXPECT_EQ(2U, shards[0].tensors.size());
  EXPECT_EQ("big", shards[1].tensors[0].name);  // Over the limit: a file of its own.
  EXPECT_EQ(1U, shards[1].tensors.size());
  EXPECT_EQ("c", shards[2].tensors[0].name);
}

TEST(Shards, TheIndexCountsBytesAndMapsEveryTensor) {
  const TempDir dir;
  const auto shards = plan_shards({{"a", "F32", {5}}, {"b", "BF16", {5}}}, 20);
  write_shard_index(dir.path(), shards);
  const auto index = nlohmann::json::parse(slurp(dir / "model.safetensors.index.json"));
  EXPECT_EQ(30, index["metadata"]["total_size"]);
  EXPECT_EQ("model-00002-of-00002.safetensors", index["weight_map"]["b"]);
  EXPECT_EQ(2U, index["weight_map"].size());
}

TEST(Shards, ASingleFileNeedsNoIndex) {
  const TempDir dir;
  write_shard_index(dir.path(), plan_shards({{"a", "F32", {5}}}));
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

}  // namespace
}  // namespace weft::checkpoint
