// --device and device: on machines without a GPU, with and without weft's part for GPUs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "tests/support/process.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace weft {
namespace {
namespace fs = std::filesystem;
using ::testing::HasSubstr;
using tests::Finished;

/// weft's part for GPUs, where this build has it.
fs::path library() {
  return fs::path(tests::weft_program()).parent_path().parent_path() / "lib/libweft_cuda.so";
}

using tests::run_process;
using tests::weft_program;

class Device : public ::testing::Test {
 protected:
  void SetUp() override { tests::write_tiny_model(folder_ / "base"); }
  Finished generate(const std::string& device) {
    return tests::run_process({tests::weft_program(), "generate", "--model",
                               (folder_ / "base").string(), "--prompt", "a", "--max-tokens", "1",
                               "--device", device});
  }
  Finished eval(std::vector<std::string> more) {
    std::vector<std::string> command{
        weft_program(), "eval",
        "--model",      (folder_ / "base").string(),
        "--text",       folder_.write("text.txt", "in xochitl").string(),
        "--ledger",     (folder_ / "weft.db").string(),
        "--out",        (folder_ / "figures.json").string()};
    command.insert(command.end(), more.begin(), more.end());
    return run_process(command);
  }
  tests::TempDir folder_;
};

TEST_F(Device, IsTheProcessorUnlessAskedForAndCanBeNamed) { EXPECT_EQ(generate("cpu").status, 0); }

TEST_F(Device, OfAnotherNameIsRefused) {
  for (const char* const name : {"gpu", "cuda:", "cuda:x", "cuda:-1", "cuda0", "CPU", ""}) {
    const Finished done = generate(name);
    EXPECT_EQ(done.status, 2) << name;
    EXPECT_THAT(done.err, HasSubstr("is not cpu, cuda or cuda:N")) << name;
  }
}

TEST_F(Device, ThatThereIsNotIsRefusedInOneLine) {
  if (fs::exists("/dev/nvidia0")) GTEST_SKIP() << "this machine has a GPU";
  const std::string wanted = fs::exists(library()) ? "no NVIDIA driver" : "script/setup --cuda";
  for (const char* const name : {"cuda", "cuda:7"}) {
    const Finished done = generate(name);
    EXPECT_EQ(done.status, 2) << name;
    EXPECT_THAT(done.err, HasSubstr(wanted)) << name;
    EXPECT_EQ(std::ranges::count(done.err, '\n'), 1) << done.err;
  }
}

TEST_F(Device, ThatThereIsNotIsRefusedByEveryCommandThatComputes) {
  if (fs::exists("/dev/nvidia0")) GTEST_SKIP() << "this machine has a GPU";
  const std::string base = (folder_ / "base").string();
  const std::string out = (folder_ / "out").string();
  const std::string text = folder_.write("text.txt", "in xochitl").string();
  const std::string ids = folder_.write("ids.jsonl", "[1, 2]\n").string();
  const std::vector<std::vector<std::string>> commands{
      {"imatrix", "--model", base, "--text", text, "--out", out + ".gguf", "--device", "cuda"},
      {"logits", "--model", base, "--ids", ids, "--out", out, "--device", "cuda"},
      {"export", "--model", base, "--to", "gguf", "--type", "f16", "--out", out + ".gguf",
       "--verify", text, "--verify-device", "cuda"}};
  for (std::vector<std::string> command : commands) {
    const std::string name = command.front();
    command.insert(command.begin(), weft_program());
    const Finished done = run_process(command);
    EXPECT_EQ(done.status, 2) << name;
    EXPECT_THAT(done.err, HasSubstr("device cuda: ")) << name;
  }
  EXPECT_FALSE(fs::exists(out));
  EXPECT_FALSE(fs::exists(out + ".gguf"));
}

TEST_F(Device, OfATrainingIsRefusedBeforeAnythingIsWritten) {
  folder_.write("data.jsonl", R"({"prompt": "a", "completion": "b"})"
                              "\n");
  const auto config = [&](const std::string& device) {
    return folder_.write("config.yaml", "base_model: base\noutput_dir: run\ndevice: " + device +
                                            "\nsequence_len: 64\ndatasets: [{path: data.jsonl}]\n");
  };
  const Finished unknown =
      tests::run_process({tests::weft_program(), "train", config("tpu").string()});
  EXPECT_EQ(unknown.status, 2);
  EXPECT_THAT(unknown.err, HasSubstr("config.yaml:3:"));
  EXPECT_THAT(unknown.err, HasSubstr("'tpu' is not cpu, cuda or cuda:N"));
  EXPECT_FALSE(fs::exists(folder_ / "run"));
  if (fs::exists("/dev/nvidia0")) GTEST_SKIP() << "this machine has a GPU";
  const Finished none =
      tests::run_process({tests::weft_program(), "train", config("cuda").string()});
  EXPECT_EQ(none.status, 2);
  EXPECT_THAT(none.err, HasSubstr("device cuda: "));
  EXPECT_FALSE(fs::exists(folder_ / "run/config.yaml"));
}

TEST_F(Device, OfAnEvaluationIsRefusedBeforeAnythingIsWritten) {
  const Finished unknown = eval({"--device", "tpu"});
  EXPECT_EQ(unknown.status, 2);
  EXPECT_THAT(unknown.err, HasSubstr("'tpu' is not cpu, cuda or cuda:N"));
  const auto config =
      folder_.write("eval.yaml", "base_model: base\ntext: [text.txt]\ndevice: tpu\n");
  const Finished in_file = run_process({weft_program(), "eval", config.string()});
  EXPECT_EQ(in_file.status, 2);
  EXPECT_THAT(in_file.err, HasSubstr("eval.yaml:3:"));
  EXPECT_THAT(in_file.err, HasSubstr("'tpu' is not cpu, cuda or cuda:N"));
  if (!fs::exists("/dev/nvidia0")) {
    const Finished none = eval({"--device", "cuda"});
    EXPECT_EQ(none.status, 2);
    EXPECT_THAT(none.err, HasSubstr("device cuda: "));
    EXPECT_EQ(std::ranges::count(none.err, '\n'), 1) << none.err;
  }
  EXPECT_FALSE(fs::exists(folder_ / "weft.db"));
  EXPECT_FALSE(fs::exists(folder_ / "figures.json"));
}

TEST_F(Device, OfAnEvaluationWinsOverTheFileAndIsTheProcessorByDefault) {
  const auto config = folder_.write("eval.yaml",
                                    "base_model: base\ntext: [text.txt]\ndevice: cuda\n"
                                    "record: false\n");
  folder_.write("text.txt", "in xochitl");
  const Finished named = run_process({weft_program(), "eval", config.string(), "--device", "cpu"});
  EXPECT_EQ(named.status, 0) << named.err;
  EXPECT_EQ(eval({}).status, 0);
  EXPECT_TRUE(fs::exists(folder_ / "weft.db"));
}

TEST_F(Device, OfAVerificationIsRefusedBeforeTheModelIsWritten) {
  const std::string text = folder_.write("text.txt", "in xochitl in cuicatl").string();
  const auto merge = [&](const std::string& device) {
    return run_process({weft_program(), "merge", "--model", (folder_ / "base").string(), "--out",
                        (folder_ / "merged").string(), "--verify", text, "--verify-device",
                        device});
  };
  const Finished unknown = merge("tpu");
  EXPECT_EQ(unknown.status, 2);
  EXPECT_THAT(unknown.err, HasSubstr("'tpu' is not cpu, cuda or cuda:N"));
  if (!fs::exists("/dev/nvidia0")) {
    const Finished none = merge("cuda:1");
    EXPECT_EQ(none.status, 2);
    EXPECT_THAT(none.err, HasSubstr("device cuda"));
  }
  EXPECT_FALSE(fs::exists(folder_ / "merged"));
}

TEST_F(Device, OfAMergeIsRefusedBeforeTheModelIsWritten) {
  const auto merge = [&](const std::string& device) {
    return run_process({weft_program(), "merge", "--model", (folder_ / "base").string(), "--out",
                        (folder_ / "merged").string(), "--device", device});
  };
  for (const char* const name : {"tpu", "cuda:", "CPU", "cuda:-1"}) {
    const Finished unknown = merge(name);
    EXPECT_EQ(unknown.status, 2) << name;
    EXPECT_THAT(unknown.err, HasSubstr("is not cpu, cuda or cuda:N")) << name;
    EXPECT_EQ(std::ranges::count(unknown.err, '\n'), 1) << unknown.err;
  }
  if (!fs::exists("/dev/nvidia0")) {
    const std::string wanted = fs::exists(library()) ? "no NVIDIA driver" : "script/setup --cuda";
    for (const char* const name : {"cuda", "cuda:1"}) {
      const Finished none = merge(name);
      EXPECT_EQ(none.status, 2) << name;
      EXPECT_THAT(none.err, HasSubstr("device cuda"));
      EXPECT_THAT(none.err, HasSubstr(wanted)) << name;
      EXPECT_EQ(std::ranges::count(none.err, '\n'), 1) << none.err;
    }
  }
  EXPECT_FALSE(fs::exists(folder_ / "merged"));
  EXPECT_EQ(merge("cpu").status, 0);
  EXPECT_TRUE(fs::exists(folder_ / "merged/merge.json"));
}

TEST_F(Device, OfARecipeIsRefused) {
  for (const std::vector<std::string>& what :
       {std::vector<std::string>{"recipe.yml"},
        {"--model", (folder_ / "base").string(), "--adapter", "a", "--method", "svd"}}) {
    std::vector<std::string> command{weft_program(), "merge"};
    command.insert(command.end(), what.begin(), what.end());
    command.insert(command.end(), {"--out", (folder_ / "merged").string(), "--device", "cuda"});
    const Finished done = run_process(command);
    EXPECT_EQ(done.status, 2);
    EXPECT_THAT(done.err, HasSubstr("a recipe's methods are the processor's"));
    EXPECT_EQ(std::ranges::count(done.err, '\n'), 1) << done.err;
  }
  EXPECT_FALSE(fs::exists(folder_ / "merged"));
}

TEST_F(Device, OfCombinedAdaptersIsRefused) {
  const Finished done = run_process({weft_program(), "merge", "--adapter", "a", "--out",
                                     (folder_ / "merged").string(), "--device", "cuda"});
  EXPECT_EQ(done.status, 2);
  EXPECT_THAT(done.err, HasSubstr("adapters are combined by the processor"));
}

}  // namespace
}  // namespace weft
