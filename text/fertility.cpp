#include "text/fertility.h"

#include <algorithm>

#include "core/utf8.h"
#include "text/white_space.h"

namespace weft::text {
namespace {

double ratio(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

std::uint64_t count_words(std::string_view text) {
  std::uint64_t words = 0;
  for (text.remove_prefix(leading_white_space(text)); !text.empty(); ++words) {
    while (!text.empty() && leading_white_space(text) == 0) text.remove_prefix(1);
    text.remove_prefix(leading_white_space(text));
  }
  return words;
}

/// Whether the token is less than a character: a byte token, or a piece of a character's bytes.
bool is_part_of_character(const Tokenizer& tokenizer, std::int32_t id) {
  const auto token = tokenizer.id_to_token(id);
  if (!token) return false;
  if (byte_token(*token)) return true;
  const std::string text = tokenizer.decode(std::span(&id, 1));
  return text.find(core::kReplacement) != std::string::npos && text != *token;
}

}  // namespace

void Fertility::add(const Tokenizer& tokenizer, std::string_view line) {
  const std::string text = core::replace_invalid_utf8(line);
  const Tokenizer::Encoding encoding = tokenizer.encode_with_offsets(text);
  ++lines;
  bytes += text.size();
  characters += core::count_characters(text);
  words += count_words(text);
  tokens += encoding.ids.size();
  longest_line = std::max<std::uint64_t>(longest_line, encoding.ids.size());
  const auto unknown = tokenizer.special_tokens().find("unk_token");
  const auto unknown_id = unknown == tokenizer.special_tokens().end()
                              ? std::nullopt
                              : tokenizer.token_to_id(unknown->get<std::string>());
  for (std::size_t i = 0; i < encoding.ids.size(); ++i) {
    if (encoding.ids[i] == unknown_id) {
      ++unknown_tokens;
    } else if (is_part_of_character(tokenizer, encoding.ids[i])) {
      ++byte_tokens;
    }
    const auto [begin, end] = encoding.offsets[i];
    if (end - begin > longest_token.size()) longest_token = text.substr(begin, end - begin);
  }
}

double Fertility::tokens_per_word() const { return ratio(tokens, words); }
double Fertility::tokens_per_character() const { return ratio(tokens, characters); }
double Fertility::bytes_per_token() const { return ratio(bytes, tokens); }
double Fertility::byte_share() const { return ratio(byte_tokens, tokens); }
double Fertility::unknown_share() const { return ratio(unknown_tokens, tokens); }

}  // namespace weft::text
