// Many small trainings of one file, as users run them: killed in the middle, run again, compared.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <map>

#include "tests/support/process.h"
#include "tests/support/running.h"
#include "tests/train/tiny_job.h"

namespace weft::tests {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class BatchCommand : public ::testing::Test {
 protected:
  BatchCommand() : job_({.hidden = 64, .layers = 2, .intermediate = 128}) {
    job_.folder().write("common.yaml", job_.yaml("save: {every: 3u}\nthreads: 1\n"));
    job_.folder().write("text.txt", "tlaxcalli, atl; in xochitl in cuicatl.\nin calli tepetl\n");
    write_jobs("runs");
  }

  void write_jobs(const std::string& output, const std::string& more = "") {
    job_.folder().write("jobs.yaml", "output_dir: " + output +
                                         "\nbase: common.yaml\nconcurrency: 2\n"
                                         "matrix:\n  language: {nah: {seed: 1}, oto: {seed: 2}}\n"
                                         "  adapter.r: [2, 4]\n" +
                                         more);
  }

  [[nodiscard]] std::vector<std::string> batch(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), {weft_program(), "batch"});
    for (std::string& argument : arguments) {
      if (argument == "jobs.yaml") argument = (job_ / "jobs.yaml").string();
    }
    return arguments;
  }
  [[nodiscard]] Finished run(std::vector<std::string> arguments = {"jobs.yaml"}) const {
    return run_process(batch(std::move(arguments)));
  }

  [[nodiscard]] std::string adapter(const std::string& output, const std::string& name) const {
    return slurp(job_ / (output + "/jobs/" + name + "/run/adapter/adapter_model.safetensors"));
  }

  TinyJob job_;
  const std::vector<std::string> names_{"nah-r2", "nah-r4", "oto-r2", "oto-r4"};
};

TEST_F(BatchCommand, KilledInTheMiddleAndRunAgainGivesTheAdaptersOfOneThatWasNot) {
  const Finished whole = run();
  ASSERT_EQ(whole.status, 0) << whole.err;
  EXPECT_THAT(whole.out, HasSubstr("4 done"));

  write_jobs("again");
  {
    Running killed(batch({"jobs.yaml"}));
    ASSERT_TRUE(killed.wait_until([&] {
      const auto metrics = job_ / "again/jobs/nah-r4/run/metrics.jsonl";
      return std::filesystem::exists(metrics) &&
             slurp(metrics).find("\"update\":4,") != std::string::npos;
    })) << killed.err();
    killed.signal(SIGKILL);
    EXPECT_EQ(killed.wait(), 128 + SIGKILL);
  }
  const Finished again = run();
  ASSERT_EQ(again.status, 0) << again.err;
  for (const std::string& name : names_) {
    ASSERT_FALSE(adapter("runs", name).empty());
    EXPECT_EQ(adapter("again", name), adapter("runs", name)) << name;
  }

  const Finished third = run();
  EXPECT_EQ(third.status, 0) << third.err;
  EXPECT_THAT(third.err, HasSubstr("4 jobs: 4 done before (reused), 0 left out, 0 to run"));
}

TEST_F(BatchCommand, AnInterruptSavesAllJobsAndTheSameCommandGoesOn) {
  Running interrupted(batch({"jobs.yaml"}));
  ASSERT_TRUE(interrupted.wait_until([&] {
    const auto metrics = job_ / "runs/jobs/nah-r2/run/metrics.jsonl";
    return std::filesystem::exists(metrics) &&
           slurp(metrics).find("\"update\":3,") != std::string::npos;
  })) << interrupted.err();
  interrupted.signal(SIGINT);
  EXPECT_EQ(interrupted.wait(), 130);
  EXPECT_THAT(interrupted.err(), HasSubstr("all jobs have saved"));
  EXPECT_THAT(slurp(job_ / "runs/jobs/nah-r2/log.txt"), HasSubstr("the state is saved"));
  const Finished status = run({"status", "jobs.yaml"});
  EXPECT_THAT(status.out, HasSubstr("interrupted"));
  EXPECT_EQ(run().status, 0);
}

