#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "checkpoint/checkpoint.h"
#include "core/error.h"
#include "lora/adapter.h"
#include "tests/lora/adapters.h"
#include "tests/support/throws.h"
#include "tests/support/tiny_model.h"

namespace weft::lora {
namespace {

using checkpoint::Checkpoint;
using tests::TempDir;
using tests::TinyModel;
using tests::write_tiny_model;

Target target_of(std::string path, std::int64_t in, std::int64_t out) {
  return {{std::move(path), in, out}, 2, 2, 1};
}

TEST(LinearModules, AreTheMatricesWithoutEmbeddingsAndHead) {
  const TempDir dir;
  TinyModel shape;
  shape.tied_head = false;
  const Checkpoint base = Checkpoint::open(write_tiny_model(dir / "base", shape));
  const auto modules = linear_modules(base);
  ASSERT_EQ(modules.size(), 14U);
  EXPECT_EQ(modules[0].path, "model.layers.0.mlp.down_proj");
  EXPECT_EQ(modules[0].in, 48);
  EXPECT_EQ(modules[0].out, 32);
  EXPECT_EQ(modules[3].path, "model.layers.0.self_attn.k_proj");
  EXPECT_EQ(modules[3].in, 32);
  EXPECT_EQ(modules[3].out, 16);
}

TEST(BaseWeight, IsFoundByPathAndShape) {
  const TempDir dir;
  const Checkpoint base = Checkpoint::open(write_tiny_model(dir / "base"));
  EXPECT_EQ(base_weight(base, target_of("model.layers.1.self_attn.k_proj", 32, 16)).name,
            "model.layers.1.self_attn.k_proj.weight");
}

TEST(BaseWeight, AMissingTensorNamesTheNearest) {
  const TempDir dir;
  const Checkpoint base = Checkpoint::open(write_tiny_model(dir / "base"));
  EXPECT_THROWS_WITH((void)base_weight(base, target_of("model.layers.2.self_attn.k_proj", 32, 16)),
                     InputError, "model.layers.2.self_attn.k_proj.weight", "nearest",
                     "self_attn.k_proj.weight");
}

TEST(BaseWeight, AnotherShapeNamesBoth) {
  const TempDir dir;
  const Checkpoint base = Checkpoint::open(write_tiny_model(dir / "base"));
  EXPECT_THROWS_WITH((void)base_weight(base, target_of("model.layers.1.self_attn.k_proj", 32, 32)),
                     InputError, "[32, 32]", "[16, 32]");
}

TEST(CheckBase, PassesOnTheRecordedWeightsAndNamesBothDigestsOnOthers) {
  const TempDir dir;
  const Checkpoint base = Checkpoint::open(write_tiny_model(dir / "base"));
  TinyModel other;
  other.seed = 2;
  const Checkpoint stranger = Checkpoint::open(write_tiny_model(dir / "other", other));
  Adapter adapter;
  EXPECT_NO_THROW(check_base(adapter, base));
  adapter.provenance = Provenance{base.weights_digest(), "F32", "F32", "", "", "", {}};
  EXPECT_NO_THROW(check_base(adapter, base));
  const std::string trained_on = base.weights_digest();
  const std::string found = stranger.weights_digest();
  EXPECT_THROWS_WITH(check_base(adapter, stranger), InputError, trained_on.c_str(), found.c_str(),
                     "--allow-other-base");
}

TEST(CheckPrompts, AnotherTokenizerIsRefusedAndAnotherTemplateWarnedOf) {
  std::vector<std::string> told;
  const core::Log log = [&](core::Level level, std::string_view line) {
    EXPECT_EQ(level, core::Level::kWarning);
    told.emplace_back(line);
  };
  const Provenance provenance{"w", "F32", "F32", "none", "tokenizer-1", "template-1", {}};
  const auto check = [&](const std::optional<Provenance>& recorded, const PromptDigests& now) {
    check_prompts(recorded, now, "base", log);
  };
  check(std::nullopt, {.tokenizer = "tokenizer-2", .chat_template = "template-2"});
  check(provenance, {.tokenizer = "tokenizer-1", .chat_template = "template-1"});
  check(provenance, {.tokenizer = "tokenizer-1"});
  check(provenance, {.tokenizer = "new digest", .legacy_tokenizer = "tokenizer-1"});
  EXPECT_TRUE(told.empty());
  EXPECT_THROWS_WITH(check(provenance, {.tokenizer = "tokenizer-2"}), InputError, "tokenizer-1",
                     "tokenizer-2", "base", "--allow-other-base");
  check(provenance, {.tokenizer = "tokenizer-1", .chat_template = "template-2"});
  check(provenance, {.tokenizer = "tokenizer-1", .chat_template = ""});
  ASSERT_EQ(told.size(), 2U);
  EXPECT_THAT(told[0], ::testing::AllOf(::testing::HasSubstr("template-1"),
                                        ::testing::HasSubstr("template-2")));
  EXPECT_THAT(told[1], ::testing::HasSubstr("none"));
}

}  // namespace
}  // namespace weft::lora
