#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "core/utf8.h"
#include "data/record_readers.h"

namespace weft::data {
namespace {

/// RFC 4180: fields in quotes may hold delimiters, line ends and doubled quotes. Quotes inside a
/// field that does not begin with one are ordinary characters, as other programs read them.
class CsvReader : public RecordReader {
 public:
  CsvReader(ReaderInput input, const RecordOptions& options, bool tabs)
      : input_(std::move(input)),
        delimiter_(tabs ? '\t' : ','),
        quotes_(options.quotes.value_or(!tabs)),
        columns_(options.columns) {
    if (options.delimiter.size() > 1 || options.delimiter == "\"" || options.delimiter == "\n" ||
        options.delimiter == "\r") {
      throw ConfigError(
          "delimiter: expected one character other than a quote or line end, found "
          "'{}'",
          options.delimiter);
    }
    if (!options.delimiter.empty())
      delimiter_ = static_cast<unsigned char>(options.delimiter.front());
    const bool header = options.header.value_or(options.columns.empty());
    if (!header && options.columns.empty()) {
      throw ConfigError("{}: header: false needs columns: [name, ...]", *input_.name);
    }
    if (header) read_header();
    std::set<std::string> seen;
    for (const std::string& column : columns_) {
      if (!seen.insert(column).second) {
        throw InputError(
            "{}: two columns are named '{}'; name each with columns: [name, ...], and set header: "
            "true, because the first line names columns",
            *input_.name, column);
      }
    }
    header_unsaid_ = !options.header && !options.columns.empty();
  }

  [[nodiscard]] const std::vector<std::string>& columns() const override { return columns_; }

  std::optional<Record> next() override {
    std::vector<std::string> fields;
    while (true) {
      const std::int64_t line = input_.cursor.line_number();
      const std::optional<std::string> problem = read_row(fields);
      if (!problem) return std::nullopt;
      if (!problem->empty()) {
        input_.fault(line, *problem);
      } else if (is_blank(fields)) {
        continue;
      } else if (std::exchange(header_unsaid_, false) && is_header(fields)) {
        throw InputError(
            "{}:{}: the first row repeats `columns`: it names the columns; set header: true, so "
            "that it is not learned as a row (header: false, if it is one)",
            *input_.name, line);
      } else if (fields.size() != columns_.size() && drop_unnamed(fields)) {
        input_.fault(line, "a value stands in a column that the header does not name");
      } else if (fields.size() != columns_.size()) {
        input_.fault(
            line, fmt::format("expected {} columns ({}), found {}{}", columns_.size(),
                              fmt::join(columns_, ", "), fields.size(), delimiter_hint(columns_)));
      } else {
        nlohmann::ordered_json row;
        for (std::size_t i = 0; i < fields.size(); ++i) row[columns_[i]] = std::move(fields[i]);
        return Record{std::move(row), {input_.name, line}};
      }
    }
  }

 private:
  static bool is_blank(const std::vector<std::string>& fields) {
    return fields.size() == 1 && fields[0].find_first_not_of(" \t") == std::string::npos;
  }

  /// Whether the row holds the names of the columns.
  [[nodiscard]] bool is_header(const std::vector<std::string>& fields) const {
    return std::ranges::equal(fields, columns_, [](const std::string& a, const std::string& b) {
      return trimmed(a) == trimmed(b);
    });
  }

  static std::string_view trimmed(std::string_view text) {
    const std::size_t begin = text.find_first_not_of(" \t");
    if (begin == std::string_view::npos) return {};
    return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
  }

  /// Takes the fields off that stand under the empty names at the header's end, as spreadsheets
  /// write them. True when one of them holds something.
  bool drop_unnamed(std::vector<std::string>& fields) const {
    if (unnamed_ == 0 || fields.size() != columns_.size() + unnamed_) return false;
    const bool filled =
        std::any_of(fields.end() - static_cast<std::ptrdiff_t>(unnamed_), fields.end(),
                    [](const auto& f) { return !trimmed(f).empty(); });
    fields.resize(columns_.size());
    return filled;
  }

