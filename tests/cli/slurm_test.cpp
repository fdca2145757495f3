// weft batch --slurm on a real Slurm of two nodes, and everything that may happen to a job there.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/support/slurm_cluster.h"
#include "tests/train/tiny_job.h"

namespace weft::tests {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

/// What all tests share: the cluster, and the adapter of a run that nothing interrupted.
struct Site {
  SlurmCluster cluster;
  TinyJob job{{.hidden = 64, .layers = 2, .intermediate = 128}};
  std::string whole;  ///< The adapter's bytes.
};

class SlurmBatch : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    site_ = std::make_unique<Site>();
    if (!site_->cluster.problem().empty()) return;
    site_->job.folder().write("common.yaml", site_->job.yaml("save: {every: 40u}\nthreads: 1\n"));
    write_jobs("whole", kLong);
    const Finished whole = batch({"jobs.yaml"});
    ASSERT_EQ(whole.status, 0) << whole.err;
    site_->whole = adapter("whole", "long");
  }
  static void TearDownTestSuite() { site_.reset(); }
  void SetUp() override {
    if (!site_->cluster.problem().empty())
      GTEST_SKIP() << "no Slurm here: " << site_->cluster.problem();
    ASSERT_FALSE(site_->whole.empty());
  }

  static constexpr const char* kLong = "jobs: [{name: long, num_epochs: 150}]\n";
  /// Still trains when Slurm gets to preempting it, seconds later.
  static constexpr const char* kLonger = "jobs: [{name: long, num_epochs: 900}]\n";

  static void write_jobs(const std::string& output, const std::string& more) {
    site_->job.folder().write(
        "jobs.yaml", "output_dir: " + output +
                         "\nbase: common.yaml\nresources: {memory: 200MiB, time: 1h}\n" + more);
  }
  static Finished batch(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {weft_program(), "batch"});
    for (std::string& argument : arguments) {
      if (argument == "jobs.yaml") argument = (site_->job / "jobs.yaml").string();
    }
    return run_process(arguments);
  }
  static std::string file(const std::string& output, const std::string& name,
                          const std::string& below) {
    return slurp(site_->job / (output + "/jobs/" + name + "/" + below));
  }
  static std::string adapter(const std::string& output, const std::string& name) {
    return file(output, name, "run/adapter/adapter_model.safetensors");
  }
  static nlohmann::json state(const std::string& output, const std::string& name) {
    return nlohmann::json::parse(file(output, name, "state.json"), nullptr, false);
  }
  static std::string status(const std::string& name) {
    const auto all =
        nlohmann::json::parse(batch({"status", "jobs.yaml", "--json"}).out, nullptr, false);
    for (const auto& one : all) {
      if (one.at("job") == name) return one.at("status");
    }
    return "";
  }
  /// Submits the jobs of the file; how the program answered.
  static Finished submit() { return batch({"jobs.yaml", "--slurm"}); }
  /// Waits until a job has trained for some updates.
  static bool runs(const std::string& output, const std::string& name = "long") {
    return wait_for([&] {
      return file(output, name, "run/metrics.jsonl").find("\"update\":5,") != std::string::npos;
    });
  }
  static bool becomes(const std::string& name, const std::string& wanted) {
    return wait_for([&] { return status(name) == wanted; });
  }
  static std::string task(const std::string& output) { return state(output, "long").at("slurm"); }
  static std::string everything(const std::string& output, const std::string& name = "long") {
    return file(output, name, "log.txt") + file(output, name, "state.json") +
           batch({"status", "jobs.yaml", "--json"}).out;
  }
  /// Submits the long job and waits until it trains.
  static void start_long(const std::string& output, const char* jobs = kLong) {
    write_jobs(output, jobs);
    const Finished submitted = submit();
    ASSERT_EQ(submitted.status, 0) << submitted.err;
    ASSERT_TRUE(runs(output)) << everything(output);
  }
  static void expect_whole(const std::string& output) {
    ASSERT_TRUE(becomes("long", "done")) << everything(output);
    EXPECT_EQ(adapter(output, "long"), site_->whole);
  }

  static std::unique_ptr<Site> site_;
};
std::unique_ptr<Site> SlurmBatch::site_;

