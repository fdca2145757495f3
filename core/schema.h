#pragma once
// CONTRACT SKETCH (the owner of core/schema replaces this comment and may refine signatures, keeping
// this way of use):
//
//   struct AdapterSection { std::int64_t r = 8; double lora_alpha = 8; ... };
//   struct TrainConfig { std::filesystem::path base_model; AdapterSection adapter;
//                        std::vector<DatasetConfig> datasets; double learning_rate = 2e-4; ... };
//
//   void describe(core::Schema<AdapterSection>& s) {
//     s.field("r", &AdapterSection::r, "rank of the adapter").at_least(1).at_most(4096).alias("lora_r");
//     s.field("lora_dropout", &AdapterSection::lora_dropout, "share of inputs dropped").range(0, 1);
//   }
//   void describe(core::Schema<TrainConfig>& s) {
//     s.field("base_model", &TrainConfig::base_model, "Hugging Face directory or GGUF file").required();
//     s.section("adapter", &TrainConfig::adapter, "what is trained");
//     s.list("datasets", &TrainConfig::datasets, "what it learns from").required();
//     s.field("learning_rate", &TrainConfig::learning_rate, "peak rate").positive();
//     s.choice("lr_scheduler", &TrainConfig::lr_scheduler, {{"constant", Scheduler::kConstant}, ...}, doc);
//     s.alias("lora_r", "adapter.r");             // accepted anywhere PEFT/axolotl users write it
//   }
//
//   TrainConfig c = core::load_config<TrainConfig>(path, overrides /* "adapter.r=8" */, log);
//   std::string yaml = core::dump_config(c, core::Dump::kFull | kMinimal);
//   nlohmann::json json_schema = core::json_schema<TrainConfig>();
//   std::string markdown = core::config_reference<TrainConfig>();
//
// Field types: std::string, std::int64_t, double, bool, std::filesystem::path (relative to the YAML
// file), std::optional<of those>, std::vector<of those>, std::map<std::string, std::string>,
// enumerations by choice(), Duration ("500u", "3e", "2Mt"), Share ("3%" or a number of updates),
// Bytes ("2GiB"), nested sections and lists of sections.
