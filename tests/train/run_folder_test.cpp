#include "train/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>

#include <filesystem>
#include <iterator>

#include "core/error.h"
#include "core/memory.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"
#include "train/memory.h"
#include "train/metrics.h"

namespace weft::train {
namespace {
namespace fs = std::filesystem;

TEST(RunFolder, FreshStartOnARunSuggestsResumeAndForce) {
  const tests::TempDir temp;
  temp.write("run/config.yaml", "seed: 1\n");
  EXPECT_THROWS_WITH(RunFolder(temp / "run", Start::kFresh), InputError, "--resume", "--force");
  EXPECT_TRUE(RunFolder(temp / "run", Start::kResume).continues());
  EXPECT_FALSE(RunFolder(temp / "run", Start::kReplace).continues());
}

TEST(RunFolder, ReplacedRunComesBackUntilTheNewOneStands) {
  const tests::TempDir temp;
  temp.write("run/config.yaml", "seed: 1\n");
  temp.write("run/adapter/adapter_config.json", "{}");
  temp.write("run/checkpoints/000005/state.json", "{}");
  temp.write("run/notes.txt", "mine");
  {
    RunFolder folder(temp / "run", Start::kReplace);
    folder.claim();
    folder.begin();
    EXPECT_TRUE(folder.replaces());
    temp.write("run/config.yaml", "seed: 2\n");
    temp.write("run/metrics.jsonl", "{}\n");
  }  // An exception, or an interrupt before the first update.
  EXPECT_EQ(tests::slurp(temp / "run/config.yaml"), "seed: 1\n");
  EXPECT_TRUE(fs::exists(temp / "run/checkpoints/000005/state.json"));
  EXPECT_FALSE(fs::exists(temp / "run/metrics.jsonl"));
  EXPECT_EQ(tests::slurp(temp / "run/notes.txt"), "mine");
  EXPECT_EQ(std::distance(fs::directory_iterator(temp / "run"), fs::directory_iterator()), 4);
}

/// What a process that was killed while it replaced a run leaves, stage by stage.
TEST(RunFolder, KilledReplacementIsUndoneByTheNextStart) {
  for (const std::string stage : {"some entries moved", "all moved", "new run begun", "outdated"}) {
    const tests::TempDir temp;
    const bool partly = stage == "some entries moved";
    const std::string aside = partly                ? ".weft-setting-aside/"
                              : stage == "outdated" ? ".weft-outdated/"
                                                    : ".weft-set-aside/";
    temp.write("run/" + aside + "adapter/adapter_config.json", "old");
    temp.write("run/" + (partly ? "" : aside) + "config.yaml", "old");
    if (stage == "new run begun" || stage == "outdated") {
      temp.write("run/config.yaml", "new");
      temp.write("run/adapter/adapter_config.json", "new");
    }
    if (stage != "outdated") {
      EXPECT_THROWS_WITH(RunFolder(temp / "run", Start::kFresh), InputError, "--resume");
    }
    {
      RunFolder folder(temp / "run", Start::kResume);
      EXPECT_TRUE(folder.continues()) << stage;
      folder.claim();
      folder.begin();
    }
    const std::string wanted = stage == "outdated" ? "new" : "old";
    EXPECT_EQ(tests::slurp(temp / "run/config.yaml"), wanted) << stage;
    EXPECT_EQ(tests::slurp(temp / "run/adapter/adapter_config.json"), wanted) << stage;
    EXPECT_FALSE(fs::exists(temp / ("run/" + aside))) << stage;
  }
}

TEST(RunFolder, ARunThatAppearedMeanwhileIsSeenWhenTheFolderIsClaimed) {
  const tests::TempDir temp;
  RunFolder folder(temp / "run", Start::kFresh);
  temp.write("run/config.yaml", "seed: 1\n");  // Another process began and ended.
  EXPECT_THROWS_WITH(folder.claim(), InputError, "--force");
}

TEST(RunFolder, ReplacingRemovesTheRunAndNothingElse) {
  const tests::TempDir temp;
  temp.write("run/config.yaml", "seed: 1\n");
  temp.write("run/adapter/adapter_config.json", "{}");
  temp.write("run/events.out.tfevents.1.weft", "x");
  temp.write("run/notes.txt", "mine");
  RunFolder folder(temp / "run", Start::kReplace);
  folder.claim();
  EXPECT_TRUE(fs::exists(folder.adapter()));  // until the run really begins
  folder.begin();
  EXPECT_FALSE(fs::exists(folder.adapter()));
  EXPECT_FALSE(fs::exists(temp / "run/events.out.tfevents.1.weft"));
  folder.settle();
  EXPECT_FALSE(folder.replaces());
  EXPECT_EQ(std::distance(fs::directory_iterator(temp / "run"), fs::directory_iterator()), 1);
  EXPECT_EQ(tests::slurp(temp / "run/notes.txt"), "mine");
}

TEST(RunFolder, LeavesOtherFilesAloneAndRefusesToOverwriteThem) {
  const tests::TempDir temp;
  temp.write("work/data/train.csv", "x");
  EXPECT_NO_THROW(RunFolder(temp / "work", Start::kFresh));
  temp.write("work/adapter/adapter_config.json", "{}");
  for (const Start start : {Start::kFresh, Start::kResume, Start::kReplace}) {
    EXPECT_THROWS_WITH(RunFolder(temp / "work", start), InputError, "'adapter'", "no run");
  }
  EXPECT_THROWS_WITH(RunFolder(temp / "work/data/train.csv", Start::kFresh), InputError,
                     "is a file");
}

TEST(RunFolder, UnwritablePlaceIsTheUsersMistake) {
  EXPECT_THROWS_WITH(RunFolder("/proc/weft-run", Start::kFresh), InputError, "/proc/weft-run",
                     "cannot be written");
}

TEST(RunFolder, SecondProcessIsRefused) {
  const tests::TempDir temp;
  RunFolder first(temp / "run", Start::kFresh);
  first.claim();
  RunFolder second(temp / "run", Start::kFresh);
  EXPECT_THROWS_WITH(second.claim(), InputError, "another weft");
}

TEST(RunFolder, FolderOfARunThatNeverBeganDisappears) {
  const tests::TempDir temp;
  {
    RunFolder folder(temp / "run", Start::kFresh);
    folder.claim();
    EXPECT_TRUE(fs::exists(temp / "run"));
  }
  EXPECT_FALSE(fs::exists(temp / "run"));
}

TEST(RunFolder, BringsBackAnAdapterThatAKilledProcessMovedAside) {
  const tests::TempDir temp;
  temp.write("run/config.yaml", "seed: 1\n");
  temp.write("run/.adapter.old-17/adapter_config.json", "{}");
  temp.write("run/.adapter.part-17/adapter_config.json", "{");
  RunFolder folder(temp / "run", Start::kResume);
  folder.claim();
  folder.begin();
  EXPECT_EQ(tests::slurp(folder.adapter() / "adapter_config.json"), "{}");
  EXPECT_FALSE(fs::exists(temp / "run/.adapter.part-17"));
}

TEST(MetricsFile, ResumingCutsWhatCameAfterTheCheckpoint) {
  const tests::TempDir temp;
  std::uint64_t position = 0;
  {
    MetricsFile file(temp / "m.jsonl", 0);
    file.append({{"update", 1}});
    position = file.position();
    file.append({{"update", 2}});
  }
  MetricsFile again(temp / "m.jsonl", position);
  again.append({{"update", 2}, {"loss", 0.5}});
  EXPECT_EQ(tests::slurp(temp / "m.jsonl"), "{\"update\":1}\n{\"update\":2,\"loss\":0.5}\n");
}

TEST(MetricsFile, ShorterThanTheCheckpointSaysIsToldAndAppendedTo) {
  const tests::TempDir temp;
  temp.write("m.jsonl", "{}\n");
  std::string told;
  MetricsFile file(temp / "m.jsonl", 100, [&](core::Level, std::string_view line) { told = line; });
  EXPECT_NE(told.find("3 bytes, and had 100"), std::string::npos) << told;
  file.append({{"update", 7}});
  EXPECT_EQ(tests::slurp(temp / "m.jsonl"), "{}\n{\"update\":7}\n");
}

class RequireMemory : public ::testing::Test {
 protected:
  void require(std::uint64_t now, std::uint64_t at_best) const {
    require_memory(parts_, {.now = now << 30, .at_best = at_best << 30});
  }
  const std::vector<MemoryPart> parts_{{"weights", 6ULL << 30, "dtype: bfloat16"},
                                       {"activations", 2ULL << 30, "a smaller sequence_len"},
                                       {"adapter", 1ULL << 20, "a smaller adapter.r"}};
};

TEST_F(RequireMemory, NamesNeedAvailableAndTheKnobsOfLargeParts) {
  EXPECT_NO_THROW(require(9, 16));
  EXPECT_THROWS_WITH(require(3, 4), InputError, "8.00 GiB", "4.00 GiB", "weights 6.00 GiB",
                     "dtype: bfloat16; a smaller sequence_len");
  try {
    require(0, 0);
  } catch (const InputError& error) {
    EXPECT_EQ(std::string(error.what()).find("adapter.r"), std::string::npos);
  }
}

TEST_F(RequireMemory, WhatIsShortOfItNowIsNoWrongInput) {
  EXPECT_THROWS_WITH(require(3, 16), NotNow, "8.00 GiB", "3.00 GiB of 16.0 GiB are free now",
                     "try again", "dtype: bfloat16; a smaller sequence_len");
  try {
    require(3, 16);
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::kNotNow);
  }
}

TEST(Memory, OfThisProcessIsWithinThatOfTheMachine) {
  EXPECT_GT(resident_memory(), 1U << 20);
  EXPECT_GE(peak_resident_memory(), resident_memory() / 2);
  EXPECT_GT(core::available_memory(), 1U << 20);
  EXPECT_GE(core::total_memory(), core::available_memory());
}

}  // namespace
}  // namespace weft::train