TEST_F(SlurmBatch, AnArrayWithAThrottleAndADependentGivesWhatOneMachineGives) {
  const std::string jobs =
      "concurrency: 2\nmatrix: {adapter.r: [2, 4, 8]}\n"
      "jobs: [{name: last, seed: 9, after: [r2, r8]}]\n";
  write_jobs("local", jobs);
  ASSERT_EQ(batch({"jobs.yaml"}).status, 0);
  write_jobs("array", jobs);
  EXPECT_THAT(batch({"jobs.yaml", "--slurm", "--dry-run"}).out,
              AllOf(HasSubstr("--array=0-2%2"), HasSubstr("--dependency=afterok:ARRAY1_0:ARRAY1_2"),
                    HasSubstr("--signal=B:USR1@120"), HasSubstr("--requeue")));
  const Finished submitted = submit();
  ASSERT_EQ(submitted.status, 0) << submitted.err;
  EXPECT_THAT(submitted.out, AllOf(HasSubstr("(3 jobs)"), HasSubstr("(1 job)")));
  ASSERT_TRUE(becomes("last", "done")) << everything("array", "last");
  for (const std::string name : {"r2", "r4", "r8", "last"})
    EXPECT_EQ(adapter("array", name), adapter("local", name)) << name;
  EXPECT_GE(std::string(state("array", "last").at("started")),
            std::string(state("array", "r8").at("ended")));

  EXPECT_THAT(submit().err, HasSubstr("4 done before (reused), 0 left out, 0 to run"));
  fs::remove_all(site_->job / "array/jobs/r4");
  const Finished missing = submit();
  EXPECT_THAT(missing.err, HasSubstr("3 done before (reused), 0 left out, 1 to run"));
  EXPECT_THAT(missing.out, HasSubstr("(1 job)"));
  ASSERT_TRUE(becomes("r4", "done"));
  EXPECT_EQ(adapter("array", "r4"), adapter("local", "r4"));
}

TEST_F(SlurmBatch, NearItsTimeLimitAJobSavesAndGivesItselfBack) {
  start_long("warned");
  ASSERT_EQ(run_process({"scancel", "--batch", "--signal=USR1", task("warned")}).status, 0);
  expect_whole("warned");
  EXPECT_THAT(
      file("warned", "long", "log.txt"),
      AllOf(HasSubstr("the time limit is near; Slurm starts"), HasSubstr("the state is saved")));
}

TEST_F(SlurmBatch, AJobThatIsRequeuedInTheMiddleGoesOnBitForBit) {
  start_long("requeued");
  ASSERT_EQ(run_process({"scontrol", "requeue", task("requeued")}).status, 0);
  expect_whole("requeued");
}

TEST_F(SlurmBatch, TwoTermsLoseNothingAndTheSameCommandGoesOn) {
  start_long("terms");
  const auto pid = state("terms", "long").at("pid").get<pid_t>();
  ::kill(pid, SIGTERM);
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  ::kill(pid, SIGTERM);
  ASSERT_TRUE(becomes("long", "interrupted")) << everything("terms");
  EXPECT_THAT(file("terms", "long", "log.txt"), HasSubstr("the state is saved"));
  EXPECT_EQ(submit().status, 0);
  expect_whole("terms");
}

TEST_F(SlurmBatch, AStepThatIsKilledIsTriedAgainByItsTask) {
  start_long("killed");
  const auto pid = std::to_string(state("killed", "long").at("pid").get<pid_t>());
  const std::string child = slurp("/proc/" + pid + "/task/" + pid + "/children");
  ASSERT_FALSE(child.empty());
  ::kill(static_cast<pid_t>(std::stol(child)), SIGKILL);
  expect_whole("killed");
  EXPECT_EQ(state("killed", "long").at("losses"), 1);
}

TEST_F(SlurmBatch, CancelledJobsSaveAndAloneAreSubmittedAgain) {
  write_jobs("cancelled",
             "jobs: [{name: long, num_epochs: 150}, {name: other, num_epochs: 4000}]\n");
  ASSERT_EQ(submit().status, 0);
  ASSERT_TRUE(runs("cancelled") && runs("cancelled", "other"));
  EXPECT_THAT(batch({"cancel", "jobs.yaml", "--only", "long"}).out,
              HasSubstr("1 job is cancelled that Slurm had"));
  ASSERT_TRUE(becomes("long", "cancelled")) << everything("cancelled");
  EXPECT_EQ(state("cancelled", "long").at("status"), "interrupted");
  EXPECT_EQ(status("other"), "running");
  const Finished again = submit();
  EXPECT_THAT(again.err, HasSubstr("0 done before (reused), 1 with Slurm already, 0 left out, 1"));
  expect_whole("cancelled");
  EXPECT_EQ(batch({"cancel", "jobs.yaml"}).status, 0);
  EXPECT_TRUE(becomes("other", "cancelled"));
}

TEST_F(SlurmBatch, APreemptedJobIsCalledSoAndComesBack) {
  write_jobs("alone", kLonger);
  ASSERT_EQ(batch({"jobs.yaml"}).status, 0);
  start_long("preempted", kLonger);
  ASSERT_EQ(run_process({"sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--mem=100",
                         "--output=/dev/null", "--wrap=sleep 3"})
                .status,
            0);
  EXPECT_TRUE(becomes("long", "preempted")) << everything("preempted");
  ASSERT_TRUE(becomes("long", "done")) << everything("preempted");
  EXPECT_EQ(adapter("preempted", "long"), adapter("alone", "long"));
}

TEST_F(SlurmBatch, AJobWhoseNodeIsLostGoesOnElsewhere) {
  start_long("node");
  const auto pid = state("node", "long").at("pid").get<pid_t>();
  const Finished where =
      run_process({"squeue", "--noheader", "--array", "--jobs=" + task("node"), "--format=%N"});
  const std::string node = where.out.substr(0, where.out.find('\n'));
  std::istringstream stat(slurp("/proc/" + std::to_string(pid) + "/stat"));
  std::string word;
  pid_t step = 0;
  stat >> word >> word >> word >> step;  // pid, name, state, parent
  ASSERT_GT(step, 1);
  ::kill(site_->cluster.pid_of("slurmd-" + node), SIGKILL);
  ::kill(step, SIGKILL);
  ::kill(pid, SIGKILL);
  EXPECT_TRUE(becomes("long", "node failed")) << everything("node");
  site_->cluster.start_node(node);
  expect_whole("node");
}

