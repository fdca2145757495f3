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
