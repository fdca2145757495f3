#include "train/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>

#include "core/error.h"
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

TEST(MetricsFile, ShorterThanTheCheckpointSaysIsAnError) {
  const tests::TempDir temp;
  temp.write("m.jsonl", "{}\n");
  EXPECT_THROWS_WITH(MetricsFile(temp / "m.jsonl", 100), InputError, "3 bytes", "100");
}

TEST(RequireMemory, NamesNeedAvailableAndTheKnobsOfLargeParts) {
  const std::vector<MemoryPart> parts{{"weights", 6ULL << 30, "dtype: bfloat16"},
                                      {"activations", 2ULL << 30, "a smaller sequence_len"},
                                      {"adapter", 1ULL << 20, "a smaller adapter.r"}};
  EXPECT_NO_THROW(require_memory(parts, 9ULL << 30));
  EXPECT_THROWS_WITH(require_memory(parts, 4ULL << 30), InputError, "8.00 GiB", "4.00 GiB",
                     "weights 6.00 GiB", "dtype: bfloat16; a smaller sequence_len");
  try {
    require_memory(parts, 0);
  } catch (const InputError& error) {
    EXPECT_EQ(std::string(error.what()).find("adapter.r"), std::string::npos);
  }
}

TEST(Memory, OfThisProcessIsWithinThatOfTheMachine) {
  EXPECT_GT(resident_memory(), 1U << 20);
  EXPECT_GE(peak_resident_memory(), resident_memory() / 2);
  EXPECT_GT(available_memory(), 1U << 20);
}

}  // namespace
}  // namespace weft::train
