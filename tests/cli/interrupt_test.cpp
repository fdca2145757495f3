// Signals, closed pipes and full devices: nothing is lost, nothing is told that is not so.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "tests/cli/train_command.h"
#include "tests/support/running.h"
#include "train/state.h"

namespace weft::tests {
namespace {
namespace fs = std::filesystem;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;

class Interrupt : public TrainCommand {
 protected:
  Interrupt() { write_config("save: {every: 1000u}\n"); }

  [[nodiscard]] std::map<std::string, std::string> run_contents() const {
    std::map<std::string, std::string> all;
    for (const auto& entry : fs::recursive_directory_iterator(job_ / "run")) {
      if (entry.is_regular_file()) all[entry.path().string()] = slurp(entry.path());
    }
    return all;
  }

  [[nodiscard]] std::int64_t last_checkpoint() const {
    return train::Checkpoints(job_ / "run/checkpoints").list().back();
  }

  [[nodiscard]] std::int64_t updates_done() const {
    std::int64_t most = 0;
    if (fs::exists(job_ / "run/metrics.jsonl")) {
      for (const auto& line : job_.metrics()) {
        if (line.contains("loss")) most = line["update"];
      }
    }
    return most;
  }

  /// A run of many updates, waited for until it has done some of them.
  [[nodiscard]] std::vector<std::string> long_run() const {
    return command({"--force", "--set", "num_epochs=2000", "--set", "log_every=1"});
  }

  /// The command for a shell.
  static std::string quoted(const std::vector<std::string>& words) {
    std::string line;
    for (const std::string& word : words) line.append("'").append(word).append("' ");
    return line;
  }

