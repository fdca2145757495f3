// Recipes: what they may say, and what they may not lose.
#include "merge/combine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "tests/merge/models.h"
#include "tests/support/throws.h"
#include "tests/support/tiny_model.h"

namespace weft::merge {
namespace {

namespace fs = std::filesystem;
using checkpoint::Checkpoint;
using ::testing::HasSubstr;
using tests::noisy;
using tests::slurp;
using tests::TempDir;

constexpr auto kF32 = core::DType::kF32;

class Combine : public ::testing::Test {
 protected:
  MergeReport run(const std::string& recipe, const core::Log& log = {}) const {
    CombineRequest request;
    request.recipe = parse_recipe(recipe, "recipe.yaml", dir.path());
    request.out = dir / "out";
    request.overwrite = core::Overwrite::kReplace;
    return combine_models(request, {}, log);
  }
  [[nodiscard]] nlohmann::json config() const {
    return nlohmann::json::parse(slurp(dir / "out/config.json"));
  }
  void write_pair(const std::string& first, const std::string& second) const {
    tests::write_model(dir / "a", {noisy("model.layers.0.w.weight", {4, 4}, kF32, 1)}, first);
    tests::write_model(dir / "b", {noisy("model.layers.0.w.weight", {4, 4}, kF32, 2)}, second);
  }

