#include "train/config.h"

#include <gmock/gmock.h>

#include "core/error.h"
#include "core/terminal.h"
#include "model/spec.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"
#include "train/progress.h"

namespace weft::train {
namespace {

const char* const kMinimal = "base_model: m\noutput_dir: o\ndatasets: [{path: a.jsonl}]\n";

TrainConfig parse(const std::string& more, const std::vector<std::string>& overrides = {}) {
  return schema::parse_config<TrainConfig>(kMinimal + more, {.name = "c.yaml", .directory = {}},
                                           overrides);
}

TEST(TrainConfig, WordsOfOtherProgramsMeanTheSame) {
  const TrainConfig c = parse(
      "lora_r: 32\nlora_alpha: 64\ncutoff_len: 512\nsample_packing: false\n"
      "num_train_epochs: 3\nmax_steps: 10\nlr_scheduler_type: linear\n"
      "excess_length_strategy: raise\nsave_total_limit: 5\n");
  EXPECT_EQ(c.adapter.r, 32);
  EXPECT_EQ(c.adapter.lora_alpha, 64);
  EXPECT_EQ(c.sequence_len, 512);
  EXPECT_FALSE(c.packing);
  EXPECT_EQ(c.num_epochs, 3);
  EXPECT_EQ(c.max_updates, 10);
  EXPECT_EQ(c.lr_scheduler, SchedulerKind::kLinear);
  EXPECT_EQ(c.over_length, data::OverLength::kRaise);
  EXPECT_EQ(c.save.keep, 5);
}

TEST(TrainConfig, DumpReadsBackToTheSameConfiguration) {
  const TrainConfig c = parse(
      "adapter: {r: 4, target_modules: [q_proj, v_proj]}\neval: {every: null}\n"
      "early_stopping: {patience: 2}\nvalidation: {path: v.jsonl}\nwarmup: 7\n");
  const TrainConfig again =
      schema::parse_config<TrainConfig>(schema::dump_config(c, schema::Dump::kFull));
  EXPECT_EQ(flatten(again), flatten(c));
  EXPECT_FALSE(again.eval.every);
  EXPECT_EQ(again.early_stopping->patience, 2);
}

TEST(TrainConfig, AllProblemsAreToldTogether) {
  EXPECT_THROWS_WITH(
      parse("learning_rat: 1\nadapter: {r: 0, lora_dropout: 1}\nsave: {every: 100}\n"), ConfigError,
      "learning_rate", "adapter.r", "lora_dropout", "save.every");
  EXPECT_THROWS_WITH(parse("early_stopping: {patience: 2}\n"), ConfigError, "validation");
  EXPECT_THROWS_WITH(parse("tokens_per_update: 100\n"), ConfigError, "tokens_per_update",
                     "sequence_len");
  EXPECT_THROWS_WITH((void)schema::parse_config<TrainConfig>("base_model: m\n"), ConfigError,
                     "output_dir", "datasets");
}

TEST(TrainConfig, OnePatternIsARegularExpressionAndNamesAreNames) {
  EXPECT_EQ(*adapter_config(parse("")).target_modules.pattern, "all-linear");
  EXPECT_EQ(*adapter_config(parse("adapter: {target_modules: '.*\\.[qv]_proj'}\n"))
                 .target_modules.pattern,
            ".*\\.[qv]_proj");
  const auto one = adapter_config(parse("adapter: {target_modules: q_proj}\n"));
  EXPECT_EQ(one.target_modules.names, std::vector<std::string>{"q_proj"});
  EXPECT_FALSE(one.target_modules.pattern);
  EXPECT_TRUE(one.exclude_modules.empty());
}

TEST(DType, IsReadInEverySpelling) {
  for (const char* spelling : {"f32", "fp32", "float32"}) {
    EXPECT_EQ(parse(std::string("dtype: ") + spelling + "\n").dtype, DTypeChoice::kFloat32);
  }
}

TEST(DType, AProcessorWithoutItsProductsIsToldOnlyWhereTheyWereAskedFor) {
  EXPECT_THAT(dtype_note(DTypeChoice::kBFloat16, model::Compute::kF32),
              ::testing::HasSubstr("multiplied in float32"));
  EXPECT_EQ(dtype_note(DTypeChoice::kBFloat16, model::Compute::kBF16), "");
  EXPECT_EQ(dtype_note(DTypeChoice::kAuto, model::Compute::kF32), "");
  EXPECT_EQ(dtype_note(DTypeChoice::kFloat32, model::Compute::kF32), "");
}

TEST(Flatten, SeesEveryKeyButNoInputPath) {
  const auto a = flatten(parse("adapter: {rank_pattern: {q_proj: 4}}\n"));
  EXPECT_EQ(a.at("adapter.rank_pattern"), "{q_proj: 4}");
  EXPECT_EQ(a.at("learning_rate"), flatten(parse(""))["learning_rate"]);
  EXPECT_EQ(a, flatten(parse("adapter: {rank_pattern: {q_proj: 4}}\n", {"base_model=elsewhere"})));
  EXPECT_EQ(difference(a, flatten(parse("seed: 1\nadapter: {rank_pattern: {q_proj: 4}}\n")), {}),
            "seed was 42 and is 1");
}

TEST(Documents, ReferenceOfTheKeysIsThatOfTheCode) {
  // Made by: weft train --config-reference > docs/config.md
  EXPECT_EQ(tests::slurp(tests::source_dir() / "docs/config.md"),
            schema::config_reference<TrainConfig>());
}

TEST(Documents, NameEveryArchitectureThatIsRead) {
  const std::string text = tests::slurp(tests::source_dir() / "docs/families.md");
  for (const std::string& architecture : model::supported_architectures())
    EXPECT_NE(text.find("`" + architecture + "`"), std::string::npos) << architecture;
  for (const char* page : {"README.md", "docs/limits.md"}) {
    EXPECT_NE(tests::slurp(tests::source_dir() / page).find("families.md"), std::string::npos)
        << page;
  }
}

TEST(Progress, BarIsNeverWiderThanTheTerminal) {
  UpdateReport report;
  report.update = 50;
  report.total_updates = 200;
  report.loss = 2.34567;
  report.tokens = 4000;
  report.supervised_tokens = 1600;
  report.tokens_per_second = 512;
  report.remaining_seconds = 312;
  report.resident_bytes = 1200ULL << 20;
  for (int columns = 8; columns < 140; ++columns) {
    EXPECT_LE(core::display_width(progress_bar(report, columns)), columns);
  }
  const std::string wide = progress_bar(report, 140);
  for (const char* part : {"50/200", "loss 2.3457", "512 tok/s", "40 % supervised", "1.17 GiB"}) {
    EXPECT_NE(wide.find(part), std::string::npos) << part << " in " << wide;
  }
}

}  // namespace
}  // namespace weft::train