TEST_F(BatchCommand, AJobThatIsKilledGoesOnByItselfWithTheSameAdapter) {
  const Finished whole = run({"jobs.yaml", "--only", "nah-r4"});
  ASSERT_EQ(whole.status, 0) << whole.err;
  write_jobs("again");
  Running killed(batch({"jobs.yaml", "--only", "nah-r4"}));
  const auto metrics = job_ / "again/jobs/nah-r4/run/metrics.jsonl";
  ASSERT_TRUE(killed.wait_until([&] {
    return std::filesystem::exists(metrics) &&
           slurp(metrics).find("\"update\":4,") != std::string::npos;
  })) << killed.err();
  const auto state = nlohmann::json::parse(slurp(job_ / "again/jobs/nah-r4/state.json"));
  ::kill(state.at("pid").get<pid_t>(), SIGKILL);
  EXPECT_EQ(killed.wait(), 0) << killed.err();
  EXPECT_THAT(killed.err(), HasSubstr("it is tried again"));
  EXPECT_EQ(adapter("again", "nah-r4"), adapter("runs", "nah-r4"));
}

TEST_F(BatchCommand, ATerminalThatGoesAwaySavesAllJobsAsSigtermDoes) {
  for (const int signal : {SIGTERM, SIGHUP}) {
    const std::string folder = "runs" + std::to_string(signal);
    write_jobs(folder);
    Running ended(batch({"jobs.yaml", "--only", "nah-r2"}));
    const auto metrics = job_ / (folder + "/jobs/nah-r2/run/metrics.jsonl");
    ASSERT_TRUE(ended.wait_until([&] {
      return std::filesystem::exists(metrics) &&
             slurp(metrics).find("\"update\":3,") != std::string::npos;
    })) << ended.err();
    ended.signal(signal);
    EXPECT_EQ(ended.wait(), 130) << signal;
    EXPECT_THAT(slurp(job_ / (folder + "/jobs/nah-r2/log.txt")), HasSubstr("the state is saved"));
    EXPECT_EQ(run({"jobs.yaml", "--only", "nah-r2"}).status, 0);
  }
  EXPECT_EQ(adapter("runs" + std::to_string(SIGHUP), "nah-r2"),
            adapter("runs" + std::to_string(SIGTERM), "nah-r2"));
}

TEST_F(BatchCommand, AJobThatAnotherProcessRunsIsWaitedForAndNamed) {
  ASSERT_EQ(run({"jobs.yaml", "--only", "oto-r2"}).status, 0);  // The folder is there.
  Running other(batch({"task", (job_ / "runs").string(), "nah-r2"}));
  const auto state = job_ / "runs/jobs/nah-r2/state.json";
  ASSERT_TRUE(other.wait_until([&] {
    return std::filesystem::exists(state) && slurp(state).find("running") != std::string::npos;
  }));
  EXPECT_THAT(run({"status", "jobs.yaml"}).out,
              AllOf(HasSubstr("nah-r2: process "), HasSubstr("no weft batch looks after it")));
  Running batch_(batch({"jobs.yaml", "--only", "nah-r2"}));
  ASSERT_TRUE(batch_.wait_for_message("runs it already; this one waits for its end"))
      << batch_.err();
  EXPECT_EQ(other.wait(), 0);
  EXPECT_EQ(batch_.wait(), 0) << batch_.err();
  const std::string told = batch_.err();
  EXPECT_EQ(told.find("runs it already"), told.rfind("runs it already")) << told;
}

