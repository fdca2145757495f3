#include "data/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "data/preflight.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"

namespace weft::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string fill(std::string_view text, const char* row,
                 FieldTemplate::Empty empty = FieldTemplate::Empty::kAllow) {
  return FieldTemplate(text, "t").fill(nlohmann::ordered_json::parse(row), empty);
}

TEST(FieldTemplate, FillsColumnsAndKeepsDoubledBraces) {
  EXPECT_EQ(fill("Traduce: {es} {{x}} {es}", R"({"es": "agua"})"), "Traduce: agua {x} agua");
  EXPECT_EQ(fill("{a b} {n} {t}", R"({"a b": "c", "n": 1.5, "t": true})"), "c 1.5 true");
  EXPECT_EQ(fill("{a}", R"({"a": "{b}"})"), "{b}") << "values are not templates";
}

TEST(FieldTemplate, RefusesBracesWithoutPartner) {
  for (const char* bad : {"{a", "a}", "{}", "{a{b}}", "}{"}) {
    EXPECT_THROWS_WITH(FieldTemplate(bad, "fields.output"), ConfigError, "fields.output");
  }
}

TEST(FieldTemplate, NamesTheColumnThatIsMissing) {
  EXPECT_THROWS_WITH((void)fill("{b}", R"({"a": "x"})"), InputError, "no column 'b'");
  EXPECT_THROWS_WITH((void)fill("{a}", R"({"a": null})"), InputError, "column 'a' holds nothing");
  EXPECT_THROWS_WITH((void)fill("{a}", R"({"a": [1]})"), InputError, "column 'a' holds a list");
  EXPECT_THROWS_WITH((void)fill("x {a}", R"({"a": " "})", FieldTemplate::Empty::kRefuse),
                     InputError, "column 'a' is empty");
}

struct Files {
  weft::tests::TempDir dir;

  DatasetConfig config(std::string_view name, std::string_view bytes) const {
    DatasetConfig c;
    c.path = {dir.write(name, bytes)};
    return c;
  }
};

TEST(LoadSamples, TellsTheTypeFromTheColumns) {
  const Files files;
  std::vector<std::string> log;
  const core::Log listen = [&](core::Level, std::string_view line) { log.emplace_back(line); };
  const auto load = [&](const char* row) {
    return load_samples(files.config("a.jsonl", row), listen).at(0);
  };
  EXPECT_EQ(load(R"({"instruction":"q","output":"a"})").type, DatasetType::kInstruction);
  EXPECT_EQ(load(R"({"prompt":"q","completion":"a"})").completion, "a");
  EXPECT_EQ(load(R"({"text":"t"})").text, "t");
  EXPECT_EQ(
      load(R"({"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]})")
          .messages.size(),
      2U);
  EXPECT_THAT(log.at(0),
              HasSubstr("a.jsonl: read as type instruction (columns instruction, output)"));
  EXPECT_THROWS_WITH((void)load(R"({"es":"q","nah":"a"})"), InputError, "a.jsonl",
                     "columns (es, nah) do not tell", "{es}");
}

TEST(LoadSamples, InstructionBecomesMessages) {
  const Files files;
  DatasetConfig c = files.config("a.csv", "es,nah,note\nagua,atl,x\n");
  c.fields = {{"instruction", "Traduce: {es}"},
              {"output", "{nah}"},
              {"input", "({note})"},
              {"system", "Eres traductor."}};
  EXPECT_EQ(
      load_samples(c).at(0).messages.dump(),
      R"~([{"role":"system","content":"Eres traductor."},)~"
      R"~({"role":"user","content":"Traduce: agua\n(x)","instruction":"Traduce: agua","input":"(x)"},)~"
      R"~({"role":"assistant","content":"atl"}])~");
}

TEST(LoadSamples, ShareGptAndContentPartsAreUnderstood) {
  const Files files;
  const auto samples = load_samples(files.config(
      "a.jsonl",
      R"({"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}],"system":"s"})"
      "\n"
      R"({"conversations":[{"role":"user","content":[{"type":"text","text":"x"},{"type":"text","text":"y"}]},)"
      R"({"role":"assistant","content":"a"}]})"));
  EXPECT_EQ(samples.at(0).messages.dump(),
            R"([{"role":"system","content":"s"},{"role":"user","content":"q"},)"
            R"({"role":"assistant","content":"a"}])");
  EXPECT_EQ(samples.at(1).messages[0]["content"], "xy");
}

TEST(LoadSamples, BadRowsStopWithFileLineAndCount) {
  const Files files;
  const DatasetConfig c =
      files.config("a.jsonl", "{\"text\":\"x\"}\n{\"text\":\" \"}\n{\"other\":1}\nnonsense\n");
  EXPECT_THROWS_WITH((void)load_samples(c), InputError, "a.jsonl:2: column 'text' is empty",
                     "3 bad rows of 4 in all", "on_bad_row: skip");
}

