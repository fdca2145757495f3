#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/record.h"
#include "data/stream.h"

/// The readers behind open_records(). Internal to data/.
namespace weft::data {

/// What every reader has: the bytes, the name for messages, where faults go.
struct ReaderInput {
  TextCursor cursor;
  std::shared_ptr<const std::string> name;
  RecordReader::OnFault on_fault;

  void fault(std::int64_t line, std::string what) const {
    if (on_fault) on_fault({{name, line}, std::move(what)});
  }
};

/// For messages about columns: a single one with a character in it that other programs put between
/// columns is told with the key to set; else "".
[[nodiscard]] std::string delimiter_hint(const std::vector<std::string>& columns);

[[nodiscard]] std::unique_ptr<RecordReader> open_jsonl(ReaderInput input);
[[nodiscard]] std::unique_ptr<RecordReader> open_json(ReaderInput input);
[[nodiscard]] std::unique_ptr<RecordReader> open_csv(ReaderInput input,
                                                     const RecordOptions& options, bool tabs);
[[nodiscard]] std::unique_ptr<RecordReader> open_text(ReaderInput input,
                                                      const RecordOptions& options);

}  // namespace weft::data
