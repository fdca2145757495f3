#include "data/record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include "core/error.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"

namespace weft::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Read {
  std::vector<std::string> rows;    ///< "line: {json}"
  std::vector<std::string> faults;  ///< "file:line: why"
};

Read drain(RecordReader& reader) {
  Read result;
  while (const auto record = reader.next()) {
    result.rows.push_back(std::to_string(record->origin.line) + ": " + record->values.dump());
  }
  return result;
}

Read read(const std::string& bytes, const RecordOptions& options) {
  std::vector<std::string> faults;
  const auto reader = read_records(bytes, "f", options, [&](const Fault& fault) {
    faults.push_back(fault.origin.text() + ": " + fault.what);
  });
  Read result = drain(*reader);
  result.faults = faults;
  return result;
}

RecordOptions as(Format format) { return {.format = format}; }

TEST(Records, Utf16IsToldAsSuch) {
  using namespace std::string_literals;
  for (const std::string& bytes : {"\xFF\xFE"
                                   "e\0s\0"s,
                                   "\xFE\xFF\0e\0s"s}) {
    for (const Format format : {Format::kCsv, Format::kJsonl, Format::kText}) {
      EXPECT_THROWS_WITH((void)read(bytes, as(format)), InputError, "f: ", "UTF-16", "UTF-8");
    }
  }
}

std::string gzip(const std::string& text) {
  z_stream state{};
  deflateInit2(&state, Z_BEST_COMPRESSION, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
  std::string out(compressBound(text.size()) + 64, '\0');
  state.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  state.avail_in = static_cast<uInt>(text.size());
  state.next_out = reinterpret_cast<Bytef*>(out.data());
  state.avail_out = static_cast<uInt>(out.size());
  deflate(&state, Z_FINISH);
  out.resize(state.total_out);
  deflateEnd(&state);
  return out;
}

std::string zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 19));
  return out;
}

TEST(Csv, ReadsQuotesDelimitersAndLineEndsInsideFields) {
  const Read r = read(
      "\xEF\xBB\xBF"
      "a,b\r\n1,\"x, \"\"y\"\"\"\r\n\"two\nlines\",3\r\n\r\n4,5\" wide",
      as(Format::kCsv));
  EXPECT_THAT(r.rows,
              ElementsAre(R"(2: {"a":"1","b":"x, \"y\""})", R"(3: {"a":"two\nlines","b":"3"})",
                          R"(6: {"a":"4","b":"5\" wide"})"));
  EXPECT_THAT(r.faults, IsEmpty());
}

TEST(Csv, BadRowsCostOnlyThemselves) {
  const Read r = read("a,b\n1,2,3\n\"open,4\n5,6\n7\n\"x\"y,8\n9,\xff\n10,11\n", as(Format::kCsv));
  EXPECT_THAT(r.rows, ElementsAre(R"(4: {"a":"5","b":"6"})", R"(8: {"a":"10","b":"11"})"));
  EXPECT_THAT(r.faults,
              ElementsAre("f:2: expected 2 columns (a, b), found 3",
                          "f:3: text after the closing quote of a field; write quotes inside a "
                          "field twice",
                          "f:5: expected 2 columns (a, b), found 1",
                          "f:6: text after the closing quote of a field; write quotes inside a "
                          "field twice",
                          "f:7: bytes that are not UTF-8"));
}

TEST(Csv, UnclosedQuoteIsReportedWhereItOpensAndReadingGoesOn) {
  const Read r = read("a,b\n1,\"oops\n2,3\n", as(Format::kCsv));
  EXPECT_THAT(r.rows, ElementsAre(R"(3: {"a":"2","b":"3"})"));
  EXPECT_THAT(r.faults, ElementsAre("f:2: the quote that opens a field is never closed"));
}

TEST(Csv, ColumnsNameAFileWithoutHeader) {
  RecordOptions options = as(Format::kCsv);
  options.columns = {"es", "nah"};
  EXPECT_THAT(read("uno,ce\n", options).rows, ElementsAre(R"(1: {"es":"uno","nah":"ce"})"));
  options.header = true;
  EXPECT_THAT(read("x,y\nuno,ce\n", options).rows, ElementsAre(R"(2: {"es":"uno","nah":"ce"})"));
  options.delimiter = ";";
  EXPECT_THAT(read("x;y\n1,5;2\n", options).rows, ElementsAre(R"(2: {"es":"1,5","nah":"2"})"));
  EXPECT_THROWS_WITH(read("x\n", options), InputError,
                     "f:1: columns names 2 columns, the file has 1");
}

TEST(Csv, AHeaderThatRepeatsTheColumnsWasLearnedAsARow) {
  RecordOptions options = as(Format::kCsv);
  options.columns = {"es", "nah"};
  EXPECT_THROWS_WITH(read("es, nah\nhola,niltze\n", options), InputError,
                     "f:1: ", "the first row repeats `columns`", "header: true");
  options.header = false;
  EXPECT_EQ(read("es,nah\nhola,niltze\n", options).rows.size(), 2U);
  options.header = true;
  EXPECT_EQ(read("es,nah\nhola,niltze\n", options).rows.size(), 1U);
}

