// `evaluate:` of weft train as users run it: weft eval's suites on the weights in training.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "tests/cli/train_command.h"

namespace weft {
namespace {
namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using tests::Finished;

const char* const kSuites =
    "  suites:\n"
    "    - {name: book, language: nah, text: [book.jsonl]}\n"
    "    - {name: pairs, data: {path: valid.jsonl}}\n"
    "    - {name: quiz, must_keep: true, choices: {path: quiz.jsonl}}\n";

class TrainSuites : public tests::TrainCommand {
 protected:
  void SetUp() override {
    std::string book;
    for (int i = 0; i < 6; ++i) {
      book += nlohmann::json{{"text", "in xochitl in cuicatl " + std::to_string(i)}}.dump() + "\n";
    }
    job_.folder().write("book.jsonl", book);
    write_quiz(6);
  }

  /// `evaluate:` with these lines before its suites, and the rest of the run.
  void write_suites(const std::string& lines, const std::string& more = "") {
    write_config("threads: 2\nsave: {every: 4u, keep: 0}\n" + more + "evaluate:\n" + lines +
                 "  ledger: weft.db\n" + kSuites);
  }

  /// The lines of metrics.jsonl that `evaluate:` wrote.
  [[nodiscard]] std::vector<nlohmann::json> evaluations() const {
    std::vector<nlohmann::json> all = job_.metrics();
    std::erase_if(all, [](const nlohmann::json& line) { return !line.contains("suites"); });
    return all;
  }

