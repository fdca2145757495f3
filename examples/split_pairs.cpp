// Cleans a corpus of sentence pairs and splits it into train.csv, valid.csv and test.csv by source
// document, so that no book is on both sides. The first step of script/demo.
//
//   split_pairs axolotl.csv --columns es,nah,variant,document,iso --source es --target nah --out
//   data/

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "data/pairs.h"
#include "data/record.h"

namespace {

namespace fs = std::filesystem;
using weft::data::Pair;

struct Arguments {
  fs::path input;
  fs::path out;
  std::vector<std::string> columns;
  std::string source = "es";
  std::string target = "nah";
  std::string document = "document";
  weft::data::SplitOptions split;
};

std::vector<Pair> read_pairs(const Arguments& arguments, std::int64_t& faults) {
  weft::data::RecordOptions options;
  options.columns = arguments.columns;
  const auto reader =
      weft::data::open_records(arguments.input, options, [&](weft::data::Fault) { ++faults; });
  const auto text = [](const weft::data::Record& record, const std::string& column) {
    const auto found = record.values.find(column);
    if (found == record.values.end()) {
      throw weft::InputError("{}: there is no column '{}'", record.origin.text(), column);
    }
    return found->get<std::string>();
  };
  std::vector<Pair> pairs;
  while (const auto record = reader->next()) {
    pairs.push_back({text(*record, arguments.source), text(*record, arguments.target),
                     text(*record, arguments.document), record->origin.line});
  }
  return pairs;
}

void write_csv(const fs::path& path, const Arguments& arguments, const std::vector<Pair>& pairs) {
  std::string text = weft::data::csv_line({arguments.source, arguments.target, arguments.document});
  for (const Pair& pair : pairs) {
    text += weft::data::csv_line({pair.source, pair.target, pair.document});
  }
  weft::core::write_text(path, text);
}

void print_statistics(const weft::data::SplitStatistics& counts, std::int64_t faults) {
  fmt::print("{:>7} pairs read, {} broken rows\n", counts.read, faults);
  fmt::print("{:>7} with an empty side\n", counts.empty);
  fmt::print("{:>7} too long\n", counts.too_long);
  fmt::print("{:>7} misaligned (lengths, or both sides the same)\n", counts.misaligned);
  fmt::print("{:>7} near-duplicates\n", counts.near_duplicates);
  fmt::print("{:>7} beyond the wanted test and validation pairs of held-out documents\n",
             counts.unused);
  fmt::print("{:>7} of the rest share a sentence with what is held out\n", counts.leaks);
  fmt::print("{:>7} for training, {} for validation, {} for the test\n", counts.train,
             counts.validation, counts.test);
  fmt::print("test documents: {}\n", fmt::join(counts.test_documents, "; "));
  fmt::print("validation documents: {}\n", fmt::join(counts.validation_documents, "; "));
}

int run(const Arguments& arguments) {
  std::int64_t faults = 0;
  const std::vector<Pair> pairs = read_pairs(arguments, faults);
  const weft::data::Split split = weft::data::clean_and_split(pairs, arguments.split);
  write_csv(arguments.out / "train.csv", arguments, split.train);
  write_csv(arguments.out / "valid.csv", arguments, split.validation);
  write_csv(arguments.out / "test.csv", arguments, split.test);
  print_statistics(split.statistics, faults);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Cleans sentence pairs and splits them by source document", "split_pairs");
  app.add_option("INPUT", arguments.input, "CSV, TSV or JSONL, .gz and .zst too")->required();
  app.add_option("--out", arguments.out, "folder for train.csv, valid.csv, test.csv")->required();
  app.add_option("--columns", arguments.columns, "names of the columns of a file without header")
      ->delimiter(',');
  app.add_option("--source", arguments.source, "column of the source sentence")
      ->capture_default_str();
  app.add_option("--target", arguments.target, "column of its translation")->capture_default_str();
  app.add_option("--document", arguments.document, "column that names the document")
      ->capture_default_str();
  app.add_option("--seed", arguments.split.seed, "draws the documents")->capture_default_str();
  app.add_option("--test", arguments.split.test_pairs, "most test pairs")->capture_default_str();
  app.add_option("--valid", arguments.split.validation_pairs, "most validation pairs")
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    return run(arguments);
  } catch (const weft::Error& error) {
    fmt::print(stderr, "split_pairs: {}\n", error.what());
    return static_cast<int>(error.exit_code());
  }
}
