#include "eval/statistics/analysis.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <ctime>

#include "eval/metrics/answer.h"
#include "eval/report/headline.h"
#include "eval/report/report.h"
#include "eval/report/sentences.h"
#include "eval/statistics/gates.h"

namespace weft::eval {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

SuiteResult text_suite(const std::string& name, double factor, int documents = 24) {
  SuiteResult suite{.name = name};
  for (int i = 0; i < documents; ++i)
    suite.items.push_back(
        {.tokens = 10 + i % 3, .bytes = 30 + i % 7, .loss = factor * (20 + i * i % 11)});
  return suite;
}

Evaluation two_stages(double factor, int documents = 24) {
  Evaluation evaluation;
  evaluation.stages = {{.name = "base", .suites = {text_suite("nahuatl", 1, documents)}},
                       {.name = "adapter", .suites = {text_suite("nahuatl", factor, documents)}}};
  return evaluation;
}

const Comparison* comparison_of(const Analysis& analysis, std::string_view name) {
  for (const Comparison& comparison : analysis.comparisons) {
    if (comparison.measured.name == name) return &comparison;
  }
  return nullptr;
}

TEST(Analysis, OfFourteenStagesAndFortySuitesTakesSecondsNotMinutes) {
  Evaluation evaluation;
  for (int i = 0; i < 14; ++i) {
    StageResult& stage = evaluation.stages.emplace_back();
    stage.name = "stage " + std::to_string(i);
    for (int j = 0; j < 40; ++j) {
      stage.suites.push_back(text_suite("suite " + std::to_string(j), 1 + 0.01 * i, 14));
      for (Item& item : stage.suites.back().items) item.loss += std::sin(item.loss * (i + 1));
    }
  }
  const std::clock_t begin = std::clock();
  const Analysis analysis = analyse(evaluation);
  const double seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  EXPECT_EQ(analysis.comparisons.size(), 13U * 40 + 12 * 40);
  // 1.3 s on one core, where seeding a generator for every resample took 324.
  EXPECT_LT(seconds, 30);
}

TEST(Analysis, AFigureHasOneIntervalInEveryTable) {
  Evaluation evaluation = two_stages(0.8);
  for (StageResult& stage : evaluation.stages) {
    stage.suites.front().labels.language = "nah";
    stage.suites.push_back(text_suite("spanish", 1.1));
    stage.suites.back().labels.language = "es";
  }
  const Analysis analysis = analyse(evaluation);
  for (std::size_t stage = 0; stage < 2; ++stage) {
    for (std::size_t suite = 0; suite < 2; ++suite) {
      const Measured& one = *figure_named(analysis.figures[stage][suite], "bits_per_byte");
      const LanguageFigure& same = analysis.languages[stage][suite];
      EXPECT_EQ(one.figure.interval->low, same.measured.figure.interval->low) << same.language;
      EXPECT_EQ(one.figure.interval->high, same.measured.figure.interval->high) << same.language;
    }
  }
  // A gate's bound is drawn from the same resamples, too.
  const Gate gate = parse_gate("bits_per_byte.nahuatl.base <= 9");
  const GateResult result = check_gates(evaluation, std::span(&gate, 1), 0.975).at(0);
  EXPECT_DOUBLE_EQ(*result.bound,
                   figure_named(analysis.figures[0][0], "bits_per_byte")->figure.interval->high);
}

TEST(Analysis, IntervalsDoNotChangeWhenASuiteIsAdded) {
  const Evaluation alone = two_stages(0.8);
  Evaluation both = alone;
  for (StageResult& stage : both.stages)
    stage.suites.insert(stage.suites.begin(), text_suite("another", 1));
  const Analysis a = analyse(alone), b = analyse(both);
  EXPECT_EQ(figure_named(a.figures[1][0], "loss")->figure.interval->low,
            figure_named(b.figures[1][1], "loss")->figure.interval->low);
  EXPECT_EQ(figure_named(a.figures[1][0], "loss")->p, figure_named(b.figures[1][1], "loss")->p);
}

TEST(Analysis, EveryScoreOfAnswersIsToldAndCorrected) {
  Evaluation evaluation = two_stages(0.8);
  for (StageResult& stage : evaluation.stages) {
    SuiteResult& suite = stage.suites.front();
    suite.kind = SuiteKind::kInstruction;
    suite.labels.metrics = {"chrf++", "bleu", "exact_match"};
    for (int i = 0; i < 24; ++i)
      suite.generations.push_back(compare_answer(
          "agua?", "in atl in tepetl",
          stage.name == "base" || i % 4 == 0 ? "in tetl in calli" : "in atl in tepetl"));
    score_answers(suite);
  }
  const Analysis analysis = analyse(evaluation);
  for (const std::string_view name : {"chrf++", "bleu", "exact_match"}) {
    const Comparison* comparison = comparison_of(analysis, name);
    ASSERT_NE(comparison, nullptr) << name;
    EXPECT_TRUE(comparison->measured.p_holm) << name;
  }
  EXPECT_THAT(to_table(evaluation, analysis),
              AllOf(HasSubstr("adapter: 75.00 percentage points of exact answers more than base"),
                    HasSubstr("points of BLEU more than base"),
                    HasSubstr("points of chrF++ more than base")));
}

TEST(Analysis, OtherItemsAreNotToldAsASingleItem) {
  Evaluation evaluation = two_stages(0.8);
  evaluation.stages[1].suites.front().items.pop_back();
  const Analysis analysis = analyse(evaluation);
  EXPECT_THAT(sentence(evaluation, analysis.comparisons.at(0)),
              HasSubstr("the items differ (23 here, 24 there)"));
  const Evaluation few = two_stages(0.8, 1);
  EXPECT_THAT(sentence(few, analyse(few).comparisons.at(0)),
              HasSubstr("an interval needs at least 5 documents, and there is 1."));
}

TEST(Analysis, FewDocumentsAreToldBesideTheirIntervals) {
  const Analysis rough = analyse(two_stages(0.8, 7));
  EXPECT_THAT(rough.notes, ElementsAre(HasSubstr("nahuatl: 7 documents are few")));
  EXPECT_TRUE(figure_named(rough.figures[0][0], "loss")->figure.interval);
  const Evaluation two = two_stages(0.8, 2);
  const Analysis none = analyse(two);
  EXPECT_THAT(none.notes, ElementsAre(HasSubstr("2 documents are too few for an interval")));
  EXPECT_FALSE(figure_named(none.figures[0][0], "loss")->figure.interval);
  EXPECT_THAT(to_table(two, none), HasSubstr("note: nahuatl: 2 documents are too few"));
  EXPECT_THAT(analyse(two_stages(0.8, 30)).notes, IsEmpty());
}

TEST(Analysis, MoreComparisonsThanThePermutationsCanTellAreTold) {
  Evaluation evaluation;
  for (const char* name : {"base", "adapter"}) {
    StageResult& stage = evaluation.stages.emplace_back();
    stage.name = name;
    for (int i = 0; i < 8; ++i)
      stage.suites.push_back(
          text_suite("suite " + std::to_string(i), stage.name == "base" ? 1 : 0.8));
  }
  BootstrapOptions options{.resamples = 200};
  options.permutations = 100;
  EXPECT_THAT(analyse(evaluation, options).notes,
              ElementsAre(AllOf(HasSubstr("8 differences are tested together"),
                                HasSubstr("Set bootstrap.permutations to 320 or more."))));
  options.permutations = 320;
  EXPECT_THAT(analyse(evaluation, options).notes, IsEmpty());
}

TEST(Analysis, UpdatesOfARunAreEachComparedWithTheFirstAlone) {
  Evaluation evaluation;
  for (int i = 0; i < 4; ++i)
    evaluation.stages.push_back({.name = "update " + std::to_string(10 * i),
                                 .suites = {text_suite("nahuatl", 1 - 0.05 * i)}});
  const Analysis analysis = analyse(evaluation);
  ASSERT_EQ(analysis.comparisons.size(), 3U);
  for (const Comparison& comparison : analysis.comparisons) EXPECT_EQ(comparison.other, 0U);
  EXPECT_THAT(to_table(evaluation, analysis),
              AllOf(HasSubstr("update 30: 0."), Not(HasSubstr("update 20: 0."))));
  EXPECT_EQ(update_of("update 30"), 30);
  EXPECT_FALSE(update_of("update 30b"));
  EXPECT_FALSE(update_of("base"));
}

TEST(Headline, SaysWhatWasLearnedWhatWasLostAndWhetherItIsFitToShip) {
  Evaluation evaluation = two_stages(0.8);
  const auto add_kept = [&](double factor) {
    for (StageResult& stage : evaluation.stages) {
      stage.suites.resize(1);
      stage.suites.push_back(text_suite("spanish", stage.name == "base" ? 1 : factor));
      stage.suites.back().labels.must_keep = true;
    }
  };
  const auto said = [&](std::span<const GateResult> gates = {}) {
    return headline(evaluation, analyse(evaluation), gates, {});
  };
  EXPECT_EQ(said().answer, Headline::Answer::kUnclear);
  EXPECT_THAT(said().verdict, AllOf(HasSubstr("adapter is better on nahuatl"),
                                    HasSubstr("What it forgot was not measured")));
  add_kept(1);
  EXPECT_EQ(said().answer, Headline::Answer::kYes);
  EXPECT_THAT(said().verdict, HasSubstr("fit to ship by what was measured: better on nahuatl, "
                                        "nothing measurably lost on spanish."));
  EXPECT_THAT(said().learned, ElementsAre(HasSubstr("less than base on nahuatl")));
  EXPECT_THAT(said().kept, ElementsAre(HasSubstr("nothing forgotten")));
  const std::vector<GateResult> gates{{.text = "loss.base <= 1"}};
  EXPECT_EQ(said(gates).answer, Headline::Answer::kNo);
  EXPECT_THAT(said(gates).verdict, HasSubstr("1 of 1 gates failed"));
  add_kept(1.3);
  EXPECT_EQ(said().answer, Headline::Answer::kNo);
  EXPECT_THAT(said().verdict, HasSubstr("not fit to ship: what must be kept was forgotten in part "
                                        "on spanish"));
  evaluation = two_stages(1);
  EXPECT_THAT(said().verdict, HasSubstr("Nothing shows that adapter is better"));
  evaluation.stages.pop_back();
  EXPECT_TRUE(said().verdict.empty());
}

}  // namespace
}  // namespace weft::eval
