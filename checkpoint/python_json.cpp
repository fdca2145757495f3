#include "checkpoint/python_json.h"

#include <fmt/format.h>

#include <array>

namespace weft::checkpoint {
namespace {

/// Longer words first, so that the sign belongs to its word.
constexpr std::array<std::string_view, 3> kWords{"-Infinity", "Infinity", "NaN"};
constexpr std::string_view kMark = "weft:not-finite:";

}  // namespace

std::string quote_constants(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  bool in_string = false;
  for (std::size_t at = 0; at < text.size();) {
    const char c = text[at];
    if (in_string && c == '\\' && at + 1 < text.size()) {
      result += text.substr(at, 2);
      at += 2;
      continue;
    }
    if (c == '"') in_string = !in_string;
    std::size_t length = 0;
    for (const std::string_view word : kWords) {
      if (!in_string && length == 0 && text.substr(at).starts_with(word)) length = word.size();
    }
    if (length > 0) {
      result += '"';
      result += kMark;
      result += text.substr(at, length);
      result += '"';
      at += length;
    } else {
      result += c;
      at += 1;
    }
  }
  return result;
}

std::string unquote_constants(std::string text) {
  for (const std::string_view word : kWords) {
    const std::string quoted = fmt::format("\"{}{}\"", kMark, word);
    for (std::size_t at = text.find(quoted); at != std::string::npos; at = text.find(quoted, at)) {
      text.replace(at, quoted.size(), word);
    }
  }
  return text;
}

}  // namespace weft::checkpoint
