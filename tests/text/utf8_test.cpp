#include "text/utf8.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace weft::text {
namespace {

const std::string kR(kReplacement);

// Each pair was printed by Python: bytes.decode("utf-8", errors="replace").
TEST(Utf8, ReplacesEachMaximalSubpartAsPythonDoes) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"", ""},
      {"caf\xC3\xA9 \xE1\x8B\x9C \xF0\x9F\x8E\x89", "caf\xC3\xA9 \xE1\x8B\x9C \xF0\x9F\x8E\x89"},
      {"\xFF", kR},
      {"a\x80z", "a" + kR + "z"},
      {"\xC0\xAF", kR + kR},                    // overlong
      {"\xE0\x80\xAF", kR + kR + kR},           // overlong
      {"\xED\xA0\x80", kR + kR + kR},           // a surrogate
      {"\xF4\x90\x80\x80", kR + kR + kR + kR},  // beyond U+10FFFF
      {"\xF0\x9F\x8E", kR},                     // cut off: one subpart
      {"\xF0\x9F\x8Ez", kR + "z"},
      {"\xE1\x8B", kR},
      {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF"
       "A",
       kR + kR + kR + kR + "A"},  // Unicode, table 3-11
      {std::string("a\0b", 3), std::string("a\0b", 3)},
  };
  for (const auto& [bytes, text] : cases) EXPECT_EQ(replace_invalid_utf8(bytes), text);
}

TEST(Utf8, CountsCharactersNotBytes) {
  EXPECT_EQ(count_characters(""), 0U);
  EXPECT_EQ(count_characters("n\xCC\x83\xF0\x9F\x8E\x89"), 3U);
}

TEST(Utf8, FindsUnicodeWhiteSpaceAtTheEnds) {
  const std::string text = " \t\xC2\xA0\xE2\x80\xA8x y\xE3\x80\x80\n";
  EXPECT_EQ(leading_white_space(text), 7U);
  EXPECT_EQ(trailing_white_space(text), 4U);
  EXPECT_EQ(leading_white_space("\xE2\x80\x8B"), 0U);  // a zero-width space is none
  EXPECT_EQ(leading_white_space("  "), 2U);
  EXPECT_EQ(trailing_white_space(""), 0U);
}

TEST(Utf8, KnowsByteTokens) {
  EXPECT_EQ(byte_token("<0x0A>"), 0x0A);
  EXPECT_EQ(byte_token("<0xff>"), 0xFF);
  EXPECT_EQ(byte_token("<0xFG>"), std::nullopt);
  EXPECT_EQ(byte_token("<0x0A"), std::nullopt);
  EXPECT_EQ(byte_token("<0x0A> "), std::nullopt);
}

}  // namespace
}  // namespace weft::text
