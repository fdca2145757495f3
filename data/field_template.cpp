#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "data/dataset.h"

namespace weft::data {
namespace {

std::string shortened(std::string_view text) {
  constexpr std::size_t kShown = 40;
  return text.size() <= kShown ? std::string(text) : std::string(text.substr(0, kShown)) + "...";
}

}  // namespace

FieldTemplate::FieldTemplate(std::string_view text, std::string_view key) {
  std::string literal;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const bool doubled = i + 1 < text.size() && text[i + 1] == c;
    if ((c == '{' || c == '}') && doubled) {
      literal += c;
      ++i;
    } else if (c == '{') {
      const std::size_t end = text.find_first_of("{}", i + 1);
      if (end == std::string_view::npos || text[end] == '{') {
        throw ConfigError("{}: '{{' without '}}' in '{}'; write '{{{{' for the brace itself", key,
                          shortened(text));
      }
      std::string name(text.substr(i + 1, end - i - 1));
      if (name.empty()) {
        throw ConfigError("{}: '{{}}' without a column name in '{}'", key, shortened(text));
      }
      if (!literal.empty()) pieces_.push_back({std::exchange(literal, {}), false});
      if (std::find(names_.begin(), names_.end(), name) == names_.end()) names_.push_back(name);
      pieces_.push_back({std::move(name), true});
      i = end;
    } else if (c == '}') {
      throw ConfigError("{}: '}}' without '{{' in '{}'; write '}}}}' for the brace itself", key,
                        shortened(text));
    } else {
      literal += c;
    }
  }
  if (!literal.empty()) pieces_.push_back({std::move(literal), false});
}

std::optional<std::string> FieldTemplate::single_column() const {
  if (pieces_.size() != 1 || !pieces_[0].is_name) return std::nullopt;
  return pieces_[0].text;
}

std::string FieldTemplate::fill(const nlohmann::ordered_json& row, Empty empty) const {
  std::string out;
  for (const Piece& piece : pieces_) {
    if (!piece.is_name) {
      out += piece.text;
      continue;
    }
    const auto found = row.find(piece.text);
    if (found == row.end()) throw InputError("there is no column '{}'", piece.text);
    if (found->is_structured() || found->is_null()) {
      throw InputError("column '{}' holds {}, expected text", piece.text,
                       found->is_null()    ? "nothing"
                       : found->is_array() ? "a list"
                                           : "an object");
    }
    const std::string value = found->is_string() ? found->get<std::string>() : found->dump();
    if (empty == Empty::kRefuse && value.find_first_not_of(" \t\r\n\f\v") == std::string::npos) {
      throw InputError("column '{}' is empty", piece.text);
    }
    out += value;
  }
  return out;
}

}  // namespace weft::data
