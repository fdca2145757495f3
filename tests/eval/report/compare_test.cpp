#include "eval/report/compare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "eval/statistics/gates.h"
#include "tests/eval/sample_evaluation.h"

namespace weft::eval {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using tests::sample_evaluation;

const SuiteChange& change_of(const Changes& changes, std::string_view stage,
                             std::string_view suite) {
  for (const SuiteChange& change : changes.suites) {
    if (change.stage == stage && change.suite == suite) return change;
  }
  throw std::logic_error("no such suite");
}

TEST(Compare, TheSameIsTheSame) {
  const Changes changes = compare(sample_evaluation(), sample_evaluation());
  ASSERT_EQ(changes.suites.size(), 6U);
  for (const SuiteChange& change : changes.suites)
    EXPECT_EQ(verdict(changes, change), Verdict::kSame);
  EXPECT_FALSE(has_drifted(changes));
  EXPECT_THAT(to_text(changes, "v1"), Not(HasSubstr("other circumstances")));
}

TEST(Compare, OneBitOfOneItemIsDrift) {
  Recorded later = sample_evaluation();
  double& loss = later.evaluation.stages[1].suites[0].items[3].loss;
  loss = std::nextafter(loss, 100.0);
  const Changes changes = compare(sample_evaluation(), later);
  EXPECT_TRUE(has_drifted(changes));
  const SuiteChange& change = change_of(changes, "q8", "corpus");
  EXPECT_EQ(verdict(changes, change), Verdict::kDrift);
  EXPECT_EQ(change.first->what, "loss");
  EXPECT_EQ(change.first->item, 3U);
  EXPECT_EQ(verdict(changes, change_of(changes, "base", "corpus")), Verdict::kSame);
  EXPECT_THAT(to_text(changes, "v1"), HasSubstr("q8, corpus: the same inputs gave other numbers, "
                                                "first loss of item 3"));
  EXPECT_EQ(to_json(changes)["results"][3]["first_difference"]["item"], 3);
}

TEST(Compare, EveryKindOfResultIsLookedAt) {
  const auto first = [](const auto& spoil) {
    Recorded later = sample_evaluation(1);
    spoil(later.evaluation.stages[1].suites);
    const Changes changes = compare(sample_evaluation(1), later);
    for (const SuiteChange& change : changes.suites) {
      if (change.first) return change.first->what;
    }
    return std::string("nothing");
  };
  EXPECT_EQ(first([](auto& suites) { suites[0].distances[2].kl += 1e-6F; }), "distance");
  EXPECT_EQ(first([](auto& suites) { suites[0].items[2].tokens = 1; }), "tokens");
  EXPECT_EQ(first([](auto& suites) { suites[1].generations[0].output += "!"; }), "answer");
  EXPECT_EQ(first([](auto& suites) { suites[2].choices[4].log_p[1] = -4; }), "log_p");
  EXPECT_EQ(first([](auto& suites) { suites[2].choices[4].log_p_alone[0] = -4; }), "log_p_alone");
  EXPECT_EQ(first([](auto& suites) { suites[2].choices[4].flipped = true; }), "flip");
  EXPECT_EQ(first([](auto&) {}), "nothing");
}

TEST(Compare, OtherCircumstancesMayRoundAndAreNamed) {
  Recorded later = sample_evaluation();
  later.circumstances.threads = 8;
  later.circumstances.kernels = "amx";
  later.circumstances.program = "weft 2";
  for (Item& item : later.evaluation.stages[0].suites[0].items) item.loss *= 1 + 1e-5;
  Changes changes = compare(sample_evaluation(), later);
  EXPECT_THAT(changes.circumstances,
              ElementsAre("weft 2, was weft 1", "8 threads, were 2", "kernels amx, were avx2"));
  EXPECT_EQ(verdict(changes, change_of(changes, "base", "corpus")), Verdict::kRounding);
  EXPECT_FALSE(has_drifted(changes));
  EXPECT_THAT(to_text(changes, "v1"), HasSubstr("8 threads, were 2"));
  for (Item& item : later.evaluation.stages[0].suites[0].items) item.loss *= 1.01;
  changes = compare(sample_evaluation(), later);
  EXPECT_EQ(verdict(changes, change_of(changes, "base", "corpus")), Verdict::kDrift);
}

TEST(Compare, OtherInputsAreNoDriftAndAreNamed) {
  Recorded later = sample_evaluation(1);
  later.evaluation.stages[1].adapter_digests = {"another"};
  later.evaluation.stages[1].suites[0].digest = "other-items";
  later.evaluation.stages[1].suites.pop_back();
  later.evaluation.stages.push_back(later.evaluation.stages[0]);
  later.evaluation.stages.back().name = "new";
  later.evaluation.stages[0].model_digest = "";  // Not known, so not known to be the same.
  const Changes changes = compare(sample_evaluation(), later);
  EXPECT_THAT(change_of(changes, "base", "corpus").inputs, ElementsAre("model", "reference"));
  EXPECT_THAT(change_of(changes, "base", "pairs").inputs, ElementsAre("model"));
  EXPECT_THAT(change_of(changes, "q8", "corpus").inputs,
              ElementsAre("adapter", "items", "reference"));
  EXPECT_FALSE(has_drifted(changes));
  EXPECT_THAT(changes.only_later, ElementsAre("new"));
  EXPECT_THAT(changes.only_earlier, ElementsAre("q8, quiz"));
}

TEST(Compare, GatesCanNameTheEarlierStages) {
  const Evaluation both =
      with_earlier(sample_evaluation(1).evaluation, sample_evaluation().evaluation);
  ASSERT_EQ(both.stages.size(), 4U);
  EXPECT_EQ(both.stages[3].name, "q8@against");
  const Gate gate = parse_gate("loss.pairs.q8 - loss.pairs.q8@against <= 0");
  const GateResult result = check_gates(both, std::span(&gate, 1), std::nullopt).at(0);
  EXPECT_NEAR(result.left,
              mean_loss(both.stages[1].suites[1].items) - mean_loss(both.stages[3].suites[1].items),
              1e-12);
}

TEST(Compare, OtherMaxTokensLeaveTheLossesComparable) {
  Recorded later = sample_evaluation();
  SuiteResult& suite = later.evaluation.stages[1].suites[1];
  for (StageResult& stage : later.evaluation.stages)
    stage.suites[1].asked_digest = "asked with other max_tokens";
  suite.generations[0].output = "a longer answer";
  Changes changes = compare(sample_evaluation(), later);
  const SuiteChange& change = change_of(changes, "q8", "pairs");
  EXPECT_TRUE(change.asked_otherwise);
  EXPECT_EQ(verdict(changes, change), Verdict::kSame);
  EXPECT_THAT(to_text(changes, "v1"), HasSubstr("the answers are not compared"));
  EXPECT_EQ(to_json(changes)["results"][4]["asked_otherwise"], true);
  // Drift of the losses is still found.
  suite.items[0].loss *= 1.5;
  changes = compare(sample_evaluation(), later);
  EXPECT_EQ(verdict(changes, change_of(changes, "q8", "pairs")), Verdict::kDrift);
  // Gates reach the earlier losses, and not the earlier answers.
  const Evaluation both = with_earlier(later.evaluation, sample_evaluation().evaluation);
  const Gate loss = parse_gate("loss.pairs.q8@against <= 99");
  EXPECT_TRUE(check_gates(both, std::span(&loss, 1), std::nullopt).at(0).passed);
  EXPECT_TRUE(both.stages[3].suites[1].generations.empty());
}

/// A recorded update of a training run, as older programs wrote them: an evaluation each.
Recorded update(int number, int seed) {
  Recorded recorded = sample_evaluation(seed);
  recorded.evaluation.stages.resize(1);
  recorded.evaluation.stages[0].name = "update " + std::to_string(number);
  return recorded;
}

TEST(Compare, UpdatesOfOneRunArePairedThoughEachIsAnEvaluation) {
  const Changes changes = compare(update(0, 0), update(30, 1));
  ASSERT_EQ(changes.suites.size(), 3U);
  EXPECT_THAT(changes.only_later, ::testing::IsEmpty());
  EXPECT_EQ(changes.suites[0].stage, "update 30 since update 0");
  EXPECT_TRUE(figure_named(changes.suites[0].later, "loss")->difference->interval);
  Recorded other = update(30, 1);
  other.circumstances.run = "/runs/another";
  EXPECT_THAT(compare(update(0, 0), other).only_later, ElementsAre("update 30"));
}

TEST(Compare, TheEndsOfOneEvaluationAreComparedLikeTwo) {
  Recorded run = update(0, 0);
  run.evaluation.stages.push_back(update(10, 2).evaluation.stages[0]);
  run.evaluation.stages.push_back(update(20, 1).evaluation.stages[0]);
  const Changes changes = compare_ends(run);
  ASSERT_EQ(changes.suites.size(), 3U);
  EXPECT_EQ(changes.suites[0].stage, "update 20 since update 0");
  EXPECT_THAT(to_text(changes, "update 0"), HasSubstr("update 20"));
  EXPECT_FALSE(changes.suites[0].sentence.empty());
}

}  // namespace
}  // namespace weft::eval