TEST(Csv, EmptyColumnsAtTheEndOfASpreadsheetAreNoColumns) {
  const Read r =
      read("instruction,output,,\nhola,niltze,,\nb,c\nadios,x,,note\n", as(Format::kCsv));
  EXPECT_THAT(r.rows, ElementsAre(R"(2: {"instruction":"hola","output":"niltze"})",
                                  R"(3: {"instruction":"b","output":"c"})"));
  EXPECT_THAT(r.faults,
              ElementsAre("f:4: a value stands in a column that the header does not name"));
}

TEST(Csv, HeadersThatCannotBeMeant) {
  EXPECT_THROWS_WITH(read("", as(Format::kCsv)), InputError, "expected a header line");
  EXPECT_THROWS_WITH(read("a,a\n1,2\n", as(Format::kCsv)), InputError, "two columns are named 'a'",
                     "header: true");
  EXPECT_THROWS_WITH(read(",,b\n1,2,3\n", as(Format::kCsv)), InputError,
                     "two columns are named ''");
  RecordOptions none = as(Format::kCsv);
  none.header = false;
  EXPECT_THROWS_WITH(read("1,2\n", none), ConfigError, "needs columns");
}

TEST(Tsv, QuotesAreOrdinaryCharacters) {
  EXPECT_THAT(read("a\tb\n\"x\ty\"\n", as(Format::kTsv)).rows,
              ElementsAre(R"(2: {"a":"\"x","b":"y\""})"));
  RecordOptions quoted = as(Format::kTsv);
  quoted.quotes = true;
  EXPECT_THAT(read("a\tb\n\"x\tz\"\ty\n", quoted).rows, ElementsAre(R"(2: {"a":"x\tz","b":"y"})"));
}

TEST(CsvLine, IsReadBackAsItWas) {
  const std::vector<std::string> fields{"plain", "a,b", "say \"x\"", "two\nlines", "", " spaced "};
  RecordOptions options = as(Format::kCsv);
  for (std::size_t i = 0; i < fields.size(); ++i) options.columns.push_back(std::to_string(i));
  const auto reader = read_records(csv_line(fields), "f", options, {});
  const auto record = reader->next();
  ASSERT_TRUE(record);
  for (std::size_t i = 0; i < fields.size(); ++i) {
    EXPECT_EQ(record->values[std::to_string(i)], fields[i]);
  }
}

TEST(Jsonl, ReportsEachBrokenLine) {
  const Read r =
      read("{\"a\":1}\n\n{\"a\":\n[1]\n{\"a\":1,\"a\":2}\n{\"a\":\"\xff\"}\n{\"b\":{\"c\":1}}",
           as(Format::kJsonl));
  EXPECT_THAT(r.rows, ElementsAre(R"(1: {"a":1})", R"(7: {"b":{"c":1}})"));
  ASSERT_EQ(r.faults.size(), 4U);
  EXPECT_THAT(r.faults[0], HasSubstr("f:3: not valid JSON: parse error"));
  EXPECT_EQ(r.faults[1], "f:4: expected an object ({...}), found a JSON array");
  EXPECT_EQ(r.faults[2], "f:5: the key 'a' stands twice");
  EXPECT_THAT(r.faults[3], HasSubstr("f:6: not valid JSON"));
}