TEST_F(BatchCommand, AGateThatSaidNoIsExitStatusThreeAndLeftAlone) {
  write_jobs("runs",
             "steps:\n  - train\n  - eval: {base_model: base, text: [text.txt], sequence_len: 32, "
             "gates: [bits_per_byte.adapter <= 0.01]}\n");
  const Finished refused = run({"jobs.yaml", "--only", "nah-r2"});
  EXPECT_EQ(refused.status, 3) << refused.err;
  EXPECT_THAT(run({"status", "jobs.yaml"}).out, HasSubstr("refused"));
  const Finished again = run({"jobs.yaml", "--only", "nah-r2"});
  EXPECT_EQ(again.status, 3) << again.err;
  EXPECT_THAT(again.err, HasSubstr("4 left out, 0 to run"));
}

/// A finished job whose key is changed, stopped while it loads: the old run is still there.
TEST_F(BatchCommand, AFinishedRunSurvivesAReplacementThatIsStoppedBeforeItsFirstUpdate) {
  ASSERT_EQ(run({"jobs.yaml", "--only", "nah-r2"}).status, 0);
  const std::string first = adapter("runs", "nah-r2");
  ASSERT_FALSE(first.empty());
  const auto write_changed = [&] { write_jobs("runs", "common: {learning_rate: 2e-2}\n"); };
  const auto state = [&] {
    return nlohmann::json::parse(slurp(job_ / "runs/jobs/nah-r2/state.json"));
  };
  const auto stop_while_it_loads = [&] {
    Running stopped(batch({"jobs.yaml", "--only", "nah-r2"}));
    EXPECT_TRUE(stopped.wait_until([&] { return state().at("status") == "running"; }));
    stopped.signal(SIGINT);
    EXPECT_EQ(stopped.wait(), 130) << stopped.err();
  };
  write_changed();
  EXPECT_THAT(run({"jobs.yaml", "--dry-run"}).out,
              HasSubstr("nah-r2: its finished run is replaced, because learning_rate has changed"));
  stop_while_it_loads();
  ASSERT_EQ(adapter("runs", "nah-r2"), first);

  write_jobs("runs");  // The change is undone: nothing is to be done.
  const Finished undone = run({"jobs.yaml", "--only", "nah-r2"});
  EXPECT_THAT(undone.err, HasSubstr("1 done before (reused)"));
  EXPECT_EQ(adapter("runs", "nah-r2"), first);

  write_changed();
  stop_while_it_loads();
  const Finished again = run({"jobs.yaml", "--only", "nah-r2"});
  EXPECT_EQ(again.status, 0) << again.err;
  EXPECT_NE(adapter("runs", "nah-r2"), first);
}

TEST_F(BatchCommand, MoreEpochsGoOnWithTheFinishedRun) {
  ASSERT_EQ(run({"jobs.yaml", "--only", "nah-r2"}).status, 0);
  write_jobs("runs", "common: {num_epochs: 4}\n");
  EXPECT_THAT(run({"jobs.yaml", "--check"}).out, Not(HasSubstr("is replaced")));
  const Finished more = run({"jobs.yaml", "--only", "nah-r2"});
  EXPECT_EQ(more.status, 0) << more.err;
  EXPECT_THAT(slurp(job_ / "runs/jobs/nah-r2/log.txt"), HasSubstr("resuming after update"));
}

TEST_F(BatchCommand, StepsFollowEachOtherAndTheReportComparesTheirFigures) {
  write_jobs("runs",
             "steps:\n  - train\n  - merge\n  - export: {to: gguf, type: f16}\n"
             "  - eval: {base_model: base, text: [text.txt], sequence_len: 32}\n");
  const Finished done = run({"jobs.yaml", "--only", "*-r2"});
  ASSERT_EQ(done.status, 0) << done.err << slurp(job_ / "runs/jobs/nah-r2/log.txt");
  EXPECT_TRUE(std::filesystem::exists(job_ / "runs/jobs/nah-r2/merged/config.json"));
  EXPECT_TRUE(std::filesystem::exists(job_ / "runs/jobs/nah-r2/nah-r2-f16.gguf"));
  EXPECT_FALSE(std::filesystem::exists(job_ / "runs/jobs/nah-r4/run"));
  const Finished report = run({"report", "jobs.yaml"});
  EXPECT_EQ(report.status, 0) << report.err;
  EXPECT_THAT(report.out, AllOf(HasSubstr("text bits/byte"), HasSubstr("waiting")));
  const Finished page = run({"report", "jobs.yaml", "--html", (job_ / "page.html").string()});
  EXPECT_EQ(page.status, 0) << page.err;
  EXPECT_THAT(slurp(job_ / "page.html"), HasSubstr("nah-r2"));
  EXPECT_THAT(run({"report", "jobs.yaml", "--markdown"}).out, HasSubstr("| nah-r2 | done |"));
}

