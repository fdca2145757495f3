// weft train as users run it: signals, full disks, wrong input, exit codes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <random>
#include <thread>

#include "tests/cli/train_command.h"
#include "train/state.h"

namespace weft {
namespace {
namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;
using tests::Finished;

const char* const kChanges =
    "validation: {path: valid.jsonl}\neval: {every: 7u}\nsave: {every: 5u}\nlog_every: 1\n"
    "threads: 2\n";

class TrainCommand : public tests::TrainCommand {
 protected:
  void SetUp() override { write_config(kChanges); }
};

TEST_F(TrainCommand, KilledAtAnyMomentAndResumedEqualsTheUninterruptedRunBitForBit) {
  // Dropout, so that the random numbers must go on where they were, too.
  write_config(std::string(kChanges) + "lora_dropout: 0.1\n");
  ASSERT_EQ(train().status, 0);
  const auto metrics = job_.metrics();
  const std::string adapter = job_.adapter_bytes();
  const auto total = metrics.back().at("update").get<std::int64_t>();
  std::mt19937 random(7);
  int killed = 0;
  for (int trial = 0; trial < 4; ++trial) {
    // Well before the end, so that the signal finds the run at work.
    const auto update = std::uniform_int_distribution<std::int64_t>(1, total / 2)(random);
    const auto delay = std::uniform_int_distribution<int>(0, 30)(random);
    const int status = train_and(update, [&](pid_t child) {
      std::this_thread::sleep_for(std::chrono::milliseconds(delay));
      ::kill(child, SIGKILL);
    });
    // On a fast machine all updates can be over before the signal arrives.
    ASSERT_TRUE(status == 128 + SIGKILL || status == 0) << status;
    killed += status == 0 ? 0 : 1;
    const Finished resumed = train({"--resume"});
    ASSERT_EQ(resumed.status, 0) << resumed.err;
    EXPECT_EQ(job_.metrics(), metrics) << "killed " << delay << " ms after update " << update;
    EXPECT_EQ(job_.adapter_bytes(), adapter) << "killed " << delay << " ms after update " << update;
  }
  ASSERT_GE(killed, 2) << "the run is too short to be killed";
}

TEST_F(TrainCommand, RunsFromTheTokenCacheAreTheSameBitForBit) {
  ASSERT_EQ(train().status, 0);  // without a cache
  const auto metrics = job_.metrics();
  const std::string adapter = job_.adapter_bytes();
  const auto findings = [&] {
    auto all = nlohmann::json::parse(tests::slurp(job_ / "run/preflight.json"));
    all.erase("memory");  // is of the moment
    return all;
  };
  const nlohmann::json found = findings();
  const std::vector<std::string> cached{"--set", "token_cache=" + (job_ / "tokens").string()};
  for (const char* said : {"tokens kept in", "tokens taken from"}) {
    const Finished run = train({"--force", cached[0], cached[1]});
    ASSERT_EQ(run.status, 0) << run.err;
    EXPECT_THAT(run.err, HasSubstr(said));
    EXPECT_EQ(job_.metrics(), metrics) << said;
    EXPECT_EQ(job_.adapter_bytes(), adapter) << said;
    EXPECT_EQ(findings(), found) << said;
  }
  // Killed with tokens from the cache; resumed with them, and without.
  for (const std::vector<std::string>& more : {cached, {"--set", "token_cache=false"}}) {
    const int status = train_and(
        4, [](pid_t child) { ::kill(child, SIGKILL); }, cached);
    ASSERT_TRUE(status == 128 + SIGKILL || status == 0) << status;
    const Finished resumed = train({"--resume", more[0], more[1]});
    ASSERT_EQ(resumed.status, 0) << resumed.err;
    EXPECT_EQ(job_.metrics(), metrics) << more[1];
    EXPECT_EQ(job_.adapter_bytes(), adapter) << more[1];
  }
}

TEST_F(TrainCommand, ReadersThatWouldMisreadTheAdapterAreRefusedBeforeTraining) {
  write_config("runs_on: [vllm, llama.cpp]\n");
  for (const char* option : {"--check", "--force"}) {
    const Finished refused = train({option, "--set", "adapter.use_rslora=true"});
    EXPECT_EQ(refused.status, 3) << refused.err;
    EXPECT_THAT(refused.err, HasSubstr("llama.cpp misreads it: use_rslora is ignored"));
    EXPECT_THAT(refused.err, HasSubstr("--to gguf-lora"));
    EXPECT_THAT(refused.err, Not(HasSubstr("vllm")));
    EXPECT_FALSE(fs::exists(job_ / "run/adapter"));
  }
  EXPECT_EQ(train({"--force"}).status, 0);
  const Finished unknown = train({"--force", "--set", "runs_on=[tgi]"});
  EXPECT_EQ(unknown.status, 2);
  EXPECT_THAT(unknown.err, HasSubstr("runs_on: 'tgi' is unknown; known are vllm"));
  EXPECT_TRUE(fs::exists(job_ / "run/adapter")) << "a typing error must cost no run";
}

TEST_F(TrainCommand, InterruptAndTerminationSaveAndExit130) {
  ASSERT_EQ(train().status, 0);
  const auto metrics = job_.metrics();
  const std::string adapter = job_.adapter_bytes();
  for (const int signal : {SIGINT, SIGTERM}) {
    EXPECT_EQ(train_and(3, [&](pid_t child) { ::kill(child, signal); }), 130);
    // The running update is finished and saved, whatever save.every says.
    const auto last = train::Checkpoints(job_ / "run/checkpoints").list().back();
    EXPECT_EQ(last, job_.metrics().back().at("update").get<std::int64_t>());
    const Finished resumed = train({"--resume"});
    EXPECT_EQ(resumed.status, 0) << resumed.err;
    EXPECT_THAT(resumed.err, HasSubstr("resuming after update " + std::to_string(last)));
    EXPECT_EQ(job_.metrics(), metrics);
    EXPECT_EQ(job_.adapter_bytes(), adapter);
  }
}

TEST_F(TrainCommand, FullDiskEndsTheRunWithTheLastCheckpointIntact) {
  // A small file system of its own; where mounting is not allowed a limit on files stands for it.
  fs::create_directory(job_ / "run");
  const bool mounted = ::mount("tmpfs", (job_ / "run").c_str(), "tmpfs", 0, "size=420k") == 0;
  const std::string program = mounted ? "exec \"$@\"" : "trap '' XFSZ; ulimit -f 55; exec \"$@\"";
  std::vector<std::string> limited{"bash", "-c", program, "limited"};
  const auto plain =
      command({"--set", "num_epochs=200", "--set", "save.every=20u", "--set", "save.keep=1"});
  limited.insert(limited.end(), plain.begin(), plain.end());
  const Finished full = tests::run_process(limited);
  const auto checkpoints = train::Checkpoints(job_ / "run/checkpoints");
  const auto last = checkpoints.load_last();
  if (mounted) ::umount2((job_ / "run").c_str(), MNT_DETACH);
  EXPECT_EQ(full.status, 1) << full.err;
  EXPECT_THAT(full.err, HasSubstr(mounted ? "No space left on device" : "File too large"));
  ASSERT_TRUE(last);
  EXPECT_GT(last->update, 0);
}

TEST_F(TrainCommand, DivergenceExitsWith1AndTheNumbers) {
  const Finished run = train({"--set", "learning_rate=1e30", "--set", "max_grad_norm=0"});
  EXPECT_EQ(run.status, 1);
  EXPECT_THAT(run.err, HasSubstr("the loss is "));
  EXPECT_THAT(run.err, HasSubstr("learning_rate"));
}

TEST_F(TrainCommand, WrongInputExitsWith2InOneLineAndWritesNothing) {
  const auto refused = [&](const std::vector<std::string>& more, const char* text) {
    const Finished run = train(more);
    EXPECT_EQ(run.status, 2) << run.err;
    EXPECT_THAT(run.err, HasSubstr(text));
    EXPECT_FALSE(fs::exists(job_ / "run")) << text;
  };
  refused({"--set", "output_dir=/proc/weft"}, "cannot be written");
  refused({"--check", "--set", "output_dir=/proc/weft"}, "cannot be written");
  refused({"--set", "memory_limit=64KiB"}, "of memory are needed");
  refused({"--set", "base_model=/nowhere"}, "/nowhere");
  refused({"--set", "adapter.target_modules=q_prj"}, "q_proj");
  refused({"--set", "learnin_rate=1"}, "learning_rate");
  refused({"--set", "datasets.0.path=missing.jsonl"}, "missing.jsonl");
  const std::string empty = job_.folder().write("empty.csv", "prompt,completion\n").string();
  refused({"--check", "--set", "datasets.0.path=" + empty}, "empty.csv: there are no rows");
  job_.folder().write("train.jsonl", "{\"prompt\": \"a\", \"completion\": \"b\"}\n{broken\n");
  refused({}, "train.jsonl:2");
}

TEST_F(TrainCommand, YamlFaultsHaveTheirPlace) {
  write_config("adapters: {r: 3}\nlearning_rate: fast\n");
  const Finished run = train();
  EXPECT_EQ(run.status, 2);
  EXPECT_THAT(run.err, HasSubstr("tiny.yaml:"));
  EXPECT_THAT(run.err, HasSubstr("adapter"));
}

TEST_F(TrainCommand, ExistingRunWantsResumeOrForce) {
  ASSERT_EQ(train({"--set", "max_updates=2"}).status, 0);
  const Finished again = train({"--set", "max_updates=2"});
  EXPECT_EQ(again.status, 2);
  EXPECT_THAT(again.err, HasSubstr("--resume"));
  EXPECT_THAT(again.err, HasSubstr("--force"));
  EXPECT_EQ(train({"--set", "max_updates=2", "--force"}).status, 0);
  EXPECT_EQ(train({"--resume", "--force"}).status, 2);
}

TEST_F(TrainCommand, CheckShowsThePlanAndWritesNothing) {
  const Finished check = train({"--check"});
  EXPECT_EQ(check.status, 0) << check.err;
  for (const char* part : {"rank 4", "updates", "memory", "learned", "⟦", "⟧"}) {
    EXPECT_THAT(check.out, HasSubstr(part));
  }
  EXPECT_FALSE(fs::exists(job_ / "run"));
  const Finished refused = train({"--check", "--set", "preflight.min_examples=1000"});
  EXPECT_EQ(refused.status, 3);
  EXPECT_THAT(refused.out, HasSubstr("learned"));
}

TEST_F(TrainCommand, PlainLinesWithoutATerminalAndResultsOnStandardOutput) {
  const Finished run = train({"--set", "max_updates=3"});
  EXPECT_EQ(run.status, 0);
  for (const char* part :
       {"update 3/3", "loss", "tok/s", "supervised", "validation loss", "left"}) {
    EXPECT_THAT(run.err, HasSubstr(part));
  }
  EXPECT_THAT(run.err, Not(HasSubstr("\r")));
  EXPECT_THAT(run.out, HasSubstr("adapter " + (job_ / "run/adapter").string()));
}

TEST_F(TrainCommand, SeveralAdaptersHaveFoldersThatAreRunsOfTheirOwn) {
  write_config(
      "threads: 2\nadapters:\n  - name: náhuatl\n    max_updates: 3\n  - name: b\n    max_updates: "
      "5\n");
  const Finished check = train({"--check"});
  EXPECT_EQ(check.status, 0);
  EXPECT_THAT(check.out, HasSubstr("náhuatl\nbase "));
  EXPECT_THAT(check.out, HasSubstr("the other adapters"));
  EXPECT_FALSE(fs::exists(job_ / "run"));
  const Finished done = train();
  EXPECT_EQ(done.status, 0) << done.err;
  EXPECT_THAT(done.out, HasSubstr("náhuatl: done after 3 updates"));
  EXPECT_THAT(done.out, HasSubstr("b: done after 5 updates"));
  EXPECT_THAT(done.err, HasSubstr("b  update 5/5"));
  const Finished more =
      tests::run_process({tests::weft_program(), "train", (job_ / "run/b/config.yaml").string(),
                          "--resume", "--set", "max_updates=6", "--set", "threads=2"});
  EXPECT_EQ(more.status, 0) << more.err;
  EXPECT_THAT(more.out, HasSubstr("done after 6 updates"));
  EXPECT_EQ(train().status, 2);
  EXPECT_EQ(train({"--resume"}).status, 0);
}

TEST_F(TrainCommand, InspectTellsTheRun) {
  const Finished run = train({"--set", "max_updates=7"});
  ASSERT_EQ(run.status, 0) << run.err;
  const Finished inspected = tests::run_weft({"inspect", (job_ / "run").string(), "--json"});
  ASSERT_EQ(inspected.status, 0) << inspected.err;
  const auto json = nlohmann::json::parse(inspected.out);
  EXPECT_EQ(json["updates"], nlohmann::json({{"done", 7}, {"total", 7}}));
  EXPECT_EQ(json["config"]["edited"], false);
  EXPECT_EQ(json["checkpoints"].back()["update"], 7);
  double lowest = 1e9;
  for (const auto& line : job_.metrics()) {
    if (line.value("best", false)) lowest = line["validation_loss"];
  }
  EXPECT_EQ(json["best_validation"]["validation_loss"], lowest);
  EXPECT_EQ(json["adapter"]["update"], json["best_validation"]["update"]);
}

TEST_F(TrainCommand, DumpedConfigurationTrainsTheSame) {
  ASSERT_EQ(train({"--set", "max_updates=2"}).status, 0);
  const std::string adapter = job_.adapter_bytes();
  const Finished dump = train({"--set", "max_updates=2", "--dump-config", "full"});
  ASSERT_EQ(dump.status, 0);
  job_.folder().write("elsewhere/dumped.yaml", dump.out);
  const Finished again = tests::run_process(
      {tests::weft_program(), "train", (job_ / "elsewhere/dumped.yaml").string(), "--force"});
  EXPECT_EQ(again.status, 0) << again.err;
  EXPECT_EQ(job_.adapter_bytes(), adapter);
  const Finished schema = tests::run_process({tests::weft_program(), "train", "--json-schema"});
  EXPECT_TRUE(nlohmann::json::parse(schema.out).at("properties").contains("base_model"));
}

}  // namespace
}  // namespace weft
