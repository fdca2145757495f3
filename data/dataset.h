#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/log.h"
#include "data/record.h"
#include "schema/schema.h"

namespace weft::data {

enum class DatasetType : std::uint8_t {
  kInstruction,  ///< instruction [+ input] -> output, through the chat template.
  kChat,         ///< messages, through the chat template.
  kCompletion,   ///< prompt -> completion, no template.
  kText          ///< Plain text, all of it learned.
};

/// One entry of `datasets:` in a configuration.
struct DatasetConfig {
  std::vector<std::filesystem::path> path;    ///< Files, or patterns such as data/*.jsonl.
  std::optional<DatasetType> type;            ///< Default: from the columns.
  std::map<std::string, std::string> fields;  ///< Part -> template over columns.
  std::optional<Format> format;
  std::vector<std::string> columns;
  std::optional<bool> header;
  std::string delimiter;
  std::optional<bool> quotes;
  Documents documents = Documents::kLine;
  std::vector<std::string> ignore;           ///< Columns left out on purpose.
  std::optional<std::int64_t> limit;         ///< At most so many rows.
  std::optional<std::int64_t> shuffle_seed;  ///< Choose and order the rows by this seed.
  OnBadRow on_bad_row = OnBadRow::kRaise;

  [[nodiscard]] bool operator==(const DatasetConfig&) const = default;
};

void describe(schema::Schema<DatasetConfig>& schema);

/// "Traduce: {es}": text with columns in braces; {{ and }} are the braces themselves.
class FieldTemplate {
 public:
  /// ConfigError for a brace without its partner or an empty name. `key` names the template in
  /// messages ("fields.instruction").
  FieldTemplate(std::string_view text, std::string_view key);

  [[nodiscard]] const std::vector<std::string>& names() const { return names_; }
  /// The column when the template is exactly "{name}".
  [[nodiscard]] std::optional<std::string> single_column() const;
  /// Replaces the names by the row's values (numbers and booleans as JSON writes them).
  /// InputError, without a place, when a column is missing, null, or no scalar; with `empty`
  /// kRefuse also when it is empty.
  enum class Empty : std::uint8_t { kAllow, kRefuse };
  [[nodiscard]] std::string fill(const nlohmann::ordered_json& row, Empty empty) const;

 private:
  struct Piece {
    std::string text;
    bool is_name = false;
  };
  std::vector<Piece> pieces_;
  std::vector<std::string> names_;
};

/// What one row teaches, before tokens.
struct Sample {
  DatasetType type = DatasetType::kText;
  nlohmann::ordered_json messages;  ///< kInstruction, kChat: [{"role", "content"}, ...].
  /// For each message whether it is learned when it is the assistant's; empty: all are.
  std::vector<std::uint8_t> learned;
  /// kInstruction, kChat: what else the chat template sees of the row: "tools".
  nlohmann::ordered_json variables = nlohmann::ordered_json::object();
  std::string prompt;      ///< kCompletion.
  std::string completion;  ///< kCompletion.
  std::string text;        ///< kText.
  Origin origin;
};

/// So many faults are kept to be shown; all are counted.
inline constexpr std::size_t kFaultsKept = 20;

/// What reading cost: rows that were left out are counted, never silent.
struct ReadStatistics {
  std::int64_t rows = 0;      ///< Good rows, before `limit`.
  std::int64_t bad_rows = 0;  ///< Left out by on_bad_row: skip.
  std::vector<Fault> faults;  ///< The first 20 of them.
  /// Columns that have no part in what is learned, with the number of rows that fill them.
  std::map<std::string, std::int64_t> unused;
};

/// "a (3), b (1)"
[[nodiscard]] std::string count_list(const std::map<std::string, std::int64_t>& counts);

/// Reads the rows of one dataset in order (or in the order of shuffle_seed). The type that was
/// found from the columns, and rows left out, go to `log`. With on_bad_row: raise, a bad row is an
/// InputError with file and line that says how many there are and how to skip them.
[[nodiscard]] std::vector<Sample> load_samples(const DatasetConfig& config,
                                               const core::Log& log = {},
                                               ReadStatistics* statistics = nullptr);

/// The same, one at a time as they are read, with the place of each in that order (in the order of
/// shuffle_seed they do not come by place). Rows that cannot be used are reported at the end; with
/// on_bad_row: raise no sample comes after the first.
enum class Rows : std::uint8_t { kNeeded, kMayLack };  ///< Whether no row at all is an error.
using TakeSample = std::function<void(Sample&& sample, std::int64_t place)>;
[[nodiscard]] ReadStatistics stream_samples(const DatasetConfig& config, const core::Log& log,
                                            const TakeSample& take, Rows rows = Rows::kNeeded);
/// The error for a dataset without a row that can be used.
[[noreturn]] void throw_no_rows(const DatasetConfig& config, std::int64_t bad_rows);

/// The files that `path` names: patterns expanded and sorted. InputError when one matches nothing.
[[nodiscard]] std::vector<std::filesystem::path> resolve_files(
    const std::vector<std::filesystem::path>& path);

}  // namespace weft::data
