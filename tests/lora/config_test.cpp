#include "lora/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/lora/adapters.h"
#include "tests/support/throws.h"

namespace weft::lora {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;
using tests::config_with;

AdapterConfig parse(const std::string& members) {
  return parse_config(config_with(members), "adapter");
}

TEST(AdapterConfig, DefaultsAreThoseOfPeft) {
  const AdapterConfig config =
      parse_config(R"({"peft_type": "LORA", "target_modules": ["q_proj"]})", "adapter");
  EXPECT_EQ(config.r, 8);
  EXPECT_EQ(config.lora_alpha, 8);
  EXPECT_FALSE(config.use_rslora);
  EXPECT_EQ(config.lora_dropout, 0);
  EXPECT_TRUE(config.exclude_modules.empty());
}

TEST(AdapterConfig, ReadsEverySupportedKey) {
  const AdapterConfig config = parse(
      R"("use_rslora": true, "lora_dropout": 0.05, "exclude_modules": "x.*", "layers_to_transform": 3,
         "layers_pattern": "layers", "fan_in_fan_out": true, "base_model_name_or_path": "org/base",
         "revision": "main")");
  EXPECT_EQ(config.r, 2);
  EXPECT_EQ(config.lora_alpha, 4);
  EXPECT_TRUE(config.use_rslora);
  EXPECT_EQ(config.lora_dropout, 0.05);
  EXPECT_THAT(config.target_modules.names, ElementsAre("q_proj", "v_proj"));
  EXPECT_EQ(config.exclude_modules.pattern, "x.*");
  EXPECT_THAT(config.layers_to_transform, ElementsAre(3));
  EXPECT_THAT(config.layers_pattern, ElementsAre("layers"));
  EXPECT_TRUE(config.fan_in_fan_out);
  EXPECT_EQ(config.base_model_name_or_path, "org/base");
  EXPECT_EQ(config.revision, "main");
}

TEST(AdapterConfig, PatternsKeepTheOrderOfTheFile) {
  const AdapterConfig config =
      parse(R"("rank_pattern": {"z": 1, "a": 2}, "alpha_pattern": {"y": 1.5, "b": 2})");
  EXPECT_THAT(config.rank_pattern, ElementsAre(Pair("z", 1), Pair("a", 2)));
  EXPECT_THAT(config.alpha_pattern, ElementsAre(Pair("y", 1.5), Pair("b", 2)));
}

TEST(AdapterConfig, NeutralValuesOfUnsupportedKeysPass) {
  EXPECT_NO_THROW(parse(R"("use_dora": false, "modules_to_save": null, "loftq_config": {},
      "lora_bias": false, "bias": "none", "init_lora_weights": "gaussian", "target_parameters": [],
      "megatron_core": "megatron.core", "qalora_group_size": 16, "peft_version": "9.9",
      "some_future_key": null, "another": false, "third": {}, "inference_mode": true)"));
}

TEST(AdapterConfig, WhatMergingFoldsIsReadAndWrittenAsUnusedWhenItIsNot) {
  const AdapterExtras extras = parse(R"("use_dora": true, "lora_bias": true, "bias": "lora_only",
      "modules_to_save": ["lm_head"], "trainable_token_indices": {"embed_tokens": [4, 1]},
      "target_parameters": ["experts.down_proj"], "ensure_weight_tying": true)")
                                   .extras;
  EXPECT_TRUE(extras.use_dora && extras.lora_bias && extras.ensure_weight_tying);
  EXPECT_EQ(extras.bias, "lora_only");
  EXPECT_THAT(extras.modules_to_save, ::testing::ElementsAre("lm_head"));
  EXPECT_THAT(extras.target_parameters, ::testing::ElementsAre("experts.down_proj"));
  ASSERT_EQ(extras.trainable_token_indices.size(), 1U);
  EXPECT_EQ(extras.trainable_token_indices[0].first, "embed_tokens");
  EXPECT_THAT(extras.trainable_token_indices[0].second, ::testing::ElementsAre(4, 1));
  const auto list = parse(R"("trainable_token_indices": [7])").extras.trainable_token_indices;
  ASSERT_EQ(list.size(), 1U);
  EXPECT_EQ(list[0].first, "");
  const auto written = nlohmann::json::parse(config_text(parse(""), {}));
  for (const char* key : {"modules_to_save", "trainable_token_indices", "target_parameters"}) {
    EXPECT_TRUE(written.at(key).is_null());
  }
  EXPECT_EQ(written.at("use_dora"), false);
}

struct Unsupported {
  const char* member;
  const char* key;
};
class UnsupportedFeature : public ::testing::TestWithParam<Unsupported> {};

TEST_P(UnsupportedFeature, IsRefusedByName) {
  EXPECT_THROWS_WITH(parse(GetParam().member), InputError, "adapter:", GetParam().key);
}

INSTANTIATE_TEST_SUITE_P(
    AdapterConfig, UnsupportedFeature,
    ::testing::Values(Unsupported{R"("layer_replication": [[0, 2]])", "layer_replication"},
                      Unsupported{R"("megatron_config": {"a": 1})", "megatron_config"},
                      Unsupported{R"("alora_invocation_tokens": [5])", "alora_invocation_tokens"},
                      Unsupported{R"("use_qalora": true)", "use_qalora"},
                      Unsupported{R"("arrow_config": {"top_k": 3})", "arrow_config"},
                      Unsupported{R"("use_bdlora": {"nblocks": 2})", "use_bdlora"},
                      Unsupported{R"("kasa_config": {"beta": 1})", "kasa_config"},
                      Unsupported{R"("velora_config": 5)", "'velora_config' must be an object"},
                      Unsupported{R"("corda_config": {"a": 1})", "corda_config"},
                      Unsupported{R"("lora_ga_config": {"a": 1})", "lora_ga_config"},
                      Unsupported{R"("loftq_config": {"loftq_bits": 4})", "loftq_config"},
                      Unsupported{R"("init_lora_weights": "pissa")", "pissa"},
                      Unsupported{R"("init_lora_weights": "pissa_niter_4")", "pissa_niter_4"},
                      Unsupported{R"("init_lora_weights": "olora")", "olora"},
                      Unsupported{R"("init_lora_weights": "loftq")", "loftq"},
                      Unsupported{R"("init_lora_weights": "corda")", "corda"},
                      Unsupported{R"("bias": "some")", "none, lora_only or all"},
                      Unsupported{R"("task_type": "DREAMING")", "task_type"},
                      Unsupported{R"("some_future_key": "new")", "'some_future_key' = \"new\""},
                      Unsupported{R"("some_flag": true)", "some_flag"}));

TEST(AdapterConfig, WhatTrainersLeaveUnsetIsRead) {
  const AdapterConfig config = parse(
      R"("fan_in_fan_out": null, "use_rslora": null, "lora_dropout": null, "lorap_emb_lr": 1e-6)");
  EXPECT_FALSE(config.fan_in_fan_out);
  EXPECT_FALSE(config.use_rslora);
  EXPECT_EQ(config.lora_dropout, 0);
  for (const char* task : {"FEATURE_EXTRACTION", "SEQ_2_SEQ_LM", "SEQ_CLS"}) {
    EXPECT_NO_THROW(parse_config(
        fmt::format(R"({{"peft_type": "LORA", "target_modules": ["q_proj"], "task_type": "{}"}})",
                    task),
        "adapter"))
        << task;
  }
  EXPECT_NO_THROW(parse(R"("init_lora_weights": "mica")"));
}

TEST(AdapterConfig, MethodsOfTrainingAloneAreReadAndNamed) {
  const auto methods = [](const std::string& members) {
    std::vector<std::string> found;
    (void)parse_config(
        fmt::format(R"({{"peft_type": "LORA", "target_modules": ["q_proj"], {}}})", members),
        "adapter", &found);
    return found;
  };
  EXPECT_THAT(
      methods(R"("velora_config": {"num_groups": 64}, "monteclora_config": {"num_samples": 8})"),
      ::testing::UnorderedElementsAre("velora_config", "monteclora_config"));
  EXPECT_THAT(methods(R"("velora_config": null)"), ::testing::IsEmpty());
}

TEST(AdapterConfig, AnAdapterOfMlxIsCalledByItsName) {
  EXPECT_THROWS_WITH((void)parse_config(R"({"fine_tune_type": "lora", "num_layers": 8})", "f"),
                     InputError, "mlx-lm", "convert the adapter to PEFT");
}

TEST(AdapterConfig, OtherPeftTypesAreRefused) {
  EXPECT_THROWS_WITH((void)parse_config(R"({"peft_type": "ADALORA"})", "f"), InputError, "ADALORA",
                     "LORA");
  EXPECT_THROWS_WITH((void)parse_config(R"({"r": 8})", "f"), InputError, "peft_type");
  EXPECT_THROWS_WITH((void)parse_config(R"({"peft_type": "LORA", "target_modules": null})", "f"),
                     InputError, "target_modules");
}

struct Malformed {
  const char* text;
  const char* part;
};
class HostileConfig : public ::testing::TestWithParam<Malformed> {};

TEST_P(HostileConfig, IsAnInputErrorThatNamesTheFault) {
  EXPECT_THROWS_WITH((void)parse_config(GetParam().text, "the file"), InputError, "the file",
                     GetParam().part);
}

INSTANTIATE_TEST_SUITE_P(
    AdapterConfig, HostileConfig,
    ::testing::Values(
        Malformed{"", "not JSON"}, Malformed{"[1]", "object"},
        Malformed{"{\"peft_type\": \"LORA\"", "not JSON"},
        Malformed{R"({"peft_type": "LORA", "r": 1, "r": 2})", "twice"},
        Malformed{R"({"peft_type": "LORA", "rank_pattern": {"a": 1, "a": 2}})", "twice"},
        Malformed{R"({"peft_type": "LORA", "r": 0})", "'r' must be in 1..65536, found 0"},
        Malformed{R"({"peft_type": "LORA", "r": -3})", "'r'"},
        Malformed{R"({"peft_type": "LORA", "r": 2.5})", "an integer"},
        Malformed{R"({"peft_type": "LORA", "r": true})", "an integer"},
        Malformed{R"({"peft_type": "LORA", "r": 18446744073709551615})", "'r'"},
        Malformed{R"({"peft_type": "LORA", "r": "8"})", "an integer, found \"8\""},
        Malformed{R"({"peft_type": "LORA", "lora_alpha": 1e999})", "not JSON"},
        Malformed{R"({"peft_type": "LORA", "lora_alpha": NaN})", "not JSON"},
        Malformed{R"({"peft_type": "LORA", "lora_alpha": null})", "a number"},
        Malformed{R"({"peft_type": "LORA", "lora_dropout": 1.5})", "0..1"},
        Malformed{R"({"peft_type": "LORA", "target_modules": 5})", "'target_modules'"},
        Malformed{R"({"peft_type": "LORA", "target_modules": ["q", 5]})", "a string"},
        Malformed{R"({"peft_type": "LORA", "target_modules": [""]})", "empty"},
        Malformed{R"({"peft_type": "LORA", "layers_to_transform": [-1]})", "layers_to_transform"},
        Malformed{R"({"peft_type": "LORA", "rank_pattern": ["a"]})", "an object"},
        Malformed{R"({"peft_type": "LORA", "rank_pattern": {"a": 0}})", "rank_pattern['a']"},
        Malformed{R"({"peft_type": "LORA", "use_rslora": "yes"})", "true or false"},
        Malformed{"{\"peft_type\": \"LORA\", \"bad\\nname\": 1}", "\\x0a"}));

TEST(AdapterConfig, AnAdapterOfMlxLmIsToldAsSuch) {
  EXPECT_THROWS_WITH((void)parse_config(R"({"fine_tune_type": "lora", "num_layers": 16,
                       "lora_parameters": {"rank": 8, "scale": 20.0}})",
                                        "the file"),
                     InputError, "an adapter of mlx-lm", "convert the adapter to PEFT");
}

