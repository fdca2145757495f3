#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "text/tokenizer.h"

namespace weft::text {

/// How finely a tokenizer cuts a text: the fewer tokens a word takes, the better its language is
/// covered by the vocabulary, and the more of it fits into a row.
struct Fertility {
  std::uint64_t lines = 0;
  std::uint64_t bytes = 0;
  std::uint64_t characters = 0;  ///< Unicode code points.
  std::uint64_t words = 0;       ///< Runs between white space.
  std::uint64_t tokens = 0;
  std::uint64_t byte_tokens = 0;     ///< Tokens that are one byte of a character ("<0xE2>").
  std::uint64_t unknown_tokens = 0;  ///< The tokenizer's unk_token.
  std::uint64_t longest_line = 0;    ///< In tokens.
  std::string longest_token;         ///< The one that spans most bytes, as it reads in the text.

  /// Adds one line of text, tokenized without BOS and EOS.
  void add(const Tokenizer& tokenizer, std::string_view line);
  [[nodiscard]] double tokens_per_word() const;
  [[nodiscard]] double tokens_per_character() const;
  [[nodiscard]] double bytes_per_token() const;
  [[nodiscard]] double byte_share() const;     ///< byte_tokens / tokens.
  [[nodiscard]] double unknown_share() const;  ///< unknown_tokens / tokens.
};

}  // namespace weft::text
