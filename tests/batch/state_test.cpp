#include "batch/state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <memory>

#include "batch/disk.h"
#include "batch/held.h"
#include "batch/local.h"
#include "batch/lock.h"
#include "batch/process.h"
#include "batch/progress.h"
#include "batch/retry.h"
#include "batch/task.h"
#include "core/error.h"
#include "core/file.h"
#include "core/stop.h"
#include "tests/batch/batch_files.h"

namespace weft::tests {
namespace {

using batch::JobState;
using batch::Status;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// A batch of one job whose first step is done.
class BatchState : public ::testing::Test {
 protected:
  BatchState()
      : batch_(files_.load("jobs: [{name: one, data: nah.csv}]\nsteps: [train, merge]\n")) {
    batch_.folder.write(batch_.record, batch_.jobs);
    std::filesystem::create_directories(job().steps[0].outputs[0]);
    core::write_text(std::filesystem::path(job().steps[0].outputs[0]) / "adapter", "factors");
    batch::InputDigests digests;
    batch::StepState& train = state_.step("train");
    train.status = Status::kDone;
    train.key = key_of(job().steps[0], digests);
    train.attempted = ingredients_of(job().steps[0], digests);
    train.held = {.key = train.key, .ingredients = train.attempted, .done = true};
  }

  [[nodiscard]] const batch::Job& job() const { return batch_.jobs.front(); }
  [[nodiscard]] std::vector<std::string> missing() const {
    batch::InputDigests digests;
    return missing_steps(job(), state_, digests);
  }

