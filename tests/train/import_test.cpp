// Configurations of axolotl and LLaMA-Factory in our words.
#include "train/import.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"
#include "text/chat_template.h"
#include "train/config.h"

namespace weft::train {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

Imported import(const std::string& yaml, const std::vector<std::string>& without = {}) {
  return import_config(yaml, {.name = "theirs.yml", .directory = {}}, without);
}

TrainConfig read(const Imported& imported) {
  return schema::parse_config<TrainConfig>(imported.yaml, {.name = "ours.yaml", .directory = "/d"});
}

const char* const kAxolotl =
    "base_model: someone/Llama\n"
    "load_in_4bit: true\n"
    "datasets:\n"
    "  - path: someone/alpaca\n"
    "    type: alpaca\n"
    "val_set_size: 0.05\n"
    "output_dir: ./out\n"
    "sequence_len: 2048\n"
    "sample_packing: true\n"
    "adapter: qlora\n"
    "lora_model_dir:\n"
    "lora_r: 32\n"
    "lora_alpha: 16\n"
    "lora_target_linear: true\n"
    "lora_target_modules: [q_proj, v_proj]\n"
    "gradient_accumulation_steps: 4\n"
    "micro_batch_size: 2\n"
    "num_epochs: 3\n"
    "optimizer: adamw_bnb_8bit\n"
    "learning_rate: 0.0002\n"
    "flash_attention: true\n"
    "weight_decay:\n";

const char* const kFactory =
    "model_name_or_path: someone/Llama\n"
    "stage: sft\n"
    "finetuning_type: lora\n"
    "lora_rank: 16\n"
    "dataset: first,second\n"
    "max_samples: 500\n"
    "output_dir: out\n"
    "per_device_train_batch_size: 2\n"
    "gradient_accumulation_steps: 8\n";

TEST(Import, OfAnAxolotlFileKeepsItsNumbersAndItsOrder) {
  const Imported imported = import(kAxolotl);
  EXPECT_EQ(imported.program, "axolotl");
  const TrainConfig c = read(imported);
  EXPECT_EQ(c.base_quantization, model::BaseFormat::kNf4);
  EXPECT_EQ(c.tokens_per_update, 4 * 2 * 2048);
  EXPECT_TRUE(c.packing);
  EXPECT_EQ(c.adapter.r, 32);
  EXPECT_EQ(c.adapter.target_modules, std::vector<std::string>{"all-linear"});
  EXPECT_EQ(c.validation_share, (schema::Share{0.05, true}));
  EXPECT_EQ(c.num_epochs, 3);
  EXPECT_EQ(c.datasets.front().type, data::DatasetType::kInstruction);
  EXPECT_EQ(c.chat_template, "/d/alpaca.jinja");
  const std::string& yaml = imported.yaml;
  EXPECT_LT(yaml.find("base_model:"), yaml.find("base_quantization:"));
  EXPECT_LT(yaml.find("base_quantization:"), yaml.find("datasets:"));
  EXPECT_LT(yaml.find("output_dir:"), yaml.find("tokens_per_update:"));
  for (const char* part :
       {"put the folder or the GGUF file of the model", "put the file of the data",
        "8 rows (micro_batch_size x gradient_accumulation_steps) of 2048 tokens",
        "# optimizer: adamw_bnb_8bit: not needed", "# flash_attention: true: not needed",
        "# Without a value there: lora_model_dir, weight_decay."}) {
    EXPECT_THAT(yaml, HasSubstr(part));
  }
}

TEST(Import, OfALlamaFactoryFileMakesItsDefaultsExplicit) {
  const Imported imported = import(kFactory);
  EXPECT_EQ(imported.program, "LLaMA-Factory");
  const TrainConfig c = read(imported);
  EXPECT_EQ(c.adapter.r, 16);
  EXPECT_EQ(c.adapter.lora_alpha, 32);
  EXPECT_EQ(c.num_epochs, 3);
  EXPECT_EQ(c.learning_rate, 5e-5);
  EXPECT_EQ(c.lr_scheduler, SchedulerKind::kLinear);
  EXPECT_EQ(c.warmup, (schema::Share{0, false}));
  EXPECT_EQ(c.sequence_len, 2048);
  EXPECT_EQ(c.over_length, data::OverLength::kTruncate);
  EXPECT_FALSE(c.packing);
  EXPECT_EQ(c.examples_per_update, 16);
  EXPECT_EQ(c.save.every, (schema::Duration{500, schema::Duration::Unit::kUpdates}));
  ASSERT_EQ(c.datasets.size(), 2U);
  EXPECT_EQ(c.datasets[1].limit, 500);
  EXPECT_THAT(imported.yaml, HasSubstr("the default there, 2 x rank"));
  const TrainConfig some = read(import(std::string(kFactory) + "max_steps: 20\n"));
  EXPECT_FALSE(some.num_epochs) << "max_steps alone ends a run there";
  const TrainConfig text = read(
      import("model_name_or_path: a\nstage: pt\nfinetuning_type: lora\ndataset: c\noutput_dir: o\n"
             "cutoff_len: 1024\nper_device_train_batch_size: 1\n"));
  EXPECT_EQ(text.datasets.front().type, data::DatasetType::kText);
  EXPECT_TRUE(text.packing);
  EXPECT_EQ(text.tokens_per_update, 1024);
}

TEST(Import, DefaultsOfAxolotlAreExplicitWhereOursDiffer) {
  const TrainConfig c = read(import(
      "base_model: a\nadapter: lora\nlora_r: 8\nlora_alpha: 16\nlora_target_modules: [q_proj]\n"
      "datasets: [{path: b, type: completion}]\noutput_dir: o\nlearning_rate: 1e-4\n"
      "micro_batch_size: 4\nlr_scheduler: constant\n"));
  EXPECT_FALSE(c.packing);
  EXPECT_EQ(c.sequence_len, 512);
  EXPECT_EQ(c.examples_per_update, 4);
  EXPECT_EQ(c.warmup, (schema::Share{0, false}));
  EXPECT_EQ(c.save.every, (schema::Duration{1, schema::Duration::Unit::kEpochs}));
  EXPECT_EQ(c.datasets.front().type, data::DatasetType::kText);
}

/// What the template writes for one row.
std::string prompt_of(const std::string& name, const nlohmann::ordered_json& user) {
  const text::ChatTemplate jinja(named_template(name),
                                 {{"bos_token", "<s>"}, {"eos_token", "</s>"}}, name);
  const nlohmann::ordered_json messages{user, {{"role", "assistant"}, {"content", "A"}}};
  return jinja.render(messages, false, nlohmann::ordered_json::object()).text;
}

TEST(Import, AlpacaPromptIsAlpacasToTheCharacter) {
  const nlohmann::ordered_json alone{{"role", "user"}, {"content", "I"}};
  const nlohmann::ordered_json both{
      {"role", "user"}, {"content", "I\nX"}, {"instruction", "I"}, {"input", "X"}};
  EXPECT_EQ(prompt_of("alpaca", alone),
            "<s>Below is an instruction that describes a task. Write a response that appropriately "
            "completes the request.\n\n### Instruction:\nI\n\n### Response:\nA</s>");
  EXPECT_EQ(prompt_of("alpaca", both),
            "<s>Below is an instruction that describes a task, paired with an input that provides "
            "further context. Write a response that appropriately completes the "
            "request.\n\n### Instruction:\nI\n\n### Input:\nX\n\n### Response:\nA</s>");
  EXPECT_EQ(prompt_of("alpaca-chat", alone),
            "<s>SYSTEM: Below is an instruction that describes a task. Write a response that "
            "appropriately completes the request.\nUSER: I\nASSISTANT:A</s>");
  EXPECT_EQ(prompt_of("chatml", alone),
            "<|im_start|>user\nI<|im_end|>\n<|im_start|>assistant\nA"
            "<|im_end|>\n");
  EXPECT_EQ(prompt_of("llama3", alone),
            "<s><|start_header_id|>user<|end_header_id|>\n\nI<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>");
}

TEST(Import, NamedTemplatesAreWrittenAsFilesOrSaidToBeMissing) {
  const std::string chat =
      "base_model: a\nadapter: lora\nlora_r: 8\nlora_alpha: 16\nlora_target_linear: true\n"
      "datasets: [{path: b, type: chat_template}]\noutput_dir: o\nlearning_rate: 1e-4\n"
      "chat_template: ";
  const Imported known = import(chat + "chatml\n");
  ASSERT_EQ(known.files.size(), 1U);
  EXPECT_EQ(known.files.front().name, "chatml.jinja");
  EXPECT_EQ(read(known).chat_template, "/d/chatml.jinja");
  const Imported other = import(chat + "falcon_h1\n");
  EXPECT_TRUE(other.files.empty());
  EXPECT_THAT(other.yaml, HasSubstr("falcon_h1: the model's own template is used"));
  EXPECT_TRUE(read(import(chat + "tokenizer_default\n")).chat_template.empty());
}

TEST(Import, RegistryOfLlamaFactoryNamesFilesAndColumns) {
  const tests::TempDir folder;
  folder.write("data/dataset_info.json", R"({
    "first": {"file_name": "first.json", "columns": {"prompt": "q", "query": "x", "response": "a"}},
    "second": {"file_name": "second.json", "formatting": "sharegpt",
               "columns": {"messages": "talk"}, "tags": {"role_tag": "from"}},
    "pairs": {"file_name": "pairs.json", "ranking": true},
    "odd": {"file_name": "odd.json", "formatting": "sharegpt", "tags": {"user_tag": "customer"}}})");
  const auto import_here = [&](const std::string& text) {
    return import_config(text, {.name = "theirs.yml", .directory = folder / "."});
  };
  const TrainConfig c = read(import_here(kFactory));
  ASSERT_EQ(c.datasets.size(), 2U);
  EXPECT_EQ(c.datasets[0].path.front(), folder / "data/first.json");
  EXPECT_EQ(c.datasets[0].type, data::DatasetType::kInstruction);
  EXPECT_EQ(c.datasets[0].fields.at("instruction"), "{q}");
  EXPECT_EQ(c.datasets[0].fields.at("input"), "{x}");
  EXPECT_EQ(c.datasets[0].fields.at("output"), "{a}");
  EXPECT_EQ(c.datasets[1].type, data::DatasetType::kChat);
  EXPECT_EQ(c.datasets[1].fields.at("messages"), "{talk}");
  const std::string head =
      "model_name_or_path: a\nstage: sft\nfinetuning_type: lora\noutput_dir: o\ndataset: ";
  EXPECT_THROWS_WITH((void)import_here(head + "pairs\n"), ConfigError, "pairs", "to prefer");
  EXPECT_THROWS_WITH((void)import_here(head + "odd\n"), ConfigError, "user_tag is 'customer'");
}

