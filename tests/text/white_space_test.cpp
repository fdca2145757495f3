#include "text/white_space.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>

namespace weft::text {
namespace {

TEST(WhiteSpace, FindsUnicodeWhiteSpaceAtTheEnds) {
  const std::string text = " \t\xC2\xA0\xE2\x80\xA8x y\xE3\x80\x80\n";
  EXPECT_EQ(leading_white_space(text), 7U);
  EXPECT_EQ(trailing_white_space(text), 4U);
  EXPECT_EQ(leading_white_space("\xE2\x80\x8B"), 0U);  // a zero-width space is none
  EXPECT_EQ(leading_white_space("  "), 2U);
  EXPECT_EQ(trailing_white_space(""), 0U);
}

TEST(WhiteSpace, OfPythonHasTheSeparatorsOfAsciiToo) {
  EXPECT_TRUE(is_python_space(0x1C));
  EXPECT_FALSE(is_white_space(0x1C));
  EXPECT_TRUE(is_white_space(0x3000));
  EXPECT_TRUE(is_blank("\t\xC2\xA0\n"));
  EXPECT_FALSE(is_blank("\xC2"));  // no character
}

TEST(ByteToken, IsKnown) {
  EXPECT_EQ(byte_token("<0x0A>"), 0x0A);
  EXPECT_EQ(byte_token("<0xff>"), 0xFF);
  EXPECT_EQ(byte_token("<0xFG>"), std::nullopt);
  EXPECT_EQ(byte_token("<0x0A"), std::nullopt);
  EXPECT_EQ(byte_token("<0x0A> "), std::nullopt);
}

}  // namespace
}  // namespace weft::text
