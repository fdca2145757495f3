#include "data/dataset.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <glob.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "data/foreign_words.h"
#include "data/interpreter.h"
#include "data/random.h"
#include "data/record_readers.h"

namespace weft::data {
namespace {

using Json = nlohmann::ordered_json;

void check_config(const DatasetConfig& config, schema::CheckReport& report) {
  const std::optional<DatasetType> type = configured_type(config);
  for (const auto& [part, text] : config.fields) {
    const std::string key = "fields." + part;
    try {
      const FieldTemplate parsed(text, "the template");
      if (part == "messages" && !parsed.single_column()) {
        report.problem(key, "expected one column, as in \"{messages}\"");
      }
    } catch (const ConfigError& error) {
      report.problem(key, error.what());
    }
    if (!type) continue;
    std::vector<std::string> known;
    for (const Part& candidate : parts_of(*type)) known.emplace_back(candidate.name);
    if (std::find(known.begin(), known.end(), part) == known.end()) {
      report.problem(key, fmt::format("a dataset of type {} has the parts {}", name_of(*type),
                                      fmt::join(known, ", ")));
    }
  }
  if (!type && !config.fields.empty()) {
    report.problem("fields",
                   "these parts do not tell the type; set type: instruction, chat, "
                   "completion or text");
  }
  if (config.header == false && config.columns.empty()) {
    report.problem("header", "a file without header needs columns: [name, ...]");
  }
  if (config.delimiter.size() > 1) report.problem("delimiter", "expected one character");
}

/// Reads the files of one dataset.
class Loader {
 public:
  Loader(const DatasetConfig& config, const core::Log& log, Rows rows)
      : config_(config), log_(log), rows_(rows) {}

  /// Every sample with its place, in the order of the files.
  void stream(const TakeSample& take) {
    std::vector<std::int64_t> places;  // of the rows, with shuffle_seed
    if (config_.shuffle_seed) {
      require_files();
      read_files([](Sample&&, std::int64_t) {});  // how many there are
      report();
      places = shuffled_places(statistics_.rows);
      statistics_ = {};
      told_ = true;
    }
    const std::int64_t limit = config_.limit.value_or(std::numeric_limits<std::int64_t>::max());
    read_files([&](Sample&& sample, std::int64_t index) {
      const std::int64_t place =
          places.empty() ? index : places.at(static_cast<std::size_t>(index));
      if (place < limit) take(std::move(sample), place);
    });
    if (!told_) report();
  }

  [[nodiscard]] const ReadStatistics& statistics() const { return statistics_; }

 private:
  [[nodiscard]] bool enough() const {
    return config_.limit && !config_.shuffle_seed && statistics_.rows >= *config_.limit;
  }

  /// Two passes need files that can be read twice.
  void require_files() const {
    for (const std::filesystem::path& file : resolve_files(config_.path)) {
      std::error_code error;
      const auto status = std::filesystem::status(file, error);
      if (!std::filesystem::exists(status) || std::filesystem::is_regular_file(status)) continue;
      throw InputError(
          "{}: is no regular file, and shuffle_seed reads data twice; save it to a file first",
          file.string());
    }
  }

  void report() {
    report_faults();
    require_rows();
  }

  [[nodiscard]] std::vector<std::int64_t> shuffled_places(std::int64_t rows) const {
    std::vector<std::int64_t> order(static_cast<std::size_t>(rows));
    std::iota(order.begin(), order.end(), std::int64_t{0});
    Random(mix_seed(static_cast<std::uint64_t>(*config_.shuffle_seed), 0)).shuffle(order);
    std::vector<std::int64_t> places(order.size());
    for (std::size_t i = 0; i < order.size(); ++i) {
      places[static_cast<std::size_t>(order[i])] = static_cast<std::int64_t>(i);
    }
    return places;
  }

  void read_files(const TakeSample& take) {
    for (const std::filesystem::path& file : resolve_files(config_.path)) {
      load_file(file, take);
      if (enough()) break;
    }
  }

  void fault(Fault found) {
    ++statistics_.bad_rows;
    if (statistics_.faults.size() < kFaultsKept) statistics_.faults.push_back(std::move(found));
  }