TEST(Import, TrainingOfAnotherKindIsRefusedByName) {
  const std::string axolotl = "base_model: a\noutput_dir: o\nlora_r: 8\n";
  const std::string factory = "model_name_or_path: a\noutput_dir: o\n";
  for (const auto& [text, name] : std::initializer_list<std::pair<std::string, const char*>>{
           {axolotl + "adapter: lora\nrl: dpo\n", "rl: dpo: trains by preferences"},
           {axolotl + "adapter: lora\nreward_model: true\n", "reward_model"},
           {axolotl + "adapter: lora\nprocessor_type: AutoProcessor\n", "images or sound"},
           {axolotl + "adapter:\n", "all weights are trained"},
           {axolotl + "micro_batch_size: 1\n", "all weights are trained"},
           {factory + "stage: kto\n", "stage: kto: trains by preferences"},
           {factory + "stage: sft\nfinetuning_type: full\n", "trains other weights"},
           {factory + "stage: sft\nimage_max_pixels: 262144\n", "images or sound"}}) {
    EXPECT_THROWS_WITH((void)import(text), ConfigError, "theirs.yml:", name, "LoRA adapter");
  }
  EXPECT_THROWS_WITH((void)import("base_model: a\nadapter: {r: 8}\n"), ConfigError,
                     "a configuration of weft already");
  EXPECT_THROWS_WITH((void)import("name: x\n"), ConfigError, "keys of neither program");
}

