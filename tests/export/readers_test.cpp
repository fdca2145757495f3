#include "export/readers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/model_files.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"

namespace weft::exporting {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using tests::TempDir;

constexpr const char* kPlain = R"("peft_type": "LORA", "r": 8, "lora_alpha": 16)";

/// An adapter with one pair of rank 8 and, if given, one more tensor [4] of that name.
AdapterTraits traits(const std::string& config, const std::string& more = "") {
  const TempDir folder;
  folder.write("adapter_config.json", "{" + config + "}");
  std::string header = R"({"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight":)"
                       R"({"dtype":"F32","shape":[8,4],"data_offsets":[0,128]},)"
                       R"("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight":)"
                       R"({"dtype":"F32","shape":[4,8],"data_offsets":[128,256]})";
  std::string data(256, '\0');
  if (!more.empty()) {
    header += ",\"" + more + R"(":{"dtype":"F32","shape":[4],"data_offsets":[256,272]})";
    data.resize(272);
  }
  folder.write("adapter_model.safetensors", tests::safetensors_bytes(header + "}", data));
  return traits_of(folder.path());
}

Verdict verdict(const AdapterTraits& adapter, std::string_view reader) {
  return check_reader(adapter, reader).verdict;
}

TEST(Readers, EveryoneReadsAPlainAdapter) {
  const AdapterTraits adapter = traits(kPlain);
  EXPECT_EQ(adapter.rank, 8);
  for (const std::string_view reader : known_readers()) {
    EXPECT_EQ(verdict(adapter, reader), Verdict::kReads) << reader;
  }
}

TEST(Readers, RsLoraIsMisreadWhereItIsIgnored_TensorRtLlm1668) {
  const AdapterTraits adapter = traits(std::string(kPlain) + R"(, "use_rslora": true)");
  EXPECT_EQ(verdict(adapter, "llama.cpp"), Verdict::kMisreads);
  EXPECT_EQ(verdict(adapter, "ollama"), Verdict::kMisreads);
  EXPECT_EQ(verdict(adapter, "vllm"), Verdict::kReads);
  EXPECT_THAT(check_reader(adapter, "llama.cpp").repairs, Contains(HasSubstr("gguf-lora")));
}

TEST(Readers, PatternsAreMisreadByThoseWithOneRankAndAlpha) {
  const AdapterTraits alpha = traits(std::string(kPlain) + R"(, "alpha_pattern": {"q_proj": 4})");
  for (const char* reader : {"vllm", "llama.cpp", "ollama", "lorax"}) {
    EXPECT_EQ(verdict(alpha, reader), Verdict::kMisreads) << reader;
  }
  const AdapterTraits rank = traits(std::string(kPlain) + R"(, "rank_pattern": {"q_proj": 4})");
  EXPECT_EQ(verdict(rank, "vllm"), Verdict::kMisreads);
  EXPECT_EQ(verdict(rank, "llama.cpp"), Verdict::kReads);  // takes each tensor's own rank
}

TEST(Readers, DoraIsSeenInTheTensorsWhateverTheConfigurationSays) {
  const AdapterTraits adapter =
      traits(kPlain, "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector");
  EXPECT_EQ(verdict(adapter, "vllm"), Verdict::kRefuses);
  EXPECT_EQ(verdict(adapter, "lorax"), Verdict::kMisreads);
  EXPECT_EQ(verdict(adapter, "transformers"), Verdict::kReads);
}

TEST(Readers, WholeWeightsAreRefused_Vllm9280_LlamaCpp11554) {
  const AdapterTraits adapter = traits(kPlain, "base_model.model.lm_head.weight");
  EXPECT_EQ(verdict(adapter, "vllm"), Verdict::kRefuses);
  EXPECT_EQ(verdict(adapter, "llama.cpp"), Verdict::kRefuses);
  EXPECT_EQ(verdict(adapter, "lorax"), Verdict::kMisreads);
}

TEST(Readers, TrainedTokensAreRefused_Vllm36501) {
  const AdapterTraits adapter =
      traits(std::string(kPlain) + R"(, "trainable_token_indices": [1, 2])");
  EXPECT_EQ(verdict(adapter, "vllm"), Verdict::kRefuses);
}