TEST(AdapterConfig, DeepNestingIsRefusedWithoutRecursion) {
  const std::string deep(200'000, '[');
  EXPECT_THROWS_WITH((void)parse_config(R"({"peft_type": "LORA", "x": )" + deep, "the file"),
                     InputError, "nested");
}

TEST(AdapterConfig, WrittenTextReadsBackAndIsWrittenAlike) {
  AdapterConfig config = parse(R"("use_rslora": true, "lora_dropout": 0.1,
      "rank_pattern": {"q_proj": 4}, "alpha_pattern": {"v_proj": 2.5}, "exclude_modules": ["k_proj"],
      "layers_to_transform": [0, 1], "layers_pattern": ["layers"], "revision": "r1")");
  const std::string text = config_text(config, {});
  EXPECT_EQ(config_text(parse_config(text, "again"), {}), text);
}

TEST(AdapterConfig, WholeAlphasAreWrittenAsIntegersAndOthersAsTheyAre) {
  AdapterConfig config = parse(R"("alpha_pattern": {"v_proj": 2.5})");
  const std::string text = config_text(config, {});
  EXPECT_THAT(text, ::testing::HasSubstr("\"lora_alpha\": 4,"));
  EXPECT_THAT(text, ::testing::HasSubstr("\"v_proj\": 2.5"));
}

TEST(AdapterConfig, AllLinearIsWrittenAsTheNamesItMeant) {
  AdapterConfig config;
  config.target_modules.pattern = "all-linear";
  const auto targets = resolve_targets(config, tests::llama_modules(2));
  const auto json = nlohmann::json::parse(config_text(config, targets));
  EXPECT_THAT(
      json["target_modules"].get<std::vector<std::string>>(),
      ElementsAre("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"));
}

}  // namespace
}  // namespace weft::lora