TEST(Import, WhatWouldChangeTheNumbersIsRefusedUnlessLeftOutByName) {
  const std::string yaml = std::string(kAxolotl) + "neftune_noise_alpha: 5\nwarp_speed: 9\n";
  EXPECT_THROWS_WITH((void)import(yaml), ConfigError, "theirs.yml:23:1: neftune_noise_alpha: 5",
                     "--without neftune_noise_alpha", "theirs.yml:24:1: warp_speed");
  const Imported imported = import(yaml, {"neftune_noise_alpha", "warp_speed"});
  EXPECT_THAT(imported.yaml, HasSubstr("# neftune_noise_alpha: 5: left out as asked."));
  EXPECT_THROWS_WITH((void)import(kAxolotl, {"relora"}), ConfigError, "--without relora",
                     "no such key");
}

TEST(Import, TwoPromptsOrTwoValuesInOneFileAreAProblem) {
  const std::string head =
      "base_model: a\nadapter: lora\nlora_r: 8\nlora_alpha: 16\nlora_target_linear: true\n"
      "output_dir: o\nlearning_rate: 1e-4\n";
  EXPECT_THROWS_WITH(
      (void)import(head + "datasets: [{path: b, type: alpaca}, {path: c, type: chat_template}]\n"),
      ConfigError, "two chat templates");
  EXPECT_THROWS_WITH(
      (void)import(head + "datasets: [{path: b, type: alpaca}, {path: c, type: 'alpaca:chat'}]\n"),
      ConfigError, "make two runs");
  EXPECT_THROWS_WITH((void)import(head + "datasets: [{path: b, type: alpaca}]\nload_in_4bit: true\n"
                                         "load_in_8bit: true\n"),
                     ConfigError, "keep one");
}

}  // namespace
}  // namespace weft::train
