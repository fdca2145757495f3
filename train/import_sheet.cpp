#include "train/import_sheet.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

namespace weft::train {
namespace {

constexpr std::size_t kColumns = 100;

std::string comment_lines(const std::string& text, std::size_t indent) {
  const std::string start = std::string(indent, ' ') + "# ";
  std::string out;
  std::string line = start;
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find(' ', begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    if (line.size() > start.size() && line.size() + 1 + word.size() > kColumns) {
      out += line + "\n";
      line = start;
    }
    if (line.size() > start.size()) line += ' ';
    line += word;
    begin = end + 1;
  }
  return out + line + "\n";
}

/// "key: value  # comment"; the comment goes above where the line would be long or is several.
std::string entry(const std::string& key, const schema::ConfigNode& value,
                  const std::string& comment, std::size_t indent) {
  schema::ConfigNode around = schema::ConfigNode::map();
  around.add(key, value);
  std::string text = schema::emit_yaml(around, static_cast<int>(indent));
  if (comment.empty()) return text;
  const bool one_line = text.find('\n') + 1 == text.size();
  if (one_line && text.size() + 3 + comment.size() <= kColumns) {
    text.pop_back();
    return text + "  # " + comment + "\n";
  }
  return comment_lines(comment, indent) + text;
}

}  // namespace

void ImportSheet::comment(std::string text) {
  items_.push_back({.key = "", .lines = {}, .comments = {std::move(text)}});
}

ImportSheet::Item& ImportSheet::item(std::string_view key) {
  for (Item& one : items_) {
    if (one.key == key) return one;
  }
  return items_.emplace_back(Item{.key = std::string(key), .lines = {}, .comments = {}});
}

void ImportSheet::set(std::string_view path, schema::ConfigNode value, std::string comment) {
  const std::size_t dot = path.find('.');
  Item& top = item(path.substr(0, dot));
  const std::string below = dot == std::string_view::npos ? "" : std::string(path.substr(dot + 1));
  for (Line& line : top.lines) {
    if (line.path != below) continue;
    if (value.kind != schema::ConfigNode::Kind::kNull) line.value = std::move(value);
    if (!comment.empty() && line.comment.find(comment) == std::string::npos) {
      line.comment += (line.comment.empty() ? "" : "; ") + comment;
    }
    return;
  }
  top.lines.push_back({below, std::move(value), std::move(comment)});
}

void ImportSheet::add_item(std::string_view list) { (void)item(list); }

const schema::ConfigNode* ImportSheet::find(std::string_view path) const {
  const std::size_t dot = path.find('.');
  const std::string below = dot == std::string_view::npos ? "" : std::string(path.substr(dot + 1));
  for (const Item& one : items_) {
    if (one.key != path.substr(0, dot)) continue;
    for (const Line& line : one.lines) {
      if (line.path == below) return &line.value;
    }
  }
  return nullptr;
}

std::string ImportSheet::text() const {
  std::string out;
  for (const Item& one : items_) {
    for (const std::string& text : one.comments) out += comment_lines(text, 0);
    if (one.key.empty() || one.lines.empty()) continue;
    if (one.lines.front().path.empty()) {
      out += entry(one.key, one.lines.front().value, one.lines.front().comment, 0);
      continue;
    }
    out += one.key + ":\n";
    std::string number;   // of the list's item that is being written
    std::string section;  // below it, or below the key
    for (const Line& line : one.lines) {
      std::string path = line.path;
      std::size_t indent = 2;
      const std::size_t dot = path.find('.');
      const bool in_list = path.front() >= '0' && path.front() <= '9';
      if (in_list) {
        indent = 4;
        const std::string now = path.substr(0, dot);
        path = path.substr(dot + 1);
        if (now != number) {
          number = now;
          section.clear();
          std::string text = entry(path, line.value, line.comment, indent);
          // Its comment may stand above; the dash belongs to the key.
          const std::size_t key = text.find("    " + path + ":");
          text[key + 2] = '-';
          out += text;
          continue;
        }
      }
      const std::size_t below = path.find('.');
      if (below != std::string::npos) {
        if (path.substr(0, below) != section) {
          section = path.substr(0, below);
          out += std::string(indent, ' ') + section + ":\n";
        }
        out += entry(path.substr(below + 1), line.value, line.comment, indent + 2);
      } else {
        section.clear();
        out += entry(path, line.value, line.comment, indent);
      }
    }
  }
  return out;
}

}  // namespace weft::train
