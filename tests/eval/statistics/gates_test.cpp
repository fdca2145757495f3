#include "eval/statistics/gates.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "eval/statistics/figures.h"
#include "tests/support/throws.h"

namespace weft::eval {
namespace {

using ::testing::HasSubstr;

/// A stage whose item i costs 2 + wobble * ((i % 5) - 2) + shift nats a byte.
StageResult stage(const std::string& name, double shift, double wobble) {
  SuiteResult suite{.name = "nahuatl"};
  for (int i = 0; i < 50; ++i) {
    suite.items.push_back(
        {.tokens = 10, .bytes = 10, .loss = 10 * (2 + shift + wobble * (i % 5 - 2))});
  }
  return {.name = name, .suites = {suite}};
}

Evaluation gated_evaluation() {
  Evaluation result;
  result.stages = {stage("base", 0, 0.2), stage("base+adapter", -0.5, 0.2),
                   stage("merged", -0.5 + 1e-4, 0.2)};
  return result;
}

GateResult check(const std::string& text, std::optional<double> confidence = std::nullopt) {
  const Gate gate = parse_gate(text);
  return check_gates(gated_evaluation(), std::span(&gate, 1), confidence).at(0);
}

TEST(Gates, CompareDifferencesWithNumbers) {
  const GateResult close = check("bits_per_byte.merged - bits_per_byte.adapter <= 0.001");
  EXPECT_TRUE(close.passed);
  EXPECT_NEAR(close.left, 1e-4 / std::log(2), 1e-9);
  EXPECT_EQ(close.limit, 0.001);
  EXPECT_FALSE(check("bits_per_byte.merged - bits_per_byte.adapter <= 0.0001").passed);
  EXPECT_TRUE(check("loss.nahuatl.adapter <= 0.8 * loss.nahuatl.base").passed);
  EXPECT_FALSE(check("loss.nahuatl.adapter <= 0.7 * loss.\"nahuatl\".base").passed);
  EXPECT_TRUE(check("loss.base >= loss.adapter + 0.4").passed);
  EXPECT_FALSE(check("-loss.base + loss.adapter >= 0").passed);
}

TEST(Gates, WithConfidenceTheBoundDecides) {
  // The base's loss is 2 with a standard error of 0.2 sqrt(2) / sqrt(50) = 0.04.
  const std::string text = "loss.base <= 2.05";
  EXPECT_TRUE(check(text).passed);
  const GateResult unsure = check(text, 0.95);
  EXPECT_FALSE(unsure.passed);
  EXPECT_NEAR(*unsure.bound, 2 + 1.645 * 0.04, 0.012);
  EXPECT_TRUE(check("loss.base <= 2.1", 0.95).passed);
  EXPECT_TRUE(check("loss.base >= 1.9", 0.95).passed);
  EXPECT_NEAR(*check("loss.base >= 1.9", 0.95).bound, 2 - 1.645 * 0.04, 0.012);
  // What items have in common cancels between stages.
  EXPECT_TRUE(check("loss.merged - loss.adapter <= 0.00011", 0.95).passed);
}

TEST(Gates, TableTellsByHowMuch) {
  const std::vector<GateResult> results{check("loss.base <= 1.5"), check("loss.base <= 3")};
  const std::string table = gates_table(results);
  EXPECT_THAT(table, HasSubstr("FAILED by 0.5"));
  EXPECT_THAT(table, HasSubstr("passed"));
  EXPECT_EQ(to_json(results)[0]["passed"], false);
  EXPECT_TRUE(to_json(results)[0]["bound"].is_null());
}

TEST(Gates, MistakesAreNamedWithTheirPlace) {
  EXPECT_THROWS_WITH((void)parse_gate("bits.base <= 1"), ConfigError, "'bits' is no figure");
  EXPECT_THROWS_WITH((void)parse_gate("loss.base < 1"), ConfigError, "<= or >=", "character 11");
  EXPECT_THROWS_WITH((void)parse_gate("loss <= 1"), ConfigError, "FIGURE.STAGE");
  EXPECT_THROWS_WITH((void)parse_gate("1 <= 2"), ConfigError, "no figure");
  EXPECT_THROWS_WITH((void)parse_gate("loss.base <= 1 2"), ConfigError, "the end");
  EXPECT_THROWS_WITH((void)parse_gate("loss.\"base <= 1"), ConfigError, "quote");
  EXPECT_THROWS_WITH((void)parse_gate(""), ConfigError, "expected a figure");
  const GateNames names{{"base", "merged"}, {"a", "b"}};
  EXPECT_THROWS_WITH(require_names(parse_gate("loss.a.adapter <= 1"), names), ConfigError,
                     "stage 'adapter'", "base, merged");
  EXPECT_THROWS_WITH(require_names(parse_gate("loss.c.base <= 1"), names), ConfigError,
                     "suite 'c'");
  EXPECT_THROWS_WITH(require_names(parse_gate("loss.base <= 1"), names), ConfigError,
                     "several suites");
  EXPECT_THROWS_WITH((void)check("chrf++.base >= 1"), ConfigError, "was not measured");
}

TEST(Gates, ConfidenceIsRefusedWhereTooFewItemsCouldShowIt) {
  Evaluation few = gated_evaluation();
  for (StageResult& stage : few.stages) stage.suites.front().items.resize(9);
  const Gate gate = parse_gate("loss.base <= 9");
  EXPECT_THROWS_WITH((void)check_gates(few, std::span(&gate, 1), 0.95), ConfigError,
                     "at least 10 units", "'nahuatl' has 9");
  EXPECT_TRUE(check_gates(few, std::span(&gate, 1), std::nullopt).at(0).passed);
}

TEST(Gates, AnInfiniteLimitIsNoLimit) {
  for (const char* text : {"loss.base <= inf", "loss.base >= -inf", "loss.base <= nan",
                           "loss.base <= 1e999", "inf * loss.base <= 1"})
    EXPECT_THROWS_WITH((void)parse_gate(text), ConfigError, "finite number");
}

}  // namespace
}  // namespace weft::eval