  BatchFiles files_;
  batch::Batch batch_;
  JobState state_;
};

TEST_F(BatchState, ComesBackAsItWasWritten) {
  state_.status = Status::kFailed;
  state_.host = "node";
  state_.losses = 2;
  state_.step("merge").status = Status::kFailed;
  state_.step("merge").error = "no room";
  write_state(files_ / "state.json", state_);
  const JobState read = *batch::read_state(files_ / "state.json");
  EXPECT_EQ(read.status, Status::kFailed);
  EXPECT_EQ(read.losses, 2);
  EXPECT_EQ(read.steps.size(), 2U);
  EXPECT_EQ(read.error(), "merge: no room");
}

TEST_F(BatchState, AFileThatCannotBeReadIsNamedWithWhatToDo) {
  files_.folder().write("state.json", "{\"format\": 1, \"status\": ");
  EXPECT_THAT(error_of<InputError>([&] { (void)batch::read_state(files_ / "state.json"); }),
              AllOf(HasSubstr("state.json cannot be read"), HasSubstr("remove it")));
  files_.folder().write("state.json", "{\"format\": 1, \"status\": \"splendid\"}");
  EXPECT_THAT(error_of<InputError>([&] { (void)batch::read_state(files_ / "state.json"); }),
              HasSubstr("'splendid' is no status"));
}

TEST_F(BatchState, AStepThatIsDoneIsNotRunAgain) { EXPECT_THAT(missing(), ElementsAre("merge")); }

TEST_F(BatchState, ChangedDataIsTrainedAnew) {
  files_.folder().write("nah.csv", "a,b\nc,d\n");
  EXPECT_THAT(missing(), ElementsAre("train", "merge"));
}

TEST_F(BatchState, AChangedConfigurationIsTrainedAnewAndOtherThreadsAreNot) {
  batch_ = files_.load("jobs: [{name: one, data: nah.csv, threads: 2}]\nsteps: [train, merge]\n");
  EXPECT_THAT(missing(), ElementsAre("merge"));
  batch_ = files_.load("jobs: [{name: one, data: nah.csv, seed: 1}]\nsteps: [train, merge]\n");
  EXPECT_THAT(missing(), ElementsAre("train", "merge"));
}

TEST_F(BatchState, TheRunThatIsReplacedIsSaidWithWhatHasChanged) {
  core::write_text(batch_.folder.run("one") / "config.yaml", "the old run\n");
  write_state(batch_.folder.state("one"), state_);
  EXPECT_EQ(survey(batch_, {}).front().replaces, "");
  files_.folder().write("nah.csv", "a,b\nc,d\n");
  batch_ = files_.load("jobs: [{name: one, data: nah.csv, seed: 1}]\nsteps: [train, merge]\n");
  EXPECT_EQ(survey(batch_, {}).front().replaces,
            "its finished run is replaced, because seed, the contents of nah.csv have changed");
}

TEST_F(BatchState, WhatTrainingCanBeResumedWithReplacesNoRun) {
  core::write_text(batch_.folder.run("one") / "config.yaml", "the old run\n");
  files_.engine().resumable = {"num_epochs"};
  batch_ = files_.load("jobs: [{name: one, data: nah.csv, num_epochs: 7}]\n");
  EXPECT_THAT(missing(), ElementsAre("train"));
  write_state(batch_.folder.state("one"), state_);
  EXPECT_EQ(survey(batch_, {}).front().replaces, "");
}

TEST_F(BatchState, AFinishedRunIsStillDoneWhenItsReplacementCameToNothing) {
  core::write_text(batch_.folder.run("one") / "config.yaml", "the old run\n");
  batch::StepState& train = state_.step("train");
  train.key = "another";
  train.attempted = {"seed: 1"};
  train.status = Status::kInterrupted;
  train.replacing = batch::mark_of_run(batch_.folder.run("one"));
  EXPECT_THAT(missing(), ElementsAre("merge"));
  const auto aside = batch_.folder.run("one") / ".weft-set-aside";
  std::filesystem::create_directory(aside);
  std::filesystem::rename(batch_.folder.run("one") / "config.yaml", aside / "config.yaml");
  core::write_text(batch_.folder.run("one") / "config.yaml", "the new run\n");
  EXPECT_THAT(missing(), ElementsAre("merge")) << "it comes back";
  std::filesystem::remove_all(aside);
  EXPECT_THAT(missing(), ElementsAre("train", "merge")) << "the new one stands";
}

TEST_F(BatchState, AMovedProjectIsNotTrainedAnew) {
  batch::InputDigests digests;
  const std::string here = key_of(job().steps[0], digests);
  BatchFiles elsewhere;
  const batch::Batch moved =
      elsewhere.load("jobs: [{name: one, data: nah.csv}]\nsteps: [train, merge]\n");
  EXPECT_EQ(key_of(moved.jobs.front().steps[0], digests), here);
  EXPECT_EQ(moved.jobs.front().steps[1].configuration, job().steps[1].configuration);
}

TEST(BatchDigest, NotesOfAnAdapterDoNotCount) {
  const TempDir folder;
  folder.write("adapter/adapter_config.json", "{}");
  batch::InputDigests before;
  const std::string digest = before.of(folder / "adapter");
  folder.write("adapter/README.md", "a card");
  batch::InputDigests after;
  EXPECT_EQ(after.of(folder / "adapter"), digest);
}

/// Hears of nothing.
struct Silence : batch::Watcher {
  void on_change(const batch::JobView&, const std::string&) override {}
  void on_tick(const std::vector<batch::JobView>&) override {}
};

TEST_F(BatchState, WhatGoesWrongWithOneJobStopsNoOther) {
  batch_ = files_.load("jobs: [{name: broken}, {name: sound}]\n");
  batch_.folder.write(batch_.record, batch_.jobs);
  std::filesystem::create_directory(batch_.folder.log("broken"));  // Its log cannot be opened.
  files_.engine().plan = [](const std::string& config) -> batch::TrainPlan {
    if (config.find("sound") != std::string::npos) throw InputError("asked");
    return {.memory_bytes = 1, .updates = 1};
  };
  Silence silence;
  const auto ended = run_locally(batch_, survey(batch_, {}), files_.engine(), silence);
  EXPECT_EQ(ended[0].status, Status::kFailed);
  EXPECT_THAT(ended[0].note, HasSubstr("cannot open"));
  EXPECT_EQ(ended[1].note.find("asked") != std::string::npos, true);
}

TEST_F(BatchState, ATaskThatCannotGoOnSaysSo) {
  write_state(batch_.folder.state("one"), state_);
  std::filesystem::create_directory(batch_.folder.log("one"));
  files_.folder().write("nah.csv", "other data\n");
  EXPECT_THAT(error_of<IoError>([&] { (void)run_task(batch_.folder, "one"); }),
              HasSubstr("cannot open"));
  const JobState after = *batch::read_state(batch_.folder.state("one"));
  EXPECT_EQ(after.status, Status::kFailed);
  EXPECT_THAT(after.error(), HasSubstr("train: cannot open"));
}

TEST_F(BatchState, ATaskThatIsStoppedWhileItReadsItsInputsIsInterruptedAndNoFailure) {
  write_state(batch_.folder.state("one"), state_);
  files_.folder().write("nah.csv", "other data\n");
  core::stop_flag() = true;
  const int status = run_task(batch_.folder, "one");
  core::stop_flag() = false;
  EXPECT_EQ(status, static_cast<int>(ExitCode::kInterrupted));
  EXPECT_EQ(batch::read_state(batch_.folder.state("one"))->status, Status::kInterrupted);
}

TEST(BatchChild, OneOfWhichNobodyCanSayHowItEndedIsLostAndNotWaitedForForEver) {
  const TempDir folder;
  batch::Child child({"--gtest_list_tests"}, folder / "log.txt", false);
  ::waitpid(child.pid(), nullptr, 0);
  const auto ending = child.poll();
  ASSERT_TRUE(ending);
  EXPECT_TRUE(ending->is_unknown);
}

TEST_F(BatchState, WhatWasRemovedIsMadeAgain) {
  std::filesystem::remove_all(job().steps[0].outputs[0]);
  EXPECT_THAT(missing(), ElementsAre("train", "merge"));
}

TEST_F(BatchState, AJobWhoseProcessIsGoneIsLostAndOneThatRunsIsNot) {
  state_.status = Status::kRunning;
  write_state(batch_.folder.state("one"), state_);
  EXPECT_EQ(batch_.folder.state_now("one").status, Status::kLost);
  const batch::FileLock lock(batch_.folder.job_lock("one"));
  ASSERT_TRUE(lock.held());
  EXPECT_EQ(batch_.folder.state_now("one").status, Status::kRunning);
}

TEST_F(BatchState, WhatFailedIsLeftAloneUntilItsInputChangesOrSomebodyAsks) {
  batch::InputDigests digests;
  state_.status = Status::kFailed;
  state_.step("merge").status = Status::kFailed;
  state_.step("merge").key = key_of(job().steps[1], digests);
  write_state(batch_.folder.state("one"), state_);
  EXPECT_TRUE(survey(batch_, {}).front().left_alone);
  EXPECT_FALSE(survey(batch_, {.retry_failed = true}).front().left_alone);
  files_.folder().write("base.bin", "other weights");
  EXPECT_FALSE(survey(batch_, {}).front().left_alone);
}

/// Starts a program that sleeps, takes its lock away from this process, and tells whether the
/// sleeper still holds it.
bool sleeper_holds(batch::FileLock::Children children) {
  const TempDir folder;
  auto lock = std::make_unique<batch::FileLock>(folder / "lock", children);
  const pid_t sleeper = ::fork();
  if (sleeper == 0) {
    ::execlp("sleep", "sleep", "60", nullptr);
    ::_exit(127);
  }
  const std::string name = "/proc/" + std::to_string(sleeper) + "/comm";
  while (slurp(name) != "sleep\n") ::usleep(1000);
  lock.reset();
  const bool held = batch::is_locked(folder / "lock");
  ::kill(sleeper, SIGKILL);
  ::waitpid(sleeper, nullptr, 0);
  EXPECT_FALSE(batch::is_locked(folder / "lock"));
  return held;
}

TEST(BatchLock, OfAKilledTaskIsHeldUntilItsStepHasEnded) {
  EXPECT_TRUE(sleeper_holds(batch::FileLock::Children::kShare));
  EXPECT_FALSE(sleeper_holds(batch::FileLock::Children::kWithout));
}

TEST_F(BatchState, WhatJobsWriteIsSummedOverThoseOfOneFileSystem) {
  batch_ = files_.load("jobs: [{name: a}, {name: b}]\n");
  batch_.jobs[0].run_bytes = 6000;
  batch_.jobs[1].run_bytes = 5000;
  const auto views = survey(batch_, {});
  plan_disk(batch_, views, files_.engine());
  const auto refused = [&](std::uint64_t free, std::uint64_t second_device) {
    return error_of<ConfigError>([&] {
      require_disk(batch_, views, [&](const std::filesystem::path& path) {
        const bool is_second = path.filename() == "b";
        return batch::DiskRoom{.device = is_second ? second_device : 1, .free = free};
      });
    });
  };
  EXPECT_EQ(refused(11000, 1), "");
  EXPECT_THAT(refused(10999, 1), AllOf(HasSubstr("jobs.yaml:1:"), HasSubstr("2 jobs will write")));
  EXPECT_EQ(refused(10999, 2), "");
  EXPECT_THAT(refused(5999, 2), HasSubstr("a will write"));
}

TEST_F(BatchState, AStepCountsOnTheDiskWhatItWritesBeyondWhatItReplaces) {
  write_state(batch_.folder.state("one"), state_);
  batch_ = files_.load(
      "jobs: [{name: one, data: nah.csv}]\nsteps: [train, export: {to: gguf, type: q8_0}]\n");
  batch_.jobs[0].run_bytes = 1 << 20;  // Training is done, and counts no more.
  files_.engine().gguf_bytes = [](const std::filesystem::path& model, const std::string& type) {
    return model.filename() == "base.bin" && type == "q8_0" ? std::uint64_t{700} : 0;
  };
  const auto planned = [&] {
    plan_disk(batch_, survey(batch_, {}), files_.engine());
    return batch_.jobs[0].disk_bytes;
  };
  EXPECT_EQ(planned(), 700U);
  core::write_text(batch_.jobs[0].steps[1].outputs[0], std::string(300, 'x'));
  EXPECT_EQ(planned(), 400U);
}

TEST(BatchRetry, IsByKind) {
  const batch::RetriesSection limits{.failed = 1, .lost = 2};
  const auto tries = [&](Status status) {
    JobState state;
    int count = 0;
    for (state.status = status; take_retry(state, limits); ++count) {
    }
    return count;
  };
  EXPECT_EQ(tries(Status::kFailed), 1);
  EXPECT_EQ(tries(Status::kLost), 2);
  EXPECT_EQ(tries(Status::kOutOfMemory), 2);
  EXPECT_EQ(tries(Status::kShortOfMemory), 2);
  EXPECT_EQ(tries(Status::kWrongInput), 0);
  EXPECT_EQ(tries(Status::kRefused), 0);
  EXPECT_EQ(tries(Status::kInterrupted), 0);
}

TEST(BatchProgress, IsReadWhileALineIsBeingWritten) {
  const TempDir folder;
  folder.write("metrics.jsonl",
               "{\"update\":4,\"loss\":2.5,\"tokens_per_second\":100,\"total_tokens\":512,"
               "\"seconds\":8}\n{\"update\":4,\"validation_loss\":2.25}\n{\"update\":5,\"lo");
  auto progress = batch::read_progress(folder.path());
  ASSERT_TRUE(progress);
  EXPECT_EQ(progress->update, 4);
  EXPECT_EQ(progress->validation_loss, 2.25);
  progress->total_updates = 10;
  EXPECT_DOUBLE_EQ(*progress->remaining_seconds(), 12);
}

TEST(BatchProgress, TheLastLineOfALogIsWhatWasShownLast) {
  const TempDir folder;
  folder.write("log.txt", "first\n\rbar 1\rbar 2\n\n  \n");
  EXPECT_EQ(batch::last_line(folder / "log.txt"), "bar 2");
  EXPECT_THAT(batch::last_line(folder / "none.txt"), IsEmpty());
}

}  // namespace
}  // namespace weft::tests
