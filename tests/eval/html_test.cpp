#include "eval/html.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace weft::eval {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string shown(const std::vector<DiffPart>& parts) {
  std::string text;
  for (const DiffPart& part : parts) text += part.common ? part.text : "[" + part.text + "]";
  return text;
}

TEST(CharacterDiff, MarksWhatTheReferenceHasNot) {
  EXPECT_EQ(shown(character_diff("kitten", "sitting")), "[k]itt[e]n");
  EXPECT_EQ(shown(character_diff("abc", "abc")), "abc");
  EXPECT_EQ(shown(character_diff("abc", "")), "[abc]");
  EXPECT_TRUE(character_diff("", "abc").empty());
}

TEST(CharacterDiff, KeepsMarksAndJoiningWordsWhole) {
  // e + combining acute against e: the letter with its mark is one.
  EXPECT_EQ(shown(character_diff("cafe\u0301", "cafe")), "caf[e\u0301]");
  EXPECT_EQ(shown(character_diff("कितना है", "कितनी है")), "[कितना] है");
  EXPECT_EQ(shown(character_diff("كتاب جديد", "كتب جديد")), "[كتاب] جديد");
}

Evaluation evaluation() {
  Evaluation result;
  result.dtype = "float32";
  for (const double shift : {0.0, -0.5}) {
    SuiteResult suite{
        .name = "a<b>&\"c\"", .kind = SuiteKind::kInstruction, .unit = Unit::kExample};
    for (int i = 0; i < 20; ++i)
      suite.items.push_back({.tokens = 5, .bytes = 10, .loss = 20 + shift * 10 + i % 3});
    const std::vector<std::string> reference{"in xochitl\x01 <b>"};
    Generation generation{.prompt = "<script>alert(1)</script>", .reference = reference[0]};
    generation.output = shift == 0 ? "la flor\xff" : "in xochitl";
    generation.chrf = chrf_statistics(generation.output, reference, kChrf);
    generation.chrf_plus_plus = chrf_statistics(generation.output, reference, kChrfPlusPlus);
    suite.generations = {generation, generation};
    result.stages.push_back({.name = shift == 0 ? "base" : "base+adapter", .suites = {suite}});
  }
  return result;
}

TEST(Html, EscapesWhatComesFromOutside) {
  const std::string page = to_html(evaluation(), {});
  EXPECT_THAT(page, Not(HasSubstr("<script")));
  EXPECT_THAT(page, HasSubstr("&lt;script&gt;alert(1)&lt;/script&gt;"));
  EXPECT_THAT(page, HasSubstr("a&lt;b&gt;&amp;&quot;c&quot;"));
  EXPECT_THAT(page, Not(HasSubstr("\x01")));
  EXPECT_THAT(page, Not(HasSubstr("\xff")));
  EXPECT_THAT(page, Not(HasSubstr("http")));  // nothing from elsewhere
  EXPECT_THAT(page, HasSubstr("dir=\"auto\""));
}

TEST(Html, ShowsFiguresGatesAndSentences) {
  const std::vector<GateResult> gates{{.text = "loss.base <= 1", .left = 4.19, .limit = 1}};
  const std::string page = to_html(evaluation(), gates);
  EXPECT_THAT(page, HasSubstr("base+adapter needs 0.7213 bits per byte less than base"));
  EXPECT_THAT(page, HasSubstr("loss.base &lt;= 1"));
  EXPECT_THAT(page, HasSubstr("failed"));
  EXPECT_THAT(page, HasSubstr("<svg"));
  EXPECT_THAT(page, HasSubstr("<mark>"));
  EXPECT_THAT(page, Not(HasSubstr("nan")));
}

TEST(DifferenceSentence, SaysWhenNothingWasMeasured) {
  EXPECT_EQ(difference_sentence("merged", "base", 0.0003, Interval{-0.0001, 0.0007}),
            "merged: no measurable difference from base, +0.0003 bits per byte (-0.0001 .. "
            "+0.0007).");
  EXPECT_EQ(difference_sentence("merged", "base", 0.5, Interval{0.4, 0.6}),
            "merged needs 0.5000 bits per byte more than base (+0.4000 .. +0.6000): worse.");
  EXPECT_THAT(difference_sentence("merged", "base", -0.5, std::nullopt), HasSubstr("one item"));
  EXPECT_THAT(difference_sentence("a", "b", std::numeric_limits<double>::quiet_NaN(), std::nullopt),
              HasSubstr("cannot be compared"));
}

}  // namespace
}  // namespace weft::eval