TEST_F(BatchCommand, AJobThatFailsStopsNoOtherAndItsLogIsNamed) {
  write_jobs("runs",
             "jobs:\n  - {name: wild, learning_rate: 1e30, max_grad_norm: 0}\n"
             "retries: {failed: 0}\n");
  const Finished done = run({"jobs.yaml", "--only", "nah-r2", "--only", "wild"});
  EXPECT_EQ(done.status, 1);
  EXPECT_THAT(done.err,
              AllOf(HasSubstr("wild"), HasSubstr("log.txt"), HasSubstr("--retry-failed")));
  EXPECT_FALSE(adapter("runs", "nah-r2").empty());
  EXPECT_THAT(run({"logs", "jobs.yaml", "wild"}).out, HasSubstr("weft train"));
}

TEST_F(BatchCommand, CheckShowsThePlanAndWritesNothing) {
  const Finished checked = run({"jobs.yaml", "--check"});
  ASSERT_EQ(checked.status, 0) << checked.err;
  EXPECT_THAT(checked.out, AllOf(HasSubstr("oto-r4"), HasSubstr("MiB"), HasSubstr("4 to run"),
                                 HasSubstr("disk"), HasSubstr("of disk"), Not(HasSubstr("?"))));
  EXPECT_FALSE(std::filesystem::exists(job_ / "runs"));
  EXPECT_THAT(run({"jobs.yaml", "--dry-run"}).out, HasSubstr("weft train"));
  EXPECT_FALSE(std::filesystem::exists(job_ / "runs"));
}

TEST_F(BatchCommand, WrongInputOfAnyJobIsToldBeforeAnythingIsWritten) {
  write_jobs("runs", "jobs: [{name: lost, datasets: [{path: nowhere.jsonl}]}]\n");
  const Finished refused = run();
  EXPECT_EQ(refused.status, 2);
  EXPECT_THAT(refused.err,
              AllOf(HasSubstr("jobs.yaml:7:"), HasSubstr("lost"), HasSubstr("nowhere.jsonl")));
  EXPECT_FALSE(std::filesystem::exists(job_ / "runs"));
  write_jobs("runs", "resources: {memory: 900TiB}\n");
  EXPECT_THAT(run().err, AllOf(HasSubstr("jobs.yaml:"), HasSubstr("900.0 TiB of memory")));
  EXPECT_FALSE(std::filesystem::exists(job_ / "runs"));
  EXPECT_THAT(run({"jobs.yaml", "--only", "nah-r3"}).err, HasSubstr("did you mean 'nah-r2'?"));
}

TEST_F(BatchCommand, TwoBatchesDoNotRunInOneFolder) {
  Running first(batch({"jobs.yaml"}));
  ASSERT_TRUE(first.wait_until([&] { return std::filesystem::exists(job_ / "runs/batch.json"); }));
  const Finished second = run();
  EXPECT_EQ(second.status, 2);
  EXPECT_THAT(second.err, HasSubstr("another weft batch runs the jobs"));
  EXPECT_EQ(run({"cancel", "jobs.yaml"}).status, 0);
  EXPECT_EQ(first.wait(), 1);
  EXPECT_THAT(first.err(), HasSubstr("were cancelled; the same command goes on with them"));
}

}  // namespace
}  // namespace weft::tests