  void load_file(const std::filesystem::path& file, const TakeSample& take) {
    const RecordOptions options{.format = config_.format,
                                .columns = config_.columns,
                                .header = config_.header,
                                .delimiter = config_.delimiter,
                                .quotes = config_.quotes,
                                .documents = config_.documents};
    const auto reader =
        open_records(file, options, [this](Fault found) { fault(std::move(found)); });
    std::optional<Interpreter> interpreter;
    while (!enough()) {
      const std::optional<Record> record = reader->next();
      if (!record) break;
      if (!interpreter) {
        interpreter.emplace(config_, find_type(*reader, *record), reader->columns());
        interpreter->check_columns(file.string());
      }
      try {
        Sample sample = interpreter->interpret(*record);
        for (const std::string& name : interpreter->unused(record->values)) {
          ++statistics_.unused[name];
        }
        const std::int64_t index = statistics_.rows++;
        // Nothing will come of this data: the rest is only counted.
        if (statistics_.bad_rows > 0 && config_.on_bad_row == OnBadRow::kRaise) continue;
        take(std::move(sample), index);
      } catch (const InputError& error) {
        fault({record->origin, error.what()});
      }
    }
  }

  DatasetType find_type(const RecordReader& reader, const Record& first) {
    if (const auto type = configured_type(config_)) return *type;
    const auto type = type_of_columns(first.values);
    const std::string& file = *first.origin.file;
    if (!type) {
      const std::string hint = delimiter_hint(reader.columns());
      if (!hint.empty()) {
        throw InputError("{}: it has the column {}{}", file, reader.columns().front(), hint);
      }
      throw InputError("{}: {}", file, unknown_type(first.values));
    }
    std::vector<std::string> names;
    for (const auto& [key, value] : first.values.items()) names.push_back(key);
    if (told_) return *type;
    core::tell(log_, core::Level::kInfo,
               fmt::format("{}: read as type {} (columns {})", file, name_of(*type),
                           fmt::join(names, ", ")));
    return *type;
  }

  void report_faults() {
    if (statistics_.bad_rows == 0) return;
    const Fault& first = statistics_.faults.front();
    if (config_.on_bad_row == OnBadRow::kRaise) {
      throw InputError("{}: {} ({} bad {} of {} in all); repair the file, or set on_bad_row: skip",
                       first.origin.text(), first.what, statistics_.bad_rows,
                       statistics_.bad_rows == 1 ? "row" : "rows",
                       statistics_.rows + statistics_.bad_rows);
    }
    for (const Fault& found : statistics_.faults) {
      core::tell(log_, core::Level::kWarning,
                 fmt::format("{}: left out: {}", found.origin.text(), found.what));
    }
    core::tell(log_, core::Level::kWarning,
               fmt::format("{} of {} rows were left out as bad", statistics_.bad_rows,
                           statistics_.rows + statistics_.bad_rows));
  }

  void require_rows() const {
    if (statistics_.rows > 0 || rows_ == Rows::kMayLack) return;
    throw_no_rows(config_, statistics_.bad_rows);
  }

