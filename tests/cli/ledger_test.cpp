// weft eval with its ledger, and weft ledger, as users run them.
#include "eval/ledger/ledger.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <csignal>
#include <functional>
#include <nlohmann/json.hpp>

#include "tests/eval/sample_evaluation.h"
#include "tests/support/process.h"
#include "tests/support/tiny_model.h"

namespace weft::tests {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using Strings = std::vector<std::string>;

class LedgerCommand : public ::testing::Test {
 protected:
  TempDir folder_;
  fs::path base_ = write_tiny_model(folder_ / "base");
  fs::path text_ = folder_.write("corpus.txt", "tlaxcalli, atl; in xochitl in cuicatl.\n");
  fs::path ledger_ = folder_ / "weft.db";

  Finished eval(const Strings& more = {}) const {
    Strings all{"eval",           "--model", base_.string(), "--text",        text_.string(),
                "--sequence-len", "8",       "--ledger",     ledger_.string()};
    all.insert(all.end(), more.begin(), more.end());
    return run_weft(all);
  }

  Finished ledger(Strings arguments) const {
    arguments.insert(arguments.begin(), "ledger");
    arguments.insert(arguments.end(), {"--ledger", ledger_.string()});
    return run_weft(arguments);
  }
};

TEST_F(LedgerCommand, RecordsEveryEvaluationAndShowsIt) {
  const Finished first = eval({"--tag", "v1"});
  ASSERT_EQ(first.status, 0) << first.err;
  EXPECT_THAT(first.err, HasSubstr("recorded as 1 in "));
  ASSERT_EQ(eval().status, 0);
  const Finished list = ledger({"list", "--json"});
  ASSERT_EQ(list.status, 0) << list.err;
  const auto entries = nlohmann::json::parse(list.out);
  ASSERT_EQ(entries.size(), 2U);
  EXPECT_EQ(entries[0]["tags"][0], "v1");
  EXPECT_EQ(entries[0]["suites"][0], "corpus");
  EXPECT_THAT(ledger({"list"}).out, AllOf(HasSubstr("v1"), HasSubstr("corpus")));
  const Finished show = ledger({"show", "v1", "--json"});
  const auto shown = nlohmann::json::parse(show.out);
  const std::string model_digest = shown["contents"][0]["sha256"];
  EXPECT_EQ(model_digest.size(), 64U);
  EXPECT_TRUE(shown["stages"][0]["suites"][0]["bits_per_byte"].is_number());
  EXPECT_THAT(ledger({"show", "latest"}).out,
              AllOf(HasSubstr("corpus"), HasSubstr(model_digest.substr(0, 16))));
  const Finished csv = ledger({"export"});
  EXPECT_EQ(std::count(csv.out.begin(), csv.out.end(), '\n'), 1 + 2 * 3) << csv.out;
  EXPECT_EQ(nlohmann::json::parse(ledger({"export", "v1", "--format", "json"}).out).size(), 1U);
  EXPECT_THAT(ledger({"plot", "bits_per_byte.base"}).out, HasSubstr("v1"));
  const std::string svg = (folder_ / "plot.svg").string();
  ASSERT_EQ(ledger({"plot", "bits_per_byte.base", "--out", svg}).status, 0);
  EXPECT_THAT(slurp(svg), HasSubstr("</svg>"));
}

TEST_F(LedgerCommand, TheSameEvaluationGivesTheSameBits) {
  ASSERT_EQ(eval({"--tag", "v1"}).status, 0);
  const Finished again = eval({"--against", "ledger:v1"});
  EXPECT_EQ(again.status, 0) << again.err;
  EXPECT_THAT(again.out, AllOf(HasSubstr("compared with ledger:v1"), HasSubstr("same"),
                               Not(HasSubstr("DRIFT"))));
  const Finished json = eval({"--against", "v1", "--json"});
  EXPECT_EQ(nlohmann::json::parse(json.out)["against"]["results"][0]["verdict"], "same");
}

TEST_F(LedgerCommand, DriftIsToldWithItsFirstItemAndTheExitStatus) {
  ASSERT_EQ(eval().status, 0);
  {
    eval::Ledger ledger(ledger_, eval::sqlite::Access::kWrite);
    eval::Recorded recorded = ledger.read(1);
    double& loss = recorded.evaluation.stages[0].suites[0].items[2].loss;
    loss = std::nextafter(loss, 0.0);
    weft::tests::record(ledger, recorded, "spoilt");
  }
  const Finished drifted = eval({"--against", "spoilt"});
  EXPECT_EQ(drifted.status, 3) << drifted.err;
  EXPECT_THAT(drifted.out, AllOf(HasSubstr("DRIFT"), HasSubstr("first loss of item 2")));
  EXPECT_EQ(ledger({"compare", "1", "spoilt"}).status, 3);
  EXPECT_EQ(ledger({"compare", "1", "3"}).status, 0);
}

TEST_F(LedgerCommand, AValueOutsideItsIntervalIsPlottedAndNoCrash) {
  ASSERT_EQ(eval().status, 0);
  {
    eval::Ledger ledger(ledger_, eval::sqlite::Access::kWrite);
    const eval::Recorded recorded = ledger.read(1);
    eval::Analysis analysis = eval::analyse(recorded.evaluation, recorded.bootstrap);
    for (eval::Measured& measured : analysis.figures[0][0])
      measured.figure.interval =
          eval::Interval{measured.figure.value + 5, measured.figure.value + 9};
    ledger.record(recorded, analysis);
    for (eval::Measured& measured : analysis.figures[0][0])
      measured.figure.interval = eval::Interval{-1e300, -1e299};
    ledger.record(recorded, analysis);
  }
  const Finished plot = ledger({"plot", "loss.base"});
  EXPECT_EQ(plot.status, 0) << plot.status << plot.err;
  EXPECT_EQ(std::count(plot.out.begin(), plot.out.end(), '\n'), 5) << plot.out;
  const std::string svg = (folder_ / "plot.svg").string();
  EXPECT_EQ(ledger({"plot", "loss.base", "--out", svg}).status, 0);
}

TEST_F(LedgerCommand, AFolderOrAnEmptyFileIsNoLedgerAndIsNotMadeOne) {
  const Finished folder = run_weft({"ledger", "list", "--ledger", folder_.path().string()});
  EXPECT_EQ(folder.status, 2);
  EXPECT_THAT(folder.err, AllOf(HasSubstr("is a folder"), HasSubstr("weft.db")));
  const fs::path empty = folder_.write("empty.db", "");
  const Finished read = run_weft({"ledger", "list", "--ledger", empty.string()});
  EXPECT_EQ(read.status, 2);
  EXPECT_THAT(read.err, HasSubstr("is empty, no ledger"));
  EXPECT_EQ(fs::file_size(empty), 0U);
}

TEST_F(LedgerCommand, AGateOnAFigureThatIsNotMeasuredIsRefusedAtOnce) {
  const Finished refused = eval({"--gate", "chrf.base >= 20"});
  EXPECT_EQ(refused.status, 2);
  EXPECT_THAT(refused.err, HasSubstr("chrf will not be measured in stage 'base'"));
  EXPECT_THAT(refused.err, Not(HasSubstr("scored")));
}

TEST_F(LedgerCommand, OtherInputsAreNamedAndGatesReachBack) {
  ASSERT_EQ(eval({"--tag", "v1"}).status, 0);
  folder_.write("corpus.txt", "tlaxcalli, atl; in xochitl in cuicatl?\n");
  const Finished changed =
      eval({"--against", "v1", "--gate", "bits_per_byte.base - bits_per_byte.base@against <= 9"});
  EXPECT_EQ(changed.status, 2) << "nothing is the same there to compare";
  EXPECT_THAT(changed.err, HasSubstr("base@against"));
  const Finished told = eval({"--against", "v1"});
  EXPECT_EQ(told.status, 0) << told.err;
  EXPECT_THAT(told.out, HasSubstr("changed: items"));
  (void)write_tiny_model(folder_ / "base", {.seed = 9});
  ASSERT_EQ(eval({"--tag", "v2"}).status, 0);
  (void)write_tiny_model(folder_ / "base", {.seed = 3});
  const Finished gated =
      eval({"--against", "v2", "--gate", "bits_per_byte.base - bits_per_byte.base@against <= -9"});
  EXPECT_EQ(gated.status, 3) << gated.err;
  EXPECT_THAT(gated.out, AllOf(HasSubstr("changed: model"), HasSubstr("FAILED by")));
}

/// The figures without what depends on time.
nlohmann::json figures_of(const std::string& out) {
  auto json = nlohmann::json::parse(out);
  for (auto& stage : json["stages"]) stage.erase("seconds");
  return json;
}

/// Starts the command and calls `act` with its process once its ledger holds so many finished parts
/// (not at all when it ends before); its status as waitpid() gives it.
int run_and(const Strings& command, const fs::path& file, int parts,
            const std::function<void(pid_t)>& act) {
  const pid_t child = ::fork();
  if (child == 0) {
    const int null = ::open("/dev/null", O_WRONLY);
    ::dup2(null, STDOUT_FILENO);
    ::dup2(null, STDERR_FILENO);
    std::vector<char*> argv;
    for (const std::string& a : command) argv.push_back(const_cast<char*>(a.c_str()));
    argv.push_back(nullptr);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  eval::sqlite::Database database(file, eval::sqlite::Access::kRead, "test");
  int status = 0;
  bool acted = false;
  while (::waitpid(child, &status, WNOHANG) == 0) {
    if (!acted && database.number("SELECT count(*) FROM parts") >= parts) {
      acted = true;
      act(child);
    }
    ::usleep(500);
  }
  return status;
}

/// Kills it at that moment; whether it lived until then.
bool kill_with_parts(const Strings& command, const fs::path& file, int parts) {
  return WIFSIGNALED(run_and(command, file, parts, [](pid_t child) { ::kill(child, SIGKILL); }));
}

TEST_F(LedgerCommand, ATagThatWasTakenMeanwhileLosesNoEvaluation) {
  ASSERT_EQ(eval().status, 0);
  std::string pairs;
  for (int i = 0; i < 12; ++i)
    pairs += fmt::format("{{\"prompt\": \"agua {}\", \"completion\": \"atl {}\"}}\n", i, i * i);
  folder_.write("pairs.jsonl", pairs);
  const std::string config =
      folder_
          .write("eval.yaml",
                 "base_model: base\ngenerate: {examples: 12, max_tokens: 60}\nledger: weft.db\n"
                 "text: [corpus.txt]\ndata: [{path: pairs.jsonl}]\ntag: v1\n")
          .string();
  const int status = run_and({weft_program(), "eval", config}, ledger_, 1, [&](pid_t) {
    eval::Ledger(ledger_, eval::sqlite::Access::kWrite).tag(1, "v1", false);
  });
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 1) << "the tag could not be given, and that is told";
  const auto entries = nlohmann::json::parse(ledger({"list", "--json"}).out);
  ASSERT_EQ(entries.size(), 2U);
  EXPECT_EQ(entries[0]["tags"][0], "v1");
  EXPECT_TRUE(entries[1]["tags"].empty());
}

TEST_F(LedgerCommand, KilledAtAnyMomentAndRunAgainGivesTheSameFigures) {
  std::string pairs;
  for (int i = 0; i < 12; ++i)
    pairs += fmt::format("{{\"prompt\": \"agua {}\", \"completion\": \"atl {}\"}}\n", i, i * i);
  std::string yaml =
      "base_model: base\nstages:\n  - {name: base}\n  - {name: q8, quantise: q8_0}\n"
      "  - {name: q4, quantise: q4_k_m}\ndistribution: {}\ngenerate: {examples: 12, max_tokens: "
      "60}\nledger: weft.db\ntext: [corpus.txt]\ndata: [{path: pairs.jsonl}]\n";
  folder_.write("pairs.jsonl", pairs);
  const std::string config = folder_.write("eval.yaml", yaml).string();
  const Strings command{weft_program(), "eval", config, "--json"};
  const Finished whole = run_process(command);
  ASSERT_EQ(whole.status, 0) << whole.err;
  int killed = 0, resumed = 0;
  for (int round = 1; round <= 5; ++round) {
    // At a moment that the clock tells, the start among them, then when so many parts are there.
    Strings timed{"timeout", "-s", "KILL", fmt::format("{:.3f}", 0.02 + whole.seconds * round / 9)};
    timed.insert(timed.end(), command.begin(), command.end());
    killed += run_process(timed).status == 128 + SIGKILL ? 1 : 0;
    killed += kill_with_parts(command, ledger_, round) ? 1 : 0;
    const Finished last = run_process(command);
    ASSERT_EQ(last.status, 0) << last.err;
    resumed += last.err.find("finished before") != std::string::npos ? 1 : 0;
    EXPECT_EQ(figures_of(last.out), figures_of(whole.out)) << "round " << round;
    EXPECT_EQ(ledger({"compare", "1", "latest"}).status, 0);
  }
  EXPECT_GE(killed, 4);
  EXPECT_GE(resumed, 2);
  RecordProperty("killed", killed);
  RecordProperty("resumed", resumed);
  eval::sqlite::Database database(ledger_, eval::sqlite::Access::kRead, "test");
  EXPECT_EQ(database.number("SELECT count(*) FROM parts"), 0) << "all were recorded";
}

TEST_F(LedgerCommand, WrongInputIsRefusedBeforeTheWork) {
  const auto refused = [&](const Finished& done, const char* part) {
    EXPECT_EQ(done.status, 2) << done.err;
    EXPECT_EQ(std::count(done.err.begin(), done.err.end(), '\n'), 1) << done.err;
    EXPECT_THAT(done.err, HasSubstr(part));
  };
  refused(ledger({"list"}), "there is no ledger");
  refused(eval({"--against", "v1"}), "there is no evaluation 'v1'");
  refused(eval({"--tag", "12"}), "cannot be a tag");
  ASSERT_EQ(eval({"--tag", "v1"}).status, 0);
  refused(eval({"--tag", "v1"}), "is on evaluation 1");
  refused(ledger({"show", "7"}), "there is no evaluation '7'");
  refused(ledger({"plot", "acc.base"}), "was never recorded");
  refused(ledger({"plot", "acc"}), "expected");
  refused(ledger({}), "subcommand");
  {
    eval::sqlite::Database database(ledger_, eval::sqlite::Access::kWrite, "test");
    database.execute("PRAGMA user_version = 1000");
  }
  refused(ledger({"list"}), "newer weft");
  refused(eval(), "newer weft");
}

TEST_F(LedgerCommand, NothingIsRecordedWhereNobodyWantsIt) {
  ASSERT_EQ(eval({"--no-ledger"}).status, 0);
  EXPECT_FALSE(fs::exists(ledger_));
}

}  // namespace
}  // namespace weft::tests
