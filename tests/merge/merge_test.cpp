#include "merge/merge.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/merge/models.h"
#include "tests/support/throws.h"
#include "tests/support/tiny_model.h"

namespace weft::merge {
namespace {

using checkpoint::Checkpoint;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using tests::config_of;
using tests::slurp;
using tests::TempDir;
using tests::write_noisy_adapter;
using tests::write_tiny_model;

/// A tiny Llama and an adapter for it.
class Merge : public ::testing::Test {
 protected:
  Merge() : model(write_tiny_model(dir / "base")) {
    adapter =
        write_noisy_adapter(dir / "adapter", modules(), config_of({"q_proj", "down_proj"}, 4, 8));
    request.model = model;
    request.adapters = {{adapter, 1}};
    request.out = dir / "out";
  }

  [[nodiscard]] std::vector<lora::Module> modules() const {
    return lora::linear_modules(Checkpoint::open(model));
  }

  /// An adapter that records the base it was trained on.
  void record(const std::string& digest) const {
    lora::Adapter read = lora::read_peft(adapter);
    read.provenance = lora::Provenance{digest, "F32", "F32", "", "", "", {}};
    lora::write_peft(read, adapter);
  }

  /// Names in the test's folder besides those that are there from the start.
  [[nodiscard]] std::vector<std::string> left_behind() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(dir.path())) {
      const std::string name = entry.path().filename();
      if (name != "base" && name != "adapter" && name != "out") names.push_back(name);
    }
    return names;
  }

  TempDir dir;
  std::filesystem::path model;
  std::filesystem::path adapter;
  MergeRequest request;
};

TEST_F(Merge, WritesAModelWithItsFilesAndARecord) {
  const MergeReport report = merge_model(request);
  EXPECT_EQ(report.folded.size(), 4U);
  const Checkpoint merged = Checkpoint::open(dir / "out");
  EXPECT_EQ(merged.tensors().size(), Checkpoint::open(model).tensors().size());
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
    EXPECT_EQ(slurp(dir / "out" / name), slurp(model / name));
  }
  const auto record = nlohmann::json::parse(slurp(dir / "out" / "merge.json"));
  EXPECT_EQ(record["base"]["weights_digest"], Checkpoint::open(model).weights_digest());
  EXPECT_EQ(record["adapters"][0]["keys"], 8);
  EXPECT_EQ(record["adapters"][0]["base_check"], "unrecorded");
  EXPECT_EQ(record["folded"][0]["name"], "model.layers.0.mlp.down_proj.weight");
  EXPECT_EQ(record["dtype"], "F32");
  EXPECT_THAT(left_behind(), IsEmpty());
}

TEST_F(Merge, ReportTableHasALinePerKindOfLayer) {
  const std::string table = report_table(merge_model(request));
  EXPECT_THAT(table, HasSubstr("down_proj"));
  EXPECT_THAT(table, HasSubstr("q_proj"));
  EXPECT_THAT(table, HasSubstr("4 folded"));
}

TEST_F(Merge, WithoutAdaptersCopiesTheModel) {
  request.adapters.clear();
  (void)merge_model(request);
  EXPECT_EQ(slurp(dir / "out/model.safetensors"), slurp(model / "model.safetensors"));
  EXPECT_EQ(nlohmann::json::parse(slurp(dir / "out/config.json")),
            nlohmann::json::parse(slurp(model / "config.json")));
}

TEST_F(Merge, AnotherTypeIsNamedInTheConfiguration) {
  request.dtype = core::DType::kBF16;
  (void)merge_model(request);
  const auto config = nlohmann::json::parse(slurp(dir / "out/config.json"));
  EXPECT_EQ(config["torch_dtype"], "bfloat16");
  EXPECT_FALSE(config.contains("dtype"));
  EXPECT_EQ(tests::stored(dir / "out/model.safetensors", "model.norm.weight").dtype, "BF16");
}

TEST_F(Merge, TheRecordedBaseIsAccepted) {
  record(Checkpoint::open(model).weights_digest());
  EXPECT_EQ(merge_model(request).adapters[0].base_check, "same");
}

TEST_F(Merge, AnotherBaseIsRefusedBeforeAnythingIsWritten) {
  record("0123");
  EXPECT_THROWS_WITH((void)merge_model(request), InputError, "0123", "--allow-other-base");
  EXPECT_FALSE(std::filesystem::exists(dir / "out"));
  EXPECT_THAT(left_behind(), IsEmpty());
}

TEST_F(Merge, AnotherBaseIsFoldedWhenAllowedWithAWarning) {
  record("0123");
  request.allow_other_base = true;
  std::string heard;
  const MergeReport report =
      merge_model(request, {}, [&](core::Level, std::string_view line) { heard += line; });
  EXPECT_EQ(report.adapters[0].base_check, "other");
  EXPECT_THAT(heard, HasSubstr("0123"));
}