TEST(LoadSamples, BadRowsAreSkippedAndCountedWhenAsked) {
  const Files files;
  DatasetConfig c =
      files.config("a.jsonl", R"({"messages":[{"role":"user","content":"q"}]})"
                              "\n"
                              R"({"messages":[{"role":"assistant","content":""}]})"
                              "\n"
                              R"({"messages":[{"role":"assistant","content":[{"type":"image"}]}]})"
                              "\n"
                              R"({"messages":[{"content":"q"}]})"
                              "\n"
                              R"({"messages":5})"
                              "\n"
                              R"({"messages":[{"role":"assistant","content":"a"}]})"
                              "\n");
  c.on_bad_row = OnBadRow::kSkip;
  ReadStatistics statistics;
  std::vector<std::string> log;
  const auto samples = load_samples(
      c, [&](core::Level, std::string_view line) { log.emplace_back(line); }, &statistics);
  EXPECT_EQ(samples.size(), 1U);
  EXPECT_EQ(statistics.rows, 1);
  EXPECT_EQ(statistics.bad_rows, 5);
  EXPECT_EQ(statistics.faults.at(0).what,
            "the conversation has no assistant message to learn from");
  EXPECT_EQ(statistics.faults.at(1).what, "message 0 (assistant) is empty");
  EXPECT_EQ(statistics.faults.at(2).what, "message 0 holds something that is not text");
  EXPECT_EQ(statistics.faults.at(3).what, "message 0 has no role");
  EXPECT_THAT(statistics.faults.at(4).what, HasSubstr("expected a list of messages"));
  EXPECT_THAT(log.back(), HasSubstr("5 of 6 rows were left out"));
}

TEST(LoadSamples, AFileWithoutRowsIsNamed) {
  const Files files;
  EXPECT_THROWS_WITH((void)load_samples(files.config("a.csv", "prompt,completion\n")), InputError,
                     "a.csv: there are no rows");
  DatasetConfig c = files.config("b.jsonl", "nonsense\n");
  c.on_bad_row = OnBadRow::kSkip;
  EXPECT_THROWS_WITH((void)load_samples(c), InputError, "b.jsonl: no row in it can be used");
}

TEST(LoadSamples, AnotherDelimiterIsToldWithTheKeyToSet) {
  const Files files;
  DatasetConfig c = files.config("a.csv", "es;nah\nagua;atl\n");
  EXPECT_THROWS_WITH((void)load_samples(c), InputError, "a.csv", "es;nah", "delimiter: \";\"");
  c.fields = {{"instruction", "{es}"}, {"output", "{nah}"}};
  EXPECT_THROWS_WITH((void)load_samples(c), InputError, "a.csv", "column 'es'", "delimiter: \";\"");
  // Commas in every row: no row tells the columns.
  c.path = {files.dir.write("b.csv", "es;nah\nagua, por favor;atl\n")};
  EXPECT_THROWS_WITH((void)load_samples(c), InputError, "b.csv:2", "delimiter: \";\"");
  c.path = {files.dir.write("c.csv", "es\tnah\nagua\tatl\n")};
  EXPECT_THROWS_WITH((void)load_samples(c), InputError, "delimiter: \"\\t\"");
  c.delimiter = "\t";
  EXPECT_EQ(load_samples(c).size(), 1U);
}

TEST(LoadSamples, ATemplateForAColumnThatIsNotThereStopsAtOnce) {
  const Files files;
  DatasetConfig c = files.config("a.csv", "es,nah\nagua,atl\n");
  c.fields = {{"instruction", "{ess}"}, {"output", "{nah}"}};
  c.on_bad_row = OnBadRow::kSkip;
  EXPECT_THROWS_WITH((void)load_samples(c), InputError, "fields.instruction needs the column 'ess'",
                     "the file has es, nah", "did you mean 'es'?");
}

TEST(LoadSamples, LimitAndShuffleSeedChooseRows) {
  const Files files;
  std::string text;
  for (int i = 0; i < 100; ++i) text += "{\"text\":\"" + std::to_string(i) + "\"}\n";
  DatasetConfig c = files.config("a.jsonl", text);
  c.limit = 5;
  std::vector<std::string> plain;
  for (const Sample& sample : load_samples(c)) plain.push_back(sample.text);
  EXPECT_THAT(plain, ElementsAre("0", "1", "2", "3", "4"));
  c.shuffle_seed = 7;
  std::vector<std::string> shuffled;
  for (const Sample& sample : load_samples(c)) shuffled.push_back(sample.text);
  EXPECT_EQ(shuffled.size(), 5U);
  EXPECT_NE(shuffled, plain);
  // Written down: the choice must not depend on the library or machine.
  EXPECT_THAT(shuffled, ElementsAre("14", "52", "70", "16", "71"));
}

