#include "schema/foreign.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "schema/schema.h"
#include "tests/support/throws.h"

namespace weft::schema::foreign_test {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Source {
  std::string path;
  std::optional<std::int64_t> limit;
};
struct Layers {
  std::int64_t r = 8;
  std::string kind = "dense";
};
struct Config {
  double decay = 0;
  Layers adapter;
  std::vector<Source> sources;
};

void describe(Schema<Source>& s) {
  s.field("path", &Source::path, "the file").required();
  s.field("limit", &Source::limit, "rows");
  s.foreign({{.key = "rows",
              .from = "other",
              .meaning = "limit",
              .read = [](const ConfigNode& value, const ConfigNode&) {
                return ForeignReading::means("limit", value);
              }}});
}
void describe(Schema<Layers>& s) {
  s.field("r", &Layers::r, "rank");
  s.field("kind", &Layers::kind, "how it is kept");
}
void describe(Schema<Config>& s) {
  s.field("decay", &Config::decay, "decay");
  s.section("adapter", &Config::adapter, "what is trained");
  s.list("sources", &Config::sources, "data");
  s.alias("lora_r", "adapter.r");
  const auto four_bits = [](const ConfigNode& value, const ConfigNode&) {
    if (is_off(value)) return ForeignReading::left_out("it asks for nothing");
    return ForeignReading::means("adapter.kind", ConfigNode::scalar("four"));
  };
  s.foreign(
      {{.key = "adapter",
        .from = "other",
        .meaning = "adapter.kind",
        .read =
            [](const ConfigNode& value, const ConfigNode&) {
              if (value.kind == ConfigNode::Kind::kMap) return ForeignReading::own();
              if (value.kind == ConfigNode::Kind::kNull) {
                return ForeignReading::refused("that is no adapter; write adapter: lora");
              }
              return ForeignReading::means("adapter.kind", ConfigNode::scalar("four"));
            },
        .reads_null = true},
       {.key = "four_bits", .from = "other", .meaning = "adapter.kind", .read = four_bits},
       {.key = "eight_bits",
        .from = "other",
        .meaning = "adapter.kind",
        .read =
            [](const ConfigNode&, const ConfigNode&) {
              return ForeignReading::means("adapter.kind", ConfigNode::scalar("eight"));
            }},
       {.key = "decay",
        .from = "other",
        .meaning = "decay",
        .read = [](const ConfigNode&, const ConfigNode&) { return ForeignReading::own(); }},
       {.key = "log_to",
        .from = "other",
        .meaning = "nothing",
        .read =
            [](const ConfigNode&, const ConfigNode&) {
              return ForeignReading::left_out("there is a file of it");
            }},
       {.key = "most_rows",
        .from = "other",
        .meaning = "sources.limit",
        .read = [](const ConfigNode& value,
                   const ConfigNode&) { return ForeignReading::means("sources.*.limit", value); }},
       {.key = "noise",
        .from = "other",
        .meaning = "refused",
        .read = [](const ConfigNode& value, const ConfigNode&) {
          if (is_off(value)) return ForeignReading::left_out("it asks for nothing");
          return ForeignReading::refused("no noise is added here; remove the key");
        }}});
}

struct Said {
  Config config;
  std::vector<std::string> lines;
};

Said read(std::string_view yaml, const std::vector<std::string>& overrides = {}) {
  Said said;
  said.config = parse_config<Config>(
      yaml, {.name = "c.yaml", .directory = {}}, overrides,
      [&](core::Level, std::string_view line) { said.lines.emplace_back(line); });
  return said;
}

TEST(ForeignWords, AreReadAsKeysOfOursAndEachIsToldOnce) {
  const Said said = read("adapter: qlora\nfour_bits: true\nlora_r: 32\n");
  EXPECT_EQ(said.config.adapter.kind, "four");
  EXPECT_EQ(said.config.adapter.r, 32);  // `adapter` is a word and yet has keys of ours
  EXPECT_THAT(said.lines,
              ElementsAre("c.yaml:1:1: 'adapter: qlora' is read as 'adapter.kind: four'",
                          "c.yaml:2:1: 'four_bits: true' is read as 'adapter.kind: four'",
                          "c.yaml:3:1: 'lora_r' is read as 'adapter.r'"));
}

TEST(ForeignWords, WithoutMeaningAreToldWithTheReason) {
  const Said said = read("log_to: [a, b]\nnoise: 0\n");
  EXPECT_THAT(said.lines,
              ElementsAre("c.yaml:1:1: 'log_to: [a, b]' is left out: there is a file of it",
                          "c.yaml:2:1: 'noise: 0' is left out: it asks for nothing"));
}

TEST(ForeignWords, WithoutValueAreNotGivenAndToldTogether) {
  const Said said = read("decay:\nlog_to:\nfour_bits:\n");
  EXPECT_EQ(said.config.decay, 0);
  EXPECT_EQ(said.config.adapter.kind, "dense");
  EXPECT_THAT(said.lines, ElementsAre("c.yaml: keys without a value count as not given: decay, "
                                      "log_to, four_bits"));
  EXPECT_THROWS_WITH(read("adapter:\n"), ConfigError, "c.yaml:1:1: adapter: that is no adapter");
}

TEST(ForeignWords, ThatAskForWhatIsNotDoneAreRefusedWithWhatToDo) {
  EXPECT_THROWS_WITH(read("noise: 5\n"), ConfigError,
                     "c.yaml:1:1: noise: 5: no noise is added here; remove the key");
}

TEST(ForeignWords, BesideAKeyOfOursForTheSameAreAProblemThatNamesBoth) {
  EXPECT_THROWS_WITH(read("four_bits: true\nadapter: {kind: eight}\n"), ConfigError, "c.yaml:1:1",
                     "'four_bits: true' means 'adapter.kind: four'", "adapter.kind is given too");
  EXPECT_THROWS_WITH(read("four_bits: true\neight_bits: true\n"), ConfigError, "c.yaml:2:1",
                     "'eight_bits: true' means 'adapter.kind: eight'",
                     "'four_bits: true' means 'adapter.kind: four'; keep one");
}

TEST(ForeignWords, ReachEveryItemOfAListAndSectionsBelow) {
  const Said said = read("most_rows: 5\nsources: [{path: a}, {path: b}]\n");
  EXPECT_EQ(said.config.sources[0].limit, 5);
  EXPECT_EQ(said.config.sources[1].limit, 5);
  EXPECT_EQ(read("sources: [{path: a, rows: 7}]\n").config.sources[0].limit, 7);
  EXPECT_THROWS_WITH(read("most_rows: 5\nsources: [{path: a}, {path: b, limit: 2}]\n"), ConfigError,
                     "most_rows: 5", "sources.*.limit");
}

TEST(ForeignWords, WorkInSetAndWinOverTheFile) {
  const Said said = read("adapter: {kind: eight}\nsources: [{path: a, limit: 2}]\n",
                         {"four_bits=true", "most_rows=9", "log_to=x", "decay=0.5"});
  EXPECT_EQ(said.config.adapter.kind, "four");
  EXPECT_EQ(said.config.sources[0].limit, 9);
  EXPECT_EQ(said.config.decay, 0.5);
  EXPECT_THAT(said.lines,
              ElementsAre("--set four_bits=true: 'four_bits: true' is read as 'adapter.kind: four'",
                          "--set most_rows=9: 'most_rows: 9' is read as 'sources.*.limit: 9'",
                          "--set log_to=x: 'log_to: x' is left out: there is a file of it"));
  EXPECT_EQ(read("sources: [{path: a}]\n", {"sources.0.rows=3"}).config.sources[0].limit, 3);
  EXPECT_EQ(read("", {"adapter=qlora", "adapter.r=4"}).config.adapter.kind, "four");
  EXPECT_THROWS_WITH(read("", {"noise=5"}), ConfigError, "--set noise=5: noise: 5: no noise");
}

TEST(ForeignWords, OursAreUntouched) {
  const Said said = read("adapter: {r: 4}\ndecay: 0.1\n");
  EXPECT_EQ(said.config.adapter.r, 4);
  EXPECT_EQ(said.config.decay, 0.1);
  EXPECT_THAT(said.lines, IsEmpty());
}

}  // namespace weft::schema::foreign_test
