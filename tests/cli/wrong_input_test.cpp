// Wrong input of every command: exit status 2, one line that says what to do, before any long work.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "checkpoint/checkpoint.h"
#include "lora/adapter.h"
#include "tests/support/process.h"
#include "tests/support/tiny_model.h"

namespace weft::tests {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

using Strings = std::vector<std::string>;

void expect_refused(const Strings& arguments, const Strings& parts) {
  const Finished done = run_weft(arguments);
  EXPECT_EQ(done.status, 2) << done.err;
  EXPECT_EQ(std::count(done.err.begin(), done.err.end(), '\n'), 1) << done.err;
  for (const std::string& part : parts) EXPECT_THAT(done.err, HasSubstr(part));
}

class WrongInput : public ::testing::Test {
 protected:
  TempDir folder_;
  std::string base_ = write_tiny_model(folder_ / "base").string();
  std::string ids_ = folder_.write("ids.jsonl", "[1, 2, 3]\n[4, 5, 258, 259]\n").string();
  std::string text_ = folder_.write("t.txt", "atl").string();
};

TEST_F(WrongInput, AnOutputThatCannotBeWrittenIsFoundBeforeTheModelIsOpened) {
  // The model is broken too: the output is what is told.
  const std::string broken = (folder_ / "no-model").string();
  expect_refused({"merge", "--model", broken, "--out", "/proc/m"},
                 {"/proc/m", "cannot be written"});
#ifdef WEFT_WITH_TORCH
  const auto eval = [&](const std::string& out) {
    return Strings{"eval", "--model", broken, "--text", text_, "--out", out, "--force"};
  };
  const auto logits = [&](const std::string& out) {
    return Strings{"logits", "--model", broken, "--ids", ids_, "--out", out, "--force"};
  };
  expect_refused(eval("/proc/e"), {"/proc/e", "cannot be written"});
  expect_refused(eval(folder_.path().string()), {"is a folder"});
  expect_refused(logits("/proc/l"), {"/proc/l", "cannot be written"});
  expect_refused(logits(folder_.path().string()), {"is a folder"});
  expect_refused(logits((folder_ / "missing/l.safetensors").string()), {"there is no folder"});
  EXPECT_FALSE(fs::exists(folder_ / "missing"));
#endif
}

TEST_F(WrongInput, ALineThatTheTemplateRefusesIsNamed) {
  folder_.write("base/chat_template.jinja",
                "{% if messages|length > 1 %}{{ raise_exception('long') }}{% endif %}");
  const Finished done = run_weft({"tokenize", "--model", base_, "--chat"},
                                 "{\"messages\": [{}]}\n{\"messages\": [{}, {}]}\n");
  EXPECT_EQ(done.status, 2);
  EXPECT_EQ(done.out, "\"\"\n");
  EXPECT_THAT(done.err, HasSubstr("standard input:2: "));
}

#ifdef WEFT_WITH_TORCH
TEST_F(WrongInput, ATokenIdOutsideTheVocabularyHasItsLine) {
  expect_refused({"logits", "--model", base_, "--ids", ids_, "--out", (folder_ / "out").string()},
                 {ids_ + ":2", "259", "position 3"});
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

TEST_F(WrongInput, NumbersOutOfRangeAreToldInWords) {
  const std::string at_least_1 = "expected a whole number, at least 1, found '0'";
  expect_refused({"generate", "--model", base_, "--max-tokens", "0"}, {"--max-tokens", at_least_1});
  expect_refused({"generate", "--model", base_, "--threads", "-1"}, {"--threads", "at least 0"});
  expect_refused({"eval", "--model", base_, "--generate", "0"}, {"--generate", at_least_1});
  expect_refused({"eval", "--model", base_, "--limit", "1.5"}, {"--limit", "whole number"});
  expect_refused({"merge", "--model", base_, "--out", (folder_ / "m").string(), "--threads", "-1"},
                 {"at least 0"});
}

TEST_F(WrongInput, OptionsOfEvalThatWouldDoNothingAreRefused) {
  expect_refused({"eval", "--model", base_, "--text", text_, "--generate", "3"},
                 {"--generate", "--data"});
  expect_refused({"eval", "--model", base_, "--text", text_, "--fields", "output={nah}"},
                 {"--fields", "--data"});
}

TEST_F(WrongInput, GenerateRefusesAnAdapterOfAnotherTokenizer) {
  const auto checkpoint = checkpoint::Checkpoint::open(base_);
  lora::AdapterConfig config;
  config.r = 2;
  config.target_modules.pattern = "all-linear";
  const auto targets = lora::resolve_targets(config, lora::linear_modules(checkpoint));
  lora::Adapter adapter = lora::make_adapter(config, targets, 1);
  adapter.provenance.emplace();
  adapter.provenance->tokenizer = "of-another-model";
  adapter.provenance->chat_template = "of-another-template";
  fs::create_directory(folder_ / "adapter");
  lora::write_peft(adapter, folder_ / "adapter");
  Strings command{
      "generate",     "--model", base_,      "--adapter", (folder_ / "adapter").string(),
      "--max-tokens", "1",       "--prompt", "a"};
  expect_refused(command, {"tokenizer", "of-another-model", "--allow-other-base"});
  command.emplace_back("--allow-other-base");
  EXPECT_EQ(run_weft(command).status, 0);

  adapter.provenance->tokenizer.clear();
  lora::write_peft(adapter, folder_ / "adapter");
  command.pop_back();
  const Finished warned = run_weft(command);
  EXPECT_EQ(warned.status, 0) << warned.err;
  EXPECT_THAT(warned.err, HasSubstr("warning: the adapter was trained with the chat template"));
  command.emplace_back("--raw");
  EXPECT_THAT(run_weft(command).err, Not(HasSubstr("template")));
}

TEST(EvalCommand, PrintsItsConfigurationAndItsKeys) {
  const Finished dump =
      run_weft({"eval", "--model", "/m", "--text", "/t.txt", "--dump-config", "minimal"});
  EXPECT_EQ(dump.status, 0) << dump.err;
  EXPECT_EQ(dump.out, "base_model: /m\ntext: [/t.txt]\n");
  const Finished schema = run_weft({"eval", "--json-schema"});
  EXPECT_TRUE(nlohmann::json::parse(schema.out).at("properties").contains("merged"));
  EXPECT_THAT(run_weft({"eval", "--config-reference"}).out, HasSubstr("| `merged` |"));
}
#endif

TEST_F(WrongInput, AnInputIsNeverReplacedByAnyCommand) {
  const std::string weights = slurp(base_ + "/model.safetensors");
  expect_refused({"extract", "--model", base_, "--base", base_, "--out", base_, "--force"},
                 {"would be replaced"});
  expect_refused({"export", "--to", "gguf", "--model", base_, "--pre", "gpt-2", "--out",
                  base_ + "/model.safetensors", "--force"},
                 {"lies in the input"});
  expect_refused({"export", "--to", "ollama", "--model", base_, "--out", base_, "--force"},
                 {"would be replaced"});
  expect_refused({"merge", "--model", base_, "--out", (folder_ / "out").string(), "--undo",
                  base_ + "/model.safetensors", "--force"},
                 {"--undo", "lies in the input"});
  const std::string recipe =
      folder_.write("out/recipe.yaml", "merge_method: passthrough\nmodels: [{model: ../base}]\n")
          .string();
  expect_refused({"merge", recipe, "--out", (folder_ / "out").string(), "--force"},
                 {"recipe.yaml", "would be replaced"});
#ifdef WEFT_WITH_TORCH
  expect_refused({"imatrix", "--model", base_, "--text", text_, "--out", text_, "--force"},
                 {"would be replaced"});
#endif
  EXPECT_EQ(slurp(base_ + "/model.safetensors"), weights);
  EXPECT_EQ(slurp(text_), "atl");
}

TEST_F(WrongInput, AnExportOptionWithoutEffectIsRefused) {
  const std::string out = (folder_ / "out").string();
  const auto to = [&](const char* kind, const Strings& more) {
    Strings arguments{"export", "--to", kind, "--adapter", base_, "--out", out};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  };
  for (const char* option : {"--type", "--pre", "--name", "--from"}) {
    expect_refused(to("peft", {option, "f32"}), {option, "has no effect", "peft"});
  }
  expect_refused(to("gguf-lora", {"--model", base_, "--pre", "x"}), {"--pre", "has no effect"});
  expect_refused(to("gguf-lora", {"--model", base_, "--profile", "portable"}), {"--profile"});
  expect_refused(to("gguf", {"--model", base_, "--from", "x"}), {"--from", "has no effect"});
  expect_refused(to("ollama", {"--model", base_, "--from", "x", "--type", "f32"}),
                 {"--type", "has no effect"});
  expect_refused(to("pdf", {"--type", "f32"}), {"'pdf' is unknown", "ollama"});
  EXPECT_FALSE(fs::exists(out));
}

}  // namespace
}  // namespace weft::tests
