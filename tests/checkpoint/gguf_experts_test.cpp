#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "core/error.h"
#include "tests/support/model_files.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"

// Stacks of experts in GGUF files: [E, out, in], each matrix for itself or as the model stacks
// them.

namespace weft::checkpoint {
namespace {

using tests::GgufBuilder;
using tests::TempDir;

constexpr std::uint64_t kExperts = 3, kWidth = 4, kHidden = 8, kWords = 10;

std::vector<float> counted(std::size_t count, float from) {
  std::vector<float> values(count);
  std::iota(values.begin(), values.end(), from);
  return values;
}

/// A model of one layer without its experts.
GgufBuilder layer(const std::string& architecture, std::uint32_t experts) {
  GgufBuilder file;
  tests::add_expert_metadata(file, architecture, kHidden, kWidth, experts);
  file.f32_tensor("token_embd.weight", {kHidden, kWords}, counted(kHidden * kWords, 0));
  file.f32_tensor("output_norm.weight", {kHidden}, counted(kHidden, 0));
  file.f32_tensor("output.weight", {kHidden, kWords}, counted(kHidden * kWords, 0));
  for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_output"}) {
    file.f32_tensor("blk.0." + std::string(name) + ".weight", {kHidden, kHidden},
                    counted(kHidden * kHidden, 0));
  }
  file.f32_tensor("blk.0.ffn_gate_inp.weight", {kHidden, experts}, counted(kHidden * experts, 0));
  return file;
}

void add_stack(GgufBuilder& file, const std::string& part, std::uint64_t in, std::uint64_t out,
               float from, std::uint64_t experts = kExperts) {
  file.f32_tensor("blk.0.ffn_" + part + "_exps.weight", {in, out, experts},
                  counted(in * out * experts, from));
}

Checkpoint open(const TempDir& dir, const GgufBuilder& file) {
  return Checkpoint::open(dir.write("m.gguf", file.build()));
}

GgufBuilder mixtral(std::uint64_t stacked = kExperts) {
  GgufBuilder file = layer("llama", kExperts);
  for (const char* norm : {"attn_norm", "ffn_norm"}) {
    file.f32_tensor("blk.0." + std::string(norm) + ".weight", {kHidden}, counted(kHidden, 0));
  }
  add_stack(file, "gate", kHidden, kWidth, 100);
  add_stack(file, "up", kHidden, kWidth, 200);
  add_stack(file, "down", kWidth, kHidden, 300, stacked);
  return file;
}

TEST(GgufExperts, OfMixtralAreMatricesOfTheirOwn) {
  const TempDir dir;
  const Checkpoint model = open(dir, mixtral());
  EXPECT_EQ(model.config().at("architectures").front(), "MixtralForCausalLM");
  EXPECT_EQ(model.config().at("num_local_experts"), 3);
  const TensorInfo* up = model.find("model.layers.0.block_sparse_moe.experts.2.w3.weight");
  ASSERT_NE(up, nullptr);
  EXPECT_EQ(up->shape, (std::vector<std::int64_t>{4, 8}));
  EXPECT_EQ(up->bytes, 4U * 32);
  EXPECT_EQ(model.read(*up), counted(32, 200 + 64));
  EXPECT_EQ(model.raw(*up).size(), 4U * 32);
  EXPECT_EQ(model.find("model.layers.0.block_sparse_moe.experts.3.w3.weight"), nullptr);
  EXPECT_NE(model.find("model.layers.0.block_sparse_moe.gate.weight"), nullptr);
}

TEST(GgufExperts, OfGptOssAreStacksWithGateAndUpByTurns) {
  const TempDir dir;
  GgufBuilder file = layer("gpt-oss", kExperts);
  for (const char* norm : {"attn_norm", "post_attention_norm"}) {
    file.f32_tensor("blk.0." + std::string(norm) + ".weight", {kHidden}, counted(kHidden, 0));
  }
  add_stack(file, "gate", kHidden, kWidth, 100);
  add_stack(file, "up", kHidden, kWidth, 200);
  add_stack(file, "down", kWidth, kHidden, 300);
  file.f32_tensor("blk.0.ffn_gate_exps.bias", {kWidth, kExperts}, counted(12, 400));
  file.f32_tensor("blk.0.ffn_up_exps.bias", {kWidth, kExperts}, counted(12, 500));
  file.f32_tensor("blk.0.ffn_down_exps.bias", {kHidden, kExperts}, counted(24, 600));
  file.f32_tensor("blk.0.attn_sinks.weight", {2}, {1, 2});
  const Checkpoint model = open(dir, file);
  const std::string experts = "model.layers.0.mlp.experts.";

  const TensorInfo& fused = *model.find(experts + "gate_up_proj");
  EXPECT_EQ(fused.shape, (std::vector<std::int64_t>{3, 8, 8}));
  const std::vector<float> values = model.read(fused);
  for (std::size_t e = 0; e < 3; ++e) {
    for (std::size_t in = 0; in < 8; ++in) {
      for (std::size_t out = 0; out < 8; ++out) {
        const auto place = static_cast<float>((e * 4 + out / 2) * 8 + in);
        EXPECT_EQ(values[(e * 8 + in) * 8 + out], (out % 2 == 0 ? 100.0F : 200.0F) + place);
      }
    }
  }
  std::vector<float> part(2 * 8);
  model.read_rows(fused, 7, 9, part);  // The last of one matrix and the first of the next.
  EXPECT_TRUE(std::equal(part.begin(), part.end(), values.begin() + 7 * 8));
  std::vector<float> columns(3 * 8);
  model.read_columns(fused, 1, 2, 5, columns);
  for (std::size_t i = 0; i < columns.size(); ++i) {
    EXPECT_EQ(columns[i], values[(8 + i % 8) * 8 + 2 + i / 8]);
  }
  const std::vector<float> down = model.read(*model.find(experts + "down_proj"));
  EXPECT_EQ(down[1], 304);  // [3, 4, 8]
  const std::vector<float> bias = model.read(*model.find(experts + "gate_up_proj_bias"));
  EXPECT_EQ(std::vector<float>(bias.begin() + 8, bias.begin() + 12),
            (std::vector<float>{404, 504, 405, 505}));
  EXPECT_EQ(model.read(*model.find(experts + "down_proj_bias")), counted(24, 600));
  EXPECT_EQ(model.find("model.layers.0.self_attn.sinks")->shape, (std::vector<std::int64_t>{2}));
}

TEST(GgufExpertsFault, StacksThatAreMissingOrOfAnotherNumber) {
  const TempDir dir;
  EXPECT_THROWS_WITH((void)open(dir, mixtral(2)), InputError, "'blk.0.ffn_down_exps.weight'",
                     "must hold 3 experts", "[2, 8, 4]");
  GgufBuilder without = layer("llama", kExperts);
  add_stack(without, "gate", kHidden, kWidth, 100);
  EXPECT_THROWS_WITH((void)open(dir, without), InputError, "'blk.0.ffn_down_exps.weight'",
                     "is missing");
  GgufBuilder claimed = layer("llama", 65536);  // Refused before experts are counted one by one.
  for (const char* part : {"gate", "up"}) add_stack(claimed, part, 1, 1, 0, 1);
  EXPECT_THROWS_WITH((void)open(dir, claimed), InputError, "'blk.0.ffn_gate_exps.weight'",
                     "must hold 65536 experts", "[1, 1, 1]");
  GgufBuilder many = layer("llama", 70000);
  add_stack(many, "gate", 1, 1, 0, 70000);
  EXPECT_THROWS_WITH((void)open(dir, many), InputError, "'llama.expert_count' is 70000");
  GgufBuilder scaled = mixtral();
  scaled.f32("llama.expert_weights_scale", 2.5F);
  EXPECT_THROWS_WITH((void)open(dir, scaled), InputError, "'llama.expert_weights_scale' is 2.5");
}

}  // namespace
}  // namespace weft::checkpoint