  bool wait_for_updates(Running& run, int updates) const {
    return run.wait_for_message(fmt::format("update {}/", updates));
  }
};

TEST_F(Interrupt, DuringPreparationKeepsTheOldRun) {
  ASSERT_EQ(train({"--set", "max_updates=3"}).status, 0);
  const auto before = run_contents();
  job_.folder().write("train.jsonl", tiny_pairs(120'000));
  for (const int delay_ms : {0, 50, 200, 400}) {
    Running run(command({"--force"}));
    ASSERT_TRUE(run.wait_until_caught(SIGINT));
    std::this_thread::sleep_for(std::chrono::milliseconds(delay_ms));
    run.signal(SIGINT);
    EXPECT_EQ(run.wait(), 130) << run.err();
    EXPECT_THAT(run.err(), HasSubstr("nothing was changed")) << delay_ms;
    EXPECT_EQ(run_contents(), before) << delay_ms;
  }
}

TEST_F(Interrupt, EverySignalThatWarnsSavesAndExits130) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2}) {
    Running run(long_run());
    ASSERT_TRUE(wait_for_updates(run, 3)) << run.err();
    run.signal(signal);
    EXPECT_EQ(run.wait(), 130) << signal;
    EXPECT_EQ(last_checkpoint(), updates_done()) << signal;
    EXPECT_GE(last_checkpoint(), 3);
  }
}

TEST_F(Interrupt, TheSameSignalTwiceStillSaves) {
  // srun and timeout send twice, milliseconds apart.
  for (const int signal : {SIGTERM, SIGINT}) {
    Running run(long_run());
    ASSERT_TRUE(wait_for_updates(run, 3)) << run.err();
    for (int i = 0; i < 3; ++i) {
      run.signal(signal);
      std::this_thread::sleep_for(std::chrono::microseconds(500));
    }
    EXPECT_EQ(run.wait(), 130);
    EXPECT_EQ(last_checkpoint(), updates_done());
  }
}

TEST_F(Interrupt, CtrlCWithTeeSaves) {
  // The terminal interrupts the whole group: tee is gone before weft prints its next line.
  const std::string log = (job_ / "log").string();
  Running run({"bash", "-c", fmt::format("{}2>&1 | tee '{}' >/dev/null", quoted(long_run()), log)});
  ASSERT_TRUE(run.wait_until(
      [&] { return fs::exists(log) && slurp(log).find("update 3/") != std::string::npos; }));
  run.signal_group(SIGINT);
  (void)run.wait();
  // The shell ends first; the run is saved when its folder is free again.
  ASSERT_TRUE(run.wait_until([&] { return true; }));
  for (int i = 0; i < 5000 && last_checkpoint() == 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  EXPECT_GE(last_checkpoint(), 3);
  EXPECT_EQ(last_checkpoint(), updates_done());
}

TEST_F(Interrupt, AReaderThatEndsDoesNotEndTheRun) {
  const std::string line =
      quoted(command({"--force", "--set", "max_updates=12", "--set", "log_every=1"}));
  const Finished done =
      run_process({"bash", "-c", line + "2>&1 >/dev/null | head -1; echo ${PIPESTATUS[0]}"});
  EXPECT_THAT(done.out, HasSubstr("\n0\n"));
  EXPECT_EQ(last_checkpoint(), 12);
}

TEST_F(Interrupt, MessagesOnAFullDeviceAreDroppedAndTheRunGoesOn) {
  Running run(command({"--force", "--set", "max_updates=4", "--set", "log_every=1"}), {},
              "/dev/full");
  EXPECT_EQ(run.wait(), 0);
  EXPECT_EQ(last_checkpoint(), 4);
}

TEST_F(Interrupt, ResultsOnAFullDeviceAreAFailure) {
  ASSERT_EQ(train({"--set", "max_updates=1"}).status, 0);
  const std::string base = (job_ / "base").string();
  const std::string run = (job_ / "run").string();
  std::vector<std::vector<std::string>> commands{
      {"inspect", base, "--json"},
      {"inspect", run},
      {"generate", "--model", base, "--prompt", "atl", "--max-tokens", "2", "--json"},
      {"train", (job_ / "tiny.yaml").string(), "--force", "--check"},
      {"train", "--json-schema"},
      {"--help"},
      {"merge", "--help"}};
  for (std::vector<std::string> arguments : commands) {
    arguments.insert(arguments.begin(), weft_program());
    Running full(arguments, "/dev/full");
    EXPECT_EQ(full.wait(), 1) << arguments[1];
    EXPECT_THAT(full.err(), HasSubstr("standard output cannot be written")) << arguments[1];
  }
}

TEST_F(Interrupt, AVerificationIsStoppedWhileItsModelIsLoaded) {
  // Loading is done by the library with LibTorch, signals are caught by the program that opens it.
  ASSERT_EQ(train({"--set", "max_updates=1"}).status, 0);
  const fs::path text = job_.folder().write("text.txt", "tlaxcalli, atl; in xochitl in cuicatl.\n");
  const std::vector<std::string> inputs{
      "--model",  (job_ / "base").string(),     "--adapter", (job_ / "run/adapter").string(),
      "--verify", (job_ / "text.txt").string(), "--out",     (job_ / "out").string()};
  for (std::vector<std::string> arguments : std::vector<std::vector<std::string>>{
           {"merge"}, {"export", "--to", "gguf", "--type", "f32"}}) {
    arguments.insert(arguments.begin(), weft_program());
    arguments.insert(arguments.end(), inputs.begin(), inputs.end());
    Running run(arguments);
    ASSERT_TRUE(run.wait_until_caught(SIGINT)) << run.err();
    run.signal(SIGINT);
    EXPECT_EQ(run.wait(), 130) << run.err();
    // Only the library hashes the text, just before it loads the model.
    EXPECT_THAT(run.err(), AnyOf(HasSubstr("interrupted while loading the model"),
                                 HasSubstr("interrupted while hashing " + text.string())))
        << arguments[1];
    EXPECT_FALSE(fs::exists(job_ / "out"));
  }
}

TEST_F(Interrupt, ResultsForAReaderThatWentAwayAreNoFailure) {
  const Finished done =
      run_process({"bash", "-c",
                   fmt::format("'{}' inspect '{}' --json | head -1; echo ${{PIPESTATUS[0]}}",
                               weft_program(), (job_ / "base").string())});
  EXPECT_THAT(done.out, ::testing::AnyOf(HasSubstr("\n0\n"), HasSubstr("\n141\n")));
  EXPECT_EQ(done.err, "");
}

TEST_F(Interrupt, MessagesStandInOrderWithResultsInOneFile) {
  const fs::path log = job_ / "both";
  Running run(command({"--force", "--set", "max_updates=2"}), log, log);
  ASSERT_EQ(run.wait(), 0);
  const std::string text = slurp(log);
  EXPECT_LT(text.find("update 2/2"), text.find("done after 2 updates"));
}

TEST_F(Interrupt, ADamagedStateOfAKilledStartIsNoTrap) {
  // Killed right after its start, a run leaves a folder that --force and --resume both take.
  for (const char* option : {"--force", "--resume"}) {
    for (int delay_ms = 0; delay_ms < 60; delay_ms += 6) {
      fs::remove_all(job_ / "run");
      Running run(command());
      ASSERT_TRUE(run.wait_until([&] { return fs::exists(job_ / "run"); }));
      std::this_thread::sleep_for(std::chrono::milliseconds(delay_ms));
      run.signal(SIGKILL);
      (void)run.wait();
      const Finished next = train({option, "--set", "max_updates=1"});
      EXPECT_EQ(next.status, 0) << option << " " << delay_ms << " ms: " << next.err;
    }
  }
}

}  // namespace
}  // namespace weft::tests
