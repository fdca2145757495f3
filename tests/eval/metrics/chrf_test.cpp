#include "eval/metrics/chrf.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/utf8.h"
#include "tests/support/source_dir.h"
#include "tests/support/throws.h"

namespace weft::eval {
namespace {

using nlohmann::json;

json stored(const char* name) {
  const auto path = tests::source_dir() / "tests/eval/data" / name;
  std::ifstream file(path);
  EXPECT_TRUE(file) << "cannot read " << path;
  return json::parse(file);
}

ChrfOptions options_of(const json& variant) {
  return {.char_order = variant["char_order"],
          .word_order = variant["word_order"],
          .beta = variant["beta"],
          .whitespace = variant.value("whitespace", false),
          .eps_smoothing = variant.value("eps_smoothing", false)};
}

// By hand: "ab" against "abc" has 1-grams 2, 3, 2 (precision 1, recall 2/3), 2-grams 1, 2, 1
// (1, 1/2); order 3 exists on one side only. Means 1 and 7/12: F2 = 5 * 7/12 / (4 + 7/12) = 7/11.
TEST(Chrf, AgreesWithHandComputation) {
  EXPECT_NEAR(sentence_chrf("ab", std::vector<std::string>{"abc"}), 700.0 / 11.0, 1e-9);
}

TEST(Chrf, IsHundredForEqualAndZeroForDisjointTexts) {
  const std::vector<std::string> reference{"tlazohcamati"};
  EXPECT_DOUBLE_EQ(sentence_chrf("tlazohcamati", reference), 100);
  EXPECT_DOUBLE_EQ(sentence_chrf("qqq", reference), 0);
  EXPECT_DOUBLE_EQ(sentence_chrf("", reference), 0);
}

TEST(Chrf, CountsCodePointsNotBytes) {
  // One of two code points matches, whatever their bytes.
  const ChrfStatistics statistics =
      chrf_statistics("éñ", std::vector<std::string>{"é\U0001F600"}, {.char_order = 1});
  EXPECT_EQ(statistics, (ChrfStatistics{{2, 2, 1}}));
}

TEST(Chrf, TakesPunctuationOffOneEndOnly) {
  // "(hi)" -> "(hi", ")"; "¡hi!" -> "¡hi", "!": only ASCII marks are split.
  const ChrfStatistics statistics = chrf_statistics(
      "(hi) x", std::vector<std::string>{"(hi ) ¡hi!"}, {.char_order = 1, .word_order = 1});
  EXPECT_EQ(statistics[1], (NgramCounts{3, 5, 1}));
}

TEST(Chrf, EqualsSacrebleuSegmentBySegment) {
  const json reference = stored("chrf.json");
  const json& variants = reference["variants"];
  double largest = 0;
  for (const json& segment : reference["segments"]) {
    const auto references = segment["references"].get<std::vector<std::string>>();
    const auto hypothesis = segment["hypothesis"].get<std::string>();
    for (std::size_t v = 0; v < variants.size(); ++v) {
      const double score = sentence_chrf(hypothesis, references, options_of(variants[v]));
      const double expected = segment["scores"][v];
      largest = std::max(largest, std::abs(score - expected));
      EXPECT_NEAR(score, expected, 1e-9)
          << hypothesis << " / " << references[0] << " variant " << v;
    }
  }
  RecordProperty("largest_difference", std::to_string(largest));
}

TEST(Chrf, EqualsSacrebleuOnCorpora) {
  const json reference = stored("chrf.json");
  std::vector<std::string> hypotheses;
  std::vector<std::vector<std::string>> references;
  for (const json& segment : reference["segments"]) {
    hypotheses.push_back(segment["hypothesis"]);
    references.push_back(segment["references"]);
  }
  ASSERT_GE(hypotheses.size(), 100U);
  for (std::size_t v = 0; v < reference["variants"].size(); ++v) {
    EXPECT_NEAR(corpus_chrf(hypotheses, references, options_of(reference["variants"][v])),
                reference["corpus"][v].get<double>(), 1e-9);
  }
}

TEST(Chrf, RefusesWhatHasNoMeaning) {
  const std::vector<std::string> none;
  EXPECT_THROWS_WITH((void)sentence_chrf("a", none), InputError, "no reference");
  EXPECT_THROWS_WITH((void)sentence_chrf("a", std::vector<std::string>{"a"}, {.char_order = 0}),
                     ConfigError, "char_order");
  EXPECT_THROWS_WITH(
      (void)corpus_chrf(std::vector<std::string>{"a"}, std::vector<std::vector<std::string>>{}),
      InputError, "1 hypotheses", "found 0");
}

TEST(Utf8, ReplacesMaximalSubpartsAsPythonDoes) {
  // bytes.decode("utf-8", "replace") in Python 3.11.
  EXPECT_EQ(core::decode_utf8("a\xFF"
                              "b"),
            U"a\uFFFDb");
  EXPECT_EQ(core::decode_utf8("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"),
            U"\uFFFD\uFFFD\uFFFD\uFFFDA");
  EXPECT_EQ(core::decode_utf8("\xED\xA0\x80"), U"\uFFFD\uFFFD\uFFFD");  // a surrogate
  EXPECT_EQ(core::decode_utf8("\xC0\xAF\xE0\x80\xBF"),
            U"\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD");                                   // overlong
  EXPECT_EQ(core::decode_utf8("\xF4\x90\x80\x80"), U"\uFFFD\uFFFD\uFFFD\uFFFD");  // above U+10FFFF
  EXPECT_EQ(core::decode_utf8("\xF4\x8F\xBF\xBF"), U"\U0010FFFF");
  EXPECT_EQ(core::decode_utf8("\xE2\x82"), U"\uFFFD");
}

}  // namespace
}  // namespace weft::eval
