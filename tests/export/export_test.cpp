// Whole exports of a tiny model: what is written, and what may not be replaced.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "checkpoint/gguf.h"
#include "core/error.h"
#include "export/gguf_lora.h"
#include "export/gguf_model.h"
#include "export/peft.h"
#include "lora/peft_file.h"
#include "merge/merge.h"
#include "tests/merge/models.h"
#include "tests/support/throws.h"
#include "tests/support/tiny_model.h"

namespace weft::exporting {
namespace {

namespace fs = std::filesystem;
using checkpoint::Checkpoint;
using checkpoint::Gguf;
using ::testing::HasSubstr;
using tests::slurp;
using tests::TempDir;

class Export : public ::testing::Test {
 protected:
  Export() : model(tests::write_tiny_model(dir / "base")) {
    adapter =
        tests::write_noisy_adapter(dir / "adapter", lora::linear_modules(Checkpoint::open(model)),
                                   tests::config_of({"q_proj", "down_proj"}, 4, 8));
    request.inputs.model = model;
    request.out = dir / "model.gguf";
    request.type = &find_file_type("f32");
    request.pre = "gpt-2";
    request.overwrite = core::Overwrite::kReplace;
  }

  /// Changes config.json.
  void set(const std::string& key, const nlohmann::json& value) const {
    auto config = nlohmann::json::parse(slurp(model / "config.json"));
    config[key] = value;
    dir.write("base/config.json", config.dump());
  }

  std::string write() const {
    std::string heard;
    (void)write_gguf(request, {}, [&](core::Level, std::string_view line) { heard += line; });
    return heard;
  }

  TempDir dir;
  fs::path model;
  fs::path adapter;
  GgufRequest request;
};

TEST_F(Export, ATurnEndsInTheGgufFileWhereGenerationConfigEndsIt) {
  dir.write("base/generation_config.json", R"({"eos_token_id": [2, 0, 40, 41]})");
  EXPECT_THAT(write(), HasSubstr("may not stop at 41"));
  const Gguf file = Gguf::open(request.out);
  EXPECT_EQ(file.integer("tokenizer.ggml.eos_token_id"), 2);
  EXPECT_EQ(file.integer("tokenizer.ggml.eot_token_id"), 0);
  EXPECT_EQ(file.integer("tokenizer.ggml.eom_token_id"), 40);
  // And back.
  merge::MergeRequest back;
  back.model = request.out;
  back.out = dir / "back";
  (void)merge_model(back);
  EXPECT_EQ(nlohmann::json::parse(slurp(dir / "back/generation_config.json"))["eos_token_id"],
            (nlohmann::json{2, 0, 40}));
}

TEST_F(Export, OneEndOfTurnNeedsNoMoreKeys) {
  dir.write("base/generation_config.json", R"({"eos_token_id": 2})");
  (void)write();
  EXPECT_EQ(Gguf::open(request.out).find("tokenizer.ggml.eot_token_id"), nullptr);
}

TEST_F(Export, YarnsAttentionFactorComesBackFromTheFile) {
  set("rope_scaling", {{"rope_type", "yarn"},
                       {"factor", 4.0},
                       {"attention_factor", 1.3},
                       {"original_max_position_embeddings", 128}});
  (void)write();
  const auto scaling = Checkpoint::open(request.out).config().at("rope_scaling");
  EXPECT_NEAR(scaling.at("attention_factor").get<double>(), 1.3, 1e-6);
}

TEST_F(Export, AConfigurationThatGgufCannotSayIsRefused) {
  set("hidden_act", "gelu");
  EXPECT_THROWS_WITH((void)write(), InputError, "hidden_act", "gelu", "silu");
  set("hidden_act", "silu");
  set("partial_rotary_factor", 0.5);
  EXPECT_THROWS_WITH((void)write(), InputError, "partial_rotary_factor", "0.5");
  set("partial_rotary_factor", 1.0);
  EXPECT_NO_THROW((void)write());
}

TEST_F(Export, TheChatTemplateIsTheOneThatTransformersTakes) {
  auto config = nlohmann::json::parse(slurp(model / "tokenizer_config.json"));
  config["chat_template"] = "old";
  dir.write("base/tokenizer_config.json", config.dump());
  dir.write("base/chat_template.jinja", "new");
  (void)write();
  EXPECT_EQ(Gguf::open(request.out).string("tokenizer.chat_template"), "new");
}

TEST_F(Export, AListOfTemplatesThatIsNoneIsNamed) {
  auto config = nlohmann::json::parse(slurp(model / "tokenizer_config.json"));
  for (const nlohmann::json& wrong : {nlohmann::json{1}, nlohmann::json{{{"name", 1}}}}) {
    config["chat_template"] = wrong;
    dir.write("base/tokenizer_config.json", config.dump());
    EXPECT_THROWS_WITH((void)write(), InputError, "chat_template", "template");
  }
}

TEST_F(Export, ATypeWhoseBlocksDoNotFitTheRowsIsToldOrRefused) {
  tests::TinyModel shape;
  shape.hidden = 40;
  shape.intermediate = 64;  // down_proj has rows of 64.
  fs::remove_all(model);
  tests::write_tiny_model(model, shape);
  request.type = &find_file_type("q8_0");
  EXPECT_THAT(write(), HasSubstr("F16 instead of Q8_0"));
  shape.intermediate = 40;
  fs::remove_all(model);
  tests::write_tiny_model(model, shape);
  EXPECT_THROWS_WITH((void)write(), InputError, "q8_0", "--type f16");
}

TEST_F(Export, AHeadWidthThatDoesNotDivideTheRowsOfQIsRefused) {
  GgufLoraRequest lora;
  lora.inputs = {model, {{adapter, 1}}};
  lora.out = dir / "adapter.gguf";
  (void)write_gguf_lora(lora);
  for (const int width : {7, 32, 100000, 10000000}) {
    set("head_dim", width);
    lora.overwrite = core::Overwrite::kReplace;
    EXPECT_THROWS_WITH((void)write_gguf_lora(lora), InputError, "q_proj", "heads of");
  }
}

TEST_F(Export, TheInputsAreNotReplaced) {
  const std::string weights = slurp(model / "model.safetensors");
  request.out = model / "model.safetensors";
  EXPECT_THROWS_WITH((void)write(), InputError, "lies in the input");
  request.out = dir / "model.gguf";
  request.importance = request.out;
  request.inputs.also_reads = {request.importance};
  dir.write("model.gguf", "an importance matrix");
  EXPECT_THROWS_WITH((void)write(), InputError, "would be replaced");
  PeftRequest peft;
  peft.adapters = {{adapter, 1}};
  peft.out = adapter;
  peft.overwrite = core::Overwrite::kReplace;
  EXPECT_THROWS_WITH((void)write_portable_peft(peft), InputError, "would be replaced");
  EXPECT_EQ(slurp(model / "model.safetensors"), weights);
}

}  // namespace
}  // namespace weft::exporting