TEST(Jsonl, DepthIsLimited) {
  const Read r = read("{\"a\":" + std::string(100'000, '[') + "\n", as(Format::kJsonl));
  EXPECT_THAT(r.faults, ElementsAre("f:1: nested more than 64 levels deep"));
}

TEST(JsonArray, GivesEachElementItsLine) {
  const Read r = read(" [\n {\"a\": \"],[\\\"\"},\n {\"a\":\n  [1,2]},\n 5]\n", as(Format::kJson));
  EXPECT_THAT(r.rows, ElementsAre(R"(2: {"a":"],[\""})", R"(3: {"a":[1,2]})"));
  EXPECT_THAT(r.faults, ElementsAre("f:5: expected an object ({...}), found a JSON number"));
  EXPECT_THAT(read("[]", as(Format::kJson)).rows, IsEmpty());
  EXPECT_THROWS_WITH(read("[{\"a\":1}", as(Format::kJson)), InputError, "f:1: ", "cut off");
  EXPECT_THROWS_WITH(read("[{\"a\":1", as(Format::kJson)), InputError, "cut off");
  EXPECT_THROWS_WITH(read("[{}] x", as(Format::kJson)), InputError, "something follows");
  EXPECT_THROWS_WITH(read("5", as(Format::kJson)), InputError, "expected a list of rows");
}

TEST(JsonArray, LinesOfJsonAreAcceptedUnderItsName) {
  EXPECT_THAT(read("\n{\"a\":1}\n{\"a\":2}\n", as(Format::kJson)).rows,
              ElementsAre(R"(2: {"a":1})", R"(3: {"a":2})"));
}

TEST(JsonArray, OneObjectAroundTheRowsIsToldAsSuch) {
  for (const Format format : {Format::kJson, Format::kJsonl}) {
    EXPECT_THROWS_WITH(read("{\n \"data\": [\n  {\"a\": 1}\n ]\n}\n", as(format)), InputError,
                       "no whole JSON object", "jq '.data'");
  }
  EXPECT_THROWS_WITH(read("[{\"a\": 1},\n {\"a\": 2}]\n", as(Format::kJsonl)), InputError,
                     "one JSON list", "format: json");
}

TEST(Records, LinesThatEndInCarriageReturnsAlone) {
  EXPECT_THAT(read("a,b\r1,2\r3,4", as(Format::kCsv)).rows,
              ElementsAre(R"(2: {"a":"1","b":"2"})", R"(3: {"a":"3","b":"4"})"));
  EXPECT_THAT(read("{\"a\":1}\r{\"a\":2}\r", as(Format::kJsonl)).rows,
              ElementsAre(R"(1: {"a":1})", R"(2: {"a":2})"));
  EXPECT_THAT(read("one\rmore\ntwo\n", as(Format::kText)).rows,
              ElementsAre(R"(1: {"text":"one\rmore"})", R"(2: {"text":"two"})"))
      << "a lone one in a file of other lines is a character";
}

TEST(Text, DocumentsAreLinesParagraphsOrTheFile) {
  const std::string text = "one\r\n\ntwo\nthree\n \nfour";
  RecordOptions options = as(Format::kText);
  EXPECT_THAT(read(text, options).rows,
              ElementsAre(R"(1: {"text":"one"})", R"(3: {"text":"two"})", R"(4: {"text":"three"})",
                          R"(6: {"text":"four"})"));
  options.documents = Documents::kParagraph;
  EXPECT_THAT(
      read(text, options).rows,
      ElementsAre(R"(1: {"text":"one"})", R"(3: {"text":"two\nthree"})", R"(6: {"text":"four"})"));
  options.documents = Documents::kFile;
  EXPECT_THAT(read(text, options).rows,
              ElementsAre(R"(1: {"text":"one\r\n\ntwo\nthree\n \nfour"})"));
  EXPECT_THAT(read(" \n", options).rows, IsEmpty());
  EXPECT_THAT(read("a\n\xC3\nb\n", as(Format::kText)).faults,
              ElementsAre("f:2: bytes that are not UTF-8"));
}

TEST(OpenRecords, UnpacksGzipAndZstd) {
  const weft::tests::TempDir dir;
  std::string text;
  for (int i = 0; i < 50'000; ++i) text += "{\"a\":" + std::to_string(i) + "}\n";
  dir.write("a.jsonl.gz", gzip(text.substr(0, 100)) + gzip(text.substr(100)));
  dir.write("a.jsonl.zst", zstd(text));
  for (const char* name : {"a.jsonl.gz", "a.jsonl.zst"}) {
    const auto reader = open_records(dir / name, {}, {});
    const Read r = drain(*reader);
    ASSERT_EQ(r.rows.size(), 50'000U) << name;
    EXPECT_EQ(r.rows.back(), R"(50000: {"a":49999})");
  }
}

TEST(OpenRecords, BrokenCompressionNamesTheFile) {
  const weft::tests::TempDir dir;
  const std::string text(100'000, 'x');
  dir.write("cut.txt.gz", gzip(text).substr(0, 60));
  dir.write("cut.txt.zst", zstd(text).substr(0, 15));
  dir.write("bad.txt.gz", "not gzip at all");
  dir.write("bad.txt.zst", "not zstd at all");
  for (const char* name : {"cut.txt.gz", "cut.txt.zst"}) {
    EXPECT_THROWS_WITH(drain(*open_records(dir / name, {}, {})), InputError, name, "cut off");
  }
  for (const char* name : {"bad.txt.gz", "bad.txt.zst"}) {
    EXPECT_THROWS_WITH(drain(*open_records(dir / name, {}, {})), InputError, name, "broken");
  }
}

TEST(OpenRecords, RefusesCompressionBombs) {
  const weft::tests::TempDir dir;
  dir.write("bomb.txt.zst", zstd(std::string(std::size_t{300} << 20, ' ')));
  EXPECT_THROWS_WITH(drain(*open_records(dir / "bomb.txt.zst", {}, {})), InputError, "bomb.txt.zst",
                     "1000 times");
}

TEST(OpenRecords, SaysWhatAFileShouldBe) {
  const weft::tests::TempDir dir;
  dir.write("data.parquet", "PAR1");
  EXPECT_THROWS_WITH((void)open_records(dir / "data.parquet", {}, {}), InputError, "data.parquet",
                     "convert to JSONL");
  EXPECT_THROWS_WITH((void)open_records(dir / "none.csv", {}, {}), InputError, "no such file");
  EXPECT_THROWS_WITH((void)open_records(dir.path(), {}, {}), InputError, "is a directory");
}

}  // namespace
}  // namespace weft::data
