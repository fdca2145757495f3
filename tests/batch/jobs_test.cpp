#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "tests/batch/batch_files.h"
#include "tests/support/throws.h"

namespace weft::tests {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kGrid =
    "matrix:\n"
    "  language: {nah: {data: nah.csv}, oto: {data: oto.csv}}\n"
    "  adapter.r: [8, 16]\n";

class BatchJobs : public ::testing::Test {
 protected:
  std::string refusal(const std::string& keys) {
    return error_of<ConfigError>([&] { (void)files_.load(keys); });
  }
  BatchFiles files_;
};

TEST_F(BatchJobs, AreEveryCombinationNamedByWhatDiffers) {
  EXPECT_THAT(names_of(files_.load(kGrid)), ElementsAre("nah-r8", "nah-r16", "oto-r8", "oto-r16"));
}

TEST_F(BatchJobs, AnAxisWithOneValueIsNotInTheName) {
  EXPECT_THAT(names_of(files_.load("matrix: {seed: [1], learning_rate: [1e-3, 1e-4]}\n")),
              ElementsAre("learning_rate_1e-3", "learning_rate_1e-4"));
}

TEST_F(BatchJobs, PairsChangeTogetherInEachCombination) {
  const batch::Batch batch = files_.load(
      "matrix: {adapter.r: [8, 16]}\n"
      "pairs: [{name: slow, learning_rate: 1e-4, num_epochs: 3}, {name: fast, learning_rate: "
      "1e-3}]\n");
  EXPECT_THAT(names_of(batch), ElementsAre("r8-slow", "r8-fast", "r16-slow", "r16-fast"));
  EXPECT_THAT(batch.jobs.front().config,
              AllOf(HasSubstr("learning_rate: 0.0001"), HasSubstr("num_epochs: 3")));
}

TEST_F(BatchJobs, ExclusionsLeaveCombinationsOut) {
  EXPECT_THAT(
      names_of(files_.load(std::string(kGrid) + "exclude: [{language: oto, adapter.r: 16}]")),
      ElementsAre("nah-r8", "nah-r16", "oto-r8"));
}

TEST_F(BatchJobs, SingleJobsStandBesideTheMatrix) {
  const batch::Batch batch =
      files_.load(std::string(kGrid) + "jobs: [{name: control, data: nah.csv, after: nah-r8}]\n");
  EXPECT_EQ(names_of(batch).back(), "control");
  EXPECT_THAT(batch.jobs.back().after, ElementsAre("nah-r8"));
}

TEST_F(BatchJobs, HaveCompleteConfigurationsWithThreadsAndFoldersOfTheirOwn) {
  const batch::Batch batch = files_.load(kGrid);
  const std::string& config = batch.jobs[1].config;
  EXPECT_THAT(config, AllOf(HasSubstr("base_model: " + (files_ / "base.bin").string()),
                            HasSubstr("output_dir: " + (files_ / "runs/jobs/nah-r16/run").string()),
                            HasSubstr("data: " + (files_ / "nah.csv").string()),
                            HasSubstr("threads: 1"), HasSubstr("r: 16")));
}

TEST_F(BatchJobs, ThreadsThatNobodyGaveStayThoseOfTheFirstRun) {
  files_.folder().write("common.yaml", "base_model: base.bin\n");
  batch::Batch batch = files_.load(kGrid);
  EXPECT_GT(batch.jobs.front().threads, 0);
  batch.record.threads = 77;
  batch.folder.write(batch.record, batch.jobs);
  EXPECT_EQ(files_.load(kGrid).jobs.front().threads, 77);
}

TEST_F(BatchJobs, StepsAreCommandsThatReadEachOthersOutput) {
  files_.folder().write("eval.yaml", "text: [nah.csv]\n");
  const batch::Batch batch =
      files_.load(std::string(kGrid) +
                  "steps: [train, merge, export: {to: gguf, type: q4_k_m}, eval: eval.yaml]");
  const std::vector<batch::Step>& steps = batch.jobs.front().steps;
  ASSERT_EQ(steps.size(), 4U);
  EXPECT_EQ(steps[1].name, "merge");
  EXPECT_EQ(steps[2].name, "export gguf q4_k_m");
  EXPECT_EQ(steps[2].inputs, steps[1].outputs);
  EXPECT_THAT(
      batch.jobs.front().eval_config,
      AllOf(HasSubstr("name: adapter"), HasSubstr("name: merged"), HasSubstr("name: q4_k_m"),
            HasSubstr("base_model: " + (files_ / "base.bin").string())));
}

TEST_F(BatchJobs, ExportsOfOneTypeDoNotOverwriteEachOther) {
  const batch::Batch batch = files_.load(
      std::string(kGrid) +
      "steps: [train, export: {to: gguf, type: f16}, export: {to: gguf-lora, type: f16}, "
      "export: {to: ollama, type: f16}]");
  const std::vector<batch::Step>& steps = batch.jobs.front().steps;
  ASSERT_EQ(steps.size(), 4U);
  EXPECT_EQ(steps[1].name, "export gguf f16");
  EXPECT_EQ(steps[2].name, "export gguf-lora f16");
  EXPECT_NE(steps[1].outputs, steps[2].outputs);
  EXPECT_NE(steps[1].outputs, steps[3].outputs);
}

TEST_F(BatchJobs, AnExportThatIsThereTwiceIsRefusedWithItsPlace) {
  EXPECT_THAT(refusal("jobs: [{name: a}]\nsteps:\n  - train\n  - export: {to: gguf, type: f16}\n"
                      "  - export: {to: gguf, type: f16}\n"),
              AllOf(HasSubstr("jobs.yaml:7:"), HasSubstr("export gguf f16 is there twice")));
}

TEST_F(BatchJobs, WhatIsNotPlannedNowKeepsThePlanOfBefore) {
  batch::Batch batch = files_.load(kGrid);
  batch.jobs.front().updates = 10;
  batch.jobs.front().memory_bytes = 5;
  batch.folder.write(batch.record, batch.jobs);
  const batch::Batch again = files_.load(kGrid);
  again.folder.write(again.record, again.jobs);
  const batch::Job read = batch::read_job(again.folder.description("nah-r8"));
  EXPECT_EQ(read.updates, 10);
  EXPECT_EQ(read.memory_bytes, 5U);
}

TEST_F(BatchJobs, ALabelMayHaveStepsOfItsOwn) {
  const batch::Batch batch = files_.load(
      "matrix: {language: {nah: {data: nah.csv}, oto: {data: oto.csv, steps: [train, merge]}}}\n");
  EXPECT_EQ(batch.jobs[0].steps.size(), 1U);
  EXPECT_EQ(batch.jobs[1].steps.size(), 2U);
}

TEST_F(BatchJobs, AKeyThatNoConfigurationHasIsToldWithItsPlaceAndTheNearest) {
  EXPECT_THAT(
      refusal("matrix:\n  adapter.rr: [8, 16]\n"),
      AllOf(HasSubstr("jobs.yaml:4:3: adapter.rr: unknown key"), HasSubstr("did you mean 'r'?")));
  EXPECT_THAT(refusal("matrix:\n  lerning_rate: [1e-3]\n"),
              AllOf(HasSubstr("jobs.yaml:4:3"), HasSubstr("'learning_rate'")));
}

TEST_F(BatchJobs, ValuesOfWhatIsNoKeyNeedAMeaning) {
  EXPECT_THAT(refusal("matrix:\n  language: [nah, oto]\n"),
              AllOf(HasSubstr("jobs.yaml:4:3: matrix.language: no configuration"),
                    HasSubstr("language: {label: {key: value}}")));
}

TEST_F(BatchJobs, ACommonFileThatIsMissingIsToldWhereItIsNamed) {
  EXPECT_THAT(error_of<ConfigError>([&] {
                (void)files_.read("output_dir: runs\nbase: comon.yaml\njobs: [{name: a}]\n");
              }),
              AllOf(HasSubstr("jobs.yaml:2:7: base: no such file"), HasSubstr("comon.yaml")));
}

TEST_F(BatchJobs, AKeyOfTheFileThatIsMisspeltIsToldWithTheNearest) {
  EXPECT_THAT(refusal("matrx: {adapter.r: [8]}\n"),
              AllOf(HasSubstr("jobs.yaml:3:1: matrx: unknown key"), HasSubstr("'matrix'")));
}

TEST_F(BatchJobs, AValueOutOfRangeIsToldWhereItStands) {
  EXPECT_THAT(refusal("matrix:\n  adapter.r: [8, 1600]\n"), HasSubstr("jobs.yaml:4:18"));
}

TEST_F(BatchJobs, WhatIsWrongInTheCommonFileIsToldThereAndOnce) {
  files_.folder().write("common.yaml", "base_model: base.bin\nsed: 4\n");
  const std::string text = refusal(kGrid);
  EXPECT_THAT(text, HasSubstr("common.yaml:2:1: sed: unknown key; did you mean 'seed'?"));
  EXPECT_EQ(text.find("sed: unknown"), text.rfind("sed: unknown"));
}

TEST_F(BatchJobs, TwoJobsOfOneNameAreRefused) {
  EXPECT_THAT(refusal(std::string(kGrid) + "jobs: [{name: nah-r8}]\n"),
              AllOf(HasSubstr("jobs.yaml:6:15"), HasSubstr("two jobs are called 'nah-r8'")));
}

TEST_F(BatchJobs, AFolderOfTheirOwnIsRefused) {
  EXPECT_THAT(refusal("matrix: {output_dir: [a, b]}\n"),
              AllOf(HasSubstr("jobs.yaml:3:10"), HasSubstr("each job has a folder of its own")));
}

TEST_F(BatchJobs, AnExclusionThatLeavesNothingOutIsRefused) {
  EXPECT_THAT(refusal(std::string(kGrid) + "exclude: [{adapter.r: 32}]\n"),
              AllOf(HasSubstr("jobs.yaml:6:11"), HasSubstr("no combination")));
  EXPECT_THAT(refusal(std::string(kGrid) + "exclude: [{langage: nah}]\n"),
              HasSubstr("did you mean 'language'?"));
}

TEST_F(BatchJobs, JobsThatWaitForEachOtherAreRefused) {
  EXPECT_THAT(refusal("jobs: [{name: a, after: b}, {name: b, after: [a]}]\n"),
              HasSubstr("these jobs wait for each other: a -> b -> a"));
  EXPECT_THAT(refusal("jobs: [{name: first}, {name: b, after: frist}]\n"),
              HasSubstr("did you mean 'first'?"));
}

TEST_F(BatchJobs, AStepThatIsNoneIsRefused) {
  EXPECT_THAT(refusal(std::string(kGrid) + "steps: [train, merg]\n"),
              AllOf(HasSubstr("jobs.yaml:6:16"), HasSubstr("did you mean 'merge'?")));
  EXPECT_THAT(refusal(std::string(kGrid) + "steps: [merge]\n"),
              HasSubstr("train is the first step"));
}

TEST_F(BatchJobs, AFolderOfAnotherBatchIsRefused) {
  const batch::Batch batch = files_.load(kGrid);
  batch.folder.write(batch.record, batch.jobs);
  std::filesystem::rename(files_ / "jobs.yaml", files_ / "other.yaml");
  EXPECT_NO_THROW((void)files_.load(kGrid)) << "a file that was renamed keeps its folder";
  files_.folder().write("third.yaml", "output_dir: runs\nbase: common.yaml\n" + std::string(kGrid));
  batch.folder.write(batch.record, batch.jobs);
  EXPECT_THAT(error_of<InputError>(
                  [&] { (void)batch::load_batch(files_ / "third.yaml", files_.engine(), {}); }),
              AllOf(HasSubstr("third.yaml:1:13: "), HasSubstr("holds the batch of")));
}

TEST_F(BatchJobs, AFolderOfSomethingElseIsRefused) {
  files_.folder().write("runs/thesis.txt", "text");
  EXPECT_THAT(error_of<InputError>([&] { (void)files_.load(kGrid); }),
              AllOf(HasSubstr("holds no batch"), HasSubstr("thesis.txt")));
}

TEST_F(BatchJobs, WhatIsWrongWithAnyPlanIsToldForAll) {
  batch::Batch batch = files_.load(kGrid);
  files_.engine().plan = [](const std::string& config) -> batch::TrainPlan {
    if (config.find("nah.csv") != std::string::npos) throw InputError("no such data");
    return {.memory_bytes = 1, .updates = 1};
  };
  std::vector<batch::Job*> jobs;
  for (batch::Job& job : batch.jobs) jobs.push_back(&job);
  EXPECT_THAT(error_of<ConfigError>([&] { batch::plan_jobs(jobs, files_.engine()); }),
              AllOf(HasSubstr("nah-r8: no such data"), HasSubstr("nah-r16: no such data"),
                    Not(HasSubstr("oto"))));
}

TEST_F(BatchJobs, ReadingThemWritesNothing) {
  (void)files_.load(kGrid);
  EXPECT_FALSE(std::filesystem::exists(files_ / "runs"));
}

}  // namespace
}  // namespace weft::tests
