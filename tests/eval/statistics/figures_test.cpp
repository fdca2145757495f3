#include "eval/statistics/figures.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>

#include "eval/report/progress.h"
#include "eval/report/report.h"

namespace weft::eval {
namespace {

using ::testing::HasSubstr;

SuiteResult suite(double factor, std::size_t items = 20) {
  SuiteResult result{.name = "nahuatl", .kind = SuiteKind::kText, .unit = Unit::kDocument};
  for (std::size_t i = 0; i < items; ++i) {
    const auto n = static_cast<std::int64_t>(i);
    result.items.push_back({.tokens = 10 + n,
                            .bytes = 30 + 2 * n,
                            .loss = factor * (20 + static_cast<double>(i * i % 7))});
  }
  return result;
}

Generation answer(const std::string& output, const std::string& reference) {
  const std::vector<std::string> references{reference};
  return {.prompt = "p",
          .reference = reference,
          .output = output,
          .chrf = chrf_statistics(output, references, kChrf),
          .chrf_plus_plus = chrf_statistics(output, references, kChrfPlusPlus)};
}

const Measured& named(const std::vector<Measured>& all, std::string_view name) {
  for (const Measured& measured : all) {
    if (measured.name == name) return measured;
  }
  throw std::runtime_error("no figure " + std::string(name));
}

TEST(Figures, FollowTheirFormulas) {
  const std::vector<Item> items{{.tokens = 2, .bytes = 5, .loss = 3},
                                {.tokens = 4, .bytes = 7, .loss = 6}};
  EXPECT_DOUBLE_EQ(mean_loss(items), 1.5);
  EXPECT_DOUBLE_EQ(mean_loss(std::vector<Item>{{2, 1, 3}, {4, 1, 1}}), 4.0 / 6);
  EXPECT_DOUBLE_EQ(perplexity(items), std::exp(1.5));
  EXPECT_DOUBLE_EQ(bits_per_byte(items), 9 / (12 * std::numbers::ln2));
}

TEST(Figures, DifferencesArePairedByItem) {
  const SuiteResult base = suite(1), better = suite(0.6);
  const Measured bits = named(measure(better, &base), "bits_per_byte");
  ASSERT_TRUE(bits.relative && bits.relative->interval && bits.figure.interval);
  // Every item falls by 40 %: the ratio is the same in each resample though the level varies.
  EXPECT_NEAR(bits.relative->value, -0.4, 1e-12);
  EXPECT_NEAR(bits.relative->interval->low, -0.4, 1e-12);
  EXPECT_NEAR(bits.relative->interval->high, -0.4, 1e-12);
  EXPECT_GT(bits.figure.interval->high - bits.figure.interval->low, 0.01);
  EXPECT_LT(bits.figure.interval->low, bits.figure.value);
  EXPECT_GT(bits.figure.interval->high, bits.figure.value);
}

TEST(Figures, UnpairedItemsGiveNoIntervalOfTheDifference) {
  const SuiteResult base = suite(1, 20), other = suite(1, 19);
  const Measured loss = named(measure(other, &base), "loss");
  ASSERT_TRUE(loss.difference);
  EXPECT_FALSE(loss.difference->interval);
}

TEST(Figures, OneItemHasNoInterval) {
  const SuiteResult one = suite(1, 1);
  const std::vector<Measured> figures = measure(one, nullptr);
  EXPECT_FALSE(named(figures, "loss").figure.interval);
  EXPECT_FALSE(named(figures, "loss").difference);
}

TEST(Figures, ChrfIsThatOfTheCorpus) {
  SuiteResult base = suite(1), after = suite(0.5);
  base.generations = {answer("tlaxcalli", "tlaxcalli"), answer("agua", "atl"), answer("", "calli")};
  after.generations = {answer("tlaxcalli", "tlaxcalli"), answer("atl", "atl"),
                       answer("cali", "calli")};
  const std::vector<Measured> figures = measure(after, &base);
  const std::vector<std::string> outputs{"tlaxcalli", "atl", "cali"};
  const std::vector<std::vector<std::string>> references{{"tlaxcalli"}, {"atl"}, {"calli"}};
  EXPECT_DOUBLE_EQ(named(figures, "chrf").figure.value, corpus_chrf(outputs, references));
  EXPECT_DOUBLE_EQ(named(figures, "chrf++").figure.value,
                   corpus_chrf(outputs, references, kChrfPlusPlus));
  EXPECT_GT(named(figures, "chrf").difference->value, 0);
}

TEST(Report, JsonHasTheFixedKeysAndConsistentNumbers) {
  const Evaluation evaluation{
      .sequence_len = 512,
      .dtype = "float32",
      .stages = {
          {.name = "base", .model = "m", .adapters = {}, .suites = {suite(1)}},
          {.name = "base+adapter", .model = "m", .adapters = {"a"}, .suites = {suite(0.6)}}}};
  const auto json = to_json(evaluation, analyse(evaluation), Detail::kFigures);
  ASSERT_EQ(json["stages"].size(), 2U);
  const auto& first = json["stages"][0]["suites"][0];
  EXPECT_EQ(first["name"], "nahuatl");
  const double tokens = first["tokens"], bytes = first["bytes"], loss = first["loss"];
  EXPECT_EQ(tokens, 390);
  EXPECT_EQ(bytes, 980);
  EXPECT_NEAR(first["perplexity"].get<double>(), std::exp(loss), 1e-9);
  EXPECT_NEAR(first["bits_per_byte"].get<double>(), loss * tokens / bytes / std::numbers::ln2,
              1e-12);
  EXPECT_FALSE(first.contains("differences"));
  EXPECT_FALSE(first.contains("items"));
  const auto& second = json["stages"][1]["suites"][0];
  EXPECT_NEAR(second["differences"]["bits_per_byte"]["relative"].get<double>(), -0.4, 1e-12);
  EXPECT_EQ(to_json(evaluation, analyse(evaluation),
                    Detail::kItems)["stages"][0]["suites"][0]["items"]["loss"]
                .size(),
            20U);
}

TEST(Report, JsonHasNullWhereThereIsNoNumber) {
  SuiteResult empty{.name = "e", .items = {{.tokens = 3, .bytes = 0, .loss = 2000}}};
  const Evaluation evaluation{.dtype = "float32", .stages = {{.name = "base", .suites = {empty}}}};
  const auto json = to_json(evaluation, analyse(evaluation), Detail::kFigures);
  EXPECT_TRUE(json["stages"][0]["suites"][0]["bits_per_byte"].is_null());
  EXPECT_TRUE(nlohmann::json::accept(json.dump()));
}

TEST(Report, TableNamesStagesAndChange) {
  const Evaluation evaluation{.sequence_len = 512,
                              .dtype = "float32",
                              .stages = {{.name = "base", .suites = {suite(1)}},
                                         {.name = "merged", .suites = {suite(0.6)}}}};
  const std::string table = to_table(evaluation, analyse(evaluation));
  EXPECT_THAT(table, HasSubstr("nahuatl: 20 documents, 390 tokens, 980 bytes"));
  EXPECT_THAT(table, HasSubstr("merged"));
  EXPECT_THAT(table, HasSubstr("-40.0 % (-40.0 % .. -40.0 %)"));
}

TEST(Progress, HasARateAndTheTimeLeftAndFitsTheTerminal) {
  const Progress progress{"merged", "nahuatl", "scored", 120, 500};
  EXPECT_EQ(progress_text(progress, 60, 200),
            "merged: nahuatl scored 120/500, 2.0/s, 3 min 10 s left");
  EXPECT_EQ(progress_text(progress, 60, 20), "merged: nahuatl scor");
  EXPECT_EQ(progress_text({"merged", "nahuatl", "scored", 500, 500}, 10, 200),
            "merged: nahuatl scored 500/500, 50/s");
  EXPECT_EQ(progress_text({"a\x1b[2J", "\u6f22\u5b57", "scored", 0, 5}, 0, 12),
            "a [2J: \u6f22\u5b57 ");
}

}  // namespace
}  // namespace weft::eval
