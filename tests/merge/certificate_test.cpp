#include "merge/certificate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/hash.h"
#include "tests/merge/models.h"
#include "tests/support/throws.h"
#include "tests/support/tiny_model.h"

namespace weft::merge {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using tests::config_of;
using tests::slurp;
using tests::TempDir;

/// A merged folder in two shards, with its base and adapter.
class Certificate : public ::testing::Test {
 protected:
  Certificate() : model(tests::write_tiny_model(dir / "base")) {
    const auto modules = lora::linear_modules(checkpoint::Checkpoint::open(model));
    adapter = tests::write_noisy_adapter(dir / "adapter", modules,
                                         config_of({"q_proj", "down_proj"}, 4, 8));
    MergeRequest request;
    request.model = model;
    request.adapters = {{adapter, 1}};
    request.out = out;
    request.max_shard_bytes = 20'000;
    report = merge_model(request);
  }

  /// Flips one bit in the middle of a file.
  static void damage(const fs::path& file) {
    std::string text = slurp(file);
    text[text.size() / 2] = static_cast<char>(text[text.size() / 2] ^ 1);
    std::ofstream(file, std::ios::binary) << text;
  }

  [[nodiscard]] std::string complaint(VerifyInputs inputs = VerifyInputs::kYes) const {
    try {
      (void)verify_certificate(out, inputs);
    } catch (const InputError& error) {
      return error.what();
    }
    return {};
  }

  TempDir dir;
  fs::path model;
  fs::path adapter;
  fs::path out = dir / "out";
  MergeReport report;
};

TEST_F(Certificate, RecordsTheDigestOfEveryFileAndItself) {
  const auto json = nlohmann::json::parse(slurp(out / "merge.json"));
  std::set<std::string> listed{"merge.json"};
  for (const auto& file : json["outputs"]) {
    const fs::path path = out / file["file"].get<std::string>();
    EXPECT_EQ(file["sha256"], core::sha256_file(path));
    EXPECT_EQ(file["bytes"], fs::file_size(path));
    listed.insert(path.filename());
  }
  for (const auto& entry : fs::directory_iterator(out)) {
    EXPECT_TRUE(listed.contains(entry.path().filename())) << entry.path();
  }
  EXPECT_GT(json["files"], 1);
  EXPECT_TRUE(json.contains("weft_version"));
}

TEST_F(Certificate, NamesTheTensorThatEveryAdapterKeyWentInto) {
  const auto json = nlohmann::json::parse(slurp(out / "merge.json"));
  const auto& used = json["adapters"][0]["used"];
  const auto weights = checkpoint::Safetensors::open(adapter / "adapter_model.safetensors");
  ASSERT_EQ(used.size(), weights.entries().size());
  for (const auto& entry : weights.entries()) EXPECT_TRUE(used.contains(entry.name)) << entry.name;
  EXPECT_EQ(used["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"],
            "model.layers.0.self_attn.q_proj.weight");
}

TEST_F(Certificate, HoldsForAnUntouchedFolder) {
  const CertificateCheck found = verify_certificate(out);
  EXPECT_EQ(found.files, report.outputs.size());
  EXPECT_EQ(found.keys, 8U);
  ASSERT_EQ(found.inputs.size(), 2U);
  EXPECT_EQ(found.inputs[0].state, InputState::kSame);
  EXPECT_EQ(found.inputs[1].state, InputState::kSame);
}

TEST_F(Certificate, NamesAnyFileInWhichABitChanged) {
  for (const WrittenFile& file : report.outputs) {
    const std::string before = slurp(out / file.name);
    if (before.empty()) continue;
    damage(out / file.name);
    EXPECT_THAT(complaint(), HasSubstr("/" + file.name + "' has changed"));
    std::ofstream(out / file.name, std::ios::binary) << before;
  }
  EXPECT_EQ(complaint(), "");
}

TEST_F(Certificate, NamesItselfWhenItWasEdited) {
  std::string text = slurp(out / "merge.json");
  const auto at = text.find("\"retained\": ");
  text[at + 12] = '9';
  std::ofstream(out / "merge.json") << text;
  EXPECT_THAT(complaint(), HasSubstr("merge.json' was changed after it was written"));
}

TEST_F(Certificate, NamesMissingShortenedAndUnlistedFiles) {
  const fs::path first = out / report.outputs.back().name;
  const std::string before = slurp(first);
  fs::resize_file(first, before.size() - 1);
  EXPECT_THAT(complaint(), HasSubstr("bytes, merge.json records"));
  fs::remove(first);
  EXPECT_THAT(complaint(), HasSubstr("is missing"));
  std::ofstream(first, std::ios::binary) << before;
  std::ofstream(out / "more.safetensors") << "x";
  EXPECT_THAT(complaint(), HasSubstr("more.safetensors' is not listed in merge.json"));
}

TEST_F(Certificate, ComparesInputsThatAreStillThere) {
  damage(adapter / "adapter_model.safetensors");
  EXPECT_THAT(complaint(), HasSubstr("is no longer what was merged"));
  EXPECT_EQ(complaint(VerifyInputs::kNo), "");
  fs::remove_all(adapter);
  fs::remove_all(model);
  const CertificateCheck found = verify_certificate(out);
  EXPECT_EQ(found.inputs[0].state, InputState::kAbsent);
  EXPECT_EQ(found.inputs[1].state, InputState::kAbsent);
}

TEST_F(Certificate, OfAFolderWithoutOneIsAnError) {
  fs::remove(out / "merge.json");
  EXPECT_THAT(complaint(), HasSubstr("has no merge.json"));
  std::ofstream(out / "merge.json") << R"({"format": 1})";
  EXPECT_THAT(complaint(), HasSubstr("recorded no digests"));
}

TEST_F(Certificate, AFileThatWasAddedIsNoticedBecauseItIsLoaded) {
  for (const char* name :
       {"chat_template.jinja", "tokenizer.model", "adapter_config.json", "modeling_tiny.py",
        "model.gguf", "pytorch_model.pt", "additional_chat_templates/x.jinja"}) {
    dir.write(std::string("out/") + name, "added");
    EXPECT_THAT(complaint(), HasSubstr(name));
    fs::remove(out / name);
  }
  for (const char* name : {"README.md", "LICENSE", ".gitattributes"}) {
    dir.write(std::string("out/") + name, "for people");
  }
  EXPECT_EQ(complaint(), "");
}

TEST_F(Certificate, TheUsesAreThoseOfTheFold) {
  const auto json = nlohmann::json::parse(slurp(out / "merge.json"));
  EXPECT_EQ(json["adapters"][0]["keys"], json["adapters"][0]["used"].size());
  for (const auto& [key, tensor] : json["adapters"][0]["used"].items()) {
    const bool folded = std::ranges::any_of(
        report.folded, [&](const FoldedTensor& f) { return f.name == tensor.get<std::string>(); });
    EXPECT_TRUE(folded) << key;
  }
}

}  // namespace
}  // namespace weft::merge
