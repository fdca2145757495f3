#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "core/utf8.h"
#include "data/record_readers.h"

namespace weft::data {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMaxDepth = 64;

/// Why a text is no usable row; empty when it is one and `row` holds it.
std::string parse_row(const std::string& text, Json& row) {
  std::string problem;
  // nlohmann keeps the last of two equal keys without a word; a row that says two things is broken.
  std::vector<std::set<std::string>> keys;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& value) {
    using Event = Json::parse_event_t;
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end && !keys.empty()) keys.pop_back();
    if (event == Event::key && !keys.empty() &&
        !keys.back().insert(value.get<std::string>()).second && problem.empty()) {
      problem = fmt::format("the key '{}' stands twice", value.get<std::string>());
    }
    if (depth > kMaxDepth) throw InputError("nested more than {} levels deep", kMaxDepth);
    return true;
  };
  try {
    row = Json::parse(text, watch);
  } catch (const InputError& error) {
    return error.what();
  } catch (const Json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 5: ..." -> the useful part.
    std::string what = error.what();
    if (const std::size_t end = what.find("] "); end != std::string::npos) what.erase(0, end + 2);
    for (char& c : what) c = static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    return "not valid JSON: " + (core::is_utf8(what) ? what : "bytes that are not UTF-8");
  }
  if (problem.empty() && !row.is_object()) {
    problem = fmt::format("expected an object ({{...}}), found a JSON {}", row.type_name());
  }
  return problem;
}

class JsonReader : public RecordReader {
 public:
  explicit JsonReader(ReaderInput input) : input_(std::move(input)) {}
  [[nodiscard]] const std::vector<std::string>& columns() const override { return columns_; }

 protected:
  /// Parses one row, or reports the fault.
  std::optional<Record> finish(const std::string& text, std::int64_t line) {
    Json row;
    std::string problem = text.size() > kMaxRowBytes
                              ? fmt::format("longer than {} MiB", kMaxRowBytes >> 20)
                              : parse_row(text, row);
    if (problem.empty()) return Record{std::move(row), {input_.name, line}};
    input_.fault(line, std::move(problem));
    return std::nullopt;
  }

  ReaderInput input_;
  std::vector<std::string> columns_;
};

class JsonlReader : public JsonReader {
 public:
  using JsonReader::JsonReader;

  std::optional<Record> next() override {
    std::string text;
    while (true) {
      const std::int64_t line = input_.cursor.line_number();
      if (!input_.cursor.line(text, kMaxRowBytes)) return std::nullopt;
      if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
      if (std::exchange(first_, false)) require_lines(text, line);
      if (auto record = finish(text, line)) return record;
    }
  }

 private:
  /// A file of another shape fails here with a word on what it is, and not row by row.
  void require_lines(const std::string& first, std::int64_t line) const {
    const std::size_t begin = first.find_first_not_of(" \t\r");
    const std::size_t end = first.find_last_not_of(" \t\r");
    const std::size_t next = first.find_first_not_of(" \t\r", begin + 1);
    if (first[begin] == '[' && (next == std::string::npos || first[next] == '{')) {
      throw InputError(
          "{}:{}: the file is one JSON list of rows; name it .json, or set format: json",
          *input_.name, line);
    }
    const auto opened = std::ranges::count_if(first, [](char c) { return c == '{' || c == '['; });
    constexpr auto kOpened = 3;  // more is a broken row, and not the beginning of a file
    if (first[begin] != '{' || opened > kOpened ||
        std::string_view("{[,:").find(first[end]) == std::string_view::npos) {
      return;
    }
    throw InputError(
        "{}:{}: the first line is no whole JSON object. weft reads one object a line, or one list "
        "of "
        "objects ([...]) in a .json file; from an object that holds the rows, take the list out "
        "(jq '.data' FILE > ROWS.json)",
        *input_.name, line);
  }

  bool first_ = true;
};

/// A file that is one array of objects. Elements are cut out by their brackets, so that the array
/// is never in memory as a whole and each row has its line.
class JsonArrayReader : public JsonReader {
 public:
  using JsonReader::JsonReader;

  std::optional<Record> next() override {
    while (!done_) {
      skip_space();
      int byte = input_.cursor.peek();
      if (!started_) {
        if (byte != '[') broken("expected a list of rows ([...])");
        input_.cursor.get();
        started_ = true;
        skip_space();
        byte = input_.cursor.peek();
        if (byte == ']') return end();
      } else {
        if (byte == ']') return end();
        if (byte != ',') broken("expected ',' or ']' after a row");
        input_.cursor.get();
        skip_space();
      }
      const std::int64_t line = input_.cursor.line_number();
      if (auto record = finish(element(), line)) return record;
    }
    return std::nullopt;
  }

 private:
  [[noreturn]] void broken(std::string_view what) {
    throw InputError("{}:{}: {}", *input_.name, input_.cursor.line_number(), what);
  }

  std::optional<Record> end() {
    input_.cursor.get();
    skip_space();
    if (input_.cursor.peek() != TextCursor::kEnd) broken("something follows the list of rows");
    done_ = true;
    return std::nullopt;
  }

  void skip_space() {
    for (int byte = input_.cursor.peek();
         byte == ' ' || byte == '\n' || byte == '\t' || byte == '\r'; byte = input_.cursor.peek()) {
      input_.cursor.get();
    }
  }

  /// The text up to the ',' or ']' that ends the element, brackets and strings respected.
  std::string element() {
    std::string text;
    int depth = 0;
    bool in_string = false;
    while (true) {
      const int byte = input_.cursor.peek();
      if (byte == TextCursor::kEnd) broken("the list of rows is cut off (no ']')");
      if (!in_string && depth == 0 && (byte == ',' || byte == ']')) return text;
      input_.cursor.get();
      if (text.size() <= kMaxRowBytes) text += static_cast<char>(byte);
      if (in_string) {
        if (byte == '\\' && input_.cursor.peek() != TextCursor::kEnd) {
          const int escaped = input_.cursor.get();
          if (text.size() <= kMaxRowBytes) text += static_cast<char>(escaped);
        } else if (byte == '"') {
          in_string = false;
        }
      } else if (byte == '"') {
        in_string = true;
      } else if (byte == '{' || byte == '[') {
        ++depth;
      } else if (byte == '}' || byte == ']') {
        --depth;
      }
    }
  }

  bool started_ = false;
  bool done_ = false;
};

}  // namespace

std::unique_ptr<RecordReader> open_jsonl(ReaderInput input) {
  return std::make_unique<JsonlReader>(std::move(input));
}

std::unique_ptr<RecordReader> open_json(ReaderInput input) {
  // JSON lines are often named .json: a first '{' tells them from one array.
  input.cursor.mark();
  int byte = input.cursor.peek();
  while (byte == ' ' || byte == '\n' || byte == '\t' || byte == '\r') {
    input.cursor.get();
    byte = input.cursor.peek();
  }
  input.cursor.back();
  if (byte == '{') return open_jsonl(std::move(input));
  return std::make_unique<JsonArrayReader>(std::move(input));
}

}  // namespace weft::data