  const DatasetConfig& config_;
  const core::Log& log_;
  Rows rows_;
  bool told_ = false;  // A second pass says nothing.
  ReadStatistics statistics_;
};

}  // namespace

void describe(schema::Schema<DatasetConfig>& s) {
  s.field("path", &DatasetConfig::path,
          "file or files: .jsonl, .json, .csv, .tsv, .txt, each also .gz or .zst; * and ? match")
      .required()
      .non_empty();
  s.choice("type", &DatasetConfig::type,
           {{"instruction", DatasetType::kInstruction},
            {"chat", DatasetType::kChat},
            {"completion", DatasetType::kCompletion},
            {"text", DatasetType::kText}},
           "what a row holds; by default told from the columns");
  s.field(
      "fields", &DatasetConfig::fields,
      "parts of an example from columns: instruction, input, output, system | messages, system | "
      "prompt, completion | text; {name} is a column, {{ and }} are braces");
  s.choice("format", &DatasetConfig::format,
           {{"jsonl", Format::kJsonl},
            {"json", Format::kJson},
            {"csv", Format::kCsv},
            {"tsv", Format::kTsv},
            {"txt", Format::kText}},
           "how the file is written; by default told from its name");
  s.field("columns", &DatasetConfig::columns,
          "names of the columns of a CSV or TSV file; the file is then taken to have no header");
  s.field("header", &DatasetConfig::header,
          "whether the first line names the columns; by default yes without `columns`");
  s.field("delimiter", &DatasetConfig::delimiter,
          "the character between columns; by default a comma, in TSV a tab");
  s.field("quotes", &DatasetConfig::quotes,
          "whether fields may stand in double quotes; by default yes in CSV, no in TSV");
  s.choice("documents", &DatasetConfig::documents,
           {{"line", Documents::kLine},
            {"paragraph", Documents::kParagraph},
            {"file", Documents::kFile}},
           "what is one example of a .txt file");
  s.field("ignore", &DatasetConfig::ignore,
          "columns that are left out on purpose: they are neither refused nor listed as unused");
  s.field("limit", &DatasetConfig::limit, "use at most so many rows").at_least(1);
  s.field("shuffle_seed", &DatasetConfig::shuffle_seed,
          "order the rows by this seed before `limit` is applied");
  s.choice("on_bad_row", &DatasetConfig::on_bad_row,
           {{"raise", OnBadRow::kRaise}, {"skip", OnBadRow::kSkip}},
           "stop at rows that cannot be used, or leave them out and report them");
  s.foreign(dataset_words());
  s.check(check_config);
}

std::string count_list(const std::map<std::string, std::int64_t>& counts) {
  std::string text;
  for (const auto& [name, count] : counts) {
    text += fmt::format("{}{} ({})", text.empty() ? "" : ", ", name, count);
  }
  return text;
}

std::vector<std::filesystem::path> resolve_files(const std::vector<std::filesystem::path>& path) {
  std::vector<std::filesystem::path> files;
  for (const std::filesystem::path& pattern : path) {
    const std::string text = pattern.string();
    std::error_code ignored;
    if (text.find_first_of("*?[") == std::string::npos ||
        std::filesystem::exists(pattern, ignored)) {
      files.push_back(pattern);
      continue;
    }
    glob_t found{};
    const int status = ::glob(text.c_str(), 0, nullptr, &found);
    for (std::size_t i = 0; status == 0 && i < found.gl_pathc; ++i) {
      files.emplace_back(found.gl_pathv[i]);  // Sorted by glob().
    }
    ::globfree(&found);
    if (status != 0) throw InputError("{}: no file matches this pattern", text);
  }
  return files;
}

void throw_no_rows(const DatasetConfig& config, std::int64_t bad_rows) {
  const std::size_t more = config.path.size() - 1;
  throw InputError("{}{}: {}", config.path.front().string(),
                   more > 0 ? fmt::format(" and {} more", more) : "",
                   bad_rows > 0 ? "no row in it can be used; see the warnings above"
                                : "there are no rows in it");
}

ReadStatistics stream_samples(const DatasetConfig& config, const core::Log& log,
                              const TakeSample& take, Rows rows) {
  Loader loader(config, log, rows);
  loader.stream(take);
  return loader.statistics();
}

std::vector<Sample> load_samples(const DatasetConfig& config, const core::Log& log,
                                 ReadStatistics* statistics) {
  std::vector<std::pair<std::int64_t, Sample>> placed;
  const ReadStatistics read = stream_samples(config, log, [&](Sample&& sample, std::int64_t place) {
    placed.emplace_back(place, std::move(sample));
  });
  if (statistics != nullptr) *statistics = read;
  if (!read.unused.empty()) {
    core::tell(log, core::Level::kInfo,
               fmt::format("{}: columns that are not used: {}", config.path.front().string(),
                           count_list(read.unused)));
  }
  std::ranges::sort(placed, {}, [](const auto& one) { return one.first; });
  std::vector<Sample> samples;
  samples.reserve(placed.size());
  for (auto& [place, sample] : placed) samples.push_back(std::move(sample));
  return samples;
}

}  // namespace weft::data
