#include "core/utf8.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace weft::core {
namespace {

const std::string kR(kReplacement);

TEST(Utf8, KnowsWhatIsWellFormed) {
  EXPECT_TRUE(is_utf8("a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80"));
  for (const char* bad : {"\xC3", "\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\x80",
                          "\xE2\x82", "\xF5\x80\x80\x80", "\xE0\x80\x80", "\xF0\x80\x80\x80"}) {
    EXPECT_FALSE(is_utf8(bad));
  }
}

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

TEST(Utf8, CodePointsComeBackAsTheSameBytes) {
  for (const char32_t c :
       {0x41U, 0x7FU, 0x80U, 0x7FFU, 0x800U, 0xD7FFU, 0xE000U, 0xFFFFU, 0x10000U, 0x10FFFFU}) {
    std::string bytes;
    append_utf8(bytes, c);
    EXPECT_TRUE(is_utf8(bytes));
    EXPECT_EQ(decode_utf8(bytes), std::u32string(1, c));
  }
  EXPECT_EQ(decode_utf8("a\xE1\x8Bz"), U"a\uFFFDz");
}

TEST(Utf8, CountsCharactersNotBytes) {
  EXPECT_EQ(count_characters(""), 0U);
  EXPECT_EQ(count_characters("n\xCC\x83\xF0\x9F\x8E\x89"), 3U);
}

TEST(Utf8, FindsWhereTheGoodPartEnds) {
  EXPECT_EQ(well_formed_prefix(""), 0U);
  EXPECT_EQ(well_formed_prefix("n\xC3\xA9"), 3U);
  EXPECT_EQ(well_formed_prefix("n\xC3\xA9\xE2\x82z"), 3U);
}

}  // namespace
}  // namespace weft::core
