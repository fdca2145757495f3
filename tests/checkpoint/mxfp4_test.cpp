#include "checkpoint/mxfp4.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <random>

#include "checkpoint/dequantize.h"
#include "checkpoint/open_model.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/stored_rows.h"
#include "core/error.h"
#include "core/file.h"
#include "core/number.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"

namespace weft::checkpoint {
namespace {

namespace fs = std::filesystem;
using tests::TempDir;

constexpr const char* kConfig =
    R"({"model_type": "gpt_oss", "quantization_config": {"quant_method": "mxfp4"}})";
constexpr const char* kName = "model.layers.0.mlp.experts.down_proj";

/// A stack of three experts of 96 x 20, at random.
struct Stack {
  static constexpr std::int64_t kExperts = 3, kIn = 96, kOut = 20;
  std::vector<std::uint8_t> blocks, scales;

  Stack() : blocks(kExperts * kOut * kIn / 2), scales(kExperts * kOut * kIn / 32) {
    std::mt19937 engine(5);
    for (std::uint8_t& byte : blocks) byte = static_cast<std::uint8_t>(engine());
    for (std::uint8_t& byte : scales) byte = static_cast<std::uint8_t>(100 + engine() % 40);
    scales[0] = 0;    // 2^-127: numbers below the smallest normal one.
    scales[1] = 252;  // 6 x 2^125 is a float still.
  }

  /// As the format says, number by number: [experts, in, out].
  [[nodiscard]] std::vector<float> values() const {
    std::vector<float> values;
    for (std::int64_t expert = 0; expert < kExperts; ++expert) {
      for (std::int64_t in = 0; in < kIn; ++in) {
        for (std::int64_t out = 0; out < kOut; ++out) {
          const std::int64_t place = (expert * kOut + out) * kIn + in;
          const std::uint8_t byte = blocks[static_cast<std::size_t>(place / 2)];
          const int bits = place % 2 == 0 ? byte & 15 : byte >> 4;
          const std::array<double, 8> table{0, .5, 1, 1.5, 2, 3, 4, 6};
          const double size = table[static_cast<std::size_t>(bits & 7)];
          const int scale = scales[static_cast<std::size_t>(place / 32)];
          values.push_back(static_cast<float>(std::ldexp(bits >= 8 ? -size : size, scale - 127)));
        }
      }
    }
    return values;
  }
};

struct Part {
  TensorPlan plan;
  std::vector<std::uint8_t> bytes;
};

void write(const fs::path& folder, const std::vector<Part>& parts,
           std::uint64_t shard_bytes = kDefaultShardBytes, const char* config = kConfig) {
  fs::create_directories(folder);
  core::write_text(folder / "config.json", config);
  std::vector<TensorPlan> plans;
  for (const Part& part : parts) plans.push_back(part.plan);
  const std::vector<Shard> shards = plan_shards(plans, shard_bytes);
  for (const Shard& shard : shards) {
    SafetensorsWriter writer(folder / shard.file, shard.tensors);
    for (const TensorPlan& plan : writer.order()) {
      for (const Part& part : parts) {
        if (part.plan.name == plan.name) writer.write(std::as_bytes(std::span(part.bytes)));
      }
    }
    writer.finish();
  }
  write_shard_index(folder, shards);
}

std::vector<Part> parts_of(const Stack& stack) {
  const std::string name = kName;
  return {{{name + "_blocks", "U8", {3, 20, 3, 16}}, stack.blocks},
          {{name + "_scales", "U8", {3, 20, 3}}, stack.scales},
          {{name + "_bias", "BF16", {3, 20}}, std::vector<std::uint8_t>(120)}};
}

TEST(Mxfp4, IsOneTensorOfTheModelsShape) {
  const TempDir dir;
  const Stack stack;
  write(dir / "m", parts_of(stack));
  const Checkpoint model = Checkpoint::open(dir / "m");
  ASSERT_EQ(2U, model.tensors().size());
  const TensorInfo& info = *model.find(kName);
  EXPECT_EQ((std::vector<std::int64_t>{3, 96, 20}), info.shape);
  EXPECT_EQ("MXFP4", info.storage_name);
  EXPECT_EQ(stack.blocks.size() + stack.scales.size(), info.bytes);
  EXPECT_TRUE(is_mxfp4(info));
  EXPECT_FALSE(is_mxfp4(*model.find(std::string(kName) + "_bias")));
  EXPECT_TRUE(model.raw(info).empty());
}

TEST(Mxfp4, NumbersAreThoseOfTheFormatAndExactInBF16) {
  const TempDir dir;
  const Stack stack;
  write(dir / "m", parts_of(stack));
  const Checkpoint model = Checkpoint::open(dir / "m");
  const std::vector<float> values = model.read(*model.find(kName));
  const std::vector<float> wanted = stack.values();
  ASSERT_EQ(wanted.size(), values.size());
  EXPECT_EQ(0, std::memcmp(wanted.data(), values.data(), 4 * wanted.size()));  // -0 too.
  for (const float value : values) {
    EXPECT_EQ(value, core::bf16_to_float(core::float_to_bf16(value)));
  }
}

TEST(Mxfp4, AnyRowsAreThoseOfTheWhole) {
  const TempDir dir;
  write(dir / "m", parts_of(Stack()), 1000);  // Blocks and scales in two files.
  const Checkpoint model = Checkpoint::open(dir / "m");
  const TensorInfo& info = *model.find(kName);
  const std::vector<float> whole = Stack().values();
  for (std::int64_t begin = 0; begin <= info.rows(); begin += 3) {
    for (std::int64_t end = begin; end <= info.rows(); end += 7) {
      std::vector<float> part(static_cast<std::size_t>((end - begin) * 20));
      model.read_rows(info, begin, end, part);
      EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + begin * 20))
          << begin << " to " << end;
      model.release(info, begin, end);
    }
  }
  model.release(info);
  EXPECT_EQ(whole, model.read(info));
}

