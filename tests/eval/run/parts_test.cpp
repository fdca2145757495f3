// An evaluation that goes on from what was finished before.
#include "eval/run/parts.h"

#include <gtest/gtest.h>

#include <map>

#include "core/hash.h"
#include "eval/report/compare.h"
#include "eval/run/stages.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace weft::eval {
namespace {

using tests::TempDir;

class PartsTest : public ::testing::Test {
 protected:
  PartsTest() {
    config_.base_model = tests::write_tiny_model(folder_ / "base");
    config_.text = {folder_.write("corpus.txt", "tlaxcalli, atl; in xochitl in cuicatl")};
    config_.sequence_len = 16;
    config_.data.emplace_back().path = {
        folder_.write("pairs.jsonl", "{\"prompt\": \"agua\", \"completion\": \"atl\"}\n")};
    config_.generate = GenerateSection{.examples = 1, .max_tokens = 6};
    SuiteSection& quiz = config_.suites.emplace_back();
    quiz.name = "quiz";
    quiz.choices.emplace();
    quiz.choices->path = {folder_.write(
        "quiz.jsonl",
        "{\"context\": \"in xochitl\", \"choices\": [\"in cuicatl\", \"atl\"], \"answer\": 1}\n")};
    config_.stages = {{.name = "q8", .model = {}, .adapter = {}, .quantise = "q8_0"},
                      {.name = "base", .model = {}, .adapter = {}},
                      {.name = "again", .model = {}, .adapter = {}}};
    config_.reference = "base";
    config_.distribution.emplace();
    hooks_.file_digest = [](const auto& file) { return core::sha256_file(file); };
    hooks_.before_load = [this](const std::string&, std::uint64_t, std::uint64_t) { ++loaded_; };
    hooks_.parts = {[this](const std::string& key) -> std::optional<SuiteResult> {
                      const auto found = parts_.find(key);
                      if (found == parts_.end()) return std::nullopt;
                      return found->second;
                    },
                    [this](const std::string& key, const SuiteResult& result) {
                      parts_.emplace(key, result);
                      order_.push_back(key);
                    }};
  }

  /// Measures, and expects the same bits as in `expected`.
  void expect_same(const Evaluation& expected) {
    const Evaluation found = evaluate(config_, hooks_);
    for (std::size_t i = 0; i < expected.stages.size(); ++i) {
      ASSERT_EQ(found.stages[i].suites.size(), expected.stages[i].suites.size());
      for (std::size_t j = 0; j < expected.stages[i].suites.size(); ++j) {
        const SuiteResult& suite = found.stages[i].suites[j];
        const auto difference = first_difference(expected.stages[i].suites[j], suite);
        EXPECT_FALSE(difference) << found.stages[i].name << ", " << suite.name << ": "
                                 << difference->what;
        EXPECT_EQ(suite.name, expected.stages[i].suites[j].name);
      }
    }
  }

  TempDir folder_;
  EvalConfig config_;
  Hooks hooks_;
  std::map<std::string, SuiteResult> parts_;
  std::vector<std::string> order_;
  int loaded_ = 0;
};

TEST_F(PartsTest, GoesOnFromAnyPartWithTheSameBits) {
  const Evaluation whole = evaluate(config_, hooks_);
  EXPECT_EQ(loaded_, 3);  // the reference first, then "q8", then "again"
  ASSERT_EQ(order_.size(), 9U);
  const auto all = parts_;
  const std::vector<std::string> order = order_;
  for (std::size_t done = 0; done <= order.size(); ++done) {
    parts_.clear();
    order_.clear();
    for (std::size_t i = 0; i < done; ++i) parts_.emplace(order[i], all.at(order[i]));
    loaded_ = 0;
    expect_same(whole);
    EXPECT_EQ(order_.size(), order.size() - done) << "measured after " << done;
    if (done == order.size()) {
      EXPECT_EQ(loaded_, 0);
    }
  }
}

TEST_F(PartsTest, AreOnlyTakenForWhatTheyWereMeasuredOn) {
  (void)evaluate(config_, hooks_);
  const std::size_t all = order_.size();
  order_.clear();
  (void)folder_.write("corpus.txt", "tlaxcalli, atl; in xochitl in cuicatl?");
  (void)evaluate(config_, hooks_);
  EXPECT_EQ(order_.size(), 3U) << "the text, in every stage";
  order_.clear();
  (void)tests::write_tiny_model(folder_ / "base", {.seed = 7});
  (void)evaluate(config_, hooks_);
  EXPECT_EQ(order_.size(), all);
  order_.clear();
  config_.generate->max_tokens = 5;
  (void)evaluate(config_, hooks_);
  EXPECT_EQ(order_.size(), 3U) << "the answers, in every stage";
  order_.clear();
  config_.dtype = DType::kBFloat16;
  (void)evaluate(config_, hooks_);
  EXPECT_EQ(order_.size(), all);
}

}  // namespace
}  // namespace weft::eval
