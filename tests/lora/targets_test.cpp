#include "lora/targets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "tests/lora/adapters.h"
#include "tests/support/throws.h"

namespace weft::lora {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;
using tests::llama_modules;
using tests::paths;

AdapterConfig named(std::vector<std::string> names) {
  AdapterConfig config;
  config.target_modules.names = std::move(names);
  return config;
}

AdapterConfig patterned(std::string pattern) {
  AdapterConfig config;
  config.target_modules.pattern = std::move(pattern);
  return config;
}

TEST(Scale, IsAlphaOverRankAndOverItsRootWhenStabilised) {
  EXPECT_EQ(scale(32, 16, false), 2);
  EXPECT_EQ(scale(32, 16, true), 8);
  EXPECT_EQ(scale(1, 3, true), 1 / std::sqrt(3.0));
}

TEST(Targets, AListEntryMatchesWholePathsAndEndingsAtADot) {
  EXPECT_THAT(paths(resolve_targets(named({"q_proj"}), llama_modules(2))),
              ElementsAre("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"));
  EXPECT_THAT(paths(resolve_targets(named({"layers.1.mlp.up_proj"}), llama_modules(2))),
              ElementsAre("model.layers.1.mlp.up_proj"));
  EXPECT_THROWS_WITH((void)resolve_targets(named({"proj"}), llama_modules(1)), ConfigError,
                     "'proj'");
}

TEST(Targets, APatternMatchesTheWholePath) {
  EXPECT_THAT(paths(resolve_targets(patterned(R"(model\.layers\.\d+\.mlp\..*)"), llama_modules(1))),
              ElementsAre("model.layers.0.mlp.down_proj", "model.layers.0.mlp.gate_proj",
                          "model.layers.0.mlp.up_proj"));
  EXPECT_THROWS_WITH((void)resolve_targets(patterned("q_proj"), llama_modules(1)), ConfigError,
                     "'q_proj'", "whole path", "nearest: 'q_proj'");
}

TEST(Targets, StacksOfExpertsAreNamedByTargetParameters) {
  const std::vector<Stack> stacks{{{"model.layers.0.mlp.experts.gate_up_proj", 6, 10}, 4},
                                  {{"model.layers.0.mlp.experts.down_proj", 5, 6}, 4},
                                  {{"model.layers.1.mlp.experts.down_proj", 5, 6}, 4}};
  AdapterConfig config = named({"q_proj"});
  config.extras.target_parameters = {"mlp.experts.down_proj"};
  config.rank_pattern = {{"layers.1.mlp.experts.down_proj", 3}};
  const std::vector<Target> targets = resolve_targets(config, llama_modules(1), stacks);
  EXPECT_THAT(paths(targets),
              ElementsAre("model.layers.0.mlp.experts.down_proj", "model.layers.0.self_attn.q_proj",
                          "model.layers.1.mlp.experts.down_proj"));
  EXPECT_EQ(targets[0].experts, 4);
  EXPECT_EQ(targets[0].parameters(), 4 * 8 * (5 + 6));
  EXPECT_EQ(targets[2].rank, 3);
  EXPECT_EQ(targets[1].kind, TargetKind::kLinear);
  config.extras.target_parameters = {"mlp.experts.dwn_proj"};
  EXPECT_THROWS_WITH((void)resolve_targets(config, llama_modules(1), stacks), ConfigError,
                     "'mlp.experts.dwn_proj'", "nearest: 'mlp.experts.down_proj'");
  EXPECT_THROWS_WITH((void)resolve_targets(config, llama_modules(1)), ConfigError, "no experts");
  config.extras.target_parameters = {"down_proj"};
  config.rank_pattern.clear();
  config.lora_dropout = 0.1;
  EXPECT_THROWS_WITH((void)resolve_targets(config, llama_modules(1), stacks), ConfigError,
                     "lora_dropout: 0.1");
  config.lora_dropout = 0;
  config.layers_to_transform = {0};
  EXPECT_THROWS_WITH((void)resolve_targets(config, llama_modules(1), stacks), ConfigError,
                     "layers_to_transform does not choose");
}

TEST(Targets, AllLinearInAnyCaseMeansEveryModule) {
  EXPECT_THAT(resolve_targets(patterned("all-linear"), llama_modules(2)), SizeIs(14));
  EXPECT_THAT(resolve_targets(patterned("All-Linear"), llama_modules(2)), SizeIs(14));
}

TEST(Targets, ExclusionWins) {
  AdapterConfig config = patterned("all-linear");
  config.exclude_modules.names = {"o_proj", "layers.0.mlp.up_proj"};
  EXPECT_THAT(resolve_targets(config, llama_modules(2)), SizeIs(11));
  config.exclude_modules = {R"(.*\.mlp\..*)", {}};
  EXPECT_THAT(paths(resolve_targets(config, llama_modules(2))), Each(Not(HasSubstr("mlp"))));
}

TEST(Targets, LayersToTransformKeepsTheFirstIndexInThePath) {
  AdapterConfig config = named({"q_proj", "w1"});
  config.layers_to_transform = {1};
  std::vector<Module> modules = llama_modules(3);
  for (const char* path : {"model.layers.0.experts.1.w1", "model.layers.1.experts.0.w1"}) {
    modules.push_back({path, 8, 8});
  }
  EXPECT_THAT(paths(resolve_targets(config, modules)),
              ElementsAre("model.layers.1.experts.0.w1", "model.layers.1.self_attn.q_proj"));
}

TEST(Targets, LayersPatternNamesTheListOfLayers) {
  AdapterConfig config = named({"w1"});
  config.layers_to_transform = {1};
  config.layers_pattern = {"experts"};
  std::vector<Module> modules = llama_modules(1);
  for (const char* path : {"model.layers.0.experts.1.w1", "model.layers.1.experts.0.w1"}) {
    modules.push_back({path, 8, 8});
  }
  EXPECT_THAT(paths(resolve_targets(config, modules)), ElementsAre("model.layers.0.experts.1.w1"));
  config.layers_pattern = {"blocks"};
  EXPECT_THROWS_WITH((void)resolve_targets(config, modules), ConfigError, "blocks");
}

TEST(Targets, WithoutLayersPatternTheNameNeedsADotBeforeIt) {
  // PEFT's expression .*?\.[^.]*\.(\d+)\. does not find "layers.0." at the start of a path.
  AdapterConfig config = named({"q"});
  config.layers_to_transform = {0};
  const std::vector<Module> modules{{"layers.0.q", 4, 4}, {"model.layers.0.q", 4, 4}};
  EXPECT_THAT(paths(resolve_targets(config, modules)), ElementsAre("model.layers.0.q"));
}

TEST(Targets, PatternsGiveRankAndAlphaByPathOrEnding) {
  AdapterConfig config = named({"q_proj", "k_proj", "v_proj"});
  config.r = 8;
  config.lora_alpha = 16;
  config.rank_pattern = {{"k_proj", 4}, {R"(^model\.layers\.1\.self_attn\.q_proj)", 2}};
  config.alpha_pattern = {{"self_attn.(v|k)_proj", 6}};
  const auto targets = resolve_targets(config, llama_modules(2));
  std::vector<std::string> shown;
  for (const Target& target : targets) {
    shown.push_back(
        fmt::format("{} {} {}", target.module.path.substr(13), target.rank, target.scale));
  }
  EXPECT_THAT(shown, ElementsAre("0.self_attn.k_proj 4 1.5", "0.self_attn.q_proj 8 2",
                                 "0.self_attn.v_proj 8 0.75", "1.self_attn.k_proj 4 1.5",
                                 "1.self_attn.q_proj 2 8", "1.self_attn.v_proj 8 0.75"));
}

TEST(Targets, OverlappingPatternsThatAgreeAreFineAndThatDisagreeAreNot) {
  AdapterConfig config = named({"q_proj"});
  config.rank_pattern = {{"q_proj", 4}, {"self_attn.q_proj", 4}};
  EXPECT_EQ(resolve_targets(config, llama_modules(1)).front().rank, 4);
  config.rank_pattern.back().second = 5;
  EXPECT_THROWS_WITH((void)resolve_targets(config, llama_modules(1)), ConfigError, "rank_pattern",
                     "'q_proj' (4)", "'self_attn.q_proj' (5)", "model.layers.0.self_attn.q_proj");
}

TEST(Targets, AnEntryThatMatchesNothingNamesTheNearestModule) {
  EXPECT_THROWS_WITH((void)resolve_targets(named({"q_proj", "v_porj"}), llama_modules(1)),
                     ConfigError, "'v_porj'", "nearest: 'v_proj'");
  EXPECT_THROWS_WITH((void)resolve_targets(named({"c_attn"}), llama_modules(1)), ConfigError,
                     "'c_attn'");
}

TEST(Targets, EmbeddingsAndHeadAreRefusedByName) {
  EXPECT_THROWS_WITH((void)resolve_targets(named({"q_proj", "lm_head"}), llama_modules(1)),
                     ConfigError, "'lm_head'", "not");
  EXPECT_THROWS_WITH((void)resolve_targets(named({"embed_tokens"}), llama_modules(1)), ConfigError,
                     "'embed_tokens'");
}

TEST(Targets, ExcludingTheHeadIsAllowedAndExcludingATypingErrorIsNot) {
  AdapterConfig config = named({"q_proj"});
  config.exclude_modules.names = {"lm_head"};
  EXPECT_THAT(resolve_targets(config, llama_modules(1)), SizeIs(1));
  config.exclude_modules.names = {"k_porj"};
  EXPECT_THROWS_WITH((void)resolve_targets(config, llama_modules(1)), ConfigError,
                     "exclude_modules", "k_porj", "k_proj");
}

TEST(Targets, AMissingLayerNamesTheLayersThereAre) {
  AdapterConfig config = named({"q_proj"});
  config.layers_to_transform = {0, 7};
  EXPECT_THROWS_WITH((void)resolve_targets(config, llama_modules(3)), ConfigError, "no layer 7",
                     "0 to 2");
}

TEST(Targets, PatternKeysThatMatchNothingAreErrors) {
  AdapterConfig config = named({"q_proj"});
  config.rank_pattern = {{"k_proj", 4}};
  EXPECT_THROWS_WITH((void)resolve_targets(config, llama_modules(1)), ConfigError,
                     "rank_pattern 'k_proj'");
  config.rank_pattern.clear();
  config.alpha_pattern = {{"^q_proj", 4}};
  EXPECT_THROWS_WITH((void)resolve_targets(config, llama_modules(1)), ConfigError,
                     "alpha_pattern '^q_proj'");
}

TEST(Targets, NothingLeftAfterExclusionIsAnError) {
  AdapterConfig config = named({"q_proj"});
  config.exclude_modules.names = {"self_attn.q_proj"};
  EXPECT_THROWS_WITH((void)resolve_targets(config, llama_modules(1)), ConfigError,
                     "no layer is left");
}

TEST(Targets, CombinationsThatPeftRejectsAreRejected) {
  AdapterConfig pattern = patterned("all-linear");
  pattern.layers_to_transform = {0};
  EXPECT_THROWS_WITH(TargetRule{pattern}, ConfigError, "layers_to_transform", "all-linear");
  AdapterConfig layers = named({"q_proj"});
  layers.layers_pattern = {"layers"};
  EXPECT_THROWS_WITH(TargetRule{layers}, ConfigError, "layers_pattern");
  EXPECT_THROWS_WITH(TargetRule{AdapterConfig{}}, ConfigError, "target_modules is empty");
}

}  // namespace
}  // namespace weft::lora