  TempDir dir;
};

constexpr const char* kLlama = R"({"model_type": "llama"})";

TEST_F(Combine, WeightsThatCancelAreRefusedWhereTheyDivide) {
  write_pair(kLlama, kLlama);
  tests::write_model(dir / "c", {noisy("model.layers.0.w.weight", {4, 4}, kF32, 3)}, kLlama);
  tests::write_model(dir / "d", {noisy("model.layers.0.w.weight", {4, 4}, kF32, 4)}, kLlama);
  const auto recipe = [](const char* method, const char* normalize) {
    return std::string("merge_method: ") + method +
           "\nbase_model: a\nmodels:\n"
           "  - {model: b, parameters: {weight: 0.3, density: 1}}\n"
           "  - {model: c, parameters: {weight: -0.1, density: 1}}\n"
           "  - {model: d, parameters: {weight: -0.2, density: 1}}\n"
           "parameters: {normalize: " +
           normalize + "}\n";
  };
  EXPECT_THROWS_WITH((void)run(recipe("ties", "true")), ConfigError, "model.layers.0.w.weight",
                     "0.3, -0.1, -0.2", "normalize");
  EXPECT_NO_THROW((void)run(recipe("ties", "false")));
  EXPECT_THROWS_WITH((void)run("merge_method: linear\nmodels:\n"
                               "  - {model: b, parameters: {weight: 0.3}}\n"
                               "  - {model: c, parameters: {weight: -0.1}}\n"
                               "  - {model: d, parameters: {weight: -0.2}}\n"),
                     ConfigError, "0.3, -0.1, -0.2", "normalize");
}

TEST_F(Combine, AConfigurationThatTiesWithNullIsNoInternalError) {
  const auto embedding = noisy("model.embed_tokens.weight", {6, 4}, kF32, 1);
  tests::write_model(dir / "a", {embedding},
                     R"({"model_type": "gemma", "tie_word_embeddings": null})");
  tests::write_model(dir / "b", {embedding, noisy("lm_head.weight", {6, 4}, kF32, 2)},
                     R"({"model_type": "gemma", "tie_word_embeddings": false})");
  (void)run(
      "merge_method: linear\nmodels:\n"
      "  - {model: a, parameters: {weight: 0.5}}\n"
      "  - {model: b, parameters: {weight: 0.5}}\n");
  EXPECT_EQ(config().at("tie_word_embeddings"), false);
}

TEST_F(Combine, AHeadThatOneModelHasIsNotLostByADonorThatTiesByDefault) {
  const auto embedding = noisy("model.embed_tokens.weight", {6, 4}, kF32, 1);
  tests::write_model(dir / "a", {embedding}, R"({"model_type": "gemma"})");
  tests::write_model(dir / "b", {embedding, noisy("lm_head.weight", {6, 4}, kF32, 2)},
                     R"({"model_type": "gemma", "tie_word_embeddings": false})");
  (void)run(
      "merge_method: linear\nmodels:\n"
      "  - {model: a, parameters: {weight: 0.5}}\n"
      "  - {model: b, parameters: {weight: 0.5}}\n");
  EXPECT_EQ(config().at("tie_word_embeddings"), false);
  EXPECT_NE(Checkpoint::open(dir / "out").find("lm_head.weight"), nullptr);
}

TEST_F(Combine, SlicesOfAModelWithSeveralPartsChangeTheLayersOfItsText) {
  tests::write_model(dir / "a",
                     {noisy("model.language_model.layers.0.w.weight", {4, 4}, kF32, 1),
                      noisy("model.language_model.layers.1.w.weight", {4, 4}, kF32, 2)},
                     R"({"model_type": "gemma3", "text_config": {"num_hidden_layers": 2,)"
                     R"("layer_types": ["sliding_attention", "full_attention"]}})");
  (void)run(
      "merge_method: passthrough\nslices:\n"
      "  - sources: [{model: a, layer_range: [1, 2]}]\n");
  EXPECT_EQ(config()["text_config"]["num_hidden_layers"], 1);
  EXPECT_EQ(config()["text_config"]["layer_types"], nlohmann::json::array({"full_attention"}));
}

TEST_F(Combine, TheHeadOfGptNeoxComesFromTheLastSlice) {
  const auto model = [&](const char* name, std::uint32_t seed) {
    tests::write_model(dir / name,
                       {noisy("gpt_neox.embed_in.weight", {6, 4}, kF32, seed),
                        noisy("gpt_neox.layers.0.w.weight", {4, 4}, kF32, seed + 1),
                        noisy("gpt_neox.layers.1.w.weight", {4, 4}, kF32, seed + 2),
                        noisy("embed_out.weight", {6, 4}, kF32, seed + 3)},
                       R"({"model_type": "gpt_neox", "num_hidden_layers": 2})");
  };
  model("a", 1);
  model("b", 11);
  (void)run(
      "merge_method: passthrough\nslices:\n"
      "  - sources: [{model: a, layer_range: [0, 1]}]\n"
      "  - sources: [{model: b, layer_range: [1, 2]}]\n");
  const Checkpoint out = Checkpoint::open(dir / "out");
  EXPECT_EQ(out.read(*out.find("gpt_neox.embed_in.weight")), noisy("", {6, 4}, kF32, 1).values);
  EXPECT_EQ(out.read(*out.find("embed_out.weight")), noisy("", {6, 4}, kF32, 14).values);
}

TEST_F(Combine, IdenticalTokenizersAreOneWhateverSourceIsNamed) {
  tests::write_tiny_model(dir / "a");
  tests::TinyModel other;
  other.seed = 2;
  tests::write_tiny_model(dir / "b", other);
  dir.write("b/special_tokens_map.json", R"({"eos_token": "</s>"})");
  const auto recipe = [](const std::string& source) {
    return "merge_method: linear\nmodels:\n"
           "  - {model: a, parameters: {weight: 0.5}}\n"
           "  - {model: b, parameters: {weight: 0.5}}\n" +
           source;
  };
  for (const char* source : {"tokenizer_source: union\n", "tokenizer: {source: base}\n"}) {
    (void)run(recipe(source));
    EXPECT_FALSE(fs::exists(dir / "out/special_tokens_map.json")) << source;
  }
  (void)run(recipe("tokenizer_source: b\n"));
  EXPECT_TRUE(fs::exists(dir / "out/special_tokens_map.json"));
  EXPECT_THROWS_WITH((void)run(recipe("tokenizer: {source: union, pad_to_multiple_of: 64}\n")),
                     InputError, "259", "64");
  std::string tokens = slurp(dir / "b/tokenizer.json");
  tokens.replace(tokens.find("<pad>"), 5, "<PAD>");
  dir.write("b/tokenizer.json", tokens);
  EXPECT_THROWS_WITH((void)run(recipe("tokenizer_source: union\n")), InputError, "identical");
}

TEST_F(Combine, AChatTemplateIsWrittenWhereReadersLookFirst) {
  write_pair(kLlama, kLlama);
  dir.write("b/chat_template.jinja", "{{ messages }} of b");
  const auto recipe = [](const std::string& what) {
    return "merge_method: linear\nmodels:\n"
           "  - {model: a, parameters: {weight: 0.5}}\n"
           "  - {model: b, parameters: {weight: 0.5}}\n"
           "chat_template: " +
           what + "\n";
  };
  (void)run(recipe("auto"));
  EXPECT_EQ(slurp(dir / "out/chat_template.jinja"), "{{ messages }} of b");
  (void)run(recipe("\"{{ messages }}\""));
  EXPECT_EQ(slurp(dir / "out/chat_template.jinja"), "{{ messages }}");
  EXPECT_THROWS_WITH((void)run(recipe("chatml")), ConfigError, "chatml", "Jinja");
}

TEST_F(Combine, AParameterOfAnotherMethodIsToldAndAnUnknownOneRefused) {
  write_pair(kLlama, kLlama);
  std::string heard;
  const auto log = [&](core::Level, std::string_view line) { heard += line; };
  (void)run(
      "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]\n"
      "parameters: {t: 0.5, density: 0.3}\n",
      log);
  EXPECT_THAT(heard, HasSubstr("does not use the parameter 'density'"));
  EXPECT_THROWS_WITH(
      (void)run("merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]\n"
                "parameters: {t: 0.5, densitty: 0.3}\n"),
      ConfigError, "densitty");
}

TEST_F(Combine, AKarcherMeanOfTwoDirectionsLiesBetweenThem) {
  tests::ModelTensor x{"model.layers.0.w.weight", {1, 2}, kF32, {2, 0}};
  tests::ModelTensor y{"model.layers.0.w.weight", {1, 2}, kF32, {0, 4}};
  tests::write_model(dir / "a", {x}, kLlama);
  tests::write_model(dir / "b", {y}, kLlama);
  const float side = 3 / std::sqrt(2.0F);  // Mean length, mean direction.
  for (const char* recipe :
       {"merge_method: karcher\nmodels: [{model: a}, {model: b}]\n",
        "merge_method: multislerp\nmodels:\n  - {model: a, parameters: {weight: 1}}\n"
        "  - {model: b, parameters: {weight: 1}}\n"}) {
    (void)run(recipe);
    const Checkpoint out = Checkpoint::open(dir / "out");
    const std::vector<float> found = out.read(out.tensors().front());
    EXPECT_NEAR(found[0], side, 1e-5) << recipe;
    EXPECT_NEAR(found[1], side, 1e-5) << recipe;
  }
}

TEST_F(Combine, ElementsThatOneModelChangesAreTakenWholeByRam) {
  const auto model = [&](const char* name, std::vector<float> values) {
    tests::write_model(dir / name, {{"model.layers.0.w.weight", {1, 4}, kF32, std::move(values)}},
                       kLlama);
  };
  model("base", {1, 1, 1, 1});
  model("a", {3, 1, 2, 1});
  model("b", {1, 2, 4, 1.000001F});
  const auto result = [&](const std::string& recipe) {
    (void)run(recipe + "base_model: base\nmodels: [{model: a}, {model: b}]\n");
    const Checkpoint out = Checkpoint::open(dir / "out");
    return out.read(out.tensors().front());
  };
  EXPECT_EQ(result("merge_method: ram\n"), (std::vector<float>{3, 2, 3, 1}));
  // Each shares one element and has one of its own: 1 + 0.1 min(1 / 1, 0.2).
  EXPECT_EQ(result("merge_method: ramplus_tl\n"), (std::vector<float>{3.04F, 2.02F, 3, 1}));
  (void)run("merge_method: nearswap\nbase_model: base\nmodels: [{model: a}]\nparameters: {t: 1}\n");
  const Checkpoint out = Checkpoint::open(dir / "out");
  EXPECT_EQ(out.read(out.tensors().front()), (std::vector<float>{2, 1, 2, 1}));
}

TEST_F(Combine, ArceeFusionTakesWhatChangedMost) {
  // The first row changes little, the second much in one place. Seven of eight importances are at
  // or near 0, so that the threshold lies below the eighth alone.
  const tests::ModelTensor base{"model.layers.0.w.weight", {2, 4}, kF32, {1, 2, 3, 4, 1, 1, 1, 1}};
  const tests::ModelTensor other{
      "model.layers.0.w.weight", {2, 4}, kF32, {1.001F, 2, 3, 4, 1.001F, 1, 3, 1}};
  tests::write_model(dir / "a", {base}, kLlama);
  tests::write_model(dir / "b", {other}, kLlama);
  (void)run("merge_method: arcee_fusion\nbase_model: a\nmodels: [{model: a}, {model: b}]\n");
  const Checkpoint out = Checkpoint::open(dir / "out");
  const std::vector<float> found = out.read(out.tensors().front());
  EXPECT_EQ(found[6], 3.0F);
  EXPECT_EQ(found[0], 1.0F);  // Changed in a row that stayed what it was.
  EXPECT_THROWS_WITH((void)run("merge_method: arcee_fusion\nmodels: [{model: a}, {model: b}]\n"),
                     ConfigError, "base");
}

TEST_F(Combine, NumbersTooSmallForF16AreNotLostByAuto) {
  // Rounding to bf16 would lose the update, F16 would keep it, but not the norm nobody changes.
  tests::ModelTensor tiny = noisy("model.norm.weight", {64}, core::DType::kBF16, 5);
  for (float& value : tiny.values) value *= 0x1p-20F;
  tests::write_model(dir / "a",
                     {noisy("model.layers.0.q_proj.weight", {16, 16}, core::DType::kBF16, 6), tiny},
                     kLlama);
  const auto modules = lora::linear_modules(Checkpoint::open(dir / "a"));
  tests::write_noisy_adapter(dir / "adapter", modules, tests::config_of({"q_proj"}, 2, 2), 5,
                             [](lora::Adapter& adapter) {
                               for (float& b : adapter.factors[0].b) b *= 1e-3F;
                             });
  MergeRequest request;
  request.model = dir / "a";
  request.adapters = {{dir / "adapter", 1}};
  request.out = dir / "merged";
  request.auto_dtype = true;
  std::string heard;
  const MergeReport report =
      merge_model(request, {}, [&](core::Level, std::string_view line) { heard += line; });
  EXPECT_EQ(report.dtype, core::DType::kF32) << heard;
  EXPECT_THAT(heard, HasSubstr("'model.norm.weight' of the base, whose numbers are too small"));
}

}  // namespace
}  // namespace weft::merge
