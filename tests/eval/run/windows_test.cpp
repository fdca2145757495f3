#include "eval/run/windows.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "tests/support/source_dir.h"
#include "tests/support/throws.h"

namespace weft::eval {

void PrintTo(const Window& window, std::ostream* out) {
  *out << "[" << window.begin << ", " << window.end << ") after " << window.context;
}

namespace {

TEST(RollingWindows, EqualThoseOfLmEval) {
  std::ifstream file(tests::source_dir() / "tests/eval/data/windows.json");
  ASSERT_TRUE(file);
  const nlohmann::json reference = nlohmann::json::parse(file);
  ASSERT_GE(reference["cases"].size(), 50U);
  for (const nlohmann::json& item : reference["cases"]) {
    std::vector<Window> expected;
    for (const auto& window : item["windows"]) {
      expected.push_back({window[0], window[1], window[2]});
    }
    EXPECT_EQ(rolling_windows(item["tokens"], item["max_tokens"], item["stride"]), expected)
        << item["tokens"] << " tokens, at most " << item["max_tokens"] << ", stride "
        << item["stride"];
    if (item["stride"] == item["max_tokens"]) {
      EXPECT_EQ(rolling_windows(item["tokens"], item["max_tokens"]), expected);
    }
  }
}

TEST(RollingWindows, PredictEachTokenOnceAndNeverReadTooMuch) {
  for (std::int64_t max_tokens = 1; max_tokens <= 12; ++max_tokens) {
    for (std::int64_t tokens = 0; tokens <= 50; ++tokens) {
      std::int64_t next = 0;
      for (const Window& window : rolling_windows(tokens, max_tokens)) {
        EXPECT_EQ(window.begin, next);
        EXPECT_GE(window.context, 1);
        EXPECT_GE(window.begin - window.context, -1);
        EXPECT_LE(window.context + window.end - window.begin - 1, max_tokens);
        next = window.end;
      }
      EXPECT_EQ(next, tokens);
    }
  }
}

TEST(RollingWindows, RefuseAnEmptyWindow) {
  EXPECT_THROWS_WITH((void)rolling_windows(5, 0), ConfigError, "sequence_len 0");
  EXPECT_THROWS_WITH((void)rolling_windows(5, 3, 4), ConfigError, "stride is 4");
}

}  // namespace
}  // namespace weft::eval