TEST(Mxfp4, ColumnsAreTheRowsOfTheFileAlsoAsBlocksOfGguf) {
  const TempDir dir;
  write(dir / "m", parts_of(Stack()));
  const Checkpoint model = Checkpoint::open(dir / "m");
  const TensorInfo& info = *model.find(kName);
  const std::vector<float> whole = Stack().values();
  std::vector<float> columns(7 * 96);
  model.read_columns(info, 1, 5, 12, columns);
  for (std::size_t i = 0; i < columns.size(); ++i) {
    EXPECT_EQ(columns[i], whole[(96 + i % 96) * 20 + 5 + i / 96]);
  }
  std::vector<std::byte> blocks(7 * 96 / 32 * 17);
  model.read_mxfp4_columns(info, 1, 5, 12, blocks);
  std::vector<float> again(columns.size());
  dequantize(Storage::kMXFP4, blocks, again);
  EXPECT_EQ(0, std::memcmp(columns.data(), again.data(), 4 * columns.size()));  // -0 too.
}

TEST(Mxfp4, BlocksOfGgufHoldTheSmallestAndLargestScales) {
  std::array<std::byte, 17> block{};
  block[1] = std::byte{0x71};  // 0.5, and 6 sixteen places on.
  std::array<float, 32> values{};
  for (const int scale : {0, 1, 2, 127, 251}) {
    block[0] = static_cast<std::byte>(scale);
    dequantize(Storage::kMXFP4, block, values);
    EXPECT_EQ(values[0], std::ldexp(0.5F, scale - 127));
    EXPECT_EQ(values[16], std::ldexp(6.0F, scale - 127));
    EXPECT_EQ(values[1], 0);
  }
}

TEST(Mxfp4, TheDigestIsThatOfTheNumbersInBF16) {
  const TempDir dir;
  const Stack stack;
  std::vector<Part> parts = parts_of(stack);
  write(dir / "packed", parts);
  std::vector<std::uint8_t> plain;
  for (const float value : stack.values()) {
    const std::uint16_t bits = core::float_to_bf16(value);
    plain.push_back(static_cast<std::uint8_t>(bits & 255));
    plain.push_back(static_cast<std::uint8_t>(bits >> 8));
  }
  write(dir / "plain", {{{kName, "BF16", {3, 96, 20}}, plain}, parts[2]}, kDefaultShardBytes,
        R"({"model_type": "gpt_oss"})");
  EXPECT_EQ(Checkpoint::open(dir / "plain").weights_digest(),
            Checkpoint::open(dir / "packed").weights_digest());
}

