#include "schema/schema.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"

namespace weft::schema::schema_test {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

enum class Scheduler { kConstant, kLinear, kCosine };

struct Adapter {
  std::int64_t r = 8;
  double lora_alpha = 8;
  std::vector<std::string> target_modules = {"all-linear"};
  std::map<std::string, std::int64_t> rank_pattern;
  bool operator==(const Adapter&) const = default;
};
struct Dataset {
  std::filesystem::path path;
  std::string language;
  std::optional<std::int64_t> limit;
  std::map<std::string, std::string> fields;
  std::vector<std::string> columns;
  bool operator==(const Dataset&) const = default;
};
struct Validation {
  std::filesystem::path path;
  Duration every{100, Duration::Unit::kUpdates};
  bool operator==(const Validation&) const = default;
};
struct Config {
  std::filesystem::path base_model;
  std::filesystem::path output_dir = "run";
  std::int64_t seed = 42;
  std::int64_t sequence_len = 1024;
  double learning_rate = 2e-4;
  bool packing = true;
  Scheduler scheduler = Scheduler::kCosine;
  std::optional<Scheduler> second;
  std::optional<double> clip;
  Share warmup{0.03, true};
  Bytes memory{std::uint64_t{2} << 30};
  Adapter adapter{.r = 16, .lora_alpha = 32, .target_modules = {"all-linear"}, .rank_pattern = {}};
  std::vector<Dataset> datasets;
  std::optional<Validation> validation;
  bool operator==(const Config&) const = default;
};

void describe(Schema<Adapter>& s) {
  s.field("r", &Adapter::r, "rank").range(1, 4096).alias("rank");
  s.field("lora_alpha", &Adapter::lora_alpha, "numerator of the scale").positive();
  s.field("target_modules", &Adapter::target_modules, "which layers").non_empty();
  s.field("rank_pattern", &Adapter::rank_pattern, "rank by name").at_least(1);
}
void describe(Schema<Dataset>& s) {
  s.field("path", &Dataset::path, "the file").required();
  s.field("language", &Dataset::language, "code of the language");
  s.field("limit", &Dataset::limit, "use only so many").at_least(1);
  s.field("fields", &Dataset::fields, "templates");
  s.field("columns", &Dataset::columns, "names");
}
void describe(Schema<Validation>& s) {
  s.field("path", &Validation::path, "the file").required();
  s.field("every", &Validation::every, "how often").positive();
}
void describe(Schema<Config>& s) {
  s.field("base_model", &Config::base_model, "model").required();
  s.field("output_dir", &Config::output_dir, "where the run goes");
  s.field("seed", &Config::seed, "seed");
  s.field("sequence_len", &Config::sequence_len, "longest row").at_least(8).alias("cutoff_len");
  s.field("learning_rate", &Config::learning_rate, "peak rate").positive().at_most(1);
  s.field("packing", &Config::packing, "several examples a row");
  s.choice("lr_scheduler", &Config::scheduler,
           {{"constant", Scheduler::kConstant},
            {"linear", Scheduler::kLinear},
            {"cosine", Scheduler::kCosine}},
           "shape of the rate");
  s.choice("second", &Config::second, {{"constant", Scheduler::kConstant}}, "another");
  s.field("clip", &Config::clip, "largest norm").positive();
  s.field("warmup", &Config::warmup, "share of the updates");
  s.field("memory", &Config::memory, "limit");
  s.section("adapter", &Config::adapter, "what is trained");
  s.list("datasets", &Config::datasets, "what it learns from");
  s.section("validation", &Config::validation, "held-out data");
  s.alias("lora_r", "adapter.r");
  s.alias("lora_alpha", "adapter.lora_alpha");
  s.variants("several", {"base_model", "output_dir"}, "Several at once");
  s.check([](const Config& config, CheckReport& report) {
    if (config.adapter.r > config.sequence_len) {
      report.problem("adapter.r", "larger than sequence_len; lower it");
    }
  });
}

Config parse(std::string_view yaml, const std::vector<std::string>& overrides = {},
             const core::Log& log = {}, Origins* origins = nullptr) {
  return parse_config<Config>(yaml, {.name = "c.yaml", .directory = "/base/dir"}, overrides, log,
                              origins);
}

std::string problems(std::string_view yaml, const std::vector<std::string>& overrides = {}) {
  try {
    (void)parse(yaml, overrides);
  } catch (const ConfigError& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::kBadInput);
    return error.what();
  }
  ADD_FAILURE() << "nothing wrong with:\n" << yaml;
  return "";
}

