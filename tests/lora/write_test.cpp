#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "lora/adapter.h"
#include "lora/peft_file.h"
#include "tests/lora/adapters.h"
#include "tests/support/throws.h"

namespace weft::lora {
namespace {

using tests::slurp;
using tests::TempDir;

Adapter sample() {
  AdapterConfig config;
  config.r = 4;
  config.lora_alpha = 6;
  config.target_modules.names = {"q_proj", "mlp.up_proj"};
  config.rank_pattern = {{"up_proj", 2}};
  Adapter adapter = make_adapter(config, resolve_targets(config, tests::llama_modules(2)), 3);
  for (Factors& factors : adapter.factors) {
    for (std::size_t i = 0; i < factors.b.size(); ++i) factors.b[i] = 0.25F * static_cast<float>(i);
  }
  return adapter;
}

TEST(WritePeft, ReadsBackBitForBit) {
  const TempDir dir;
  const Adapter adapter = sample();
  write_peft(adapter, dir.path());
  const Adapter read = read_peft(dir.path());
  ASSERT_EQ(read.factors.size(), adapter.factors.size());
  for (std::size_t i = 0; i < read.factors.size(); ++i) {
    EXPECT_EQ(read.factors[i].target.module.path, adapter.factors[i].target.module.path);
    EXPECT_EQ(read.factors[i].target.scale, adapter.factors[i].target.scale);
    EXPECT_EQ(read.factors[i].a, adapter.factors[i].a);
    EXPECT_EQ(read.factors[i].b, adapter.factors[i].b);
  }
  EXPECT_FALSE(read.provenance);
}

TEST(WritePeft, WrittenAgainGivesTheSameBytes) {
  const TempDir first;
  const TempDir second;
  write_peft(sample(), first.path());
  write_peft(read_peft(first.path()), second.path());
  for (const auto name : {kConfigFile, kWeightsFile}) {
    EXPECT_EQ(slurp(first / name), slurp(second / name)) << name;
  }
}

TEST(WritePeft, TensorsAreF32UnderPeftsNames) {
  const TempDir dir;
  write_peft(sample(), dir.path());
  const auto file = checkpoint::Safetensors::open(dir / kWeightsFile);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  const auto* b = file.find("base_model.model.model.layers.1.mlp.up_proj.lora_B.weight");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->dtype, "F32");
  EXPECT_THAT(b->shape, ::testing::ElementsAre(12, 2));
}

// PEFT wraps the parameters of a module one around the other: the first has the longest key.
TEST(WritePeft, StacksOfExpertsReadBackBitForBitUnderPeftsNames) {
  const TempDir dir;
  AdapterConfig config;
  config.r = 2;
  config.extras.target_parameters = {"mlp.experts.down_proj", "1.mlp.experts.gate_up_proj"};
  std::vector<Stack> stacks;
  for (const char* layer : {"0", "1"}) {
    const std::string path = fmt::format("model.layers.{}.mlp.experts.", layer);
    stacks.push_back({{path + "gate_up_proj", 6, 10}, 3});
    stacks.push_back({{path + "down_proj", 5, 6}, 3});
  }
  Adapter adapter = make_adapter(config, resolve_targets(config, {}, stacks), 3);
  for (Factors& factors : adapter.factors) {
    for (std::size_t i = 0; i < factors.b.size(); ++i) factors.b[i] = 0.25F * static_cast<float>(i);
  }
  write_peft(adapter, dir.path());
  const auto file = checkpoint::Safetensors::open(dir / kWeightsFile);
  const auto shape = [&](const std::string& key) {
    const auto* const found = file.find("base_model.model.model.layers." + key + ".weight");
    return found == nullptr ? std::vector<std::int64_t>() : found->shape;
  };
  EXPECT_THAT(shape("0.mlp.experts.lora_A"), ::testing::ElementsAre(6, 5));
  EXPECT_THAT(shape("0.mlp.experts.lora_B"), ::testing::ElementsAre(6, 6));
  EXPECT_THAT(shape("1.mlp.experts.base_layer.lora_A"), ::testing::ElementsAre(6, 6));
  EXPECT_THAT(shape("1.mlp.experts.base_layer.lora_B"), ::testing::ElementsAre(10, 6));
  // An empty list: PEFT takes null for its own choice of modules.
  const std::string text = slurp(dir / kConfigFile);
  EXPECT_THAT(text, ::testing::HasSubstr("\"target_modules\": []"));
  EXPECT_THAT(text, ::testing::HasSubstr("\"target_parameters\": ["));
  const Adapter read = read_peft(dir.path());
  ASSERT_EQ(read.factors.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(read.factors[i].target.module.path, adapter.factors[i].target.module.path);
    EXPECT_EQ(read.factors[i].target.experts, 3);
    EXPECT_EQ(read.factors[i].a, adapter.factors[i].a);
    EXPECT_EQ(read.factors[i].b, adapter.factors[i].b);
  }
}

TEST(WritePeft, FactorsOfTheWrongSizeAreAProgrammingError) {
  const TempDir dir;
  Adapter adapter = sample();
  adapter.factors[0].a.pop_back();
  EXPECT_THROW(write_peft(adapter, dir.path()), std::logic_error);
}

TEST(Provenance, ReadsBackAsWritten) {
  const TempDir dir;
  Adapter adapter = sample();
  adapter.provenance = Provenance{"abc", "Q4_1", "BF16", "nf4", "tok", "", {{"data", "d1"}}};
  write_peft(adapter, dir.path());
  const auto read = read_peft(dir.path()).provenance;
  ASSERT_TRUE(read);
  EXPECT_EQ(read->base_weights, "abc");
  EXPECT_EQ(read->base_storage, "Q4_1");
  EXPECT_EQ(read->compute_dtype, "BF16");
  EXPECT_EQ(read->base_quantization, "nf4");
  EXPECT_EQ(read->tokenizer, "tok");
  EXPECT_EQ(read->chat_template, "");
  EXPECT_EQ(read->more["data"], "d1");
}

TEST(Provenance, AFileThatIsNotOursIsAnError) {
  const TempDir dir;
  write_peft(sample(), dir.path());
  for (const char* text :
       {"{}", "[]", "{\"format\": 2}", "{\"format\": 1, \"base_weights\": 5}", "x"}) {
    dir.write(kProvenanceFile, text);
    EXPECT_THROWS_WITH((void)read_peft(dir.path()), InputError, "weft_provenance.json");
  }
}

}  // namespace
}  // namespace weft::lora