TEST(Mxfp4, PagesOfAnExpertGoWithItsLastRow) {
  StoredTensor tensor;
  const std::vector<std::byte> blocks(3 * 20 * 3 * 16);
  const std::vector<std::byte> scales(3 * 20 * 3);
  OpenModel model;
  model.config = nlohmann::json::parse(kConfig);
  tensor.info = {.name = "x_blocks", .shape = {3, 20, 3, 16}, .storage_name = "U8", .file = "f"};
  tensor.bytes = blocks;
  model.tensors.push_back(tensor);
  tensor.info = {.name = "x_scales", .shape = {3, 20, 3}, .storage_name = "U8", .file = "f"};
  tensor.bytes = scales;
  tensor.shard = 1;
  model.tensors.push_back(tensor);
  join_mxfp4(model);
  ASSERT_EQ(1U, model.tensors.size());
  const StoredTensor& stack = model.tensors.front();
  EXPECT_TRUE(weft::checkpoint::parts_of(stack, 0, 95).empty());
  const std::vector<StoredPart> parts = weft::checkpoint::parts_of(stack, 64, 96 * 2 + 1);
  ASSERT_EQ(2U, parts.size());  // Of experts 0 and 1.
  EXPECT_EQ(blocks.data(), parts[0].bytes.data());
  EXPECT_EQ(blocks.size() / 3 * 2, parts[0].bytes.size());
  EXPECT_EQ(0U, parts[0].shard);
  EXPECT_EQ(scales.data(), parts[1].bytes.data());
  EXPECT_EQ(scales.size() / 3 * 2, parts[1].bytes.size());
  EXPECT_EQ(1U, parts[1].shard);
}

TEST(Mxfp4Fault, AHalfWithoutTheOtherNamesIt) {
  const TempDir dir;
  const std::vector<Part> parts = parts_of(Stack());
  write(dir / "blocks", {parts[0]});
  EXPECT_THROWS_WITH((void)Checkpoint::open(dir / "blocks"), InputError, "model.safetensors",
                     "down_proj_blocks'", "has no", "down_proj_scales'");
  write(dir / "scales", {parts[1]});
  EXPECT_THROWS_WITH((void)Checkpoint::open(dir / "scales"), InputError, "model.safetensors",
                     "down_proj_scales'", "has no", "down_proj_blocks'");
}

TEST(Mxfp4Fault, ShapesThatDoNotBelongTogether) {
  const TempDir dir;
  const auto open = [&](std::size_t changed, TensorPlan plan) {
    std::vector<Part> parts = parts_of(Stack());
    parts[changed].plan = std::move(plan);
    parts[changed].bytes.resize(static_cast<std::size_t>(parts[changed].plan.bytes()));
    write(dir / "m", parts);
    (void)Checkpoint::open(dir / "m");
  };
  const std::string blocks = std::string(kName) + "_blocks";
  const std::string scales = std::string(kName) + "_scales";
  EXPECT_THROWS_WITH(open(0, {blocks, "U8", {3, 20, 6, 8}}), InputError, blocks.c_str(),
                     "[experts, out, in / 32, 16]", "[3, 20, 6, 8]");
  EXPECT_THROWS_WITH(open(0, {blocks, "U8", {3, 20, 48}}), InputError, blocks.c_str(),
                     "[3, 20, 48]");
  EXPECT_THROWS_WITH(open(0, {blocks, "U8", {0, 20, 3, 16}}), InputError, blocks.c_str(),
                     "[0, 20, 3, 16]");
  EXPECT_THROWS_WITH(open(0, {blocks, "I8", {3, 20, 3, 16}}), InputError, blocks.c_str(), "U8",
                     "I8");
  EXPECT_THROWS_WITH(open(1, {scales, "U8", {3, 20, 4}}), InputError, scales.c_str(), "[3, 20, 3]",
                     "[3, 20, 4]");
  EXPECT_THROWS_WITH(open(2, {kName, "U8", {3}}), InputError, "both as it is and in MXFP4");
}

TEST(Mxfp4, WithoutTheConfigurationsWordBytesAreBytes) {
  const TempDir dir;
  write(dir / "m", parts_of(Stack()), kDefaultShardBytes, R"({"model_type": "gpt_oss"})");
  const Checkpoint model = Checkpoint::open(dir / "m");
  EXPECT_EQ(3U, model.tensors().size());
  EXPECT_EQ("U8", model.find(std::string(kName) + "_blocks")->storage_name);
}

}  // namespace
}  // namespace weft::checkpoint