TEST_F(SlurmBatch, WhatSlurmWouldRefuseIsToldWithItsPlaceBeforeAnythingIsWritten) {
  write_jobs("refused", std::string(kLong) + "slurm: {partition: nowhere}\n");
  for (const bool check : {true, false}) {
    const Finished refused = check ? batch({"jobs.yaml", "--slurm", "--check"}) : submit();
    EXPECT_EQ(refused.status, 2);
    EXPECT_THAT(refused.err, AllOf(HasSubstr("jobs.yaml:5:20: slurm.partition"),
                                   HasSubstr("invalid partition specified: nowhere")));
  }
  write_jobs("refused", "jobs: [{name: long}]\nslurm: {}\n");
  site_->job.folder().write("huge.yaml",
                            "output_dir: refused\nbase: common.yaml\njobs: [{name: long}]\n"
                            "resources: {memory: 90TiB}\n");
  const Finished huge = batch({(site_->job / "huge.yaml").string(), "--slurm", "--check"});
  EXPECT_EQ(huge.status, 2);
  EXPECT_THAT(huge.err, AllOf(HasSubstr("huge.yaml:4:21"), HasSubstr("90.0 TiB of memory")));
  EXPECT_THAT(batch({"jobs.yaml", "--slurm", "--check"}).out, HasSubstr("Slurm takes the jobs"));
  EXPECT_FALSE(fs::exists(site_->job / "refused"));
  write_jobs("refused", std::string(kLong) + "slurm: {partitoin: main}\n");
  EXPECT_THAT(submit().err, HasSubstr("jobs.yaml:5:9"));
  write_jobs("refused", std::string(kLong) + "slurm: {extra: [\"--array=0-3\"]}\n");
  EXPECT_THAT(submit().err, HasSubstr("weft batch gives --array=0-3 itself"));
}

TEST_F(SlurmBatch, TurnsThatBringAJobNoFurtherAreCountedAndGivenUp) {
  start_long("stalled");
  const std::string id = task("stalled");
  ASSERT_EQ(batch({"cancel", "jobs.yaml"}).status, 0);
  ASSERT_TRUE(becomes("long", "cancelled"));
  nlohmann::json now = state("stalled", "long");
  const std::string lines = file("stalled", "long", "run/metrics.jsonl");
  const auto last = nlohmann::json::parse(lines.substr(lines.rfind('\n', lines.size() - 2) + 1));
  now["status"] = "running";
  now["mark"] = "0 steps, update " + std::to_string(last.at("update").get<int>());
  now["stalls"] = 3;
  site_->job.folder().write("stalled/jobs/long/state.json", now.dump());
  fs::remove(site_->job / "stalled/jobs/long/cancelled");
  const Finished given_up =
      batch({"task", (site_->job / "stalled").string(), "long", "--slurm", id});
  EXPECT_EQ(given_up.status, 1);
  EXPECT_EQ(state("stalled", "long").at("status"), "failed");
  EXPECT_THAT(file("stalled", "long", "state.json"),
              HasSubstr("4 turns on Slurm brought it no further"));
}

// The last of them: a controller that was started again gives no new job a node for a while.
TEST_F(SlurmBatch, AControllerThatDoesNotAnswerIsSaidAndNoJobIsCalledFailed) {
  start_long("silent");
  const pid_t controller = site_->cluster.pid_of("slurmctld");
  ::kill(controller, SIGTERM);
  ASSERT_TRUE(wait_for([&] { return ::kill(controller, 0) != 0; }));
  const Finished shown = batch({"status", "jobs.yaml"});
  const Finished refused = submit();
  SlurmCluster::start_controller();
  EXPECT_EQ(shown.status, 0);
  EXPECT_THAT(shown.err, HasSubstr("Slurm does not answer"));
  EXPECT_THAT(shown.out,
              AllOf(Not(HasSubstr("failed")), Not(HasSubstr("vanished")), Not(HasSubstr("lost"))));
  EXPECT_EQ(refused.status, 1);
  EXPECT_THAT(refused.err, HasSubstr("nothing was submitted"));
  expect_whole("silent");
}

TEST(SlurmBatchWithoutSlurm, IsRefusedInOneLine) {
  const std::string path = std::getenv("PATH");
  ::setenv("PATH", "/nowhere", 1);
  const Finished refused = run_weft({"batch", "jobs.yaml", "--slurm"});
  ::setenv("PATH", path.c_str(), 1);
  EXPECT_EQ(refused.status, 2);
  EXPECT_THAT(refused.err, HasSubstr("there is no sbatch on this machine"));
  EXPECT_EQ(std::ranges::count(refused.err, '\n'), 1);
}

}  // namespace
}  // namespace weft::tests
