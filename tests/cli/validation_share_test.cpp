// A share of the training data that is held out, and validation data that is not.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "tests/cli/train_command.h"

namespace weft {
namespace {
using ::testing::HasSubstr;
using ::testing::Not;
using tests::Finished;

class ValidationShare : public tests::TrainCommand {
 protected:
  [[nodiscard]] nlohmann::json held_out() const {
    return nlohmann::json::parse(tests::slurp(job_ / "run/preflight.json")).at("held_out");
  }
};

TEST_F(ValidationShare, IsHeldOutOfTrainingAndMeasured) {
  write_config("validation_share: 30%\nlog_every: 1\nthreads: 2\neval: {every: 4u}\n");
  const Finished run = train();
  ASSERT_EQ(run.status, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("the lowest"));
  const auto held = held_out();
  const auto examples = held.at("examples").get<int>();
  EXPECT_GT(examples, 0);
  EXPECT_LT(examples, 40);
  EXPECT_THAT(run.err,
              HasSubstr("held out    " + std::to_string(examples) + " of these examples (" +
                        held.at("tokens").dump() + " tokens) by validation_share 30%; " +
                        std::to_string(40 - examples) + " are learned"));
  const auto metrics = job_.metrics();
  EXPECT_TRUE(std::ranges::any_of(
      metrics, [](const auto& line) { return line.contains("validation_loss"); }));

  // The tokens are kept apart from what is done with them.
  const std::vector<std::string> cached{"--force", "--set",
                                        "token_cache=" + (job_ / "tokens").string()};
  for (int time = 0; time < 2; ++time) {
    ASSERT_EQ(train(cached).status, 0);
    EXPECT_EQ(job_.metrics(), metrics);
  }
  const Finished other = train({"--resume", "--set", "validation_share=20%"});
  EXPECT_EQ(other.status, 2);
  EXPECT_THAT(other.err, HasSubstr("validation_share"));
}

TEST_F(ValidationShare, ThatLeavesNoExampleOnASideIsRefused) {
  write_config("validation_share: 0.0001%\n");
  const Finished none = train({"--check"});
  EXPECT_EQ(none.status, 2);
  EXPECT_THAT(none.err, HasSubstr("of 40 examples leaves none to measure"));
}

TEST_F(ValidationShare, RowsThatAreLearnedAreCountedInAWarning) {
  const std::string tested = tests::tiny_pairs(4) + tests::tiny_pairs(6, 100);
  job_.folder().write("valid.jsonl", tested);
  const auto lines = [](const std::string& text) {
    std::istringstream stream(text);
    std::vector<std::string> all;
    for (std::string line; std::getline(stream, line);) all.push_back(line);
    return all;
  };
  const auto learned = lines(tests::tiny_pairs(40));
  const std::set<std::string> known(learned.begin(), learned.end());
  const auto rows = lines(tested);
  const auto count =
      std::ranges::count_if(rows, [&](const std::string& row) { return known.contains(row); });
  ASSERT_GE(count, 4);
  write_config("validation: {path: valid.jsonl}\n");
  const Finished run = train({"--check"});
  EXPECT_EQ(run.status, 0) << run.err;
  EXPECT_THAT(run.err, HasSubstr("warning: validation: " + std::to_string(count) +
                                 " of 10 examples are training examples as well"));
  job_.folder().write("valid.jsonl", "{\"prompt\":\"new\",\"completion\":\"row\"}\n");
  EXPECT_THAT(train({"--check"}).err, Not(HasSubstr("training examples as well")));
}

TEST_F(ValidationShare, ExamplesPerUpdateAreToldInThePlan) {
  write_config("packing: false\nexamples_per_update: 8\n");
  const std::string text = tests::slurp(job_ / "tiny.yaml");
  std::string without = text;
  without.erase(without.find("tokens_per_update: 128\n"), 23);
  job_.folder().write("tiny.yaml", without);
  const Finished run = train({"--check"});
  EXPECT_EQ(run.status, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("updates     15, of 8 examples each"));  // 40 rows, 3 epochs
}

}  // namespace
}  // namespace weft
