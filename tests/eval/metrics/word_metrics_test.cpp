#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "eval/metrics/bleu.h"
#include "eval/metrics/ter.h"
#include "tests/support/source_dir.h"
#include "tests/support/throws.h"

namespace weft::eval {
namespace {

using nlohmann::json;
using Sums = std::vector<double>;

BleuOptions bleu_options(const json& variant) {
  static const std::map<std::string, BleuTokens> kTokens = {{"13a", BleuTokens::k13a},
                                                            {"none", BleuTokens::kNone},
                                                            {"char", BleuTokens::kChar},
                                                            {"intl", BleuTokens::kIntl},
                                                            {"zh", BleuTokens::kZh}};
  return {.tokens = kTokens.at(variant.at("tokenize")),
          .lowercase = variant.value("lowercase", false)};
}

TerOptions ter_options(const json& variant) {
  return {.normalized = variant.value("normalized", false),
          .no_punct = variant.value("no_punct", false),
          .asian = variant.value("asian_support", false),
          .case_sensitive = variant.value("case_sensitive", false)};
}

/// Strings of chrf.json with sacrebleu's statistics and scores of them in word_metrics.json.
class WordMetrics : public testing::Test {
 protected:
  WordMetrics()
      : segments_(stored("chrf.json")["segments"]), expected_(stored("word_metrics.json")) {}

  /// Holds each segment, and the sums over all, against the numbers under `metric`: the statistics
  /// exactly (but for the rounding of a mean length), the score to 1e-9.
  template <typename Statistics, typename Score>
  void hold(const char* metric, Statistics statistics, Score score) const {
    const json& variants = expected_[metric];
    ASSERT_GE(segments_.size(), 100U);
    ASSERT_EQ(segments_.size(), expected_["segments"].size());
    for (std::size_t v = 0; v < variants.size(); ++v) {
      Sums corpus;
      for (std::size_t s = 0; s < segments_.size(); ++s) {
        const std::string hypothesis = segments_[s]["hypothesis"];
        const std::vector<std::string> references = segments_[s]["references"];
        const Sums sums = statistics(hypothesis, references, variants[v]);
        compare(sums, score(sums), expected_["segments"][s][metric][v],
                hypothesis + " / " + references[0] + " / " + variants[v].dump());
        corpus.resize(sums.size());
        for (std::size_t i = 0; i < sums.size(); ++i) corpus[i] += sums[i];
      }
      compare(corpus, score(corpus), expected_["corpus"][metric][v],
              "corpus " + variants[v].dump());
    }
  }

 private:
  static json stored(const char* name) {
    const auto path = tests::source_dir() / "tests/eval/data" / name;
    std::ifstream file(path);
    EXPECT_TRUE(file) << "cannot read " << path;
    return json::parse(file);
  }

  static void compare(const Sums& sums, double score, const json& expected,
                      const std::string& where) {
    ASSERT_EQ(sums.size() + 1, expected.size());
    for (std::size_t i = 0; i < sums.size(); ++i)
      EXPECT_NEAR(sums[i], expected[i].get<double>(), 1e-9) << where << ", statistic " << i;
    EXPECT_NEAR(score, expected.back().get<double>(), 1e-9) << where;
  }

  json segments_, expected_;
};

TEST_F(WordMetrics, BleuEqualsSacrebleuInEveryCountAndScore) {
  hold(
      "bleu",
      [](const std::string& hypothesis, const auto& references, const json& variant) {
        return bleu_statistics(hypothesis, references, bleu_options(variant));
      },
      [](const Sums& sums) { return bleu_score(sums); });
}

TEST_F(WordMetrics, TerEqualsSacrebleuInEveryEditAndScore) {
  hold(
      "ter",
      [](const std::string& hypothesis, const auto& references, const json& variant) {
        return ter_statistics(hypothesis, references, ter_options(variant));
      },
      [](const Sums& sums) { return ter_score(sums); });
}

// By hand: of "the cat sat" against "the cat sat down" all n-grams up to three match (3 of 3, 2 of
// 2, 1 of 1); there is none of four, so that without effective order the score is 0.
TEST(Bleu, IsZeroWithoutAnyFourWords) {
  const Sums sums = bleu_statistics("the cat sat", std::vector<std::string>{"the cat sat down"});
  EXPECT_EQ(sums, (Sums{3, 4, 3, 2, 1, 0, 3, 2, 1, 0}));
  EXPECT_EQ(bleu_score(sums), 0);
}

// By hand: one shift of "b c" to the end makes the texts equal.
TEST(Ter, AShiftIsOneEdit) {
  const Sums sums = ter_statistics("a b c d e", std::vector<std::string>{"a d e b c"});
  EXPECT_EQ(sums, (Sums{1, 5}));
  EXPECT_DOUBLE_EQ(ter_score(sums), 20);
}

TEST(WordMetric, RefusesAHypothesisWithoutReferences) {
  const std::vector<std::string> none;
  EXPECT_THROWS_WITH((void)bleu_statistics("a", none), InputError, "no reference");
  EXPECT_THROWS_WITH((void)ter_statistics("a", none), InputError, "no reference");
}

}  // namespace
}  // namespace weft::eval
