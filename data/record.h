#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace weft::data {

/// Where a row was read: "train.csv:17" in messages. Lines count from 1; a row of several lines has
/// the line where it begins.
struct Origin {
  std::shared_ptr<const std::string> file;
  std::int64_t line = 0;

  [[nodiscard]] std::string text() const;
};

/// One row: columns by name. Values from CSV, TSV and plain text are strings.
struct Record {
  nlohmann::ordered_json values;  ///< Keys in the order of the file, which chat templates show.
  Origin origin;
};

/// A row that could not be used, and why.
struct Fault {
  Origin origin;
  std::string what;
};

enum class Format : std::uint8_t { kJsonl, kJson, kCsv, kTsv, kText };
enum class OnBadRow : std::uint8_t { kRaise, kSkip };
enum class Documents : std::uint8_t { kLine, kParagraph, kFile };

/// How a file is cut into rows.
struct RecordOptions {
  std::optional<Format> format = std::nullopt;  ///< Default: by the file name, without .gz or .zst.
  std::vector<std::string> columns = {};        ///< Names of the columns; needed without a header.
  std::optional<bool> header = std::nullopt;    ///< Default: yes, unless `columns` is given.
  std::string delimiter = "";                   ///< One byte; default ',' for CSV, tab for TSV.
  std::optional<bool> quotes =
      std::nullopt;  ///< Fields in double quotes; default yes for CSV, no for TSV.
  Documents documents = Documents::kLine;  ///< What is one row of plain text.
};

/// Largest row that is accepted; a stray quote would otherwise swallow the file.
inline constexpr std::size_t kMaxRowBytes = std::size_t{16} << 20;

/// The format that a file name says ("train.jsonl.zst"), or nothing.
[[nodiscard]] std::optional<Format> format_of(const std::filesystem::path& file);

/// Reads rows one after another, in constant memory. Blank lines are no rows. Bytes that are not
/// UTF-8, broken JSON, and rows with too few or too many columns are faults: they go to `on_fault`,
/// and reading continues with the next row. What makes the whole file unreadable (missing, cut-off
/// compression, no header) is an InputError with the file's name.
class RecordReader {
 public:
  using OnFault = std::function<void(Fault)>;

  virtual ~RecordReader() = default;
  /// The next good row; nothing at the end.
  [[nodiscard]] virtual std::optional<Record> next() = 0;
  /// Column names of CSV, TSV and plain text; empty for JSON.
  [[nodiscard]] virtual const std::vector<std::string>& columns() const = 0;
};

/// Opens a file; .gz and .zst are unpacked on the way.
[[nodiscard]] std::unique_ptr<RecordReader> open_records(const std::filesystem::path& file,
                                                         const RecordOptions& options,
                                                         RecordReader::OnFault on_fault);

/// The same from memory (`name` for messages; format required); nothing is unpacked.
[[nodiscard]] std::unique_ptr<RecordReader> read_records(std::string bytes, const std::string& name,
                                                         const RecordOptions& options,
                                                         RecordReader::OnFault on_fault);

/// One CSV line: fields quoted where RFC 4180 wants it, ended by "\n".
[[nodiscard]] std::string csv_line(const std::vector<std::string>& fields, char delimiter = ',');

}  // namespace weft::data