/// A configuration of one more line than the required one.
Config with(const std::string& line) { return parse("base_model: m\n" + line + "\n"); }
std::string wrong(const std::string& line) { return problems("base_model: m\n" + line + "\n"); }

TEST(Schema, ReadsEveryType) {
  const Config c = parse(R"(
base_model: ../models/Smol
seed: 010
learning_rate: 1e-4
packing: off
lr_scheduler: linear
clip: 1
warmup: 100
memory: 1.5GB
adapter: {r: 4, target_modules: [q_proj, v_proj], rank_pattern: {model.layers.0: 2}}
datasets:
  - path: a.csv
    language: no
    limit: 1e3
    fields: {output: "{nah}"}
    columns: es
validation: {path: /v.csv, every: 0.5e}
)");
  EXPECT_EQ(c.base_model, "/base/models/Smol");
  EXPECT_EQ(c.output_dir, "/base/dir/run") << "defaults are relative to the file as well";
  EXPECT_EQ(c.seed, 10);
  EXPECT_EQ(c.learning_rate, 1e-4);
  EXPECT_FALSE(c.packing);
  EXPECT_EQ(c.scheduler, Scheduler::kLinear);
  EXPECT_EQ(c.clip, 1.0);
  EXPECT_EQ(c.warmup, (Share{100, false}));
  EXPECT_EQ(c.memory.count, 1'500'000'000U);
  EXPECT_EQ(c.adapter.r, 4);
  EXPECT_EQ(c.adapter.lora_alpha, 32) << "the parent's default, not the section's";
  EXPECT_THAT(c.adapter.target_modules, ElementsAre("q_proj", "v_proj"));
  EXPECT_EQ(c.adapter.rank_pattern.at("model.layers.0"), 2);
  ASSERT_EQ(c.datasets.size(), 1U);
  EXPECT_EQ(c.datasets[0].path, "/base/dir/a.csv");
  EXPECT_EQ(c.datasets[0].language, "no") << "Norwegian is not a boolean";
  EXPECT_EQ(c.datasets[0].limit, 1000);
  EXPECT_THAT(c.datasets[0].columns, ElementsAre("es"));
  ASSERT_TRUE(c.validation);
  EXPECT_EQ(c.validation->every, (Duration{0.5, Duration::Unit::kEpochs}));
}

TEST(Schema, ListsAllProblemsAtOnceInFileOrder) {
  const std::string text = problems(
      "base_modle: x\n"
      "adapter:\n"
      "  r: 0\n"
      "  lora_alpa: 3\n"
      "learning_rate: fast\n"
      "seed: 1\n"
      "seed: 2\n");
  EXPECT_EQ(text,
            "c.yaml:1:1: base_modle: unknown key; did you mean 'base_model'?\n"
            "c.yaml:1:1: base_model: required key is missing (model)\n"
            "c.yaml:3:6: adapter.r: must be from 1 to 4096, found 0\n"
            "c.yaml:4:3: adapter.lora_alpa: unknown key; did you mean 'lora_alpha'?\n"
            "c.yaml:5:16: learning_rate: expected a finite number, found 'fast'\n"
            "c.yaml:7:1: duplicate key 'seed', first given in line 6");
}

TEST(Schema, UnknownKeySuggestsTheSectionItBelongsTo) {
  EXPECT_THAT(wrong("r: 8"), HasSubstr("c.yaml:2:1: r: unknown key; did you mean 'adapter.r'?"));
  EXPECT_THAT(wrong("adapter: {seed: 1}"),
              HasSubstr("adapter.seed: unknown key; did you mean 'seed'?"));
  EXPECT_THAT(wrong("zzzzzzzzzz: 8"), Not(HasSubstr("did you mean")));
}

TEST(Schema, RefusesNumbersThatNobodyMeans) {
  for (const char* bad : {"2_000", "0x10", "1.5", ".nan", ".inf", "\"8\"", "eight", "[8]", "{a: 8}",
                          "", "9223372036854775808", "1e30", "+-5", "1e", "0o17", "2K", "--5"}) {
    EXPECT_THAT(wrong(std::string("seed: ") + bad), HasSubstr("c.yaml:2:")) << bad;
  }
  for (const char* bad : {".nan", "inf", "1e999", "1,5", "'0.1'", "0", "-1", "1.5", "1e-4x"}) {
    EXPECT_THAT(wrong(std::string("learning_rate: ") + bad), HasSubstr("learning_rate: ")) << bad;
  }
  EXPECT_THAT(wrong("seed: 2_000"), HasSubstr("write digits without '_'"));
  EXPECT_THAT(wrong("seed: \"8\""), HasSubstr("remove the quotes"));
  EXPECT_THAT(wrong("seed: 9223372036854775808"), HasSubstr("too large"));
}

TEST(Schema, ReadsNumbersThatPeopleMean) {
  EXPECT_EQ(with("seed: 010").seed, 10);
  EXPECT_EQ(with("seed: +7").seed, 7);
  EXPECT_EQ(with("seed: -7").seed, -7);
  EXPECT_EQ(with("seed: 9223372036854775807").seed, INT64_MAX);
  EXPECT_EQ(with("seed: 2.5e3").seed, 2500);
  EXPECT_EQ(with("learning_rate: 5E-05").learning_rate, 5e-5);
  EXPECT_EQ(with("learning_rate: .5").learning_rate, 0.5);
}

TEST(Schema, BooleansOnlyWhereWanted) {
  for (const char* yes : {"true", "True", "yes", "on", "ON"}) {
    EXPECT_TRUE(with(std::string("packing: ") + yes).packing) << yes;
  }
  for (const char* no : {"false", "no", "Off"}) {
    EXPECT_FALSE(with(std::string("packing: ") + no).packing) << no;
  }
  for (const char* bad : {"1", "0", "y", "'true'", "[true]", "null"}) {
    EXPECT_THAT(wrong(std::string("packing: ") + bad), HasSubstr("true or false")) << bad;
  }
}

TEST(Schema, ChoicesNameWhatThereIs) {
  EXPECT_THAT(wrong("lr_scheduler: cosin"),
              HasSubstr("expected one of constant, linear, cosine, found 'cosin'; did you mean "
                        "'cosine'?"));
  EXPECT_EQ(with("second: ~").second, std::nullopt);
  EXPECT_EQ(with("second: constant").second, Scheduler::kConstant);
}

TEST(Schema, AliasesAreAcceptedAndReported) {
  std::vector<std::string> lines;
  const Config c = parse("base_model: m\nlora_r: 4\ncutoff_len: 77\n", {},
                         [&](core::Level, std::string_view line) { lines.emplace_back(line); });
  EXPECT_EQ(c.adapter.r, 4);
  EXPECT_EQ(c.adapter.lora_alpha, 32);
  EXPECT_EQ(c.sequence_len, 77);
  EXPECT_THAT(lines, ElementsAre("c.yaml:2:1: 'lora_r' is read as 'adapter.r'",
                                 "c.yaml:3:1: 'cutoff_len' is read as 'sequence_len'"));
}

TEST(Schema, AliasBesideItsKeyIsAProblem) {
  EXPECT_THAT(wrong("lora_r: 4\nadapter: {r: 4}"),
              HasSubstr("c.yaml:2:1: lora_r: means the same as 'adapter.r', which is given too"));
  EXPECT_THAT(wrong("lora_r: 4\nadapter: {rank: 4}"), HasSubstr("lora_r: means the same"));
  EXPECT_THAT(wrong("adapter: {rank: 4, r: 4}"), HasSubstr("adapter.rank: means the same"));
  EXPECT_THAT(wrong("lora_r: 4\nadapter: 5"), HasSubstr("lora_r: stands for adapter.r"));
}

TEST(Schema, KeysWithoutValueAreRefused) {
  EXPECT_THAT(wrong("output_dir:"), HasSubstr("output_dir: the key has no value"));
  EXPECT_EQ(with("clip:").clip, std::nullopt);
  EXPECT_FALSE(with("validation: null").validation);
}

TEST(Schema, SectionsAndListsAreToldApart) {
  EXPECT_THAT(wrong("adapter: [1]"), HasSubstr("adapter: expected a section"));
  EXPECT_THAT(wrong("datasets: {path: x}"), HasSubstr("datasets: expected a list of sections"));
  EXPECT_THAT(wrong("datasets: [x.csv]"), HasSubstr("datasets.0: expected a section"));
  EXPECT_THAT(wrong("datasets: [{limit: 3}]"), HasSubstr("datasets.0.path: required key"));
  EXPECT_THAT(wrong("adapter: {target_modules: []}"), HasSubstr("the list is empty"));
  EXPECT_THAT(problems("- a\n"), HasSubstr("c.yaml:1:1: expected keys with values, found a list"));
}

TEST(Schema, RulesBetweenKeysKnowThePlace) {
  EXPECT_THAT(wrong("sequence_len: 8\nadapter:\n  r: 16"),
              HasSubstr("c.yaml:4:3: adapter.r: larger than sequence_len; lower it"));
}

TEST(Schema, OverridesAreCheckedLikeTheFile) {
  const std::string yaml = "base_model: m\ndatasets:\n- path: a\n";
  const Config c = parse(
      yaml, {"adapter.r=4", "lora_alpha=8", "datasets.0.path=/b.csv", "datasets.1.path=/c.csv",
             "adapter.target_modules=[q, v]", "datasets.0.fields.output={nah}: x",
             "datasets.1.columns.0=es", "datasets.1.language=no", "adapter.rank_pattern.a.b=3",
             "validation.path=/v", "clip=null", "output_dir=/o=p", "datasets.0.language=\"a b\""});
  EXPECT_EQ(c.adapter.r, 4);
  EXPECT_EQ(c.adapter.lora_alpha, 8);
  ASSERT_EQ(c.datasets.size(), 2U);
  EXPECT_EQ(c.datasets[0].path, "/b.csv");
  EXPECT_EQ(c.datasets[1].path, "/c.csv");
  EXPECT_THAT(c.adapter.target_modules, ElementsAre("q", "v"));
  EXPECT_EQ(c.datasets[0].fields.at("output"), "{nah}: x");
  EXPECT_THAT(c.datasets[1].columns, ElementsAre("es"));
  EXPECT_EQ(c.datasets[1].language, "no");
  EXPECT_EQ(c.datasets[0].language, "a b");
  EXPECT_EQ(c.adapter.rank_pattern.at("a.b"), 3);
  EXPECT_EQ(c.validation->path, "/v");
  EXPECT_EQ(c.output_dir, "/o=p");

  EXPECT_EQ(problems(yaml, {"adapter.rr=4", "seed=x", "datasets.5.path=a", "packing.x=1", "seed"}),
            "--set adapter.rr=4: adapter.rr: unknown key; did you mean 'r'?\n"
            "--set datasets.5.path=a: datasets: expected the index of an item, 0 to 1, found '5'\n"
            "--set packing.x=1: packing: this key holds a true or false; nothing is below it\n"
            "--set seed: expected path=value, as in learning_rate=1e-4\n"
            "--set seed=x: seed: expected a whole number, found 'x'");
  EXPECT_EQ(parse("seed: x\nbase_model: m\n", {"seed=3"}).seed, 3) << "--set repairs a value";
  EXPECT_EQ(parse(yaml, {"output_dir=o"}).output_dir, std::filesystem::current_path() / "o");
}

TEST(Schema, OriginsTellWhereEachKeyWasGiven) {
  Origins origins;
  (void)parse("base_model: m\nadapter:\n  r: 4\ndatasets:\n- path: x\n", {"seed=3"}, {}, &origins);
  EXPECT_EQ(origins.at("adapter.r"), "c.yaml:3:3");
  EXPECT_EQ(origins.at("datasets.0.path"), "c.yaml:5:3");
  EXPECT_EQ(origins.at("seed"), "--set seed=3");
  EXPECT_EQ(origins.count("packing"), 0U);
}

TEST(Schema, DumpsReadBackToTheSameConfiguration) {
  const std::vector<std::string> cases{
      "base_model: m\n",
      "base_model: 'a b: #c'\nlearning_rate: 1.0e-5\nclip: 0.1\nwarmup: 3.3%\nmemory: 1000B\n",
      "base_model: m\nadapter: {target_modules: [\"no\", '1', \"a\\nb\", '~', 'é: [x]', '{a}'], "
      "rank_pattern: {\"x: y\": 1}}\n",
      "base_model: m\ndatasets:\n- {path: a, fields: {a: '{b}', c: \" d\"}, limit: 3}\n- path: b\n",
      "base_model: m\nvalidation: {path: v, every: 2Mt}\nsecond: constant\npacking: no\n",
      "base_model: m\noutput_dir: ''\n",
  };
  for (const std::string& yaml : cases) {
    const Config config = parse(yaml);
    for (const Dump dump : {Dump::kMinimal, Dump::kFull}) {
      const std::string text = dump_config(config, dump);
      try {
        EXPECT_EQ(parse_config<Config>(text, {"dump", "/elsewhere"}), config) << text;
      } catch (const Error& error) {
        ADD_FAILURE() << error.what() << "\n" << text;
      }
    }
  }
}

TEST(Schema, MinimalDumpHoldsOnlyWhatDiffers) {
  const Config config = parse("base_model: /m\noutput_dir: /o\nadapter: {r: 4}\nseed: 42\n");
  EXPECT_EQ(dump_config(config, Dump::kMinimal),
            "base_model: /m\noutput_dir: /o\nadapter:\n  r: 4\n");
}

TEST(Schema, FullDumpExplainsEveryKey) {
  const std::string text = dump_config(parse("base_model: /m\n"), Dump::kFull);
  EXPECT_THAT(text, HasSubstr("# peak rate (number, more than 0 and at most 1; default 0.0002)\n"
                              "learning_rate: 0.0002\n"));
  EXPECT_THAT(text, HasSubstr("  # rank (whole number, from 1 to 4096; default 16)\n  r: 16\n"));
}

TEST(Schema, JsonSchemaDescribesKeysAndAliases) {
  const nlohmann::json schema = json_schema<Config>();
  EXPECT_EQ(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
  EXPECT_EQ(schema["additionalProperties"], false);
  EXPECT_EQ(schema["properties"]["adapter"]["properties"]["r"]["maximum"], 4096);
  EXPECT_EQ(schema["properties"]["lora_r"]["deprecated"], true);
  EXPECT_EQ(schema["properties"]["lora_r"]["minimum"], 1);
  EXPECT_EQ(schema["properties"]["lr_scheduler"]["enum"].size(), 3U);
  EXPECT_EQ(schema["allOf"][0]["required"][0], "base_model");
  EXPECT_EQ(schema["properties"]["datasets"]["items"]["properties"]["path"]["type"], "string");
}

TEST(Schema, ReferenceHasARowForEveryKey) {
  const std::string text = config_reference<Config>();
  EXPECT_THAT(text, HasSubstr("| `sequence_len` | whole number, at least 8 | `1024` | longest row "
                              "(also: `cutoff_len`) |"));
  EXPECT_THAT(text, HasSubstr("## `datasets[]`"));
  EXPECT_THAT(text, HasSubstr("`lora_r` for `adapter.r`"));
  EXPECT_THAT(text, HasSubstr("| `base_model` | path | required |"));
}

TEST(Schema, LoadsAFileAndNamesIt) {
  const tests::TempDir dir;
  const auto file = dir.write("sub/run.yaml", "base_model: ../m\n");
  EXPECT_EQ(load_config<Config>(file).base_model, dir / "m");
  dir.write("sub/bad.yaml", "base_model: m\nsedd: 1\n");
  EXPECT_THROWS_WITH((void)load_config<Config>(dir / "sub/bad.yaml"), ConfigError,
                     "sub/bad.yaml:2:1: sedd: unknown key; did you mean 'seed'?");
  EXPECT_THROWS_WITH((void)load_config<Config>(dir / "absent.yaml"), InputError, "absent.yaml");
}

TEST(Schema, AnchorsAndMergeKeysWork) {
  const Config c = parse(R"(
base_model: &m /m
output_dir: *m
adapter: &a {r: 4, lora_alpha: 2}
datasets:
  - &d {path: /a, language: nah}
  - {<<: *d, path: /b}
  - {<<: [{language: es}, *d]}
)");
  EXPECT_EQ(c.output_dir, "/m");
  EXPECT_EQ(c.datasets[1].path, "/b");
  EXPECT_EQ(c.datasets[1].language, "nah");
  EXPECT_EQ(c.datasets[2].path, "/a");
  EXPECT_EQ(c.datasets[2].language, "es") << "earlier merged sections win";
}

std::vector<Variant<Config>> parse_several(std::string_view yaml,
                                           const std::vector<std::string>& overrides = {}) {
  return parse_variants<Config>(yaml, {.name = "c.yaml", .directory = "/base/dir"}, overrides);
}

constexpr const char* kSeveral =
    "base_model: m\nseed: 1\nadapter: {r: 4, lora_alpha: 9}\ndatasets: [{path: all.csv}]\n"
    "several:\n"
    "  - name: nah\n    lora_r: 2\n    datasets: [{path: nah.csv}]\n"
    "  - {name: otomi, seed: 7, validation: {path: v.csv}}\n";

TEST(SchemaVariants, AreTheCommonKeysWithTheirOwnLaidOver) {
  const auto all = parse_several(
      kSeveral, {"several.1.adapter.r=3", "several.nah.seed=5", "learning_rate=1e-3"});
  ASSERT_EQ(all.size(), 2U);
  EXPECT_EQ(all[0].name, "nah");
  EXPECT_EQ(all[0].config.adapter.r, 2);
  EXPECT_EQ(all[0].config.adapter.lora_alpha, 9);  // a section's other keys stay
  EXPECT_EQ(all[0].config.seed, 5);
  EXPECT_EQ(all[0].config.datasets.at(0).path, "/base/dir/nah.csv");
  EXPECT_EQ(all[0].origins.at("adapter.r"), "c.yaml:7:5");
  EXPECT_EQ(all[1].name, "otomi");
  EXPECT_EQ(all[1].config.adapter.r, 3);
  EXPECT_EQ(all[1].config.seed, 7);
  EXPECT_EQ(all[1].config.datasets.at(0).path, "/base/dir/all.csv");
  EXPECT_EQ(all[1].config.validation->path, "/base/dir/v.csv");
  for (const auto& one : all) EXPECT_EQ(one.config.learning_rate, 1e-3);
}

TEST(SchemaVariants, AFileWithoutThemDescribesOne) {
  const auto one = parse_several("base_model: m\ncutoff_len: 64\n", {"seed=3"});
  ASSERT_EQ(one.size(), 1U);
  EXPECT_EQ(one[0].name, "");
  EXPECT_EQ(one[0].config.sequence_len, 64);
  EXPECT_EQ(one[0].config.seed, 3);
}

TEST(SchemaVariants, FaultsHaveTheirPlaceAndAreToldOnce) {
  const auto faults = [](const std::string& rest, const std::vector<std::string>& overrides = {}) {
    try {
      (void)parse_several("base_model: m\n" + rest, overrides);
    } catch (const ConfigError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_THAT(faults("several:\n  - {seed: 1}\n"), HasSubstr("c.yaml:3:5: several.0.name"));
  EXPECT_THAT(faults("several:\n  - name: a\n  - name: a\n"), HasSubstr("c.yaml:4:11"));
  EXPECT_THAT(faults("several: []\n"), HasSubstr("c.yaml:2:1: several: expected a list"));
  EXPECT_THAT(faults("several: 3\n"), HasSubstr("several: expected a list"));
  EXPECT_THAT(faults("several:\n  - a\n"), HasSubstr("several.0: expected a section"));
  EXPECT_THAT(faults("several:\n  - {name: a, output_dir: x}\n"),
              HasSubstr("c.yaml:3:15: a: output_dir: one for all several"));
  EXPECT_THAT(faults("several:\n  - {name: a, sed: 1}\n"),
              HasSubstr("c.yaml:3:15: sed: unknown key; did you mean 'seed'?"));
  EXPECT_THAT(faults("several:\n  - name: a\n", {"several.b.seed=1"}), HasSubstr("there are: a"));
  EXPECT_EQ(faults("sed: 1\nseveral:\n  - name: a\n  - name: b\n"),
            "c.yaml:2:1: sed: unknown key; did you mean 'seed'?");
}

TEST(SchemaVariants, AreDescribed) {
  EXPECT_THAT(config_reference<Config>(), HasSubstr("## `several[]`\n\nSeveral at once"));
  const auto schema = json_schema<Config>();
  const auto& item = schema.at("properties").at("several").at("items").at("properties");
  EXPECT_TRUE(item.contains("name"));
  EXPECT_TRUE(item.contains("learning_rate"));
  EXPECT_FALSE(item.contains("base_model"));
}

TEST(Schema, EscapesOfCharactersBeyondAsciiAreReadAsUtf8) {
  // yaml-cpp makes one byte each of the first two, which is no UTF-8; found by fuzz.schema.
  const auto text = [](const std::string& escaped) {
    return parse(fmt::format("base_model: m\noutput_dir: \"{}\"\n", escaped)).output_dir.string();
  };
  EXPECT_EQ(text("/a\\N"), "/a\xC2\x85");
  EXPECT_EQ(text("/\\u0105\\N\\_b"),
            "/\xC4\x85\xC2\x85\xC2\xA0"
            "b");
  EXPECT_EQ(text("/\\xe9\\L"), "/\xC3\xA9\xE2\x80\xA8");
}

TEST(Schema, HostileYamlIsAnErrorWithALine) {
  EXPECT_THAT(wrong("adapter: &a {x: *a}"), HasSubstr("c.yaml:2:17: this alias refers to"));
  EXPECT_THAT(wrong("adapter: [1, 2"), HasSubstr("not valid YAML"));
  EXPECT_THAT(wrong("adapter: *missing"), HasSubstr("c.yaml:2:"));
  EXPECT_THAT(wrong("\tseed: 1"), HasSubstr("not valid YAML"));
  EXPECT_THAT(wrong("? [a, b]\n: c"), HasSubstr("a key must be a word"));
  EXPECT_THAT(wrong("seed: !!python/object 3"), HasSubstr("is not supported"));
  EXPECT_THAT(wrong("--- \nseed: 1"), HasSubstr("more than one document"));
  EXPECT_THAT(wrong("output_dir: \xff"), HasSubstr("c.yaml:2:13: the file is not UTF-8"));
  EXPECT_THAT(wrong(std::string("output_dir: a\0b", 15)),
              HasSubstr("c.yaml:2:14: a control character"));
  // yaml-cpp would take this byte for the end of the file and drop the rest unseen.
  EXPECT_THAT(wrong("seed: 1 #\x04\nsede: 2"), HasSubstr("(byte 0x04)"));
  EXPECT_THAT(wrong("output_dir: \"a\\0b\""), HasSubstr("zero byte"));
  const std::string deep(100'000, '[');
  EXPECT_THAT(wrong("seed: " + deep), HasSubstr("64 levels"));
  std::string block = "base_model: m\n";
  for (int i = 0; i < 3000; ++i) block += std::string(static_cast<std::size_t>(i), ' ') + "a:\n";
  EXPECT_THAT(problems(block), HasSubstr("64 levels"));
  std::string laughs = "a: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 0; i < 12; ++i) {
    laughs += fmt::format("b{}: &a{} [*a{}, *a{}, *a{}, *a{}, *a{}, *a{}, *a{}, *a{}, *a{}]\n", i,
                          i + 1, i, i, i, i, i, i, i, i, i);
  }
  EXPECT_THAT(problems(laughs), HasSubstr("too much configuration"));
}

TEST(Schema, EmptyFileNamesWhatIsMissing) {
  EXPECT_EQ(problems(""), "c.yaml:1:1: base_model: required key is missing (model)");
  EXPECT_EQ(problems("# only a comment\n"), problems(""));
}

struct Kept {
  FolderSwitch folder;
  bool operator==(const Kept&) const = default;
};
void describe(Schema<Kept>& s) { s.field("folder", &Kept::folder, "where"); }

TEST(Schema, AFolderSwitchIsTrueFalseOrAPath) {
  const auto read = [](std::string_view yaml, const std::vector<std::string>& overrides = {}) {
    return parse_config<Kept>(yaml, {.name = "c.yaml", .directory = "/base/dir"}, overrides);
  };
  EXPECT_EQ(read("{}").folder, (FolderSwitch{true, ""}));
  EXPECT_EQ(read("folder: yes").folder, (FolderSwitch{true, ""}));
  EXPECT_EQ(read("folder: false").folder, (FolderSwitch{false, ""}));
  EXPECT_EQ(read("folder: x", {"folder=false"}).folder, (FolderSwitch{false, ""}));
  EXPECT_EQ(read("folder: kept").folder, (FolderSwitch{true, "/base/dir/kept"}));
  EXPECT_EQ(read("folder: 'true'").folder, (FolderSwitch{true, "/base/dir/true"}));
  for (const char* yaml : {"folder: true", "folder: false", "folder: kept", "folder: 'false'"}) {
    const Kept kept = read(yaml);
    EXPECT_EQ(read(dump_config(kept, Dump::kFull)), kept) << dump_config(kept, Dump::kFull);
  }
  for (const char* yaml : {"folder: [a]", "folder:", "folder: ''"}) {
    EXPECT_THROWS_WITH((void)read(yaml), ConfigError, "folder", "true, false or a path");
  }
}

TEST(Units, DurationsSharesAndBytesRoundTrip) {
  for (const char* text : {"500u", "3e", "0.5e", "2Mt", "1500Kt", "2Gt", "7t", "0u"}) {
    const auto value = parse_duration(text);
    ASSERT_TRUE(value) << text;
    EXPECT_EQ(parse_duration(to_string(*value)), value) << to_string(*value);
  }
  EXPECT_EQ(parse_duration("1.5Mt")->amount, 1'500'000);
  EXPECT_EQ(parse_duration("0.3Mt")->amount, 300'000);
  for (const char* bad : {"500", "u", "1.5u", "-3e", "3x", "3Ke", "nan e", "1e400t", "2Mtt", ""}) {
    EXPECT_FALSE(parse_duration(bad)) << bad;
  }
  EXPECT_EQ(to_string(Share{0.3, true}), "30%");
  EXPECT_EQ(to_string(Share{0.125, true}), "12.5%");
  EXPECT_EQ(parse_share("3%")->of(1000), 30);
  EXPECT_EQ(parse_share("100")->of(5), 100);
  for (const char* bad : {"101%", "-1%", "0.5", "3 %%", "x"}) EXPECT_FALSE(parse_share(bad)) << bad;
  EXPECT_EQ(parse_bytes("2GiB")->count, std::uint64_t{2} << 30);
  EXPECT_EQ(parse_bytes("1.5GB")->count, 1'500'000'000U);
  EXPECT_EQ(parse_bytes("4096")->count, 4096U);
  EXPECT_EQ(to_string(Bytes{std::uint64_t{1536} << 20}), "1536MiB");
  for (const char* bad : {"2G", "-1B", "1e30GB", "GiB", "2 gib"}) {
    EXPECT_FALSE(parse_bytes(bad)) << bad;
  }
}

TEST(EmitYaml, EscapesWhatOtherReadersTakeForTheEndOfALine) {
  const std::string text = "a\xC2\x85\xE2\x80\xA8\xEF\xBB\xBF\x7F\xC3\xA9";
  const std::string written = emit_flow(ConfigNode::string(text));
  EXPECT_EQ(written, "\"a\\x85\\u2028\\ufeff\\x7f\xC3\xA9\"");
  Problems problems;
  EXPECT_EQ(parse_yaml("k: " + written, problems).find("k")->text, text);
  EXPECT_TRUE(problems.empty());
}

TEST(Layers, LieOverEachOtherWithThePlacesAndFoldersOfTheirFiles) {
  const ConfigLayer common =
      parse_tree("base_model: m\nadapter: {r: 4, lora_alpha: 3}\n", {"common.yaml", "/common"});
  const ConfigLayer own = parse_tree("adapter: {rank: 8}\noutput_dir: out\n", {"own.yaml", "/own"});
  const auto read = read_layers(*section_info<Config>(), {common, own});
  const auto& config = *static_cast<const Config*>(read.get());
  EXPECT_EQ(config.base_model, "/common/m");
  EXPECT_EQ(config.output_dir, "/own/out");
  EXPECT_EQ(config.adapter.r, 8);
  EXPECT_EQ(config.adapter.lora_alpha, 3);
}

TEST(Layers, TellTheFileOfWhatIsWrong) {
  const ConfigLayer common = parse_tree("base_model: m\nsed: 4\n", {"common.yaml", ""});
  const ConfigLayer own = parse_tree("\nadapter: {r: 0}\n", {"own.yaml", ""});
  EXPECT_THROWS_WITH((void)read_layers(*section_info<Config>(), {common, own}), ConfigError,
                     "common.yaml:2:1: sed: unknown key; did you mean 'seed'?",
                     "own.yaml:2:14: adapter.r: must be from 1 to 4096, found 0");
}

}  // namespace weft::schema::schema_test
