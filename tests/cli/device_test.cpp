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

class Device : public ::testing::Test {
 protected:
  void SetUp() override { tests::write_tiny_model(folder_ / "base"); }
  Finished generate(const std::string& device) {
    return tests::run_process({tests::weft_program(), "generate", "--model",
                               (folder_ / "base").string(), "--prompt", "a", "--max-tokens", "1",
                               "--device", device});
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

}  // namespace
}  // namespace weft