  void read_header() {
    std::vector<std::string> names;
    std::optional<std::string> problem;
    std::int64_t line = 0;
    do {
      line = input_.cursor.line_number();
      problem = read_row(names);
    } while (problem && problem->empty() && is_blank(names));
    if (!problem) throw InputError("{}: empty; expected a header line", *input_.name);
    if (!problem->empty()) throw InputError("{}:{}: header: {}", *input_.name, line, *problem);
    if (!columns_.empty() && columns_.size() != names.size()) {
      throw InputError("{}:{}: columns names {} columns, the file has {}", *input_.name, line,
                       columns_.size(), names.size());
    }
    if (!columns_.empty()) return;
    columns_ = std::move(names);
    while (columns_.size() > 1 && trimmed(columns_.back()).empty()) {
      columns_.pop_back();
      ++unnamed_;
    }
  }

  /// Reads one row. Nothing at the end of the file; else what is wrong with the row, or "".
  std::optional<std::string> read_row(std::vector<std::string>& fields) {
    TextCursor& cursor = input_.cursor;
    fields.clear();
    if (cursor.peek() == TextCursor::kEnd) return std::nullopt;
    cursor.mark();
    std::size_t bytes = 0;
    std::string problem;
    while (problem.empty()) {
      std::string field;
      const bool quoted = quotes_ && cursor.peek() == '"';
      problem = quoted ? read_quoted(field) : read_plain(field);
      bytes += field.size() + 1;
      if (problem.empty() && bytes > kMaxRowBytes) problem = too_long();
      if (problem.empty() && !core::is_utf8(field)) bad_bytes_ = true;
      fields.push_back(std::move(field));
      if (!problem.empty() || cursor.peek() != delimiter_) break;
      cursor.get();
    }
    if (!problem.empty()) {
      // A stray quote must cost its own line only: go on with the line after it.
      cursor.back();
      std::string skipped;
      cursor.line(skipped, 0);
    } else {
      end_line();
    }
    if (std::exchange(bad_bytes_, false) && problem.empty()) problem = "bytes that are not UTF-8";
    return problem;
  }

  static std::string too_long() { return fmt::format("longer than {} MiB", kMaxRowBytes >> 20); }

  bool at_line_end() {
    const int byte = input_.cursor.peek();
    return byte == '\n' || byte == TextCursor::kEnd ||
           (byte == '\r' && (input_.cursor.peek_second() == '\n' ||
                             input_.cursor.peek_second() == TextCursor::kEnd));
  }

  void end_line() {
    if (input_.cursor.peek() == '\r') input_.cursor.get();
    if (input_.cursor.peek() == '\n') input_.cursor.get();
  }

  std::string read_plain(std::string& field) {
    while (!at_line_end() && input_.cursor.peek() != delimiter_) {
      field += static_cast<char>(input_.cursor.get());
      if (field.size() > kMaxRowBytes) return too_long();
    }
    return "";
  }

  std::string read_quoted(std::string& field) {
    TextCursor& cursor = input_.cursor;
    cursor.get();
    while (true) {
      const int byte = cursor.get();
      if (byte == TextCursor::kEnd) return "the quote that opens a field is never closed";
      if (byte != '"') {
        field += static_cast<char>(byte);
        if (field.size() > kMaxRowBytes) return too_long() + "; a quote may be missing";
      } else if (cursor.peek() == '"') {
        field += static_cast<char>(cursor.get());
      } else {
        break;
      }
    }
    if (cursor.peek() == delimiter_ || at_line_end()) return "";
    return "text after the closing quote of a field; write quotes inside a field twice";
  }

  ReaderInput input_;
  int delimiter_;
  bool quotes_;
  bool bad_bytes_ = false;
  std::vector<std::string> columns_;
  std::size_t unnamed_ = 0;     ///< Columns at the end whose name is empty.
  bool header_unsaid_ = false;  ///< `columns` is given, `header` is not, and no row is read yet.
};

}  // namespace

std::string delimiter_hint(const std::vector<std::string>& columns) {
  if (columns.size() != 1) return "";
  const std::size_t at = columns[0].find_first_of(";\t|,");
  if (at == std::string::npos) return "";
  const std::string character = columns[0][at] == '\t' ? "\\t" : std::string(1, columns[0][at]);
  return fmt::format("; if '{}' stands between its columns, set delimiter: \"{}\"", character,
                     character);
}

std::unique_ptr<RecordReader> open_csv(ReaderInput input, const RecordOptions& options, bool tabs) {
  return std::make_unique<CsvReader>(std::move(input), options, tabs);
}

}  // namespace weft::data
