// What is submitted, and how answers of Slurm and states of jobs are read together. squeue, sbatch
// and scontrol are scripts here that print what the test says; tests/cli/slurm_test.cpp has the
// real ones.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "batch/slurm_queue.h"
#include "batch/slurm_submit.h"
#include "core/error.h"
#include "tests/batch/batch_files.h"

namespace weft::tests {
namespace {

using batch::Status;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Slurm : public ::testing::Test {
 protected:
  Slurm() : path_(std::getenv("PATH")) {
    ::setenv("PATH", ((files_ / "bin").string() + ":" + path_).c_str(), 1);
    command("squeue", "cat '" + (files_ / "queue").string() + "'");
    command("scontrol", "echo 'MaxArraySize = 2'");
    command("sbatch", "echo \"$@\" >>'" + (files_ / "asked").string() + "'; wc -l <'" +
                          (files_ / "asked").string() + "'");
    files_.folder().write("queue", "");
  }
  ~Slurm() override { ::setenv("PATH", path_.c_str(), 1); }

  void command(const std::string& name, const std::string& body) {
    const auto file = files_.folder().write("bin/" + name, "#!/bin/sh\n" + body + "\n");
    std::filesystem::permissions(file, std::filesystem::perms::owner_all);
  }

  batch::Batch load(const std::string& keys) {
    batch::Batch all = files_.load("common: {data: nah.csv}\n" + keys);
    all.folder.write(all.record, all.jobs);
    return all;
  }
  static std::vector<batch::Submission> submit(const batch::Batch& all) {
    const batch::SlurmQueue queue = batch::ask_slurm(all.folder);
    std::vector<batch::JobView> views = batch::survey(all, {.queue = queue});
    return batch::submit(all, views, queue);
  }
  /// How the job stands that wrote `written`, as task 1_0, when squeue has this line of it.
  batch::Standing standing(Status written, const std::string& line, bool requeued = false) {
    const batch::Batch all = load("matrix: {seed: [1]}\n");
    const std::string& name = all.jobs.front().name;
    if (batch::read_submissions(all.folder).empty()) (void)submit(all);
    batch::write_state(all.folder.state(name),
                       {.status = written, .slurm = "1_0", .requeued = requeued});
    const std::string array = batch::read_submissions(all.folder).front().name;
    files_.folder().write("queue", line.empty() ? "" : array + "|1_0|" + line + "\n");
    return batch::stand(all.folder, name, batch::ask_slurm(all.folder));
  }
  Status status(Status written, const std::string& line, bool requeued = false) {
    return standing(written, line, requeued).state.status;
  }

  BatchFiles files_;
  std::string path_;
};

TEST_F(Slurm, StatesThatNoJobCanWriteAreToldApart) {
  EXPECT_EQ(status(Status::kWaiting, "PENDING|Resources"), Status::kQueued);
  EXPECT_EQ(status(Status::kInterrupted, "PENDING|BeginTime", true), Status::kQueued);
  EXPECT_EQ(status(Status::kInterrupted, "PENDING|BeginTime"), Status::kPreempted);
  EXPECT_EQ(status(Status::kRunning, "PENDING|BeginTime"), Status::kNodeFailed);
  EXPECT_EQ(status(Status::kWaiting, "RUNNING|None"), Status::kRunning);
  EXPECT_EQ(status(Status::kInterrupted, "CANCELLED|None"), Status::kCancelled);
  EXPECT_EQ(status(Status::kRunning, "TIMEOUT|TimeLimit"), Status::kTimedOut);
  EXPECT_EQ(status(Status::kRunning, "NODE_FAIL|None"), Status::kNodeFailed);
  EXPECT_EQ(status(Status::kRunning, "OUT_OF_MEMORY|OutOfMemory"), Status::kOutOfMemory);
  EXPECT_EQ(status(Status::kRunning, "FAILED|NonZeroExitCode"), Status::kLost);
  EXPECT_EQ(status(Status::kInterrupted, "FAILED|NonZeroExitCode"), Status::kInterrupted);
  EXPECT_EQ(status(Status::kWrongInput, "FAILED|NonZeroExitCode"), Status::kWrongInput);
  EXPECT_EQ(status(Status::kRunning, ""), Status::kVanished);
  EXPECT_EQ(status(Status::kDone, ""), Status::kDone);
  EXPECT_THAT(standing(Status::kWaiting, "PENDING|JobHeldUser").note,
              HasSubstr("scontrol release 1_0"));
}

TEST_F(Slurm, AControllerThatDoesNotAnswerChangesNoState) {
  command("squeue", "echo 'Unable to contact slurm controller' >&2; exit 1");
  EXPECT_EQ(status(Status::kRunning, ""), Status::kRunning);
}

TEST_F(Slurm, NoArrayIsLargerThanSlurmAllowsAndTheLimitHoldsOverAll) {
  const batch::Batch all = load(
      "concurrency: 1\nresources: {threads: 2, memory: 3GiB, time: 2h}\n"
      "matrix: {seed: [1, 2, 3]}\n");
  const auto made = submit(all);
  ASSERT_EQ(made.size(), 2U);
  EXPECT_THAT(made[0].jobs, ElementsAre("seed_1", "seed_2"));
  EXPECT_THAT(made[1].jobs, ElementsAre("seed_3"));
  const std::string asked = slurp(files_ / "asked");
  EXPECT_THAT(asked, AllOf(HasSubstr("--array=0-1%1"), HasSubstr("--array=0-0%1"),
                           HasSubstr("--dependency=afterany:1"), HasSubstr("--mem=3072M"),
                           HasSubstr("--time=120"), HasSubstr("--signal=B:USR1@120")));
}

TEST_F(Slurm, AJobThatWaitsForOneThatIsNotRunIsLeftOut) {
  const batch::Batch all = load(
      "jobs: [{name: a, seed: 1}, {name: b, seed: 2, after: a}, {name: c, seed: 3, after: b}]\n");
  std::vector<batch::JobView> views =
      batch::survey(all, {.wanted = [](const batch::Job& job) { return job.name != "a"; }});
  EXPECT_TRUE(batch::submit(all, views, {}).empty());
  EXPECT_EQ(views[1].note, "waits for a, which is not to be run");
  EXPECT_EQ(views[2].note, "waits for b, which is not to be run");
}

TEST_F(Slurm, TimesHaveUnits) {
  EXPECT_EQ(batch::parse_minutes("2h"), 120);
  EXPECT_EQ(batch::parse_minutes("1d12h30m"), 36 * 60 + 30);
  EXPECT_EQ(batch::parse_minutes("90"), std::nullopt);
  EXPECT_EQ(batch::parse_minutes("2h1d"), std::nullopt);
  EXPECT_THAT(error_of<ConfigError>([&] { (void)files_.load("resources: {time: soon}\n"); }),
              HasSubstr("resources.time"));
}

}  // namespace
}  // namespace weft::tests
