#include "eval/report/card.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "eval/report/report_page.h"
#include "eval/statistics/figures.h"
#include "tests/eval/sample_evaluation.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"

namespace weft::eval {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using tests::sample_evaluation;

TEST(Card, TellsEveryStageOfEverySuite) {
  Recorded recorded = sample_evaluation();
  recorded.evaluation.stages[1].name = "a|b*c";
  const std::string text = to_markdown(recorded, analyse(recorded.evaluation, recorded.bootstrap));
  EXPECT_THAT(text, AllOf(HasSubstr("### corpus (nah): what must be kept"),
                          HasSubstr("| stage | loss | perplexity | bits/byte |"),
                          HasSubstr("| a\\|b\\*c |"), HasSubstr("- a\\|b\\*c"),
                          HasSubstr("kl.q8 \\<= 0"), HasSubstr("**failed**"),
                          HasSubstr("| KL mean | KL 99 % |"), Not(HasSubstr("99.9 %"))));
  const Measured measured =
      *figure_named(measure(recorded.evaluation.stages[0].suites[0], nullptr, recorded.bootstrap),
                    "bits_per_byte");
  EXPECT_THAT(
      text, HasSubstr(fmt::format("| {:.4f} ({:.4f} .. {:.4f}) |", measured.figure.value,
                                  measured.figure.interval->low, measured.figure.interval->high)));
}

TEST(Card, ModelIndexIsAboutOneStage) {
  const std::string text = to_model_index(sample_evaluation(), "me/model: \"x\"", "q8");
  EXPECT_THAT(text, AllOf(HasSubstr("---\nmodel-index:\n- name: \"me/model: \\\"x\\\"\"\n"),
                          HasSubstr("config: nah\n"), HasSubstr("type: bits_per_byte\n"),
                          HasSubstr("type: multiple-choice\n")));
  EXPECT_THROWS_WITH((void)to_model_index(sample_evaluation(), "m", "q4"), ConfigError,
                     "no stage 'q4'", "base, q8");
}

TEST(Card, NumbersHaveThePointThatYamlWants) {
  Recorded recorded = sample_evaluation();
  recorded.evaluation.stages[0].suites.resize(1);
  SuiteResult& suite = recorded.evaluation.stages[0].suites[0];
  suite.items = {{.tokens = 1000000, .bytes = 1, .loss = 10}};
  EXPECT_THAT(to_model_index(recorded, "m", "base"), HasSubstr("value: 1.0e-05\n"));
}

TEST(ReportPage, ComparesEvaluationsAndDrawsTraining) {
  const tests::TempDir folder;
  folder.write("run/metrics.jsonl",
               "{\"update\":1,\"loss\":3.5,\"learning_rate\":0.0001}\n"
               "{\"update\":2,\"loss\":2.5,\"learning_rate\":0.0002}\n"
               "{\"update\":2,\"validation_loss\":2.25,\"best\":true}\n{\"update\":3,\"lo");
  folder.write("run/preflight.json",
               "{\"training\":{\"examples\":200,\"rows\":201,\"duplicates\":7,\"faults\":[\"<b>\"],"
               "\"sample\":\"atl\"}}");
  folder.write("run/config.yaml",
               "base_model: /models/tiny\ndatasets:\n  - path: [pairs.jsonl]\n"
               "adapter: {r: 16, lora_alpha: 32}\nlearning_rate: 1e-3\n");
  folder.write(
      "run/provenance.json",
      "{\"program\":\"weft 1\",\"base\":{\"weights\":\"aaaa1111\"},\"data\":{\"datasets\":["
      "{\"path\":\"/d/pairs.jsonl\",\"sha256\":\"bbbb2222\"}]},\"config\":\"cccc3333\"}");
  Recorded later = sample_evaluation();
  later.circumstances.threads = 8;
  later.evaluation.stages[1].model_digest = "another";
  const std::string page =
      report_page({.runs = {read_training_run(folder / "run")},
                   .evaluations = {{"v1", sample_evaluation()}, {"v<2>", later}}});
  EXPECT_THAT(
      page,
      AllOf(HasSubstr("v&lt;2&gt; since v1"), HasSubstr("8 threads, were 2"),
            HasSubstr("run, training: from 3.5 at 1 to 2.5 at 2"),
            HasSubstr("run, validation: from 2.25 at 2"),
            HasSubstr("<dt>base</dt><dd dir=\"auto\">/models/tiny</dd>"),
            HasSubstr("[pairs.jsonl]"), HasSubstr("<dt>rank</dt><dd dir=\"auto\">16</dd>"),
            HasSubstr("1e-3"), HasSubstr("aaaa1111"), HasSubstr("bbbb2222"), HasSubstr("cccc3333"),
            HasSubstr("200 examples of 201 rows"), HasSubstr("7 duplicates"),
            HasSubstr("&lt;b&gt;"), Not(HasSubstr("<b>\n")), Not(HasSubstr("<script"))));
  EXPECT_THROWS_WITH((void)read_training_run(folder.path()), InputError, "no metrics.jsonl");
  folder.write("bad/metrics.jsonl", "{\"loss\":1}\n");
  EXPECT_THROWS_WITH((void)read_training_run(folder / "bad"), InputError, "metrics.jsonl:1",
                     "update");
}

TEST(Chart, TicksCoverTheRangeInRoundSteps) {
  EXPECT_THAT(axis_ticks(0.13, 0.87, 4),
              ::testing::Pointwise(::testing::DoubleNear(1e-12), {0.0, 0.2, 0.4, 0.6, 0.8, 1.0}));
  EXPECT_GE(axis_ticks(5, 5, 4).size(), 2U);
  EXPECT_EQ(html_chart({}, {.title = "nothing", .x_label = ""}), "");
}

}  // namespace
}  // namespace weft::eval
