#include "data/record.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "data/record_readers.h"

namespace weft::data {
namespace {

std::string lower(std::string text) {
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return text;
}

/// Its byte-order mark; what spreadsheets call "Unicode text".
void refuse_utf16(ReaderInput& input) {
  const int first = input.cursor.peek();
  const int second = input.cursor.peek_second();
  if ((first == 0xff && second == 0xfe) || (first == 0xfe && second == 0xff)) {
    throw InputError("{}: the file is UTF-16; save it as UTF-8", *input.name);
  }
}

std::unique_ptr<RecordReader> open_as(Format format, std::unique_ptr<ByteStream> stream,
                                      const std::string& name, const RecordOptions& options,
                                      RecordReader::OnFault on_fault) {
  ReaderInput input{TextCursor(std::move(stream)), std::make_shared<const std::string>(name),
                    std::move(on_fault)};
  refuse_utf16(input);
  switch (format) {
    case Format::kJsonl: return open_jsonl(std::move(input));
    case Format::kJson: return open_json(std::move(input));
    case Format::kCsv:
    case Format::kTsv: return open_csv(std::move(input), options, format == Format::kTsv);
    case Format::kText: return open_text(std::move(input), options);
  }
  throw InputError("{}: unknown format", name);
}

}  // namespace

std::string Origin::text() const { return fmt::format("{}:{}", file ? *file : "?", line); }

std::optional<Format> format_of(const std::filesystem::path& file) {
  std::string ending = lower(file.extension().string());
  if (ending == ".gz" || ending == ".zst") ending = lower(file.stem().extension().string());
  if (ending == ".jsonl" || ending == ".ndjson") return Format::kJsonl;
  if (ending == ".json") return Format::kJson;
  if (ending == ".csv") return Format::kCsv;
  if (ending == ".tsv" || ending == ".tab") return Format::kTsv;
  if (ending == ".txt" || ending == ".text") return Format::kText;
  return std::nullopt;
}

std::unique_ptr<RecordReader> open_records(const std::filesystem::path& file,
                                           const RecordOptions& options,
                                           RecordReader::OnFault on_fault) {
  const std::optional<Format> format = options.format ? options.format : format_of(file);
  auto stream = open_stream(file);  // A missing file is the first thing to say.
  if (!format) {
    throw InputError(
        "{}: the file name does not tell the format; name it .jsonl, .json, .csv, .tsv "
        "or .txt (.gz and .zst may follow), or set format (Parquet: convert to JSONL)",
        file.string());
  }
  return open_as(*format, std::move(stream), file.string(), options, std::move(on_fault));
}

std::unique_ptr<RecordReader> read_records(std::string bytes, const std::string& name,
                                           const RecordOptions& options,
                                           RecordReader::OnFault on_fault) {
  return open_as(options.format.value_or(Format::kJsonl), memory_stream(std::move(bytes)), name,
                 options, std::move(on_fault));
}

std::string csv_line(const std::vector<std::string>& fields, char delimiter) {
  std::string line;
  for (std::size_t i = 0; i < fields.size(); ++i) {
    if (i > 0) line += delimiter;
    const std::string& field = fields[i];
    // A line of one empty field would be blank, which is no row.
    const bool quoted = field.find_first_of("\"\r\n") != std::string::npos ||
                        field.find(delimiter) != std::string::npos ||
                        (field.empty() && fields.size() == 1);
    if (!quoted) {
      line += field;
      continue;
    }
    line += '"';
    for (const char c : field) {
      if (c == '"') line += '"';
      line += c;
    }
    line += '"';
  }
  return line + "\n";
}

}  // namespace weft::data
