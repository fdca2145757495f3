// weft train as several ranks under mpirun: the numbers of one process, whatever the number of
// ranks. Skipped where mpirun or lib/libweft_mpi.so is missing.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/hash.h"
#include "tests/cli/train_command.h"
#include "tests/support/running.h"

namespace weft::tests {
namespace {
namespace fs = std::filesystem;
using ::testing::HasSubstr;

class Ranks : public TrainCommand {
 protected:
  void SetUp() override {
    const fs::path library =
        fs::path(weft_program()).parent_path().parent_path() / "lib/libweft_mpi.so";
    if (!fs::exists(library)) GTEST_SKIP() << library << " was not built: no MPI was found";
    if (run_process({"sh", "-c", "command -v mpirun"}).status != 0)
      GTEST_SKIP() << "mpirun is not installed";
    // A row is an example of at most 44 tokens: an update of 240 tokens has at least five.
    write_config(
        "packing: false\nvalidation: {path: valid.jsonl}\neval: {every: 4u}\nsave: {every: 3u}\n"
        "threads: 1\n");
  }

  /// The arguments of a training as `ranks` ranks, its folder and the updates that it may do.
  [[nodiscard]] std::vector<std::string> training(int ranks, const std::string& folder,
                                                  const std::vector<std::string>& more = {}) const {
    std::vector<std::string> all;
    if (ranks > 0) {
      all = {"mpirun",
             "--allow-run-as-root",
             "--oversubscribe",
             "--bind-to",
             "none",
             "--mca",
             "mpi_yield_when_idle",
             "1",
             "-np",
             std::to_string(ranks)};
    }
    for (const std::string& one :
         command({"--set", "output_dir=" + (job_ / folder).string(), "--set", "sequence_len=44",
                  "--set", "tokens_per_update=240", "--set", "adapter.lora_dropout=0.1"}))
      all.push_back(one);
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  /// Runs a training in "run" whose rank 1 gets the signal soon after `update`.
  [[nodiscard]] Finished signalled(std::vector<std::string> command, int update,
                                   const std::string& signal) const {
    job_.folder().write(
        "rank.sh",
        "metrics=$1 update=$2 signal=$3; shift 3\n\"$@\" & child=$!\n"
        "if [ \"$OMPI_COMM_WORLD_RANK\" = 1 ]; then\n"
        "  until grep -qs \"\\\"update\\\":$update,\" \"$metrics\"; do sleep 0.01; done\n"
        "  kill -\"$signal\" $child\nfi\nwait $child\n");
    command.insert(std::ranges::find(command, weft_program()),
                   {"sh", (job_ / "rank.sh").string(), (job_ / "run/metrics.jsonl").string(),
                    std::to_string(update), signal});
    return run_process(command);
  }

  /// A run whose suites are scored, answered and chosen from, `lines` in its `evaluate:`.
  void write_suites(const std::string& lines = "") {
    std::string book;
    for (int i = 0; i < 25; ++i) {
      std::string text = "in xochitl";
      for (int w = 0; w < i % 9; ++w) text += " in cuicatl " + std::to_string(i * w);
      book += nlohmann::json{{"text", text}}.dump() + "\n";
    }
    job_.folder().write("book.jsonl", book);
    write_quiz(25);
    write_config(
        "packing: false\nvalidation: {path: valid.jsonl}\neval: {every: 2u}\nthreads: 1\n"
        "early_stopping: {patience: 3}\n"
        "evaluate:\n  every: 3u\n  keep_best_by: bits_per_byte.book\n" +
        lines +
        "  suites:\n    - {name: book, text: [book.jsonl]}\n"
        "    - {name: pairs, data: {path: valid.jsonl}}\n"
        "    - {name: quiz, choices: {path: quiz.jsonl}}\n");
  }

  /// The ledger of one run, without what no two runs share.
  [[nodiscard]] nlohmann::json ledger(const std::string& file) const {
    const Finished shown =
        run_weft({"ledger", "show", "latest", "--json", "--ledger", (job_ / file).string()});
    EXPECT_EQ(shown.status, 0) << shown.err;
    nlohmann::json evaluation = nlohmann::json::parse(shown.out);
    for (const char* key : {"name", "run", "recorded_at", "seconds"}) evaluation.erase(key);
    for (nlohmann::json& stage : evaluation.at("stages")) stage.erase("seconds");
    return evaluation;
  }

  void expect_equal(const std::string& folder, const std::string& other) const {
    EXPECT_EQ(core::sha256(job_.adapter_bytes(folder)), core::sha256(job_.adapter_bytes(other)));
    EXPECT_EQ(job_.metrics(folder), job_.metrics(other)) << folder << " and " << other;
  }
};

TEST_F(Ranks, OneTwoThreeAndFourGiveTheSameBits) {
  const Finished alone = run_process(training(0, "alone"));
  ASSERT_EQ(alone.status, 0) << alone.err;
  for (const int ranks : {1, 2, 3, 4}) {
    const std::string folder = "run" + std::to_string(ranks);
    const Finished done = run_process(training(ranks, folder));
    ASSERT_EQ(done.status, 0) << done.err;
    expect_equal("alone", folder);
    if (ranks > 1) {
      const std::string text = std::to_string(ranks) + " ranks; gradients travel over the host";
      EXPECT_THAT(slurp(job_ / folder / "log.txt"), HasSubstr(text));
      const auto record = nlohmann::json::parse(slurp(job_ / folder / "provenance.json"));
      EXPECT_EQ(record.at("ranks"),
                (nlohmann::json{{"number", ranks}, {"gradients_over", "the host"}}));
    }
    // One rank speaks for all.
    EXPECT_EQ(done.out.find("adapter "), done.out.rfind("adapter ")) << done.out;
  }
}

TEST_F(Ranks, AKilledRankEndsTheRunWhichFewerRanksFinishExactly) {
  const Finished whole = run_process(training(0, "whole", {"--set", "num_epochs=40"}));
  ASSERT_EQ(whole.status, 0) << whole.err;
  const Finished lost = signalled(training(3, "run", {"--set", "num_epochs=40"}), 7, "KILL");
  ASSERT_NE(lost.status, 0) << "the run ended before a rank was killed";
  ASSERT_FALSE(fs::exists(job_ / "run/adapter/adapter_model.safetensors") &&
               slurp(job_ / "run/log.txt").find("ended after") != std::string::npos);
  const Finished resumed = run_process(training(2, "run", {"--resume", "--set", "num_epochs=40"}));
  ASSERT_EQ(resumed.status, 0) << resumed.err;
  expect_equal("whole", "run");
}

TEST_F(Ranks, AStopThatOneRankHearsIsEveryones) {
  ASSERT_EQ(run_process(training(0, "whole", {"--set", "num_epochs=40"})).status, 0);
  const Finished saved = signalled(training(2, "run", {"--set", "num_epochs=40"}), 5, "USR1");
  EXPECT_EQ(saved.status, 130) << saved.err;
  EXPECT_THAT(saved.err, HasSubstr("the state is saved"));
  ASSERT_EQ(run_process(training(0, "run", {"--resume", "--set", "num_epochs=40"})).status, 0);
  expect_equal("whole", "run");
}

TEST_F(Ranks, ShareSuitesWithTheFiguresAndTheLedgerOfOneProcess) {
  write_suites("  generate: {examples: 10, max_tokens: 30, show: 0}\n");
  const Finished alone =
      run_process(training(0, "alone", {"--set", "evaluate.ledger=" + (job_ / "0.db").string()}));
  ASSERT_EQ(alone.status, 0) << alone.err;
  const std::string metrics = nlohmann::json(job_.metrics("alone")).dump();
  for (const char* figure : {"bits_per_byte", "chrf++", "acc_mutual_info"})
    EXPECT_THAT(metrics, HasSubstr(figure));
  const nlohmann::json recorded = ledger("0.db");
  for (const int ranks : {1, 2, 3}) {
    const std::string folder = "ranks" + std::to_string(ranks);
    const std::string file = std::to_string(ranks) + ".db";
    const Finished together = run_process(
        training(ranks, folder, {"--set", "evaluate.ledger=" + (job_ / file).string()}));
    ASSERT_EQ(together.status, 0) << together.err;
    expect_equal("alone", folder);
    EXPECT_EQ(nlohmann::json::diff(recorded, ledger(file)), nlohmann::json::array()) << ranks;
  }
}

TEST_F(Ranks, AStopWhileSuitesAreMeasuredIsEveryones) {
  write_suites("  record: false\n  generate: {examples: 10, max_tokens: 1500, show: 0}\n");
  ASSERT_EQ(run_process(training(0, "whole")).status, 0);
  // Measuring takes so long that the signal finds the ranks in it.
  const Finished saved = signalled(training(3, "run"), 3, "USR1");
  EXPECT_EQ(saved.status, 130) << saved.err;
  EXPECT_THAT(saved.err, HasSubstr("after update 3; the state is saved"));
  ASSERT_EQ(run_process(training(2, "run", {"--resume"})).status, 0);
  expect_equal("whole", "run");
}

TEST_F(Ranks, SeveralAdaptersOnOneBaseHaveTheBitsOfOneProcess) {
  write_config(
      "packing: false\nvalidation: {path: valid.jsonl}\nthreads: 1\n"
      "adapters: [{name: first, seed: 1}, {name: second, adapter: {r: 2}, num_epochs: 2}]\n");
  ASSERT_EQ(run_process(training(0, "alone")).status, 0);
  const Finished together = run_process(training(2, "ranks"));
  ASSERT_EQ(together.status, 0) << together.err;
  expect_equal("alone/first", "ranks/first");
  expect_equal("alone/second", "ranks/second");
  EXPECT_NE(job_.adapter_bytes("ranks/first"), job_.adapter_bytes("ranks/second"));
}

TEST_F(Ranks, TheirPlanCountsWhatTheyExchange) {
  const Finished alone = run_process(training(0, "run", {"--check"}));
  EXPECT_EQ(alone.out.find("of other ranks"), std::string::npos) << alone.out;
  const Finished two = run_process(training(2, "run", {"--check"}));
  EXPECT_EQ(two.status, 0) << two.err;
  EXPECT_THAT(two.out, HasSubstr("those of other ranks too")) << two.out;
}

TEST_F(Ranks, ThatDoNotFindEachOtherAreRefusedButForTheFirst) {
  // As srun without --mpi starts them: each believes to be alone.
  const std::vector<std::string> lost = {"env", "SLURM_STEP_NUM_TASKS=2"};
  std::vector<std::string> first = training(0, "run", {"--set", "num_epochs=400"});
  first.insert(first.begin(), lost.begin(), lost.end());
  Running one(first);
  ASSERT_TRUE(one.wait_until([&] { return fs::exists(job_ / "run/metrics.jsonl"); })) << one.err();
  std::vector<std::string> second = training(0, "run", {"--resume", "--set", "num_epochs=400"});
  second.insert(second.begin(), lost.begin(), lost.end());
  const Finished refused = run_process(second);
  EXPECT_EQ(refused.status, 2) << refused.err;
  EXPECT_THAT(refused.err, HasSubstr("another weft is writing to"));
  EXPECT_THAT(refused.err, HasSubstr("srun started 2 processes that do not know each other"));
  one.signal(SIGTERM);
  EXPECT_EQ(one.wait(), 130);
}

TEST_F(Ranks, WhatIsWrongIsToldOnceAndEndsAll) {
  const Finished wrong = run_process(training(3, "run", {"--set", "base_model=nowhere"}));
  EXPECT_EQ(wrong.status, 2) << wrong.err;
  EXPECT_EQ(wrong.err.find("weft train: "), wrong.err.rfind("weft train: ")) << wrong.err;
  EXPECT_FALSE(fs::exists(job_ / "run"));
}

TEST_F(Ranks, WithoutTheGpusThatTheyAskForAreRefusedTogether) {
  if (fs::exists("/dev/nvidia0")) GTEST_SKIP() << "this machine has a GPU";
  for (const char* const device : {"cuda", "cuda:1"}) {
    std::vector<std::string> command =
        training(2, "run", {"--set", std::string("device=") + device});
    command.insert(command.begin(), {"timeout", "120"});  // a rank that waits would for ever
    const Finished refused = run_process(command);
    EXPECT_EQ(refused.status, 2) << refused.err;
    EXPECT_THAT(refused.err, HasSubstr("weft train: device cuda")) << refused.err;
    EXPECT_EQ(refused.err.find("weft train: "), refused.err.rfind("weft train: ")) << refused.err;
    EXPECT_FALSE(fs::exists(job_ / "run"));
  }
}

TEST_F(Ranks, ThatAskForDifferentDevicesAreRefusedTogether) {
  job_.folder().write("rank.sh",
                      "[ \"$OMPI_COMM_WORLD_RANK\" = 1 ] && set -- \"$@\" --set device=cuda\n"
                      "exec \"$@\"\n");
  std::vector<std::string> command = training(2, "run");
  command.insert(std::ranges::find(command, weft_program()), {"sh", (job_ / "rank.sh").string()});
  command.insert(command.begin(), {"timeout", "120"});
  const Finished refused = run_process(command);
  EXPECT_EQ(refused.status, 2) << refused.err;
  EXPECT_THAT(refused.err, HasSubstr("the ranks do not agree on `device`")) << refused.err;
  EXPECT_FALSE(fs::exists(job_ / "run"));
}

TEST_F(Ranks, ThatFindEachOtherInAWayTheirMpiDoesNotKnowAreRefused) {
  if (run_process({"sh", "-c",
                   "mpirun --version | grep -q 'Open MPI' && ! find / -xdev -name "
                   "'mca_pmix_s[12].so' 2>/dev/null | grep -q ."})
          .status != 0)
    GTEST_SKIP() << "this MPI knows PMI";
  // As srun --mpi=pmi2 starts them.
  std::vector<std::string> command = training(0, "run");
  command.insert(command.begin(), {"env", "PMI_RANK=1", "PMI_SIZE=2", "PMI_FD=9"});
  const Finished refused = run_process(command);
  EXPECT_EQ(refused.status, 2) << refused.err;
  EXPECT_THAT(refused.err, HasSubstr("started as 2 ranks over PMI, as srun --mpi=pmi2"));
  EXPECT_THAT(refused.err, HasSubstr("use srun --mpi=pmix"));
  EXPECT_EQ(std::ranges::count(refused.err, '\n'), 1) << refused.err;
}

TEST_F(Ranks, OfOneMachineDivideItsMemory) {
  const Finished alone = run_process(training(0, "run", {"--check", "--set", "memory_limit=1GiB"}));
  ASSERT_EQ(alone.status, 0) << alone.err;
  EXPECT_THAT(alone.out, HasSubstr("; 1.00 GiB available\n"));
  const Finished two = run_process(training(2, "run", {"--check", "--set", "memory_limit=1GiB"}));
  ASSERT_EQ(two.status, 0) << two.err;
  EXPECT_THAT(two.out, HasSubstr("; 512.0 MiB available for each of the 2 ranks on this machine"));
  // What one process does with the memory is too much for each of three.
  const std::vector<std::string> little{"--check", "--set", "memory_limit=700MiB"};
  const Finished enough = run_process(training(1, "run", little));
  ASSERT_EQ(enough.status, 0) << enough.err;
  const Finished refused = run_process(training(3, "run", little));
  EXPECT_EQ(refused.status, 2) << refused.err;
  EXPECT_THAT(refused.err, HasSubstr("of memory are needed for each rank ("));
  EXPECT_THAT(refused.err, HasSubstr("for each of the 3 ranks on this machine; what helps: "));
  EXPECT_THAT(refused.err, HasSubstr("fewer ranks on a machine"));
}

TEST(RanksWithoutMpi, AreRefused) {
  // A copy of the program in a folder without the library.
  const TempDir folder;
  fs::create_directories(folder / "bin");
  fs::create_directories(folder / "lib");
  const fs::path built = fs::path(weft_program()).parent_path().parent_path();
  fs::copy_file(weft_program(), folder / "bin/weft");
  fs::copy_file(built / "lib/libweft_torch.so", folder / "lib/libweft_torch.so");
  const Finished refused = run_process(
      {"env", "OMPI_COMM_WORLD_SIZE=2", (folder / "bin/weft").string(), "train", "any.yaml"});
  EXPECT_EQ(refused.status, 2) << refused.err;
  EXPECT_THAT(refused.err, HasSubstr("started as 2 ranks, but it was built without MPI"));
  EXPECT_EQ(std::ranges::count(refused.err, '\n'), 1) << refused.err;
}

}  // namespace
}  // namespace weft::tests
