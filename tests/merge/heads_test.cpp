// Embedding and output head, whatever a family calls them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "checkpoint/roles.h"
#include "core/error.h"
#include "merge/certificate.h"
#include "merge/merge.h"
#include "merge/model_folder.h"
#include "tests/merge/models.h"
#include "tests/support/throws.h"

namespace weft::merge {
namespace {

namespace fs = std::filesystem;
using checkpoint::Checkpoint;
using ::testing::HasSubstr;
using tests::config_of;
using tests::ModelTensor;
using tests::noisy;
using tests::TempDir;

constexpr auto kSingle = core::DType::kF32;

/// A pair of factors of rank 2 and scale 1.
void add_factors(lora::Adapter& adapter, lora::Module module) {
  lora::Factors& factors = adapter.factors.emplace_back();
  factors.a = tests::noise(static_cast<std::size_t>(2 * module.in), 1, 3);
  factors.b = tests::noise(static_cast<std::size_t>(2 * module.out), 1, 4);
  factors.target.module = std::move(module);
  factors.target.rank = 2;
  factors.target.alpha = 2;
  factors.target.scale = 1;
}

class Heads : public ::testing::Test {
 protected:
  /// An adapter with a pair of factors of the output head under PEFT's name of it.
  fs::path head_adapter(const std::string& path, const std::string& name = "adapter") const {
    lora::Adapter adapter;
    adapter.config = config_of({path}, 2, 2);
    add_factors(adapter, {path, 4, 6});
    fs::create_directories(dir / name);
    lora::write_peft(adapter, dir / name);
    return dir / name;
  }

  /// An adapter that saves tensors whole, beside factors of "mlp".
  fs::path saving_adapter(const std::string& name, const std::string& tensor,
                          std::vector<std::int64_t> shape, std::uint32_t seed) const {
    const std::string prefix = "base_model.model.";
    return tests::write_adapter(
        dir / name,
        R"({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["mlp"],)"
        R"("modules_to_save": ["lm_head", "embed_in", "wte"]})",
        {noisy(prefix + "mlp.lora_A.weight", {2, 4}, kSingle, seed),
         noisy(prefix + "mlp.lora_B.weight", {4, 2}, kSingle, seed + 1),
         noisy(prefix + tensor, std::move(shape), kSingle, seed + 2)});
  }

  MergeReport merge(const std::vector<MergeRequest::Adapter>& adapters) const {
    MergeRequest request;
    request.model = dir / "base";
    request.adapters = adapters;
    request.out = dir / "out";
    request.overwrite = core::Overwrite::kReplace;
    return merge_model(request);
  }

  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> list;
    const Checkpoint model = Checkpoint::open(dir / "out");
    for (const auto& tensor : model.tensors()) list.push_back(tensor.name);
    return list;
  }
  [[nodiscard]] std::vector<float> values(const char* folder, const std::string& name) const {
    const Checkpoint model = Checkpoint::open(dir / folder);
    return model.read(*model.find(name));
  }

  void write_neox() const {
    tests::write_model(
        dir / "base",
        {noisy("gpt_neox.embed_in.weight", {6, 4}, kSingle, 1),
         noisy("mlp.weight", {4, 4}, kSingle, 2), noisy("embed_out.weight", {6, 4}, kSingle, 3)},
        R"({"model_type": "gpt_neox"})");
  }

