#include "eval/metrics/answer_tokens.h"

#include <algorithm>
#include <span>
#include <utility>

#include "core/utf8.h"
#include "text/piece_model.h"
#include "text/unicode.h"
#include "text/white_space.h"

namespace weft::eval {
namespace {

using Text = std::u32string;
using Range = std::pair<char32_t, char32_t>;

bool in(char32_t c, std::span<const Range> ranges) {
  return std::ranges::any_of(
      ranges, [c](const Range& range) { return c >= range.first && c <= range.second; });
}

bool is_digit(char32_t c) { return c >= U'0' && c <= U'9'; }
bool is_stop(char32_t c) { return c == U'.' || c == U','; }

/// What mteval-v13a splits off wherever it stands: ASCII punctuation but ' , - . (a space, too).
bool is_western_sign(char32_t c) {
  constexpr Range kSigns[] = {{U'{', U'~'}, {U'[', U'`'}, {U' ', U'&'},
                              {U'(', U'+'}, {U':', U'@'}, {U'/', U'/'}};
  return in(c, kSigns);
}

Words split(const Text& text) {
  Words words;
  for (std::size_t begin = 0; begin < text.size();) {
    std::size_t end = begin;
    while (end < text.size() && !text::is_python_space(text[end])) ++end;
    if (end > begin) words.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return words;
}

/// Python's str.rstrip, and str.strip.
void strip_end(Text& text) {
  while (!text.empty() && text::is_python_space(text.back())) text.pop_back();
}
void strip(Text& text) {
  strip_end(text);
  text.erase(0, static_cast<std::size_t>(std::ranges::find_if_not(text, text::is_python_space) -
                                         text.begin()));
}

void replace(Text& text, std::u32string_view from, std::u32string_view to) {
  Text result;
  std::size_t at = 0;
  for (std::size_t found; (found = text.find(from, at)) != Text::npos; at = found + from.size()) {
    result.append(text, at, found - at);
    result.append(to);
  }
  result.append(text, at);
  text = std::move(result);
}

void put_spaces_around(Text& text) {
  text.insert(text.begin(), U' ');
  text.push_back(U' ');
}

/// re.sub of one character: spaces around it.
template <typename Is>
void set_apart(Text& text, Is is) {
  Text result;
  for (const char32_t c : text) {
    if (is(c)) {
      result += {U' ', c, U' '};
    } else {
      result += c;
    }
  }
  text = std::move(result);
}

/// re.sub of two characters from left to right, never one character twice: spaces around the one
/// of the two that is named.
enum class Apart : std::uint8_t { kFirst, kSecond };
template <typename First, typename Second>
void set_apart(Text& text, First first, Second second, Apart which) {
  Text result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (i + 1 == text.size() || !first(text[i]) || !second(text[i + 1])) {
      result += text[i];
      continue;
    }
    if (which == Apart::kFirst) {
      result += {U' ', text[i], U' ', text[i + 1]};
    } else {
      result += {text[i], U' ', text[i + 1], U' '};
    }
    ++i;
  }
  text = std::move(result);
}

void resolve_escapes(Text& text) {
  replace(text, U"&quot;", U"\"");
  replace(text, U"&amp;", U"&");
  replace(text, U"&lt;", U"<");
  replace(text, U"&gt;", U">");
}

/// Full stops and commas but inside numbers, and the dash after a digit.
void split_stops(Text& text) {
  const auto other = [](char32_t c) { return !is_digit(c); };
  set_apart(text, other, is_stop, Apart::kSecond);
  set_apart(text, is_stop, other, Apart::kFirst);
  set_apart(
      text, is_digit, [](char32_t c) { return c == U'-'; }, Apart::kSecond);
}

void split_western(Text& text) {
  set_apart(text, is_western_sign);
  split_stops(text);
}

/// sacrebleu's table, with what it says: its ranges of extension B, written "\u20000" .. "\u2a6d6",
/// are strings of two characters in Python and take U+2001 .. U+2A6D and U+2F81 .. U+2FA1.
bool is_chinese(char32_t c) {
  constexpr Range kRanges[] = {
      {0x3400, 0x4DB5}, {0x4E00, 0x9FA5}, {0x9FA6, 0x9FBB}, {0xF900, 0xFA2D}, {0xFA30, 0xFA6A},
      {0xFA70, 0xFAD9}, {0x2001, 0x2A6D}, {0x2F81, 0x2FA1}, {0xFF00, 0xFFEF}, {0x2E80, 0x2EFF},
      {0x3000, 0x303F}, {0x31C0, 0x31EF}, {0x2F00, 0x2FDF}, {0x2FF0, 0x2FFF}, {0x3100, 0x312F},
      {0x31A0, 0x31BF}, {0xFE10, 0xFE1F}, {0xFE30, 0xFE4F}, {0x2600, 0x26FF}, {0x2700, 0x27BF},
      {0x3200, 0x32FF}, {0x3300, 0x33FF}};
  return in(c, kRanges);
}

bool is_asian_punctuation(char32_t c) {
  constexpr Range kRanges[] = {{0x3001, 0x3002}, {0x3008, 0x3011}, {0x3014, 0x301F},
                               {0xFF61, 0xFF65}, {0x30FB, 0x30FB}, {0xFF0E, 0xFF0E},
                               {0xFF0C, 0xFF0C}, {0xFF1F, 0xFF1F}, {0xFF1A, 0xFF1B},
                               {0xFF01, 0xFF02}, {0xFF08, 0xFF09}};
  return in(c, kRanges);
}

/// In the order of TER's rules, in which a character may be set apart more than once. U+3F22 is
/// sacrebleu's, where 32FF was meant. Its rules for kana need a text that begins with them, which
/// none does after the spaces put around it.
void split_asian(Text& text) {
  constexpr Range kHan[] = {{0x4E00, 0x9FFF}, {0x3400, 0x4DBF}, {0x31C0, 0x31EF}, {0x2E80, 0x2EFF},
                            {0x3300, 0x33FF}, {0xF900, 0xFAFF}, {0xFE30, 0xFE4F}, {0x3200, 0x3F22}};
  set_apart(text, [&](char32_t c) { return in(c, kHan) || is_asian_punctuation(c); });
}

void normalise_for_ter(Text& text) {
  replace(text, U"\n-", U"");
  replace(text, U"\n", U" ");
  resolve_escapes(text);
  put_spaces_around(text);
  set_apart(text, is_western_sign);
  replace(text, U"'s ", U" 's ");
  // A possessive at the very end would have to be set apart here, too; the space put there before
  // has served it already.
  split_stops(text);
}

/// Python's \w without the underscore, which is removed before: a combining mark is none, so that
/// an article may stand in front of it.
bool is_word_sign(char32_t c) { return text::letters().has(c) || text::numbers().has(c); }

void remove_articles(Text& text) {
  Text result;
  for (std::size_t begin = 0; begin < text.size();) {
    std::size_t end = begin;
    while (end < text.size() && is_word_sign(text[end])) ++end;
    const Text word = text.substr(begin, end - begin);
    if (word == U"a" || word == U"an" || word == U"the") {
      result += U' ';
    } else {
      result += word;
    }
    if (end < text.size()) result += text[end++];
    begin = end;
  }
  text = std::move(result);
}

}  // namespace

Words piece_words(std::string_view utf8, const text::PieceModel& model, bool lowercase) {
  Text text = core::decode_utf8(lowercase ? text::lower(utf8) : std::string(utf8));
  strip_end(text);
  std::string stripped;
  for (const char32_t c : text) core::append_utf8(stripped, c);
  Words words;
  for (const std::string& piece : model.pieces(stripped)) {
    // sacrebleu joins the pieces by spaces and splits again.
    for (std::u32string& word : split(core::decode_utf8(piece))) words.push_back(std::move(word));
  }
  return words;
}

Words bleu_words(std::string_view utf8, BleuTokens tokens, bool lowercase) {
  Text text = core::decode_utf8(lowercase ? text::lower(utf8) : std::string(utf8));
  strip_end(text);
  const auto is_punctuation = [](char32_t c) { return text::punctuation().has(c); };
  const auto no_number = [](char32_t c) { return !text::numbers().has(c); };
  switch (tokens) {
    case BleuTokens::kNone: break;
    case BleuTokens::kChar: set_apart(text, [](char32_t) { return true; }); break;
    case BleuTokens::k13a:
      replace(text, U"<skipped>", U"");
      replace(text, U"-\n", U"");
      replace(text, U"\n", U" ");
      resolve_escapes(text);
      put_spaces_around(text);
      split_western(text);
      break;
    case BleuTokens::kIntl:
      set_apart(text, no_number, is_punctuation, Apart::kSecond);
      set_apart(text, is_punctuation, no_number, Apart::kFirst);
      set_apart(text, [](char32_t c) { return text::symbols().has(c); });
      break;
    case BleuTokens::kZh:
      strip(text);
      set_apart(text, is_chinese);
      split_western(text);
      break;
  }
  return split(text);
}

Words ter_words(std::string_view utf8, const TerOptions& options) {
  Text text = core::decode_utf8(options.case_sensitive ? std::string(utf8) : text::lower(utf8));
  strip_end(text);
  if (text.empty()) return {};
  if (options.normalized) {
    normalise_for_ter(text);
    if (options.asian) split_asian(text);
  }
  if (options.no_punct) {
    constexpr std::u32string_view kSigns = U".,?:;!\"()";
    std::erase_if(text, [&](char32_t c) { return kSigns.find(c) != kSigns.npos; });
    if (options.asian) std::erase_if(text, is_asian_punctuation);
  }
  return split(text);
}

Words squad_words(std::string_view utf8) {
  Text text = core::decode_utf8(text::lower(utf8));
  std::erase_if(text, text::is_ascii_punctuation);
  remove_articles(text);
  return split(text);
}

}  // namespace weft::eval
