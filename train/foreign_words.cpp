#include "train/foreign_words.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <optional>
#include <string_view>
#include <utility>

#include "data/foreign_words.h"

namespace weft::train {
namespace {

using schema::ConfigNode;
using schema::ForeignReading;
using schema::ForeignWord;
using schema::left_out_word;
using schema::only_word;
using schema::read_word;
using schema::refused_word;
using schema::same_word;
using Read = schema::ReadForeign;

constexpr const char* kNothing = "it asks for nothing";

/// A key of ours that other files have without a value.
ForeignWord shared(std::string key) {
  return read_word(std::move(key), kBoth, "the same key; without a value it counts as not given",
                   [](const ConfigNode&, const ConfigNode&) { return ForeignReading::own(); });
}

bool is_true(const ConfigNode* value) {
  return value != nullptr && schema::as_boolean(*value) == true;
}

double number_at(const ConfigNode& section, std::initializer_list<const char*> keys,
                 double otherwise) {
  for (const char* key : keys) {
    const ConfigNode* value = section.find(key);
    if (value == nullptr) continue;
    if (const auto number = schema::as_number(*value)) return *number;
  }
  return otherwise;
}

ConfigNode scalar(std::string text) { return ConfigNode::scalar(std::move(text)); }

/// 0.25 as "0.25e".
ConfigNode epochs(double number) { return scalar(fmt::format("{:.6g}e", number)); }

ForeignReading refuse_number(std::string_view wanted) {
  return ForeignReading::refused(fmt::format("expected {}", wanted));
}

ForeignReading read_adapter(const ConfigNode& value, const ConfigNode& section) {
  if (value.kind == ConfigNode::Kind::kMap) return ForeignReading::own();
  if (value.text == "lora") return ForeignReading::left_out("LoRA is what is trained here");
  if (value.text == "qlora") {
    if (is_true(section.find("load_in_8bit"))) {
      return ForeignReading::left_out("load_in_8bit says how the base is kept");
    }
    return ForeignReading::means("base_quantization", scalar("nf4"));
  }
  if (value.kind == ConfigNode::Kind::kNull) {
    return ForeignReading::refused(
        "without an adapter all weights are trained, which weft does not do; write adapter: lora, "
        "or a section with keys of weft below it");
  }
  return ForeignReading::refused("weft trains LoRA; write adapter: lora or adapter: qlora");
}

ForeignReading read_lora_target(const ConfigNode& value, const ConfigNode&) {
  if (value.kind != ConfigNode::Kind::kScalar) return ForeignReading::own();
  const std::string target = "adapter.target_modules";
  if (value.text == "all") return ForeignReading::means(target, ConfigNode::string("all-linear"));
  if (value.text.find(',') == std::string::npos) return ForeignReading::own();
  ConfigNode names = ConfigNode::list({});
  std::string name;
  for (const char c : value.text + ",") {
    if (c != ',') {
      if (c != ' ') name += c;
      continue;
    }
    if (!name.empty()) names.items.push_back(ConfigNode::string(name));
    name.clear();
  }
  return ForeignReading::means(target, std::move(names));
}

/// `load_in_4bit` and `load_in_8bit`.
Read quantised_as(const char* format) {
  return [format](const ConfigNode& value, const ConfigNode&) {
    if (schema::is_off(value)) return ForeignReading::left_out(kNothing);
    return ForeignReading::means("base_quantization", scalar(format));
  };
}

ForeignReading read_quantization_bit(const ConfigNode& value, const ConfigNode&) {
  if (value.text == "4") return ForeignReading::means("base_quantization", scalar("nf4"));
  if (value.text == "8") return ForeignReading::means("base_quantization", scalar("int8"));
  return ForeignReading::refused("write base_quantization: nf4 (4 bits), int8, or none");
}

ForeignReading read_bf16(const ConfigNode& value, const ConfigNode& section) {
  if (value.text == "auto") return ForeignReading::means("dtype", scalar("auto"));
  if (schema::as_boolean(value) == true || value.text == "full") {
    return ForeignReading::means("dtype", scalar("bfloat16"));
  }
  if (schema::as_boolean(value) == false) {
    const ConfigNode* half = section.find("fp16");
    if (half != nullptr && !schema::is_off(*half)) return ForeignReading::left_out(kNothing);
    return ForeignReading::means("dtype", scalar("float32"));
  }
  return ForeignReading::refused("write dtype: auto, bfloat16 or float32");
}

ForeignReading read_dtype_name(const ConfigNode& value, const ConfigNode&) {
  for (const char* name : {"auto", "bfloat16", "float32"}) {
    if (value.text == name || value.text == fmt::format("torch.{}", name)) {
      return ForeignReading::means("dtype", scalar(name));
    }
  }
  return ForeignReading::refused("write dtype: auto, bfloat16 or float32");
}

ForeignReading read_warmup_ratio(const ConfigNode& value, const ConfigNode& section) {
  const auto share = schema::as_number(value);
  if (!share || *share < 0 || *share > 1) return refuse_number("a number from 0 to 1");
  // transformers lets the number of steps win.
  if (number_at(section, {"warmup_steps"}, 0) > 0) {
    return ForeignReading::left_out("warmup_steps says how long the warm-up is");
  }
  return ForeignReading::means("warmup", scalar(percent_text(*share)));
}

ForeignReading read_evals_per_epoch(const ConfigNode& value, const ConfigNode&) {
  const auto count = schema::as_number(value);
  if (!count || *count < 0) return refuse_number("how many evaluations an epoch has");
  return ForeignReading::means("eval.every", *count == 0 ? ConfigNode{} : epochs(1 / *count));
}

ForeignReading read_saves_per_epoch(const ConfigNode& value, const ConfigNode&) {
  const auto count = schema::as_number(value);
  if (!count || *count < 0) return refuse_number("how many checkpoints an epoch has");
  if (*count == 0) {
    return ForeignReading::left_out("the adapter is written at the end; save.every says when else");
  }
  return ForeignReading::means("save.every", epochs(1 / *count));
}

/// `eval_steps` and `save_steps`: updates, or below 1 a share of the run.
Read steps_of(std::string target) {
  return [target](const ConfigNode& value, const ConfigNode& section) {
    const auto steps = schema::as_number(value);
    if (!steps || *steps <= 0) {
      return ForeignReading::refused(
          fmt::format("write {}: 100u (updates) or 0.5e (epochs)", target));
    }
    if (*steps >= 1) {
      return ForeignReading::means(target, scalar(fmt::format("{:.0f}u", std::round(*steps))));
    }
    const double whole = number_at(section, {"num_epochs", "num_train_epochs"}, 0);
    if (whole > 0 && number_at(section, {"max_steps"}, 0) <= 0) {
      return ForeignReading::means(target, epochs(*steps * whole));
    }
    return ForeignReading::refused(
        fmt::format("a share of the run; write {}: 100u (updates) or 0.5e (epochs)", target));
  };
}

/// `eval_strategy` and `save_strategy`, beside which `steps` has the number.
Read strategy_of(std::string target, std::string steps) {
  return [target, steps](const ConfigNode& value, const ConfigNode&) {
    if (value.text == "epoch") return ForeignReading::means(target, scalar("1e"));
    if (value.text == "steps") {
      return ForeignReading::left_out(fmt::format("{} says the number", steps));
    }
    // "no" is off in YAML 1.1, and text in quotes.
    if (value.text == "no" || schema::as_boolean(value) == false) {
      return target == "eval.every" ? ForeignReading::means(target, ConfigNode{})
                                    : ForeignReading::left_out(
                                          "the adapter is written at the end; save.every says "
                                          "when else");
    }
    return ForeignReading::refused(fmt::format("write {}: 100u (updates) or 1e (epochs)", target));
  };
}

ForeignReading read_validation_size(const ConfigNode& value, const ConfigNode&) {
  const auto size = schema::as_number(value);
  if (!size || *size < 0) return refuse_number("a share of the data, as 0.05");
  if (*size == 0) return ForeignReading::left_out("nothing is held out");
  if (*size < 1) return ForeignReading::means("validation_share", scalar(percent_text(*size)));
  return ForeignReading::refused(
      "a number of rows; write validation_share: 5%, their share of the data");
}

ForeignReading read_optimizer(const ConfigNode& value, const ConfigNode&) {
  const std::string& name = value.text;
  const std::string base = name.starts_with("paged_") ? name.substr(6) : name;
  static const std::vector<std::string_view> kAdamW{
      "adamw",           "adamw_torch",          "adamw_torch_fused",  "adamw_torch_xla",
      "adamw_hf",        "adamw_apex_fused",     "adamw_anyprecision", "adamw_bnb_8bit",
      "adamw_8bit",      "adamw_32bit",          "adamw_torch_8bit",   "adamw_torch_4bit",
      "adamw_torch_fp8", "adamw_torch_npu_fused"};
  if (std::ranges::find(kAdamW, base) != kAdamW.end()) {
    return ForeignReading::left_out("AdamW is the optimiser here, with its state in float32");
  }
  return ForeignReading::refused("AdamW is the only optimiser here; remove the key to take it");
}

ForeignReading read_scheduler(const ConfigNode& value, const ConfigNode& section) {
  if (value.text == "constant_with_warmup") {
    return ForeignReading::means("lr_scheduler", scalar("constant"));
  }
  if (value.text == "cosine_with_restarts") {
    const ConfigNode* more = section.find("lr_scheduler_kwargs");
    if (more == nullptr || schema::is_off(*more)) {
      return ForeignReading::means("lr_scheduler", scalar("cosine"));  // one cycle
    }
  }
  return ForeignReading::own();
}

ForeignReading read_checkpointing(const ConfigNode& value, const ConfigNode&) {
  for (const char* name : {"offload", "offload_disk", "unsloth"}) {
    if (value.text == name) {
      return ForeignReading::means("gradient_checkpointing", scalar("all"));
    }
  }
  return ForeignReading::own();
}

ForeignReading read_no_checkpointing(const ConfigNode& value, const ConfigNode&) {
  if (schema::is_off(value)) return ForeignReading::left_out("what is computed twice is chosen");
  return ForeignReading::means("gradient_checkpointing", scalar("none"));
}

/// Names of templates have no dot and no slash; files do.
ForeignReading read_chat_template(const ConfigNode& value, const ConfigNode&) {
  if (value.text == "tokenizer_default") {
    return ForeignReading::left_out("the model's own template is used");
  }
  if (value.kind != ConfigNode::Kind::kScalar || value.text.empty() ||
      value.text.find_first_of("./") != std::string::npos) {
    return ForeignReading::own();
  }
  return ForeignReading::refused(
      "the name of a template of another program; weft import writes chatml, llama3, gemma and "
      "others as a file, or remove the key to use the model's own template");
}

/// Tokens that bear on what is learned stay, and have to be the model's own.
ForeignReading read_special_tokens(const ConfigNode& value, const ConfigNode&) {
  if (value.kind != ConfigNode::Kind::kMap || value.entries.empty()) return ForeignReading::own();
  ConfigNode kept = ConfigNode::map();
  for (const schema::ConfigEntry& entry : value.entries) {
    if (entry.key == "pad_token" || entry.key == "unk_token" || schema::is_off(entry.value))
      continue;
    kept.add(entry.key, entry.value, entry.place);
  }
  if (kept.entries.size() == value.entries.size()) return ForeignReading::own();
  if (kept.entries.empty()) {
    return ForeignReading::left_out("rows are not padded, and the model's own tokens are used");
  }
  kept.place = value.place;
  return ForeignReading::means("special_tokens", std::move(kept));
}

ForeignReading read_plugins(const ConfigNode& value, const ConfigNode&) {
  static const std::vector<std::string_view> kFaster{
      "CutCrossEntropyPlugin", "LigerPlugin", "KernelsPlugin", "SwanLabPlugin", "LMEvalPlugin"};
  const std::vector<ConfigNode> names =
      value.kind == ConfigNode::Kind::kList ? value.items : std::vector<ConfigNode>{value};
  for (const ConfigNode& name : names) {
    const std::string last = name.text.substr(name.text.rfind('.') + 1);
    if (std::ranges::find(kFaster, last) != kFaster.end()) continue;
    return ForeignReading::refused(
        fmt::format("'{}' may change what is learned, and plugins are not run here", name.text));
  }
  return ForeignReading::left_out("they make the same numbers faster elsewhere");
}

/// micro_batch_size and those beside it.
ForeignReading read_batch(const ConfigNode&, const ConfigNode& section) {
  const double rows = rows_per_update(section);
  const double length = number_at(section, {"sequence_len", "cutoff_len", "max_length"}, 0);
  const ConfigNode* packing = section.find("sample_packing");
  if (packing == nullptr) packing = section.find("packing");
  const bool packed = packing == nullptr || schema::as_boolean(*packing) != false;
  if (!packed) {
    return ForeignReading::refused(
        fmt::format("write examples_per_update: {:.0f}, which is micro_batch_size x "
                    "gradient_accumulation_steps (times the number of devices)",
                    rows));
  }
  const std::string product = length > 0
                                  ? fmt::format("{:.0f} ({:.0f} rows of {:.0f} tokens), which is",
                                                rows * length, rows, length)
                                  : std::string("N, which is");
  return ForeignReading::refused(fmt::format(
      "write tokens_per_update: {} micro_batch_size x gradient_accumulation_steps x sequence_len "
      "(times the number of devices); or, with packing: false, examples_per_update: {:.0f}",
      product, rows));
}

ForeignReading read_test_datasets(const ConfigNode& value, const ConfigNode&) {
  if (value.kind != ConfigNode::Kind::kList || value.items.size() != 1) {
    return ForeignReading::refused("write one validation: section, with all files under its path");
  }
  return ForeignReading::means("validation", value.items.front());
}

ForeignReading read_prepared_path(const ConfigNode& value, const ConfigNode&) {
  return ForeignReading::means("token_cache", ConfigNode::string(value.text));
}

void add_adapter_words(std::vector<ForeignWord>& words) {
  words.push_back(
      read_word("adapter", kAxolotl, "`lora`; `qlora`: `base_quantization: nf4`", read_adapter));
  words.back().reads_null = true;
  const auto linear = [](const ConfigNode& value, const ConfigNode&) {
    if (schema::is_off(value)) return ForeignReading::left_out(kNothing);
    return ForeignReading::means("adapter.target_modules", ConfigNode::string("all-linear"));
  };
  const auto half = [](const ConfigNode& value, const ConfigNode&) {
    return schema::is_off(value)
               ? ForeignReading::left_out(kNothing)
               : ForeignReading::refused("numbers are bfloat16 or float32 here; write dtype: auto");
  };
  std::vector<ForeignWord> more{
      read_word("lora_target", kFactory,
                "`all`: `adapter.target_modules: all-linear`; names by commas", read_lora_target),
      read_word("lora_target_linear", kAxolotl, "`adapter.target_modules: all-linear`", linear),
      shared("lora_target_modules"),
      shared("lora_r"),
      shared("lora_rank"),
      shared("lora_alpha"),
      shared("lora_dropout"),
      shared("lora_model_dir"),
      same_word("adapter_name_or_path", kFactory, "adapter.init_from"),
      same_word("lora_target_parameters", kAxolotl, "adapter.target_parameters"),
      same_word("peft_use_rslora", kAxolotl, "adapter.use_rslora"),
      same_word("use_rslora", kFactory, "adapter.use_rslora"),
      same_word("peft_layers_to_transform", kAxolotl, "adapter.layers_to_transform"),
      same_word("lora_rank_pattern", kAxolotl, "adapter.rank_pattern"),
      same_word("lora_alpha_pattern", kAxolotl, "adapter.alpha_pattern"),
      read_word("load_in_4bit", kAxolotl, "`base_quantization: nf4`", quantised_as("nf4")),
      read_word("load_in_8bit", kAxolotl, "`base_quantization: int8`", quantised_as("int8")),
      read_word("quantization_bit", kFactory, "4: `base_quantization: nf4`; 8: `int8`",
                read_quantization_bit),
      only_word("quantization_method", kFactory, {"bnb", "bitsandbytes"},
                "base_quantization says how the base is kept",
                "write base_quantization: nf4 or int8"),
      only_word("quantization_type", kFactory, {"nf4"}, "nf4 is the 4-bit type here",
                "nf4 is the only 4-bit type here; remove the key to take it"),
      read_word("double_quantization", kFactory, "true is what nf4 does; false is refused",
                [](const ConfigNode& value, const ConfigNode&) {
                  return schema::as_boolean(value) == true
                             ? ForeignReading::left_out("nf4 quantises its scales in turn")
                             : ForeignReading::refused(
                                   "nf4 quantises its scales in turn, always; remove "
                                   "the key to accept it");
                }),
      read_word("bf16", kBoth, "`dtype: auto`, `bfloat16` or `float32`", read_bf16),
      read_word("bfloat16", kAxolotl, "`dtype`", read_bf16),
      read_word("pure_bf16", kFactory, "`dtype`", read_bf16),
      read_word("torch_dtype", kBoth, "`dtype`", read_dtype_name),
      read_word("fp16", kBoth, "refused unless it is off: `dtype: auto`", half),
      read_word("float16", kAxolotl, "refused unless it is off: `dtype: auto`", half),
  };
  std::ranges::move(more, std::back_inserter(words));
}

void add_schedule_words(std::vector<ForeignWord>& words) {
  std::vector<ForeignWord> more{
      read_word("warmup_ratio", kBoth, "`warmup`, in per cent", read_warmup_ratio),
      read_word("lr_scheduler", kBoth,
                "`constant_with_warmup`: `constant`; `cosine_with_restarts` (one cycle): `cosine`",
                read_scheduler),
      read_word("lr_scheduler_type", kFactory, "as `lr_scheduler`", read_scheduler),
      read_word("optimizer", kAxolotl, "left out where it is a kind of AdamW; refused otherwise",
                read_optimizer),
      read_word("optim", kFactory, "left out where it is a kind of AdamW; refused otherwise",
                read_optimizer),
      shared("weight_decay"),
      shared("warmup_steps"),
      shared("adam_beta1"),
      shared("adam_beta2"),
      shared("adam_epsilon"),
      read_word("evals_per_epoch", kAxolotl, "`eval.every`, as 0.25e", read_evals_per_epoch),
      read_word("saves_per_epoch", kAxolotl, "`save.every`, as 1e", read_saves_per_epoch),
      read_word("eval_steps", kBoth, "`eval.every`, as 100u", steps_of("eval.every")),
      read_word("save_steps", kBoth, "`save.every`, as 100u", steps_of("save.every")),
      read_word("eval_strategy", kBoth, "`eval.every`", strategy_of("eval.every", "eval_steps")),
      read_word("evaluation_strategy", kBoth, "`eval.every`",
                strategy_of("eval.every", "eval_steps")),
      read_word("save_strategy", kBoth, "`save.every`", strategy_of("save.every", "save_steps")),
      shared("save_total_limit"),
      shared("early_stopping_patience"),
      shared("logging_steps"),
      read_word("micro_batch_size", kAxolotl, "refused with the number of `tokens_per_update`",
                read_batch),
      read_word("per_device_train_batch_size", kFactory, "as `micro_batch_size`", read_batch),
      read_word("gradient_accumulation_steps", kBoth, "as `micro_batch_size`", read_batch),
      read_word("batch_size", kAxolotl, "as `micro_batch_size`", read_batch),
      read_word("gradient_checkpointing", kBoth, "`offload`, `unsloth`: `all`", read_checkpointing),
      read_word("disable_gradient_checkpointing", kFactory, "`gradient_checkpointing: none`",
                read_no_checkpointing),
  };
  std::ranges::move(more, std::back_inserter(words));
}

void add_data_words(std::vector<ForeignWord>& words) {
  const auto history = [](const ConfigNode& value, const ConfigNode&) {
    if (schema::is_off(value)) return ForeignReading::left_out(kNothing);
    return ForeignReading::means("train_on_turns", scalar("last"));
  };
  const auto no_shuffle = [](const ConfigNode& value, const ConfigNode&) {
    if (schema::is_off(value)) return ForeignReading::left_out(kNothing);
    return ForeignReading::means("shuffle", scalar("false"));
  };
  const char* const kRegistry =
      "a name of LLaMA-Factory's registry; write datasets: [{path: FILE}] with its file";
  std::vector<ForeignWord> more{
      read_word("val_set_size", kAxolotl, "`validation_share`, in per cent", read_validation_size),
      read_word("val_size", kFactory, "`validation_share`, in per cent", read_validation_size),
      read_word("test_datasets", kAxolotl, "`validation`, where it has one item",
                read_test_datasets),
      same_word("max_samples", kFactory, "datasets.*.limit"),
      read_word("dataset_prepared_path", kAxolotl, "`token_cache`", read_prepared_path),
      read_word("mask_history", kFactory, "`train_on_turns: last`", history),
      read_word("curriculum_sampling", kAxolotl, "`shuffle: false`", no_shuffle),
      read_word("disable_shuffling", kFactory, "`shuffle: false`", no_shuffle),
      read_word("chat_template", kAxolotl,
                "`tokenizer_default`: the model's own; other names are refused",
                read_chat_template),
      refused_word("chat_template_jinja", kAxolotl,
                   "write the template into a file, and its name under chat_template"),
      refused_word("template", kFactory,
                   "the name of a template of another program; weft import says what to do, or "
                   "remove the key to use the model's own template"),
      refused_word("dataset", kFactory, kRegistry),
      refused_word("eval_dataset", kFactory,
                   "a name of LLaMA-Factory's registry; write validation: {path: FILE}"),
      refused_word("pretraining_dataset", kAxolotl, "write datasets: [{path: FILE, type: text}]"),
      read_word(
          "special_tokens", kAxolotl,
          "the same key, which the model has to agree with; pad_token and unk_token are left out",
          read_special_tokens),
      refused_word("tokens", kAxolotl, "tokens are not added to a vocabulary here"),
      refused_word("add_tokens", kFactory, "tokens are not added to a vocabulary here"),
      refused_word("add_special_tokens", kFactory, "tokens are not added to a vocabulary here"),
      refused_word("added_tokens_overrides", kAxolotl, "edit the model's tokenizer files instead"),
      refused_word("resize_vocab", kFactory, "the vocabulary keeps its size"),
      refused_word("resize_token_embeddings_to_32x", kAxolotl, "the vocabulary keeps its size"),
      refused_word("tokenizer_config", kAxolotl, "the tokenizer is that of base_model"),
      refused_word("dataset_exact_deduplication", kAxolotl,
                   "rows are not removed here; the plan of weft train --check counts repeats"),
      refused_word("default_system_message", kAxolotl, "write it into the chat template"),
      refused_word("default_system", kFactory, "write it into the chat template"),
      refused_word("interleave_probs", kFactory,
                   "datasets are learned one with another, whole; repeat or limit them"),
      only_word("mix_strategy", kFactory, {"concat"}, "datasets are learned whole",
                "datasets are learned one with another, whole; repeat or limit them"),
      refused_word("resume_from_checkpoint", kBoth, "run weft train with --resume"),
      left_out_word("auto_resume_from_checkpoints", kAxolotl,
                    "weft train --resume goes on from the last checkpoint"),
  };
  std::ranges::move(more, std::back_inserter(words));
}

/// What would be learned otherwise.
void add_refused_words(std::vector<ForeignWord>& words) {
  const auto add = [&](const char* key, const char* from, const char* text) {
    words.push_back(refused_word(key, from, text));
  };
  constexpr const char* kWhole = "only factors of linear layers are trained here; remove the key";
  constexpr const char* kInit =
      "factors begin as LoRA's do: A by chance, B at 0; remove the key to accept it";
  constexpr const char* kPlus = "A and B learn at one rate; remove the key to accept it";
  constexpr const char* kRelora = "the adapter is not folded into the base in between";
  constexpr const char* kPreference =
      "examples teach by their answers here; there is no preference or reward training";
  constexpr const char* kQuantised =
      "name the unquantised model, and base_quantization: nf4 or int8";
  add("lora_modules_to_save", kAxolotl, kWhole);
  add("additional_target", kFactory, kWhole);
  add("unfrozen_parameters", kAxolotl, kWhole);
  add("peft_trainable_token_indices", kAxolotl, kWhole);
  add("peft_use_dora", kAxolotl, "LoRA is trained here, DoRA is not");
  add("use_dora", kFactory, "LoRA is trained here, DoRA is not");
  add("peft_init_lora_weights", kAxolotl, kInit);
  add("peft", kAxolotl, kInit);
  add("pissa_init", kFactory, kInit);
  add("pissa_convert", kFactory, kInit);
  add("peft_layer_replication", kAxolotl, "layers are not repeated");
  add("lora_fan_in_fan_out", kAxolotl, "weft knows which layers are stored the other way");
  add("loraplus_lr_ratio", kBoth, kPlus);
  add("loraplus_lr_embedding", kAxolotl, kPlus);
  add("lr_groups", kAxolotl, "all layers learn at one rate");
  add("embedding_lr", kAxolotl, kWhole);
  add("embedding_lr_scale", kAxolotl, kWhole);
  add("cosine_min_lr_ratio", kAxolotl, "cosine falls to 0; remove the key to accept it");
  add("cosine_constant_lr_ratio", kAxolotl, "cosine falls to 0; remove the key to accept it");
  add("lr_scheduler_kwargs", kBoth, "schedules have no settings of their own; see lr_scheduler");
  add("lr_quadratic_warmup", kAxolotl, "the warm-up is linear");
  add("optim_args", kBoth, "write adam_beta1, adam_beta2 and adam_epsilon");
  add("neftune_noise_alpha", kBoth, "no noise is added to embeddings");
  add("noisy_embedding_alpha", kAxolotl, "no noise is added to embeddings");
  add("label_smoothing_factor", kBoth, "targets are not smoothed");
  for (const char* key :
       {"relora", "relora_steps", "relora_warmup_steps", "relora_prune_ratio", "relora_cpu_offload",
        "jagged_restart_steps", "jagged_restart_warmup_steps", "jagged_restart_anneal_steps"}) {
    add(key, kAxolotl, kRelora);
  }
  for (const char* key : {"rl", "reward_model", "process_reward_model", "rl_beta", "dpo_beta",
                          "orpo_alpha", "kto_desirable_weight", "trl", "ebft"}) {
    add(key, kAxolotl, kPreference);
  }
  for (const char* key : {"pref_beta", "pref_loss", "pref_ftx"}) add(key, kFactory, kPreference);
  add("gptq", kAxolotl, kQuantised);
  add("use_pose", kAxolotl, "positions are those of the text");
  add("s2_attention", kAxolotl, "attention is never shifted");
  add("shift_attn", kFactory, "attention is never shifted");
  add("overrides_of_model_config", kAxolotl, "edit the model's config.json instead");
  add("overrides_of_model_kwargs", kAxolotl, "edit the model's config.json instead");
  add("rope_scaling", kBoth, "edit the model's config.json instead");
  add("use_dft_loss", kFactory, "the loss is the cross entropy");
  add("use_asft_loss", kFactory, "the loss is the cross entropy");
  add("use_eaft_loss", kFactory, "the loss is the cross entropy");
  add("use_eaft", kAxolotl, "the loss is the cross entropy");
  add("processor_type", kAxolotl, "text is learned here; images and sound are not");
  for (const char* key : {"use_galore", "use_apollo", "use_badam", "use_adam_mini", "use_muon"}) {
    add(key, kFactory, "AdamW is the only optimiser here; remove the key to take it");
  }
  words.push_back(only_word("stage", kFactory, {"sft"}, "answers are what is learned",
                            "write stage: sft; for plain text name datasets of type: text; there "
                            "is no preference or reward training"));
  words.push_back(only_word("finetuning_type", kFactory, {"lora"}, "LoRA is what is trained here",
                            "LoRA is what is trained here; write finetuning_type: lora"));
  words.push_back(
      read_word("plugins", kAxolotl, "left out where they only make it faster", read_plugins));
  words.push_back(read_word("do_train", kFactory, "left out; false is refused",
                            [](const ConfigNode& value, const ConfigNode&) {
                              return schema::as_boolean(value) == true
                                         ? ForeignReading::left_out("weft train trains")
                                         : ForeignReading::refused(
                                               "weft train trains; weft eval and "
                                               "weft generate use an adapter");
                            }));
  add("do_predict", kFactory, "weft generate and weft eval use an adapter");
}

std::string table_of(const std::vector<ForeignWord>& words) {
  std::string out = "| word | of | here |\n|---|---|---|\n";
  std::vector<const ForeignWord*> sorted;
  for (const ForeignWord& one : words) sorted.push_back(&one);
  std::ranges::sort(sorted, {}, [](const ForeignWord* one) { return one->key; });
  for (const ForeignWord* one : sorted) {
    std::string meaning;
    for (const char c : one->meaning) meaning += c == '|' ? std::string("\\|") : std::string(1, c);
    out += fmt::format("| `{}` | {} | {} |\n", one->key, one->from, meaning);
  }
  return out;
}

}  // namespace

std::string percent_text(double share) { return fmt::format("{:.6g}%", share * 100); }

double rows_per_update(const ConfigNode& section) {
  const double whole = number_at(section, {"batch_size"}, 0);
  if (whole > 0) return whole;
  return number_at(section, {"micro_batch_size", "per_device_train_batch_size"},
                   section.find("model_name_or_path") != nullptr ? 8 : 1) *
         number_at(section, {"gradient_accumulation_steps"}, 1);
}

std::vector<ForeignWord> train_words() {
  std::vector<ForeignWord> words;
  add_adapter_words(words);
  add_schedule_words(words);
  add_data_words(words);
  add_refused_words(words);
  std::ranges::move(idle_words(), std::back_inserter(words));
  return words;
}

std::string word_reference() {
  return "### Words of a run\n\n" + table_of(train_words()) + "\n### Words of a dataset\n\n" +
         table_of(data::dataset_words());
}

}  // namespace weft::train
