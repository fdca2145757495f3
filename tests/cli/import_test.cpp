// weft import on whole configurations of other trainers, and weft train --check on what it writes.
#include "train/import.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "schema/schema.h"
#include "tests/support/process.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"
#include "train/config.h"

namespace weft {
namespace {
namespace fs = std::filesystem;
using ::testing::HasSubstr;
using tests::Finished;

/// A model and data of every shape that the configurations name by names of a hub.
class Import : public ::testing::Test {
 protected:
  static constexpr int kRows = 400;

  void SetUp() override {
    tests::write_tiny_model(folder_ / "base", {.max_positions = 32768});
    folder_.write("base/chat_template.jinja", train::named_template("chatml"));
    std::string alpaca, chats, talks, text;
    for (int i = 0; i < kRows; ++i) {
      const std::string question = "Say the number " + std::to_string(i) + ".";
      const std::string answer = "It is " + std::to_string(i) + ".";
      nlohmann::json row{{"instruction", question}, {"output", answer}};
      if (i % 2 == 0) row["input"] = "in Nahuatl";
      alpaca += row.dump() + "\n";
      chats += nlohmann::json{{"messages",
                               {{{"role", "user"}, {"content", question}},
                                {{"role", "assistant"}, {"content", answer}}}}}
                   .dump() +
               "\n";
      talks += nlohmann::json{{"conversations",
                               {{{"from", "human"}, {"value", question}},
                                {{"from", "gpt"}, {"value", answer}}}}}
                   .dump() +
               "\n";
      text += nlohmann::json{{"text", question + " " + answer}}.dump() + "\n";
    }
    folder_.write("alpaca.jsonl", alpaca);
    folder_.write("chats.jsonl", chats);
    folder_.write("talks.jsonl", talks);
    folder_.write("text.jsonl", text);
  }

  /// The file of data that a dataset can be read from.
  [[nodiscard]] static const char* file_of(const data::DatasetConfig& dataset) {
    if (dataset.type == data::DatasetType::kText) return "text.jsonl";
    if (dataset.type != data::DatasetType::kChat) return "alpaca.jsonl";
    const auto messages = dataset.fields.find("messages");
    if (messages != dataset.fields.end() && messages->second == "{messages}") return "chats.jsonl";
    return "talks.jsonl";
  }

  /// weft train --check of OUR.yaml, with the names of the hub replaced.
  [[nodiscard]] Finished check(const fs::path& file) const {
    std::vector<std::string> arguments{tests::weft_program(), "train", file.string(), "--check"};
    const auto set = [&](const std::string& key, const std::string& value) {
      arguments.insert(arguments.end(), {"--set", key + "=" + value});
    };
    set("base_model", (folder_ / "base").string());
    set("token_cache", "false");
    const auto config = schema::load_config<train::TrainConfig>(file);
    for (std::size_t i = 0; i < config.datasets.size(); ++i) {
      std::string data = file_of(config.datasets[i]);
      // Under chat_template without more, a column of either name is read.
      const bool chat = config.datasets[i].type == data::DatasetType::kChat;
      if (chat && config.datasets[i].fields.empty()) data = "chats.jsonl";
      set("datasets." + std::to_string(i) + ".path", (folder_ / data).string());
    }
    return tests::run_process(arguments);
  }

  tests::TempDir folder_;
};

TEST_F(Import, FiftyConfigurationsOfOtherTrainersPassTheCheckAfterwards) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(tests::source_dir() / "tests/import")) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  std::ranges::sort(files);
  int passed = 0;
  for (const fs::path& file : files) {
    const auto [text, source] = schema::read_config_file(file);
    const train::Imported imported = train::import_config(text, source);
    EXPECT_EQ(imported.program,
              file.parent_path().filename() == "axolotl" ? "axolotl" : "LLaMA-Factory");
    for (const train::SideFile& side : imported.files) folder_.write(side.name, side.text);
    const Finished done = check(folder_.write("ours.yaml", imported.yaml));
    EXPECT_EQ(done.status, 0) << file << "\n" << done.err << "\n" << imported.yaml;
    passed += done.status == 0 ? 1 : 0;
  }
  EXPECT_EQ(passed, 50);
}

TEST_F(Import, WritesTheFileWithItsPromptBesideAndSaysWhichProgramItWas) {
  const fs::path theirs = tests::source_dir() / "tests/import/axolotl/llama-3-qlora-1b.yml";
  const fs::path ours = folder_ / "ours.yaml";
  const std::vector<std::string> command{tests::weft_program(), "import", theirs.string(), "--out",
                                         ours.string()};
  const Finished done = tests::run_process(command);
  ASSERT_EQ(done.status, 0) << done.err;
  EXPECT_THAT(done.err, HasSubstr("is a configuration of axolotl"));
  EXPECT_EQ(done.out, (folder_ / "alpaca.jinja").string() + "\n" + ours.string() + "\n");
  const Finished plan = check(ours);
  EXPECT_EQ(plan.status, 0) << plan.err;
  EXPECT_THAT(plan.out, HasSubstr("of these examples"));  // held out by val_set_size
  EXPECT_THAT(plan.out, HasSubstr("### Response:"));
  const Finished again = tests::run_process(command);
  EXPECT_EQ(again.status, 2);
  EXPECT_THAT(again.err, HasSubstr("exists already"));
  const Finished shown = tests::run_process({tests::weft_program(), "import", theirs.string()});
  EXPECT_EQ(shown.out, tests::slurp(ours));
  EXPECT_THAT(shown.err, HasSubstr("alpaca.jinja"));
}

TEST_F(Import, SpecialTokensThatAreNotTheModelsOwnAreRefusedByName) {
  const fs::path file =
      folder_.write("t.yaml",
                    "base_model: base\noutput_dir: run\ntoken_cache: false\ndatasets: [{path: "
                    "text.jsonl}]\nspecial_tokens: {bos_token: <s>, eos_token: </s>}\n");
  const Finished same = tests::run_process({tests::weft_program(), "train", file, "--check"});
  EXPECT_EQ(same.status, 0) << same.err;
  const Finished other = tests::run_process({tests::weft_program(), "train", file, "--check",
                                             "--set", "special_tokens.eos_token=<|im_end|>"});
  EXPECT_EQ(other.status, 2);
  EXPECT_THAT(other.err, HasSubstr("the eos_token of " + (folder_ / "base").string() +
                                   " is '</s>', and '<|im_end|>' is asked for"));
}

TEST_F(Import, PreferenceTrainingExits2WithItsName) {
  const fs::path theirs = folder_.write(
      "dpo.yaml", "model_name_or_path: a\nstage: dpo\nfinetuning_type: lora\noutput_dir: o\n");
  const Finished done = tests::run_process({tests::weft_program(), "import", theirs.string()});
  EXPECT_EQ(done.status, 2);
  EXPECT_THAT(done.err, HasSubstr("stage: dpo: trains by preferences or rewards"));
  EXPECT_EQ(done.out, "");
}

}  // namespace
}  // namespace weft
