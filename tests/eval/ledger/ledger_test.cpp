#include "eval/ledger/ledger.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <csignal>
#include <set>
#include <sstream>

#include "core/error.h"
#include "eval/ledger/pack.h"
#include "eval/ledger/schema.h"
#include "eval/ledger/training_evaluation.h"
#include "eval/report/compare.h"
#include "tests/eval/sample_evaluation.h"
#include "tests/support/process.h"
#include "tests/support/source_dir.h"
#include "tests/support/throws.h"

namespace weft::eval {
namespace {

using sqlite::Access;
using ::testing::ElementsAre;
using tests::sample_evaluation;
namespace fs = std::filesystem;

TEST(Circumstances, NameTheGpuBesideTheProcessor) {
  const Circumstances here = circumstances_now("avx2");
  EXPECT_EQ(here.kernels, "avx2");
  const Circumstances there = circumstances_now("cuda 9.0", "NVIDIA H200");
  EXPECT_EQ(there.kernels, "cuda 9.0");
  EXPECT_EQ(there.machine, here.machine + ", NVIDIA H200");
}

class LedgerTest : public ::testing::Test {
 protected:
  tests::TempDir folder_;
  fs::path file_ = folder_ / "weft.db";

  void sql(const std::string& text) const {
    sqlite::Database database(file_, Access::kWrite, "test");
    database.execute(text.c_str());
  }
};

/// A training run's evaluation after these updates.
Recorded updates_of_a_run(std::initializer_list<int> updates) {
  Recorded recorded = sample_evaluation();
  recorded.gates.clear();
  const StageResult like = recorded.evaluation.stages[0];
  recorded.evaluation.stages.clear();
  for (const int update : updates) {
    StageResult& stage = recorded.evaluation.stages.emplace_back(like);
    stage.name = "update " + std::to_string(update);
    for (Item& item : stage.suites[0].items) item.loss /= 1 + update;
  }
  return recorded;
}

std::vector<std::string> names_of(const Recorded& recorded) {
  std::vector<std::string> names;
  for (const StageResult& stage : recorded.evaluation.stages) names.push_back(stage.name);
  return names;
}

TEST_F(LedgerTest, UpdatesOfARunAreAddedToOneEvaluationAndReplacedWhenARunIsResumed) {
  Ledger ledger(file_, Access::kWrite);
  const Recorded whole = updates_of_a_run({0, 5, 10, 15});
  const Analysis analysis = analyse(whole.evaluation, whole.bootstrap);
  const std::int64_t id = weft::tests::record(ledger, updates_of_a_run({0}));
  const auto add = [&](std::size_t stage) {
    ledger.add_stage(id, whole.evaluation.stages[stage], analysis.figures[stage], 7.0);
  };
  add(1);
  add(2);
  add(3);
  using ::testing::ElementsAre;
  EXPECT_THAT(names_of(ledger.read(id)),
              ElementsAre("update 0", "update 5", "update 10", "update 15"));
  EXPECT_EQ(ledger.read(id).circumstances.seconds, 7.0);
  // A run that was killed goes on from update 7.
  add(2);
  EXPECT_THAT(names_of(ledger.read(id)), ElementsAre("update 0", "update 5", "update 10"));
  add(3);
  EXPECT_EQ(ledger.entries().size(), 1U);
  int with_difference = 0;
  for (const LedgerFigure& figure : ledger.figures(id)) {
    if (figure.stage == "update 15" && figure.suite == "corpus" && figure.name == "loss") {
      ++with_difference;
      EXPECT_TRUE(figure.difference_interval && figure.p);
    }
  }
  EXPECT_EQ(with_difference, 1);
  EXPECT_THROWS_WITH(ledger.add_stage(99, whole.evaluation.stages[1], analysis.figures[1], 1),
                     ConfigError, "no evaluation 99");
  EXPECT_EQ(training_evaluation_to_go_on(ledger, "/runs/nahuatl", whole.evaluation.stages[2]), id);
  EXPECT_FALSE(training_evaluation_to_go_on(ledger, "/runs/other", whole.evaluation.stages[2]));
  StageResult other_items = whole.evaluation.stages[2];
  other_items.suites[0].digest = "other";
  EXPECT_FALSE(training_evaluation_to_go_on(ledger, "/runs/nahuatl", other_items));
}

TEST_F(LedgerTest, UpdatesThatAreAnEvaluationEachArePutTogetherBackToUpdateZero) {
  Ledger ledger(file_, Access::kWrite);
  for (const int update : {0, 9, 0, 5, 10}) weft::tests::record(ledger, updates_of_a_run({update}));
  weft::tests::record(ledger, sample_evaluation());  // By weft eval.
  const auto run = read_training_evaluation(ledger, "/runs/nahuatl");
  ASSERT_TRUE(run);
  EXPECT_THAT(names_of(*run), ::testing::ElementsAre("update 0", "update 5", "update 10"));
  EXPECT_EQ(run->evaluation.reference, "update 0");
  EXPECT_FALSE(read_training_evaluation(ledger, "/runs/other"));
}

TEST_F(LedgerTest, GivesBackEveryBit) {
  const Recorded written = sample_evaluation(1);
  std::int64_t id = 0;
  {
    Ledger ledger(file_, Access::kWrite);
    id = weft::tests::record(ledger, written, "v1");
  }
  Ledger ledger(file_, Access::kRead);
  const Recorded read = ledger.read(id);
  EXPECT_EQ(read.circumstances.recorded_at, written.circumstances.recorded_at);
  EXPECT_EQ(read.circumstances.run, "/runs/nahuatl");
  EXPECT_EQ(read.circumstances.threads, 2);
  EXPECT_EQ(read.circumstances.kernels, "avx2");
  EXPECT_EQ(read.evaluation.decoding->repetition_penalty, 1.1);
  EXPECT_EQ(read.bootstrap.confidence, 0.9);
  EXPECT_EQ(read.bootstrap.permutations, 100);
  ASSERT_EQ(read.gates.size(), 2U);
  EXPECT_EQ(*read.gates[0].bound, 2.5);
  EXPECT_FALSE(read.gates[1].passed);
  ASSERT_EQ(read.evaluation.stages.size(), 2U);
  for (std::size_t i = 0; i < 2; ++i) {
    const StageResult& stage = read.evaluation.stages[i];
    const StageResult& original = written.evaluation.stages[i];
    EXPECT_EQ(stage.name, original.name);
    EXPECT_EQ(stage.quantise, original.quantise);
    EXPECT_EQ(stage.adapters, original.adapters);
    EXPECT_EQ(stage.adapter_digests, original.adapter_digests);
    ASSERT_EQ(stage.suites.size(), 3U);
    for (std::size_t j = 0; j < 3; ++j) {
      EXPECT_FALSE(first_difference(original.suites[j], stage.suites[j]));
      EXPECT_EQ(stage.suites[j].labels.sources, original.suites[j].labels.sources);
      EXPECT_EQ(stage.suites[j].labels.source_names, original.suites[j].labels.source_names);
      EXPECT_EQ(stage.suites[j].digest, original.suites[j].digest);
    }
    EXPECT_EQ(stage.suites[1].generations[1].output, "not \xFF UTF-8\n");
    EXPECT_EQ(stage.suites[2].choices[3].flipped, original.suites[2].choices[3].flipped);
  }
}

TEST_F(LedgerTest, FiguresAreThoseOfTheEvaluation) {
  const Recorded written = sample_evaluation();
  Ledger ledger(file_, Access::kWrite);
  const std::int64_t id = weft::tests::record(ledger, written);
  const Analysis analysis = analyse(written.evaluation, written.bootstrap);
  std::size_t expected = 0;
  for (const auto& stage : analysis.figures) {
    for (const auto& suite : stage) expected += suite.size();
  }
  const std::vector<LedgerFigure> figures = ledger.figures(id);
  EXPECT_EQ(figures.size(), expected);
  int found = 0;
  for (const LedgerFigure& figure : figures) {
    if (figure.stage != "q8" || figure.suite != "corpus" || figure.name != "bits_per_byte")
      continue;
    const Measured& measured = *figure_named(analysis.figures[1][0], "bits_per_byte");
    EXPECT_EQ(figure.language, "nah");
    EXPECT_EQ(figure.value, measured.figure.value);
    EXPECT_EQ(figure.interval->low, measured.figure.interval->low);
    EXPECT_EQ(figure.difference, measured.difference->value);
    EXPECT_EQ(figure.difference_interval->high, measured.difference->interval->high);
    EXPECT_EQ(figure.p, measured.p);
    ++found;
  }
  EXPECT_EQ(found, 1);
}

TEST_F(LedgerTest, EvaluationsAreFoundByNumberTagAndLatest) {
  Ledger ledger(file_, Access::kWrite);
  EXPECT_THROWS_WITH((void)ledger.find("latest"), ConfigError, "it has 0 evaluations");
  EXPECT_EQ(weft::tests::record(ledger, sample_evaluation(), "v1"), 1);
  EXPECT_EQ(weft::tests::record(ledger, sample_evaluation()), 2);
  EXPECT_EQ(ledger.find("1"), 1);
  EXPECT_EQ(ledger.find("v1"), 1);
  EXPECT_EQ(ledger.find("latest"), 2);
  EXPECT_THROWS_WITH((void)ledger.find("v2"), ConfigError, "'v2'", "2 evaluations", "tags v1");
  EXPECT_THROWS_WITH((void)weft::tests::record(ledger, sample_evaluation(), "v1"), ConfigError,
                     "is on evaluation 1");
  EXPECT_EQ(ledger.entries().size(), 2U) << "nothing is kept of an evaluation that was refused";
  ledger.tag(2, "v1", /*replace=*/true);
  EXPECT_EQ(ledger.find("v1"), 2);
  for (const char* bad : {"", "12", "latest", "a b", "a/b"})
    EXPECT_THROWS_WITH(ledger.tag(1, bad, false), ConfigError, "cannot be a tag");
  ledger.remove_tag("v1");
  EXPECT_THROWS_WITH(ledger.remove_tag("v1"), ConfigError, "no tag 'v1'");
  const LedgerEntry entry = ledger.entries().at(1);
  EXPECT_THAT(entry.stages, ElementsAre("base", "q8"));
  EXPECT_THAT(entry.suites, ElementsAre("corpus", "pairs", "quiz"));
  EXPECT_EQ(entry.gates, 2);
  EXPECT_EQ(entry.gates_failed, 1);
}

TEST_F(LedgerTest, WhatIsNoLedgerIsRefused) {
  EXPECT_THROWS_WITH(Ledger(file_, Access::kRead), InputError, "there is no ledger");
  folder_.write("weft.db", std::string(5000, 'x'));
  EXPECT_THROWS_WITH(Ledger(file_, Access::kWrite), InputError, "is no ledger");
  fs::remove(file_);
  sql("CREATE TABLE songs(name)");
  EXPECT_THROWS_WITH(Ledger(file_, Access::kWrite), InputError, "another program");
  EXPECT_THROWS_WITH(Ledger(folder_ / "missing/weft.db", Access::kWrite), IoError, "weft.db");
  fs::remove(file_);
  {
    Ledger ledger(file_, Access::kWrite);
    weft::tests::record(ledger, sample_evaluation());
  }
  sql("PRAGMA user_version = 1000");
  EXPECT_THROWS_WITH(Ledger(file_, Access::kWrite), InputError, "newer weft", "version 1000",
                     "use the newer program");
}

TEST_F(LedgerTest, OlderLedgersAreBroughtToTheNewestVersion) {
  sql(tests::slurp(tests::source_dir() / "tests/eval/data/ledger_v1.sql"));
  Ledger ledger(file_, Access::kRead);
  EXPECT_EQ(ledger.find("v1"), 1);
  const Recorded read = ledger.read(1);
  const Recorded written = sample_evaluation(1);
  for (std::size_t i = 0; i < 2; ++i) {
    for (std::size_t j = 0; j < 3; ++j) {
      EXPECT_FALSE(first_difference(written.evaluation.stages[i].suites[j],
                                    read.evaluation.stages.at(i).suites.at(j)));
    }
  }
  ledger.keep_part("part", tests::sample_text(1));
  EXPECT_EQ(weft::tests::record(ledger, sample_evaluation(1)), 2);
  sqlite::Database database(file_, Access::kRead, "test");
  EXPECT_EQ(database.number("PRAGMA user_version"),
            static_cast<std::int64_t>(ledger_migrations().size()));
}

TEST_F(LedgerTest, PartsAreKeptUntilTheEvaluationIsRecorded) {
  Ledger ledger(file_, Access::kWrite);
  EXPECT_FALSE(ledger.find_part("a"));
  ledger.keep_part("a", tests::sample_text(1));
  ledger.keep_part("b", tests::sample_answers(1));
  ledger.keep_part("old", tests::sample_answers(1));
  ledger.keep_part("bad", tests::sample_answers(1));
  sql("UPDATE parts SET kept_at = 0 WHERE key = 'old'; "
      "UPDATE parts SET results = zeroblob(9) WHERE key = 'bad'");
  ASSERT_TRUE(ledger.find_part("a"));
  EXPECT_FALSE(first_difference(*ledger.find_part("a"), tests::sample_text(1)));
  EXPECT_FALSE(ledger.find_part("bad")) << "it is measured again";
  const std::vector<std::string> keys{"a"};
  weft::tests::record(ledger, sample_evaluation(), {}, keys);
  EXPECT_FALSE(ledger.find_part("a"));
  EXPECT_TRUE(ledger.find_part("b"));
  EXPECT_FALSE(ledger.find_part("old")) << "nobody came back for it";
}

TEST_F(LedgerTest, DamagedResultsAreToldAndNeverRead) {
  {
    Ledger ledger(file_, Access::kWrite);
    weft::tests::record(ledger, sample_evaluation());
  }
  sql("UPDATE suites SET results = zeroblob(40) WHERE stage = 1 AND position = 2");
  Ledger ledger(file_, Access::kRead);
  EXPECT_THROWS_WITH((void)ledger.read(1), InputError, "evaluation 1", "'q8'", "'quiz'");
  // Any byte of packed results.
  const std::vector<std::byte> good = pack(tests::sample_text(1));
  for (std::size_t i = 0; i < good.size(); ++i) {
    std::vector<std::byte> bad = good;
    bad[i] ^= std::byte{0x10};
    try {
      EXPECT_FALSE(first_difference(unpack(bad, "test"), tests::sample_text(1))) << i;
    } catch (const InputError&) {
    }
  }
  for (std::size_t size = 0; size < good.size(); ++size)
    EXPECT_THROW((void)unpack(std::span(good).first(size), "test"), InputError) << size;
}

TEST_F(LedgerTest, DigestsFollowTheFilesContents) {
  Ledger ledger(file_, Access::kWrite);
  const fs::path model = folder_.write("model.gguf", "one");
  const std::string first = ledger.file_digest(model);
  EXPECT_EQ(ledger.file_digest(model), first);
  const auto time = fs::last_write_time(model);
  folder_.write("model.gguf", "two");
  fs::last_write_time(model, time);  // As programs do that restore files.
  EXPECT_NE(ledger.file_digest(model), first);
  EXPECT_EQ(ledger.file_digest(folder_.write("same.gguf", "one")), first);
  // What has not changed since it was seen is not read again.
  struct stat info {};
  ASSERT_EQ(::stat(model.c_str(), &info), 0);
  sql(fmt::format("INSERT INTO files VALUES ('{}', 3, {}, 'remembered')",
                  fs::canonical(model).string(),
                  info.st_ctim.tv_sec * 1000000000 + info.st_ctim.tv_nsec));
  EXPECT_EQ(ledger.file_digest(model), "remembered");
}

/// The program beside this test that records evaluations.
fs::path writer() { return fs::canonical("/proc/self/exe").parent_path() / "ledger_writer"; }

/// The numbers that a writer has printed, each on a whole line.
std::vector<std::int64_t> told(const fs::path& out) {
  std::vector<std::int64_t> ids;
  std::istringstream lines(tests::slurp(out));
  for (std::string line; std::getline(lines, line) && !lines.eof();)
    ids.push_back(std::stoll(line));
  return ids;
}

pid_t start_writer(const fs::path& ledger, int count, const fs::path& out) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  const int file = ::open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  ::dup2(file, STDOUT_FILENO);
  const std::string program = writer(), number = std::to_string(count);
  ::execl(program.c_str(), program.c_str(), ledger.c_str(), number.c_str(), nullptr);
  ::_exit(127);
}

void expect_sound(const fs::path& file, std::size_t least) {
  Ledger ledger(file, Access::kWrite);
  const auto entries = ledger.entries();
  EXPECT_GE(entries.size(), least);
  const std::size_t figures = ledger.figures(entries.front().id).size();
  for (const LedgerEntry& entry : entries) {
    const Recorded recorded = ledger.read(entry.id);
    ASSERT_EQ(recorded.evaluation.stages.size(), 2U);
    ASSERT_EQ(recorded.evaluation.stages[1].suites.size(), 3U);
    ASSERT_EQ(ledger.figures(entry.id).size(), figures);
  }
  sqlite::Database database(file, Access::kRead, "test");
  EXPECT_EQ(database.number("SELECT count(*) FROM pragma_integrity_check WHERE "
                            "integrity_check <> 'ok'"),
            0);
  EXPECT_EQ(database.number("SELECT count(*) FROM pragma_foreign_key_check"), 0);
}

TEST_F(LedgerTest, SeveralProgramsWriteAtTheSameTime) {
  constexpr int kWriters = 6, kEach = 8;
  std::vector<pid_t> children;
  // They also make the ledger at the same time.
  for (int i = 0; i < kWriters; ++i)
    children.push_back(start_writer(file_, kEach, folder_ / ("out" + std::to_string(i))));
  for (const pid_t child : children) {
    int status = 0;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
  std::set<std::int64_t> ids;
  for (int i = 0; i < kWriters; ++i) {
    for (const std::int64_t id : told(folder_ / ("out" + std::to_string(i)))) ids.insert(id);
  }
  EXPECT_EQ(ids.size(), std::size_t{kWriters * kEach});
  expect_sound(file_, kWriters * kEach);
}

/// Kills a writer; whether the signal found it alive.
bool kill_writer(pid_t child) {
  ::kill(child, SIGKILL);
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFSIGNALED(status);
}

TEST_F(LedgerTest, SurvivesBeingKilledWhileItIsMade) {
  int killed = 0;
  for (int round = 0; round < 30; ++round) {
    const fs::path file = folder_ / ("made" + std::to_string(round) + ".db");
    const pid_t child = start_writer(file, 1000, folder_ / "out");
    ::usleep(static_cast<useconds_t>(round * 1000));
    killed += kill_writer(child) ? 1 : 0;
    Ledger ledger(file, Access::kWrite);
    const std::size_t before = ledger.entries().size();
    weft::tests::record(ledger, sample_evaluation());
    EXPECT_EQ(ledger.entries().size(), before + 1);
  }
  EXPECT_EQ(killed, 30);
}

TEST_F(LedgerTest, SurvivesBeingKilledWhileItIsWritten) {
  constexpr int kRounds = 40;
  int killed = 0;
  std::size_t least = 0;
  for (int round = 0; round < kRounds; ++round) {
    const fs::path out = folder_ / "out";
    fs::remove(out);
    const pid_t child = start_writer(file_, 1000, out);
    while (told(out).empty()) ::usleep(500);
    ::usleep(static_cast<useconds_t>((round * 7919) % 60000));
    killed += kill_writer(child) ? 1 : 0;
    // What the writer was told is there stays there.
    const std::vector<std::int64_t> ids = told(out);
    least += ids.size();
    Ledger ledger(file_, Access::kRead);
    for (const std::int64_t id : ids) EXPECT_EQ(ledger.find(std::to_string(id)), id);
  }
  EXPECT_EQ(killed, kRounds);
  RecordProperty("evaluations", static_cast<int>(least));
  expect_sound(file_, least);
}

}  // namespace
}  // namespace weft::eval