TEST(Readers, OllamaNeedsAWholeAlpha) {
  const AdapterTraits adapter = traits(R"("peft_type": "LORA", "r": 8, "lora_alpha": 16.0)");
  EXPECT_EQ(verdict(adapter, "ollama"), Verdict::kRefuses);
  EXPECT_EQ(verdict(adapter, "vllm"), Verdict::kReads);
}

TEST(Readers, AnAdapterWithoutFactorsIsNoAdapter_Vllm55193) {
  const TempDir folder;
  folder.write("adapter_config.json", R"({"peft_type": "LORA"})");
  folder.write("adapter_model.safetensors",
               tests::safetensors_bytes(
                   R"({"other.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "abcd"));
  EXPECT_THROWS_WITH(static_cast<void>(traits_of(folder.path())), InputError, "no LoRA factors");
  EXPECT_THROWS_WITH(static_cast<void>(traits_of(folder / "none")), InputError,
                     "adapter_config.json");
}

TEST(Readers, AnAdapterHasTheTraitsOfTheDirectoryThatItIsWrittenTo) {
  lora::Adapter adapter;
  adapter.config.r = 4;
  adapter.config.lora_alpha = 2.5;
  adapter.config.use_rslora = true;
  adapter.config.target_modules.names = {"q_proj", "lm_head"};
  adapter.config.rank_pattern = {{"lm_head", 20}};
  for (const auto& [path, rank] :
       {std::pair{"model.layers.0.self_attn.q_proj", 4}, {"lm_head", 20}}) {
    lora::Factors factors;
    factors.target.module = {.path = path, .in = 8, .out = 6};
    factors.target.rank = rank;
    factors.a.assign(static_cast<std::size_t>(8 * rank), 0.5F);
    factors.b.assign(static_cast<std::size_t>(6 * rank), 0.5F);
    adapter.factors.push_back(factors);
  }
  const TempDir folder;
  lora::write_peft(adapter, folder / "adapter");
  const AdapterTraits before = traits_of(adapter), after = traits_of(folder / "adapter");
  for (const std::string_view reader : known_readers()) {
    const std::array reports{check_reader(before, reader), check_reader(after, reader)};
    EXPECT_EQ(report_json({&reports[0], 1}), report_json({&reports[1], 1}));
  }
  EXPECT_EQ(before.rank, 20);
  EXPECT_TRUE(before.rank_differs && before.rslora && before.head && before.attention_qk);
  EXPECT_TRUE(before.alpha_fractional);
}

TEST(Readers, UnknownReadersAreRefusedWithTheKnown) {
  EXPECT_THROWS_WITH(static_cast<void>(check_reader(traits(kPlain), "tgi")), ConfigError, "tgi",
                     "llama.cpp");
}

TEST(Readers, VariantsThatOnlyPeftComputesAreNotReadByOthers) {
  for (const char* key : {R"(, "use_bdlora": {"nblocks": 2})", R"(, "layer_replication": [[0, 2]])",
                          R"(, "use_qalora": true)", R"(, "velora_config": {"scale": 1})"}) {
    const AdapterTraits adapter = traits(std::string(kPlain) + key);
    for (const char* reader : {"vllm", "llama.cpp", "ollama", "lorax"}) {
      EXPECT_EQ(verdict(adapter, reader), Verdict::kMisreads) << reader << key;
      // weft merges none of them: it is no way out.
      EXPECT_TRUE(check_reader(adapter, reader).repairs.empty()) << reader << key;
    }
    EXPECT_EQ(verdict(adapter, "transformers"), Verdict::kReads);
  }
}

TEST(Readers, ActivatedLoraIsMisreadWhereItIsAppliedToEveryToken) {
  const AdapterTraits adapter =
      traits(std::string(kPlain) + R"(, "alora_invocation_tokens": [1, 2])");
  EXPECT_EQ(verdict(adapter, "vllm"), Verdict::kMisreads);
  EXPECT_EQ(verdict(adapter, "lorax"), Verdict::kMisreads);
  EXPECT_THAT(check_reader(adapter, "llama.cpp").notes, Contains(HasSubstr("aLoRA")));
}

TEST(Readers, OllamaIsSaidToTakeNoAdapterLineAnyMore_Mellea1651) {
  EXPECT_THAT(check_reader(traits(kPlain), "ollama").notes, Contains(HasSubstr("0.34.1")));
}

}  // namespace
}  // namespace weft::exporting
