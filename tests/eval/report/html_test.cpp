#include "eval/report/html.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "eval/report/html_suite.h"

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
  const std::string page = to_html(evaluation(), analyse(evaluation()), {});
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
  const std::string page = to_html(evaluation(), analyse(evaluation()), gates);
  EXPECT_THAT(page, HasSubstr("base+adapter: 0.7213 bits per byte less than base on a&lt;b"));
  EXPECT_THAT(page, HasSubstr("loss.base &lt;= 1"));
  EXPECT_THAT(page, HasSubstr("failed"));
  EXPECT_THAT(page, HasSubstr("<svg"));
  EXPECT_THAT(page, HasSubstr("<mark>"));
  EXPECT_THAT(page, Not(HasSubstr("nan")));
}

TEST(Html, ShowsChoicesByAccuracyAndWhatMustBeKeptLast) {
  Evaluation all = evaluation();
  for (StageResult& stage : all.stages) {
    SuiteResult quiz{.name = "quiz", .kind = SuiteKind::kChoice, .unit = Unit::kQuestion};
    quiz.labels = {.language = "es", .must_keep = true};
    for (int i = 0; i < 8; ++i) {
      quiz.items.push_back({.tokens = 1, .bytes = 3, .loss = 1});
      const double right = stage.name == "base" || i % 2 == 0 ? -1 : -3;
      quiz.choices.push_back({.answer = 0,
                              .log_p = {right, -2},
                              .log_p_alone = {-1, -1},
                              .characters = {3, 3},
                              .bytes = {3, 3}});
    }
    stage.suites.front().labels.language = "nah";
    stage.suites.insert(stage.suites.begin(), quiz);
  }
  const std::string page = to_html(all, analyse(all), {});
  EXPECT_THAT(page, HasSubstr("quiz (must be kept)"));
  EXPECT_LT(page.find("\">a&lt;b&gt;&amp;&quot;c&quot;</h2>"),
            page.find("\">quiz (must be kept)</h2>"));
  EXPECT_THAT(page, HasSubstr("base on quiz: 1.0000 acc"));
  EXPECT_THAT(page, HasSubstr("base+adapter on quiz: 0.5000 acc"));
  EXPECT_THAT(page, HasSubstr("By language</h2>"));
  EXPECT_THAT(page, HasSubstr("base on nah: bits/byte: "));
  EXPECT_THAT(page, Not(HasSubstr("By source document")));
}

TEST(Html, ListsSourceDocumentsAndTheWeakestAnswers) {
  Evaluation all = evaluation();
  for (StageResult& stage : all.stages) {
    SuiteResult& suite = stage.suites.front();
    suite.labels.source_names = {"one <1>", "two"};
    for (std::uint32_t i = 0; i < 20; ++i) suite.labels.sources.push_back(i % 2);
    suite.generations.resize(3, suite.generations.front());
    suite.generations[1].output = "zzz";
    suite.generations[1].chrf =
        chrf_statistics("zzz", std::vector<std::string>{suite.generations[1].reference}, kChrf);
  }
  const std::string page = to_html(all, analyse(all), {}, {.examples = 1});
  EXPECT_THAT(page, HasSubstr("By source document"));
  EXPECT_THAT(page, HasSubstr("one &lt;1&gt; <span class=\"soft\">(10)</span>"));
  const std::size_t weakest = page.find("Weakest other answers");
  ASSERT_NE(weakest, std::string::npos);
  EXPECT_NE(page.find("zzz", weakest), std::string::npos);
  EXPECT_EQ(page.substr(0, weakest).find("zzz"), std::string::npos);
}

TEST(Html, ALanguageWithATextAndAQuizHasALadderForEach) {
  Evaluation all;
  for (const char* name : {"base", "adapter"}) {
    StageResult& stage = all.stages.emplace_back();
    stage.name = name;
    for (const char* language : {"nah", "es"}) {
      SuiteResult text{.name = std::string("text ") + language};
      SuiteResult quiz{.name = std::string("quiz ") + language,
                       .kind = SuiteKind::kChoice,
                       .unit = Unit::kQuestion};
      for (int i = 0; i < 20; ++i) {
        text.items.push_back({.tokens = 9, .bytes = 10, .loss = 48.5 + i % 2});
        quiz.items.push_back({.tokens = 1, .bytes = 3, .loss = 1});
        quiz.choices.push_back({.answer = i % 2,
                                .log_p = {-1, -2},
                                .log_p_alone = {-1, -1},
                                .characters = {3, 3},
                                .bytes = {3, 3}});
      }
      text.labels.language = quiz.labels.language = language;
      stage.suites.push_back(text);
      stage.suites.push_back(quiz);
    }
  }
  const std::string page = to_html(all, analyse(all), {});
  EXPECT_THAT(page, HasSubstr("<h3>nah: bits/byte</h3>"));
  EXPECT_THAT(page, HasSubstr("<h3>nah: acc</h3>"));
  EXPECT_THAT(page, HasSubstr("<h3>all suites: acc</h3>"));
  EXPECT_THAT(page, HasSubstr("base on nah: bits/byte: 7.0692 bits/byte"));
  EXPECT_THAT(page, Not(HasSubstr("7.0692 acc")));
}

TEST(Html, LaddersHaveTicksWithinWhatAFigureCanBe) {
  const std::vector<Rung> rungs{{"base", {0.05, Interval{0, 0.12}}}, {"adapter", {1.0, {}}}};
  const std::string ladder = html_ladder(rungs, *figure_kind("acc"), "quiz");
  EXPECT_THAT(ladder, HasSubstr("<span style=\"left:0.00%\">0.0</span>"));
  EXPECT_THAT(ladder, HasSubstr("<span style=\"left:100.00%\">1.0</span>"));
  EXPECT_THAT(ladder, Not(HasSubstr("-0.")));
}

TEST(Html, BeginsWithAHeadlineAndItsContents) {
  const std::string page = to_html(evaluation(), analyse(evaluation()), {});
  EXPECT_THAT(page, HasSubstr("<h2 id=\"s1\">In short</h2>"));
  EXPECT_THAT(page, HasSubstr("<a href=\"#s1\">In short</a>"));
  EXPECT_THAT(page, HasSubstr("base+adapter is better on a&lt;b"));
}

TEST(Html, EmptyLinesOfAnAnswerAreCountedAndNotShown) {
  Evaluation all = evaluation();
  all.stages[0].suites[0].generations[0].output = std::string(90, '\n');
  all.stages[1].suites[0].generations[0].output = "in" + std::string(60, '\n') + "xochitl\n";
  all.stages[1].suites[0].generations[1].output = "";
  const std::string page = to_html(all, analyse(all), {});
  EXPECT_THAT(page, HasSubstr("[90 empty lines]"));
  EXPECT_THAT(page, HasSubstr("[59 empty lines]"));
  EXPECT_THAT(page, HasSubstr("[empty]"));
  EXPECT_THAT(page, Not(HasSubstr("\n\n\n\n")));
}

TEST(AnswerDiff, UnlikeTextsAreMarkedByWordsAndLikeOnesByCharacters) {
  EXPECT_EQ(shown(answer_diff("xochitl yn cuicatl", "in xochitl in cuicatl")),
            "xochitl [y]n cuicatl");
  // By characters it would be confetti: t, a, l and e occur in both.
  EXPECT_EQ(shown(answer_diff("the flower and the tale", "in xochitl tale")),
            "[the flower and the ]tale");
  EXPECT_EQ(shown(word_diff("a b  c", "a  c")), "a [b  ]c");
}

}  // namespace
}  // namespace weft::eval