TEST_F(Merge, AnExistingOutputIsKeptUnlessForced) {
  dir.write("out/mine", "precious");
  EXPECT_THROWS_WITH((void)merge_model(request), InputError, "out", "--force");
  EXPECT_EQ(slurp(dir / "out/mine"), "precious");
  request.overwrite = core::Overwrite::kReplace;
  (void)merge_model(request);
  EXPECT_FALSE(std::filesystem::exists(dir / "out/mine"));
  EXPECT_TRUE(std::filesystem::exists(dir / "out/model.safetensors"));
  EXPECT_THAT(left_behind(), IsEmpty());
}

TEST_F(Merge, AnInputIsNeverReplaced) {
  request.overwrite = core::Overwrite::kReplace;
  for (const auto& out : {model, adapter, dir.path(), dir / "base/../base"}) {
    request.out = out;
    EXPECT_THROWS_WITH((void)merge_model(request), InputError, "would be replaced");
  }
  request.out = model / "merged";
  EXPECT_THROWS_WITH((void)merge_model(request), InputError, "lies in the input");
}

TEST_F(Merge, AFailureInTheMiddleLeavesNothing) {
  const std::string path = "model.layers.1.self_attn.q_proj";
  lora::Adapter read = lora::read_peft(adapter);
  for (auto& factors : read.factors) {
    if (factors.target.module.path == path) factors.b[0] = std::numeric_limits<float>::infinity();
  }
  lora::write_peft(read, adapter);
  EXPECT_THROWS_WITH((void)merge_model(request), InputError, path.c_str(), "inf");
  EXPECT_FALSE(std::filesystem::exists(dir / "out"));
  EXPECT_THAT(left_behind(), IsEmpty());
}

TEST_F(Merge, AQuantisedConfigurationIsRefused) {
  auto config = nlohmann::json::parse(slurp(model / "config.json"));
  config["quantization_config"] = {{"quant_method", "bitsandbytes"}};
  dir.write("base/config.json", config.dump());
  EXPECT_THROWS_WITH((void)merge_model(request), InputError, "quantization_config");
}

TEST_F(Merge, AnAdapterThatWasTrainedAwayByRoundingIsReported) {
  lora::Adapter read = lora::read_peft(adapter);
  for (auto& factors : read.factors) {
    for (float& b : factors.b) b *= 1e-5F;
  }
  lora::write_peft(read, adapter);
  request.dtype = core::DType::kBF16;
  std::string heard;
  (void)merge_model(request, {}, [&](core::Level, std::string_view line) { heard += line; });
  EXPECT_THAT(heard, HasSubstr("--dtype f32"));
}

/// An adapter of the output head, as PEFT writes it when "lm_head" is in the list.
void write_head_adapter(const std::filesystem::path& folder) {
  lora::Adapter adapter;
  adapter.config = config_of({"lm_head"}, 2, 2);
  lora::Factors& factors = adapter.factors.emplace_back();
  factors.target = {{"lm_head", 32, tests::kTinyVocabulary}, 2, 2, 1};
  factors.a = tests::noise(64, 1, 3);
  factors.b = tests::noise(2 * tests::kTinyVocabulary, 1, 4);
  std::filesystem::create_directories(folder);
  lora::write_peft(adapter, folder);
}

TEST_F(Merge, AnAdapterOfATiedHeadGivesItNumbersOfItsOwn) {
  write_head_adapter(dir / "adapter");
  std::string heard;
  const MergeReport report =
      merge_model(request, {}, [&](core::Level, std::string_view line) { heard += line; });
  EXPECT_EQ(report.folded.at(0).name, "lm_head.weight");
  EXPECT_THAT(heard, HasSubstr("tie_word_embeddings: false"));
  const Checkpoint merged = Checkpoint::open(dir / "out");
  EXPECT_EQ(merged.config().at("tie_word_embeddings"), false);
  const auto& embedding = *merged.find("model.embed_tokens.weight");
  const Checkpoint base = Checkpoint::open(model);
  EXPECT_EQ(merged.read(embedding), base.read(*base.find("model.embed_tokens.weight")));
  EXPECT_NE(merged.read(*merged.find("lm_head.weight")), merged.read(embedding));
}

TEST_F(Merge, AnAdapterOfAHeadOfItsOwnIsFoldedIntoIt) {
  write_head_adapter(dir / "adapter");
  tests::TinyModel shape;
  shape.tied_head = false;
  std::filesystem::remove_all(model);
  write_tiny_model(model, shape);
  EXPECT_EQ(merge_model(request).folded.at(0).name, "lm_head.weight");
}

}  // namespace
}  // namespace weft::merge
