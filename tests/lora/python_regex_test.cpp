#include "lora/python_regex.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/throws.h"

namespace weft::lora {
namespace {

TEST(PythonRegex, FullMatchNeedsTheWholeTextAndBacktracksToGetIt) {
  EXPECT_TRUE(PythonRegex("a|ab").full_match("ab"));
  EXPECT_FALSE(PythonRegex("q_proj").full_match("self_attn.q_proj"));
  EXPECT_FALSE(PythonRegex("self_attn").full_match("self_attn.q_proj"));
  EXPECT_TRUE(PythonRegex(R"(.*\.(q|v)_proj)").full_match("model.layers.0.self_attn.v_proj"));
}

TEST(PythonRegex, MatchIsAnchoredAtTheStartOnly) {
  EXPECT_TRUE(PythonRegex("mod").match("model"));
  EXPECT_FALSE(PythonRegex("odel").match("model"));
}

TEST(PythonRegex, ReadsNamedGroupsAsPythonWritesThem) {
  EXPECT_EQ(PythonRegex(R"(.*?\.[^.]*\.(?P<idx>\d+)\.)").match_group("a.layers.7.x.9.y", "idx"),
            "7");
  EXPECT_EQ(PythonRegex(R"((?P<idx>\d+))").match_group("none", "idx"), "");
}

TEST(PythonRegex, CapitalZIsTheEndOfTextAsInPython) {
  EXPECT_TRUE(PythonRegex(R"(a\Z)").match("a"));
  EXPECT_FALSE(PythonRegex(R"(a\Z)").match("a\n"));
}

TEST(PythonRegex, DotIsACharacterNotAByte) { EXPECT_TRUE(PythonRegex("a.b").full_match("aéb")); }

TEST(PythonRegex, RefusesWhatPythonReadsDifferently) {
  for (const char* pattern :
       {R"(a\Kb)", R"(\h)", R"(\v)", R"(\Qa.b\E)", "[[:alpha:]]", "a{,3}", "(?R)", "(*ACCEPT)",
        "(?|a|b)", R"(\R)", "a(?i)b", R"(\pL)", "(?a)x"}) {
    EXPECT_THROWS_WITH(PythonRegex{pattern}, ConfigError, pattern, "Python");
  }
}

TEST(PythonRegex, AcceptsTheSharedConstructs) {
  for (const char* pattern :
       {"(?i)Q_PROJ", "(?i:Q)_proj", "(?:q)_proj", "(?=q)q_proj", "(?!k)q_proj", "[^k-z]?q_proj",
        "q_pro[]j]", "(?P<n>q)_proj", "q{1,2}_proj", "(?s-i:q)_proj"}) {
    EXPECT_TRUE(PythonRegex(pattern).full_match("q_proj")) << pattern;
  }
}

TEST(PythonRegex, NamesTheFaultOfAMalformedPattern) {
  EXPECT_THROWS_WITH(PythonRegex{"(q_proj"}, ConfigError, "(q_proj", "malformed");
  EXPECT_THROWS_WITH(PythonRegex{"a\\"}, ConfigError, "backslash");
  EXPECT_THROWS_WITH(PythonRegex{"\xff"}, ConfigError, "malformed");
}

TEST(PythonRegex, StopsAPatternThatBacktracksWithoutEnd) {
  const PythonRegex pattern("(a|aa)+[0-9]");
  EXPECT_THROWS_WITH((void)pattern.full_match(std::string(60, 'a') + "c"), ConfigError, "simpler");
}

}  // namespace
}  // namespace weft::lora