  /// What weft eval says of a checkpoint's adapter, by suite.
  [[nodiscard]] nlohmann::json weft_eval(const std::string& checkpoint) const {
    job_.folder().write(
        "eval.yaml",
        "base_model: base\nsequence_len: 64\nthreads: 2\nrecord: false\n"
        "generate: {examples: 3, max_tokens: 6, show: 0}\nadapter: run/checkpoints/" +
            checkpoint + "/adapter\nsuites:\n" + std::string(kSuites + 10));
    const Finished eval = tests::run_weft({"eval", (job_ / "eval.yaml").string(), "--json"});
    EXPECT_EQ(eval.status, 0) << eval.err;
    nlohmann::json suites;
    const nlohmann::json stages = nlohmann::json::parse(eval.out).at("stages");
    for (const nlohmann::json& suite : stages.at(1).at("suites"))
      suites[suite.at("name").get<std::string>()] = suite;
    return suites;
  }
};

TEST_F(TrainSuites, FiguresAreThoseOfWeftEvalOnTheCheckpointToTheBit) {
  write_suites("  every: 4u\n  generate: {examples: 3, max_tokens: 6}\n");
  const Finished run = train();
  ASSERT_EQ(run.status, 0) << run.err;
  const std::vector<nlohmann::json> measured = evaluations();
  ASSERT_GE(measured.size(), 3U);
  for (const std::size_t which : {std::size_t{1}, std::size_t{2}}) {
    const nlohmann::json& line = measured[which];
    ASSERT_EQ(line.at("update"), 4 * which);
    const nlohmann::json expected = weft_eval("00000" + std::to_string(4 * which));
    for (const auto& [suite, figures] : line.at("suites").items()) {
      for (const auto& [name, value] : figures.items())
        EXPECT_EQ(value, expected.at(suite).at(name)) << suite << " " << name;
    }
    EXPECT_TRUE(line.at("suites").at("pairs").contains("chrf++"));
    EXPECT_TRUE(line.at("suites").at("quiz").contains("acc_norm"));
  }
  // Training changes what is measured.
  EXPECT_NE(measured[0].at("suites").at("book"), measured[1].at("suites").at("book"));
}

TEST_F(TrainSuites, DoNotChangeTheTraining) {
  write_config("threads: 2\n");
  ASSERT_EQ(train().status, 0);
  const std::string adapter = job_.adapter_bytes();
  write_suites("  every: 3u\n  generate: {examples: 3, max_tokens: 6}\n");
  ASSERT_EQ(train({"--force"}).status, 0);
  EXPECT_EQ(job_.adapter_bytes(), adapter);
}

TEST_F(TrainSuites, KeepTheBestByTheFigureThatIsNamed) {
  // The quiz is right by chance, so that the best is seldom the last.
  for (const std::string figure : {"bits_per_byte.book", "acc_mutual_info.quiz"}) {
    write_suites("  every: 4u\n  keep_best_by: " + figure + "\n");
    const Finished run = train({"--force"});
    ASSERT_EQ(run.status, 0) << run.err;
    const std::string name = figure.substr(0, figure.find('.'));
    const std::string suite = figure.substr(figure.find('.') + 1);
    const double sign = name == "bits_per_byte" ? 1 : -1;
    double best = 0;
    std::int64_t update = -1;
    for (const nlohmann::json& line : evaluations()) {
      const double cost = sign * line.at("suites").at(suite).at(name).get<double>();
      if (line.at("update") == 0 || (update >= 0 && cost >= best)) {
        EXPECT_FALSE(line.at("best").get<bool>());
        continue;
      }
      EXPECT_TRUE(line.at("best").get<bool>());
      best = cost;
      update = line.at("update");
    }
    EXPECT_THAT(run.out, HasSubstr("the best, at update " + std::to_string(update)));
    EXPECT_EQ(job_.adapter_bytes(), tests::slurp(job_ / fmt::format("run/checkpoints/{:06}/adapter/"
                                                                    "adapter_model.safetensors",
                                                                    update)));
    EXPECT_THAT(tests::slurp(job_ / "run/adapter/weft_provenance.json"),
                HasSubstr("best " + figure));
  }
}

TEST_F(TrainSuites, EndTheRunWhenTheFigureGetsNoBetter) {
  write_suites("  every: 2u\n  keep_best_by: bits_per_byte.book\n",
               "early_stopping: {patience: 2, min_delta: 100}\n");
  const Finished run = train();
  ASSERT_EQ(run.status, 0) << run.err;
  // The first is a gain, the two after it are not.
  EXPECT_THAT(run.out, HasSubstr("stopped early: bits_per_byte.book got better no more after 6 "));
  EXPECT_EQ(evaluations().back().at("update"), 6);
}

TEST_F(TrainSuites, OfAKilledAndResumedRunEqualThoseOfTheUninterruptedOneBitForBit) {
  write_suites("  every: 3u\n  keep_best_by: bits_per_byte.pairs\n",
               "early_stopping: {patience: 4, min_delta: 0.05}\nlog_every: 1\n");
  ASSERT_EQ(train().status, 0);
  const auto metrics = job_.metrics();
  const std::string adapter = job_.adapter_bytes();
  const auto total = metrics.back().at("update").get<std::int64_t>();
  constexpr unsigned kSeed = 20261123;
  SCOPED_TRACE(fmt::format("seed {}", kSeed));
  std::mt19937 random(kSeed);
  int killed = 0;
  for (int trial = 0; trial < 4; ++trial) {
    const auto update = std::uniform_int_distribution<std::int64_t>(1, total / 2)(random);
    const auto delay = std::uniform_int_distribution<int>(0, 30)(random);
    const int status = train_and(update, [&](pid_t child) {
      std::this_thread::sleep_for(std::chrono::milliseconds(delay));
      ::kill(child, SIGKILL);
    });
    ASSERT_TRUE(status == 128 + SIGKILL || status == 0) << status;
    killed += status == 0 ? 0 : 1;
    const Finished resumed = train({"--resume"});
    ASSERT_EQ(resumed.status, 0) << resumed.err;
    EXPECT_EQ(job_.metrics(), metrics) << "killed " << delay << " ms after update " << update;
    EXPECT_EQ(job_.adapter_bytes(), adapter) << "killed " << delay << " ms after update " << update;
  }
  ASSERT_GE(killed, 2) << "the run is too short to be killed";
}

TEST_F(TrainSuites, AreRecordedInTheLedgerAndShownInTheReport) {
  write_suites("  every: 4u\n");
  ASSERT_EQ(train().status, 0);
  const std::string ledger = (job_ / "weft.db").string();
  const Finished list = tests::run_weft({"ledger", "list", "--ledger", ledger, "--json"});
  ASSERT_EQ(list.status, 0) << list.err;
  const nlohmann::json entries = nlohmann::json::parse(list.out);
  ASSERT_EQ(entries.size(), 1U) << list.out;
  EXPECT_EQ(entries[0].at("stages").size(), evaluations().size()) << list.out;
  EXPECT_THAT(list.out, AllOf(HasSubstr("update 0"), HasSubstr("update 4")));
  const Finished report = tests::run_weft({"report", (job_ / "run").string(), "--ledger", ledger,
                                           "--out", (job_ / "page.html").string()});
  ASSERT_EQ(report.status, 0) << report.err;
  EXPECT_THAT(
      tests::slurp(job_ / "page.html"),
      AllOf(HasSubstr("Suites: bits/byte"), HasSubstr("run, quiz"), HasSubstr("run, book")));
  const Finished inspect = tests::run_weft({"inspect", (job_ / "run").string()});
  EXPECT_EQ(inspect.status, 0) << inspect.err;
}

TEST_F(TrainSuites, AreComparedWithUpdateZeroByLedgerAndReport) {
  write_suites("  every: 4u\n");
  ASSERT_EQ(train().status, 0);
  const std::string ledger = (job_ / "weft.db").string();
  const auto weft = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--ledger", ledger});
    const Finished done = tests::run_weft(arguments);
    EXPECT_EQ(done.status, 0) << done.err;
    return done.out;
  };
  const std::int64_t last = evaluations().back().at("update");
  const std::string since = fmt::format("update {} since update 0", last);
  EXPECT_THAT(weft({"ledger", "compare", "1"}), AllOf(HasSubstr(since), HasSubstr("quiz")));
  EXPECT_THAT(weft({"ledger", "show", "1"}), HasSubstr(fmt::format("update {}: ", last)));
  const std::string plot = weft({"ledger", "plot", "bits_per_byte.book", "--evaluation", "1"});
  EXPECT_EQ(static_cast<std::size_t>(std::count(plot.begin(), plot.end(), '\n')),
            2 + evaluations().size())
      << plot;
  (void)weft({"report", (job_ / "run").string(), "--out", (job_ / "page.html").string()});
  const std::string page = tests::slurp(job_ / "page.html");
  EXPECT_THAT(page, AllOf(HasSubstr("In short"), HasSubstr("What had to be kept"),
                          HasSubstr(fmt::format("update {}", last)),
                          HasSubstr("class=\"spread s")));  // intervals in the curves
  EXPECT_THAT(page, AllOf(HasSubstr("train.jsonl"), HasSubstr("learning rate"),
                          HasSubstr("weights of the base")));
}

TEST_F(TrainSuites, OfAKilledAndResumedRunAreOneEvaluation) {
  write_suites("  every: 3u\n", "log_every: 1\n");
  const int status = train_and(7, [&](pid_t child) { ::kill(child, SIGKILL); });
  ASSERT_EQ(status, 128 + SIGKILL);
  ASSERT_EQ(train({"--resume"}).status, 0);
  const Finished list =
      tests::run_weft({"ledger", "list", "--ledger", (job_ / "weft.db").string(), "--json"});
  const nlohmann::json entries = nlohmann::json::parse(list.out);
  ASSERT_EQ(entries.size(), 1U) << list.out;
  std::vector<std::string> expected;
  for (const nlohmann::json& line : evaluations())
    expected.push_back(fmt::format("update {}", line.at("update").get<int>()));
  EXPECT_EQ(entries[0].at("stages").get<std::vector<std::string>>(), expected);
  // A run that is begun again is another evaluation.
  ASSERT_EQ(train({"--force"}).status, 0);
  const Finished again =
      tests::run_weft({"ledger", "list", "--ledger", (job_ / "weft.db").string(), "--json"});
  EXPECT_EQ(nlohmann::json::parse(again.out).size(), 2U);
}

TEST_F(TrainSuites, ThatCannotBeMeantAreOneClearLine) {
  const auto refused = [&](const std::string& lines, const std::string& expected,
                           const std::string& more = "") {
    write_suites(lines, more);
    const Finished run = train();
    EXPECT_EQ(run.status, 2) << lines;
    // Before it the formats of the data are told.
    const std::size_t last = run.err.rfind('\n', run.err.size() - 2);
    EXPECT_THAT(run.err.substr(last == std::string::npos ? 0 : last + 1), HasSubstr(expected));
    EXPECT_FALSE(fs::exists(job_ / "run")) << lines;
  };
  refused("  keep_best_by: acc\n", "evaluate: 'acc' is no FIGURE.SUITE");
  refused("  keep_best_by: acc.quizz\n", "there is no suite 'quizz', only book, pairs, quiz");
  refused("  keep_best_by: acc.book\n",
          "suite 'book' has no figure 'acc', only loss, perplexity, bits_per_byte");
  refused("  keep_best_by: chrf.pairs\n", "suite 'pairs' has no figure 'chrf'");
  refused("  evry: 4u\n", "evry");
  refused("", "early_stopping: needs `validation`", "early_stopping: {patience: 2}\n");
  job_.folder().write("book.jsonl", "");
  refused("", "book.jsonl");
}

TEST_F(TrainSuites, OfOtherContentsAreAnotherRun) {
  write_suites("  every: 4u\n");
  ASSERT_EQ(train().status, 0);
  job_.folder().write("quiz.jsonl",
                      "{\"context\": \"say 1:\", \"choices\": [\"a\", \"b\"], \"answer\": 0}\n");
  const Finished resumed = train({"--resume"});
  EXPECT_EQ(resumed.status, 2);
  EXPECT_THAT(resumed.err, HasSubstr("the contents of suite quiz"));
}

}  // namespace
}  // namespace weft