TEST(ResolveFiles, PatternsAreSortedAndMustMatch) {
  const weft::tests::TempDir dir;
  dir.write("b.jsonl", "");
  dir.write("a.jsonl", "");
  dir.write("c[1].jsonl", "");
  EXPECT_THAT(resolve_files({dir / "?.jsonl", dir / "c[1].jsonl"}),
              ElementsAre(dir / "a.jsonl", dir / "b.jsonl", dir / "c[1].jsonl"));
  EXPECT_THROWS_WITH((void)resolve_files({dir / "*.csv"}), InputError, "*.csv", "no file matches");
}

struct Root {
  std::vector<DatasetConfig> datasets;
};
void describe(schema::Schema<Root>& s) { s.list("datasets", &Root::datasets, "data"); }

std::string problems(const std::string& entry) {
  try {
    (void)schema::parse_config<Root>("datasets:\n  - " + entry + "\n", {"c.yaml", "/d"});
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(DatasetConfig, ReadsFromYaml) {
  const auto root = schema::parse_config<Root>(
      "datasets:\n"
      "  - path: [a.csv, 'b*.csv']\n"
      "    type: instruction\n"
      "    fields: {instruction: \"Traduce: {es}\", output: \"{nah}\"}\n"
      "    columns: [es, nah]\n"
      "    on_bad_row: skip\n",
      {"c.yaml", "/d"});
  const DatasetConfig& c = root.datasets.at(0);
  EXPECT_THAT(c.path, ElementsAre("/d/a.csv", "/d/b*.csv"));
  EXPECT_EQ(c.fields.at("output"), "{nah}");
  EXPECT_EQ(c.on_bad_row, OnBadRow::kSkip);
  EXPECT_EQ(schema::parse_config<Root>(schema::dump_config(root, schema::Dump::kFull)).datasets,
            root.datasets);
}

TEST(DatasetConfig, MistakesHaveTheirPlace) {
  EXPECT_EQ(problems("{path: a, fields: {instruction: '{es', output: x}}"),
            "c.yaml:2:24: datasets.0.fields.instruction: the template: '{' without '}' in '{es'; "
            "write '{{' for the brace itself");
  EXPECT_THAT(problems("{path: a, fields: {es: '{es}'}}"), HasSubstr("do not tell the type"));
  EXPECT_THAT(problems("{path: a, type: text, fields: {output: x}}"),
              HasSubstr("a dataset of type text has the parts text"));
  EXPECT_THAT(problems("{path: a, header: false}"), HasSubstr("needs columns"));
  EXPECT_THAT(problems("{path: a, delimiter: ';;'}"), HasSubstr("expected one character"));
  EXPECT_THAT(problems("{path: a, type: alpacca}"), HasSubstr("expected one of instruction"));
}

TEST(DatasetConfig, WordsOfOtherTrainersAreReadOrRefusedWithWhatToWrite) {
  const auto read = [](const std::string& entry) {
    return schema::parse_config<Root>("datasets:\n  - " + entry + "\n", {"c.yaml", "/d"})
        .datasets.at(0);
  };
  const DatasetConfig chat = read(
      "{path: a, type: chat_template, field_messages: talks, split: 'train[:500]', "
      "message_property_mappings: {role: from, content: value}, roles_to_train: [assistant]}");
  EXPECT_EQ(chat.type, DatasetType::kChat);
  EXPECT_EQ(chat.fields.at("messages"), "{talks}");
  EXPECT_EQ(chat.limit, 500);
  const DatasetConfig text = read("{path: a, type: completion, field: story}");
  EXPECT_EQ(text.type, DatasetType::kText);
  EXPECT_EQ(text.fields.at("text"), "{story}");
  EXPECT_EQ(read("{path: a, type: completion}").type, DatasetType::kCompletion);  // ours
  EXPECT_THAT(problems("{path: a, type: alpaca}"), HasSubstr("type: instruction"));
  EXPECT_THAT(problems("{path: a, split: 'train[:20%]'}"), HasSubstr("limit: N"));
  EXPECT_THAT(problems("{path: a, roles: {user: [client]}}"), HasSubstr("'client'"));
  EXPECT_THAT(problems("{path: a, train_on_eos: last}"), HasSubstr("remove the key"));
  EXPECT_THAT(problems("{path: a, message_property_mappings: {role: speaker}}"),
              HasSubstr("rename the keys"));
}

TEST(DataDocument, ListsTheKeysAsTheSchemaHasThem) {
  const std::string page = tests::slurp(tests::source_dir() / "docs/data.md");
  for (const std::string& reference :
       {schema::config_reference<DatasetConfig>(), schema::config_reference<PreflightLimits>()}) {
    const std::string table = reference.substr(reference.find("| key"));
    EXPECT_THAT(page, HasSubstr(table.substr(0, table.find("\n\n") + 1)));
  }
}

}  // namespace
}  // namespace weft::data
