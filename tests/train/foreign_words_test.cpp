// Words of axolotl's and LLaMA-Factory's files, as `weft train` reads them.
#include "train/foreign_words.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "core/error.h"
#include "data/foreign_words.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"
#include "train/config.h"

namespace weft::train {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

struct Read {
  TrainConfig config;
  std::string said;
};

Read read(const std::string& more, const std::vector<std::string>& overrides = {}) {
  Read result;
  result.config = schema::parse_config<TrainConfig>(
      "base_model: m\noutput_dir: o\ndatasets: [{path: a.jsonl}]\n" + more,
      {.name = "c.yaml", .directory = {}}, overrides,
      [&](core::Level, std::string_view line) { result.said += std::string(line) + "\n"; });
  return result;
}

/// The message that refuses `line`.
std::string refusal(const std::string& line) {
  try {
    (void)read(line + "\n");
  } catch (const ConfigError& error) {
    return error.what();
  }
  ADD_FAILURE() << line << " is accepted";
  return "";
}

TEST(WordsOfOtherTrainers, OfAxolotlMeanTheSameAndAreTold) {
  const Read r = read(
      "adapter: qlora\nload_in_4bit: true\nload_in_8bit: false\nlora_r: 32\nlora_alpha: 16\n"
      "lora_target_linear: true\nwarmup_ratio: 0.1\nevals_per_epoch: 4\nsaves_per_epoch: 1\n"
      "val_set_size: 0.05\noptimizer: adamw_bnb_8bit\nbf16: auto\ntf32: false\n"
      "gradient_checkpointing: offload\nlr_scheduler: constant_with_warmup\n"
      "special_tokens: {pad_token: '</s>'}\nflash_attention: true\n");
  EXPECT_EQ(r.config.base_quantization, model::BaseFormat::kNf4);
  EXPECT_EQ(r.config.adapter.r, 32);
  EXPECT_EQ(r.config.adapter.lora_alpha, 16);
  EXPECT_EQ(r.config.adapter.target_modules, std::vector<std::string>{"all-linear"});
  EXPECT_EQ(r.config.warmup, (schema::Share{0.1, true}));
  EXPECT_EQ(r.config.eval.every, (schema::Duration{0.25, schema::Duration::Unit::kEpochs}));
  EXPECT_EQ(r.config.save.every, (schema::Duration{1, schema::Duration::Unit::kEpochs}));
  EXPECT_EQ(r.config.validation_share, (schema::Share{0.05, true}));
  EXPECT_EQ(r.config.dtype, DTypeChoice::kAuto);
  EXPECT_EQ(r.config.gradient_checkpointing, Checkpointing::kAll);
  EXPECT_EQ(r.config.lr_scheduler, SchedulerKind::kConstant);
  for (const char* said :
       {"c.yaml:5:1: 'load_in_4bit: true' is read as 'base_quantization: nf4'",
        "'warmup_ratio: 0.1' is read as 'warmup: 10%'",
        "'evals_per_epoch: 4' is read as 'eval.every: 0.25e'",
        "'val_set_size: 0.05' is read as 'validation_share: 5%'",
        "'flash_attention: true' is left out: attention is computed in one way here"}) {
    EXPECT_THAT(r.said, HasSubstr(said));
  }
}

TEST(WordsOfOtherTrainers, OfLlamaFactoryMeanTheSame) {
  const Read r = read(
      "stage: sft\ndo_train: true\nfinetuning_type: lora\nlora_rank: 8\nlora_target: all\n"
      "max_samples: 1000\nsave_steps: 500\neval_strategy: steps\neval_steps: 250\n"
      "val_size: 0.1\nquantization_bit: 8\nbf16: true\nmask_history: true\nreport_to: none\n"
      "plot_loss: true\nddp_timeout: 180000000\nresume_from_checkpoint: null\n");
  EXPECT_EQ(r.config.adapter.target_modules, std::vector<std::string>{"all-linear"});
  EXPECT_EQ(r.config.datasets.front().limit, 1000);
  EXPECT_EQ(r.config.save.every, (schema::Duration{500, schema::Duration::Unit::kUpdates}));
  EXPECT_EQ(r.config.eval.every, (schema::Duration{250, schema::Duration::Unit::kUpdates}));
  EXPECT_EQ(r.config.base_quantization, model::BaseFormat::kInt8);
  EXPECT_EQ(r.config.dtype, DTypeChoice::kBFloat16);
  EXPECT_EQ(r.config.train_on_turns, data::Turns::kLast);
  EXPECT_THAT(r.said, HasSubstr("count as not given: resume_from_checkpoint"));
  EXPECT_EQ(read("lora_target: 'q_proj, v_proj'\n").config.adapter.target_modules,
            (std::vector<std::string>{"q_proj", "v_proj"}));
}

TEST(WordsOfOtherTrainers, AdapterIsAWordAndASectionOfOurs) {
  EXPECT_EQ(read("adapter: lora\nlora_r: 4\n").config.adapter.r, 4);
  EXPECT_EQ(read("adapter: {r: 4}\n").config.adapter.r, 4);
  const Read eight = read("adapter: qlora\nload_in_8bit: true\n");
  EXPECT_EQ(eight.config.base_quantization, model::BaseFormat::kInt8);
  EXPECT_EQ(read("", {"adapter=qlora"}).config.base_quantization, model::BaseFormat::kNf4);
  EXPECT_THAT(refusal("adapter:"), HasSubstr("all weights are trained"));
  EXPECT_THAT(refusal("adapter: oft"), HasSubstr("adapter: lora"));
}

TEST(WordsOfOtherTrainers, WithoutValueCountAsNotGiven) {
  const Read r = read("weight_decay:\nlora_model_dir:\nwandb_project:\nlora_modules_to_save:\n");
  EXPECT_EQ(r.config.weight_decay, 0);
  EXPECT_TRUE(r.config.adapter.init_from.empty());
  EXPECT_THAT(r.said, HasSubstr("weight_decay, lora_model_dir, wandb_project, "
                                "lora_modules_to_save"));
}

TEST(WordsOfOtherTrainers, ThatWouldChangeTheNumbersAreRefusedByName) {
  for (const char* line :
       {"lora_modules_to_save: [embed_tokens]", "unfrozen_parameters: ['^lm_head']", "relora: true",
        "loraplus_lr_ratio: 16", "neftune_noise_alpha: 5", "rl: dpo", "optimizer: lion_8bit",
        "fp16: true", "peft_use_dora: true", "pissa_init: true", "stage: dpo",
        "finetuning_type: full", "double_quantization: false",
        "plugins: [axolotl.integrations.kd.KDPlugin]", "cosine_min_lr_ratio: 0.1",
        "tokens: ['<new>']", "chat_template: chatml", "s2_attention: true", "warmup_ratio: two"}) {
    const std::string key = std::string(line).substr(0, std::string(line).find(':'));
    EXPECT_THAT(refusal(line), HasSubstr("c.yaml:4:1: " + key)) << line;
  }
  // The same words that ask for nothing.
  EXPECT_THAT(read("relora: false\nneftune_noise_alpha: 0\nrl: null\nfp16: false\n").said,
              HasSubstr("'neftune_noise_alpha: 0' is left out: it asks for nothing"));
}

TEST(WordsOfOtherTrainers, SpecialTokensStayForTheModelToAgreeWith) {
  using Tokens = std::map<std::string, std::string>;
  EXPECT_EQ(read("special_tokens: {bos_token: '<s>', eos_token: '</s>', unk_token: '<unk>'}\n")
                .config.special_tokens,
            (Tokens{{"bos_token", "<s>"}, {"eos_token", "</s>"}}));
  EXPECT_EQ(read("special_tokens: {pad_token: '</s>'}\n").config.special_tokens, Tokens{});
  EXPECT_EQ(read("special_tokens:\n").config.special_tokens, Tokens{});
  EXPECT_EQ(read("", {"special_tokens.eos_token=</s>"}).config.special_tokens,
            (Tokens{{"eos_token", "</s>"}}));
}

TEST(WordsOfOtherTrainers, BatchesAreRefusedWithOurKeyAndItsNumber) {
  EXPECT_THAT(refusal("micro_batch_size: 2\ngradient_accumulation_steps: 4\nsequence_len: 2048"),
              HasSubstr("write tokens_per_update: 16384 (8 rows of 2048 tokens)"));
  EXPECT_THAT(refusal("micro_batch_size: 2\ngradient_accumulation_steps: 4\nsample_packing: false"),
              HasSubstr("write examples_per_update: 8"));
  EXPECT_THAT(refusal("gradient_accumulation_steps: 4"),
              HasSubstr("tokens_per_update: N, which is micro_batch_size x "));
}

TEST(WordsOfOtherTrainers, BesideOurKeyForTheSameNameBoth) {
  EXPECT_THAT(refusal("load_in_4bit: true\nbase_quantization: int8"),
              HasSubstr("'load_in_4bit: true' means 'base_quantization: nf4', and "
                        "base_quantization is given too"));
  EXPECT_THAT(refusal("load_in_4bit: true\nload_in_8bit: true"),
              HasSubstr("'load_in_8bit: true' means 'base_quantization: int8'"));
  EXPECT_THAT(refusal("lora_target_linear: true\nlora_target_modules: [q_proj]"),
              HasSubstr("adapter.target_modules is given too"));
}

TEST(WordsOfOtherTrainers, AreEachInOneTableAndNoneHidesAKeyOfOurs) {
  std::set<std::string> seen;
  for (const schema::ForeignWord& word : train_words()) {
    EXPECT_TRUE(seen.insert(word.key).second) << word.key << " is there twice";
    EXPECT_NE(word.meaning, "") << word.key;
  }
  // What we call so has to stay readable as ours.
  const TrainConfig c =
      read(
          "adapter: {r: 4}\nlr_scheduler: linear\ngradient_checkpointing: true\nweight_decay: 0.1\n"
          "chat_template: own.jinja\nlora_alpha: 3\nlogging_steps: 5\nwarmup_steps: 7\n")
          .config;
  EXPECT_EQ(c.lr_scheduler, SchedulerKind::kLinear);
  EXPECT_EQ(c.weight_decay, 0.1);
  EXPECT_EQ(c.chat_template.filename(), "own.jinja");
  EXPECT_EQ(c.warmup, (schema::Share{7, false}));
}

TEST(WordsOfOtherTrainers, ExamplesPerUpdateIsAnotherMeasureThanTokens) {
  EXPECT_EQ(read("packing: false\nexamples_per_update: 8\n").config.examples_per_update, 8);
  EXPECT_THAT(refusal("examples_per_update: 8"), HasSubstr("needs packing: false"));
  EXPECT_THAT(refusal("packing: false\nexamples_per_update: 8\ntokens_per_update: 500"),
              HasSubstr("c.yaml:6:1: tokens_per_update: examples_per_update says"));
  const TrainConfig c = read("packing: false\nexamples_per_update: 8\n").config;
  const auto again = schema::parse_config<TrainConfig>(schema::dump_config(c, schema::Dump::kFull));
  EXPECT_EQ(flatten(again), flatten(c));
}

TEST(ValidationShare, IsAShareAndStandsForValidation) {
  EXPECT_EQ(read("validation_share: 5%\nearly_stopping: {patience: 2}\n").config.validation_share,
            (schema::Share{0.05, true}));
  EXPECT_THAT(refusal("validation_share: 100"), HasSubstr("as in 5%"));
  EXPECT_THAT(refusal("validation_share: 0%"), HasSubstr("as in 5%"));
  EXPECT_THAT(refusal("validation_share: 5%\nvalidation: {path: v.jsonl}"),
              HasSubstr("keep one of the two"));
  EXPECT_THAT(refusal("val_set_size: 200"), HasSubstr("validation_share: 5%"));
}

TEST(Documents, TableOfWordsIsThatOfTheCode) {
  // Made by: weft import --words
  EXPECT_THAT(tests::slurp(tests::source_dir() / "docs/import.md"), HasSubstr(word_reference()));
}

}  // namespace
}  // namespace weft::train