  TempDir dir;
};

TEST_F(Heads, AnAdapterOnTheHeadOfGptNeoxIsFoldedIntoEmbedOut) {
  write_neox();
  for (const char* name : {"lm_head", "embed_out"}) {
    const MergeReport report = merge({{head_adapter(name), 1}});
    ASSERT_EQ(report.folded.size(), 1U);
    EXPECT_EQ(report.folded[0].name, "embed_out.weight");
    EXPECT_EQ(report.adapters[0].keys[0].tensor, "embed_out.weight");
    EXPECT_EQ(names(), (std::vector<std::string>{"embed_out.weight", "gpt_neox.embed_in.weight",
                                                 "mlp.weight"}));
    EXPECT_NE(values("out", "embed_out.weight"), values("base", "embed_out.weight"));
  }
}

TEST_F(Heads, AnAdapterOnTheEmbeddingOfGptNeoxWritesNoHead) {
  write_neox();
  (void)merge({{saving_adapter("adapter", "gpt_neox.embed_in.weight", {6, 4}, 7), 1}});
  EXPECT_EQ(names().size(), 3U);
  EXPECT_EQ(values("out", "embed_out.weight"), values("base", "embed_out.weight"));
  EXPECT_NE(values("out", "gpt_neox.embed_in.weight"), values("base", "gpt_neox.embed_in.weight"));
}

TEST_F(Heads, AHeadOfGpt2ThatDiffersFromItsEmbeddingIsKept) {
  tests::write_model(dir / "base",
                     {noisy("transformer.wte.weight", {6, 4}, kSingle, 1),
                      noisy("lm_head.weight", {6, 4}, kSingle, 2)},
                     R"({"model_type": "gpt2"})");
  (void)merge({});
  EXPECT_EQ(names(), (std::vector<std::string>{"lm_head.weight", "transformer.wte.weight"}));
  EXPECT_EQ(Checkpoint::open(dir / "out").config().at("tie_word_embeddings"), false);
}

TEST_F(Heads, AHeadOfGpt2ThatEqualsItsEmbeddingIsTheEmbedding) {
  ModelTensor head = noisy("lm_head.weight", {6, 4}, kSingle, 1);
  tests::write_model(dir / "base", {noisy("transformer.wte.weight", {6, 4}, kSingle, 1), head},
                     R"({"model_type": "gpt2"})");
  (void)merge({});
  EXPECT_EQ(names(), std::vector<std::string>{"transformer.wte.weight"});
}

TEST_F(Heads, Gpt2UnderItsPublishedNamesTakesAdapters) {
  tests::write_model(
      dir / "base",
      {noisy("wte.weight", {6, 4}, kSingle, 1), noisy("h.0.mlp.c_fc.weight", {4, 8}, kSingle, 2)},
      R"({"model_type": "gpt2"})");
  lora::Adapter adapter;
  adapter.config = config_of({"c_fc"}, 2, 2);
  add_factors(adapter, {"transformer.h.0.mlp.c_fc", 4, 8});
  fs::create_directories(dir / "adapter");
  lora::write_peft(adapter, dir / "adapter");
  EXPECT_EQ(merge({{dir / "adapter", 1}}).folded.at(0).name, "transformer.h.0.mlp.c_fc.weight");
}

TEST_F(Heads, AHeadOfAFamilyThatIsNotKnownIsRefused) {
  tests::write_model(
      dir / "base",
      {noisy("model.embed_tokens.weight", {6, 4}, kSingle, 1),
       noisy("mlp.weight", {4, 4}, kSingle, 2), noisy("unembedding.weight", {6, 4}, kSingle, 3)},
      R"({"model_type": "something_new"})");
  EXPECT_THROWS_WITH(merge({{head_adapter("lm_head"), 1}}), InputError, "something_new",
                     "output head");
  EXPECT_THROWS_WITH(merge({{saving_adapter("saving", "model.embed_tokens.weight", {6, 4}, 7), 1}}),
                     InputError, "something_new");
  EXPECT_NO_THROW(merge({}));
}

TEST_F(Heads, TheHeadOfALlavaIsNotTakenForTied) {
  tests::write_model(dir / "base",
                     {noisy("language_model.model.embed_tokens.weight", {6, 4}, kSingle, 1),
                      noisy("language_model.lm_head.weight", {6, 4}, kSingle, 2)},
                     R"({"model_type": "llava"})");
  EXPECT_EQ(merge({{head_adapter("lm_head"), 1}}).folded.at(0).name,
            "language_model.lm_head.weight");
}

TEST_F(Heads, ASecondSavedHeadOfAnotherSizeIsRefusedInEitherOrder) {
  tests::write_model(
      dir / "base",
      {noisy("model.embed_tokens.weight", {6, 4}, kSingle, 1),
       noisy("mlp.weight", {4, 4}, kSingle, 2), noisy("lm_head.weight", {6, 4}, kSingle, 3)},
      R"({"model_type": "llama", "tie_word_embeddings": false})");
  const fs::path same = saving_adapter("same", "lm_head.weight", {6, 4}, 11);
  const fs::path larger = saving_adapter("larger", "lm_head.weight", {9, 4}, 15);
  EXPECT_THROWS_WITH(merge({{same, 1}, {larger, 1}}), InputError, "lm_head.weight",
                     "another shape");
  EXPECT_THROWS_WITH(merge({{larger, 1}, {same, 1}}), InputError, "lm_head.weight",
                     "another shape");
  EXPECT_NO_THROW(merge({{same, 1}, {saving_adapter("other", "lm_head.weight", {6, 4}, 19), 1}}));
}

TEST_F(Heads, WhatAnAdapterSavesUnchangedIsAccountedFor) {
  write_neox();
  const fs::path adapter = saving_adapter("adapter", "gpt_neox.embed_in.weight", {6, 4}, 30);
  // The base's own embedding, as PEFT saves it with an extended vocabulary.
  tests::write_tensors(dir / "base/model.safetensors",
                       {noisy("gpt_neox.embed_in.weight", {6, 4}, kSingle, 32),
                        noisy("mlp.weight", {4, 4}, kSingle, 2)});
  const MergeReport report = merge({{adapter, 1}});
  EXPECT_EQ(report.folded.size(), 1U);
  EXPECT_THAT(report.adapters[0].keys.front().tensor, HasSubstr("equal to the base's"));
  EXPECT_EQ(verify_certificate(dir / "out").keys, 3U);
}

TEST(AccountForKeys, AKeyThatWasNotFoldedIsAnError) {
  MergeReport report;
  report.adapters.push_back({"dir", 1, "digest", 2, {{"a", "w"}, {"b", "w"}}, 1, 2, "same"});
  FoldedTensor folded;
  folded.name = "w";
  folded.keys = {{"dir", "a", "w"}};
  report.folded = {folded};
  EXPECT_THROWS_WITH(account_for_keys(report, {}), NumericError, "'b'", "not folded");
  const std::vector<UsedKey> more{{"dir", "b", "(equal)"}};
  account_for_keys(report, more);
  EXPECT_EQ(report.adapters[0].keys[1].tensor, "(equal)");
}

TEST(CheckWritten, ANumberThatReadsBackOtherwiseIsNamed) {
  const TempDir dir;
  const ModelTensor tensor = noisy("w.weight", {5, 8}, core::DType::kBF16, 1);
  tests::write_model(dir / "out", {tensor});
  const std::vector<std::string> names{"w.weight"};
  Sample sample{"w.weight",
                2,
                core::DType::kBF16,
                Rounding::kNearest,
                {tensor.values.begin() + 16, tensor.values.begin() + 24}};
  check_written(dir / "out", names, false, std::span(&sample, 1));
  sample.values[3] += 0.05F;
  EXPECT_THROWS_WITH(check_written(dir / "out", names, false, std::span(&sample, 1)), NumericError,
                     "row 2", "w.weight");
  const std::vector<std::string> more{"v.weight", "w.weight"};
  EXPECT_THROWS_WITH(check_written(dir / "out", more, false, {}), NumericError, "other tensors");
}

TEST_F(Heads, BuffersThatAreNoNumbersAreCopied) {
  dir.write("base/config.json", R"({"model_type": "gpt_neox"})");
  checkpoint::SafetensorsWriter writer(dir / "base/model.safetensors",
                                       {{"gpt_neox.attention.bias", "BOOL", {2, 2}},
                                        {"gpt_neox.steps", "I64", {1}},
                                        {"gpt_neox.mlp.weight", "F32", {2, 2}}});
  std::vector<std::byte> mask(4, std::byte{1});
  for (const checkpoint::TensorPlan& plan : writer.order()) {
    const auto fill = static_cast<std::byte>(plan.dtype == "BOOL" ? 1 : 0);
    const std::vector<std::byte> bytes(plan.bytes(), fill);
    writer.write(std::span<const std::byte>(bytes));
  }
  writer.finish();
  MergeRequest request;
  request.model = dir / "base";
  request.out = dir / "out";
  request.dtype = core::DType::kBF16;
  (void)merge_model(request);
  EXPECT_EQ(tests::stored(dir / "out/model.safetensors", "gpt_neox.attention.bias").bytes, mask);
  EXPECT_EQ(tests::stored(dir / "out/model.safetensors", "gpt_neox.steps").dtype, "I64");
  EXPECT_EQ(tests::stored(dir / "out/model.safetensors", "gpt_neox.mlp.weight").dtype, "BF16");
}

}  // namespace
}  // namespace weft::merge
