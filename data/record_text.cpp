#include <fmt/format.h>

#include "core/utf8.h"
#include "data/record_readers.h"

namespace weft::data {
namespace {

/// Plain text: a row {"text": ...} for each line, each block between blank lines, or the file.
class TextReader : public RecordReader {
 public:
  TextReader(ReaderInput input, Documents documents)
      : input_(std::move(input)), documents_(documents) {}

  [[nodiscard]] const std::vector<std::string>& columns() const override { return columns_; }

  std::optional<Record> next() override {
    std::string text;
    std::int64_t line = 0;
    while (read(text, line)) {
      if (text.size() > limit()) {
        input_.fault(line, fmt::format("longer than {} MiB", limit() >> 20));
      } else if (!core::is_utf8(text)) {
        input_.fault(line, "bytes that are not UTF-8");
      } else {
        return Record{{{"text", std::move(text)}}, {input_.name, line}};
      }
    }
    return std::nullopt;
  }

 private:
  /// A whole file is one row, and may well be a book.
  [[nodiscard]] std::size_t limit() const {
    return documents_ == Documents::kFile ? std::size_t{1} << 30 : kMaxRowBytes;
  }

  static bool is_blank(const std::string& line) {
    return line.find_first_not_of(" \t\r\f\v") == std::string::npos;
  }

  bool read(std::string& text, std::int64_t& line) {
    text.clear();
    if (documents_ == Documents::kFile) return read_file(text, line);
    std::string piece;
    bool any = false;
    while (true) {
      const std::int64_t here = input_.cursor.line_number();
      if (!input_.cursor.line(piece, kMaxRowBytes)) return any;
      if (is_blank(piece)) {
        if (any) return true;
        continue;
      }
      if (!any)
        line = here;
      else if (text.size() <= limit())
        text += '\n';
      any = true;
      if (text.size() <= limit()) text += piece;
      if (documents_ == Documents::kLine) return true;
    }
  }

  /// The file as it is, line ends included.
  bool read_file(std::string& text, std::int64_t& line) {
    if (done_) return false;
    done_ = true;
    line = 1;
    for (int byte = input_.cursor.get(); byte != TextCursor::kEnd; byte = input_.cursor.get()) {
      if (text.size() <= limit()) text += static_cast<char>(byte);
    }
    return text.find_first_not_of(" \t\r\n\f\v") != std::string::npos;
  }

  ReaderInput input_;
  Documents documents_;
  bool done_ = false;
  std::vector<std::string> columns_{"text"};
};

}  // namespace

std::unique_ptr<RecordReader> open_text(ReaderInput input, const RecordOptions& options) {
  return std::make_unique<TextReader>(std::move(input), options.documents);
}

}  // namespace weft::data
