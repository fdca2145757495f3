#include "train/import.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

#include "core/error.h"
#include "train/config.h"
#include "train/foreign_words.h"
#include "train/import_parts.h"

namespace weft::train {
namespace {
namespace fs = std::filesystem;

using schema::ConfigEntry;
using schema::ConfigNode;
using schema::ForeignReading;
using Kind = schema::ConfigNode::Kind;

/// Where a key of ours, or an alias of one, stands: its dotted path.
std::optional<std::string> own_path(const schema::SectionInfo& info, const std::string& key) {
  for (const schema::FieldInfo& field : info.fields) {
    if (field.name == key || std::ranges::find(field.aliases, key) != field.aliases.end()) {
      return field.name;
    }
  }
  for (const auto& [alias, path] : info.aliases) {
    if (alias == key) return path;
  }
  return std::nullopt;
}

/// Translates one file.
class Importer {
 public:
  Importer(const ConfigNode& tree, const schema::ConfigSource& source,
           const std::vector<std::string>& without)
      : job_{.tree = tree, .source = source, .without = without}, program_(program_of()) {}

  Imported run() {
    refuse_other_training();
    job_.sheet.comment(fmt::format(
        "Made by weft import from {}, a configuration of {}. Paths are relative to this file.",
        fs::path(job_.source.name).filename().string(), program_));
    for (const ConfigEntry& entry : job_.tree.entries) take(entry);
    add_defaults();
    if (!empty_.empty()) {
      job_.sheet.comment(fmt::format("Without a value there: {}.", fmt::join(empty_, ", ")));
    }
    for (const std::string& key : job_.without) {
      if (!job_.used.contains(key)) {
        job_.problems.emplace_back(
            job_.tree.place, fmt::format("--without {}: there is no such key to leave out", key));
      }
    }
    if (!job_.problems.empty()) fail();
    Imported imported{
        .program = program_, .yaml = job_.sheet.text(), .files = std::move(job_.files)};
    require_readable(imported.yaml);
    return imported;
  }

 private:
  [[nodiscard]] bool is_axolotl() const { return program_ == kAxolotl; }

  [[nodiscard]] std::string program_of() const {
    const auto any = [&](std::initializer_list<const char*> keys) {
      return std::ranges::any_of(keys,
                                 [&](const char* key) { return job_.tree.find(key) != nullptr; });
    };
    if (any({"finetuning_type", "stage", "model_name_or_path", "lora_rank"})) return kFactory;
    const ConfigNode* adapter = job_.tree.find("adapter");
    const bool is_ours = adapter != nullptr && adapter->kind == Kind::kMap;
    if (any({"base_model"}) && !is_ours &&
        (adapter != nullptr || any({"micro_batch_size", "sample_packing", "lora_r", "val_set_size",
                                    "gradient_accumulation_steps", "rl"}))) {
      return kAxolotl;
    }
    throw ConfigError("{}: {}; weft import reads files of axolotl and of LLaMA-Factory",
                      job_.source.name,
                      is_ours ? "is a configuration of weft already (weft train runs it)"
                              : "has the keys of neither program");
  }

  [[noreturn]] void fail() {
    std::ranges::stable_sort(job_.problems, {}, [](const auto& one) {
      return std::pair(one.first.line, one.first.column);
    });
    std::vector<std::string> lines;
    for (const auto& [place, text] : job_.problems) {
      lines.push_back(
          fmt::format("{}:{}:{}: {}", job_.source.name, place.line, place.column, text));
    }
    throw ConfigError("{}", fmt::join(lines, "\n"));
  }

  /// Files that train otherwise are refused as a whole: nothing of them could be used.
  void refuse_other_training() {
    const auto refuse = [&](const char* key, std::string_view what) {
      const ConfigNode* value = job_.tree.find(key);
      job_.problem(
          value != nullptr ? value->place : job_.tree.place,
          fmt::format("{}: {}; weft import reads what trains a LoRA adapter on answers or text",
                      value != nullptr ? schema::shown_entry(key, *value) : key, what));
    };
    if (is_axolotl()) {
      for (const char* key : {"rl", "reward_model", "process_reward_model"}) {
        if (const ConfigNode* value = job_.tree.find(key);
            value != nullptr && !schema::is_off(*value)) {
          refuse(key, "trains by preferences or rewards");
        }
      }
      if (is_given(job_.tree, "processor_type"))
        refuse("processor_type", "trains on images or sound");
      const std::string adapter = text_at(job_.tree, "adapter");
      if (adapter.empty()) {
        refuse("adapter", "without an adapter all weights are trained");
      } else if (adapter != "lora" && adapter != "qlora") {
        refuse("adapter", "is another kind of adapter");
      }
    } else {
      const std::string stage = text_at(job_.tree, "stage");
      if (!stage.empty() && stage != "sft" && stage != "pt") {
        refuse("stage", "trains by preferences or rewards");
      }
      const std::string kind = text_at(job_.tree, "finetuning_type");
      if (!kind.empty() && kind != "lora") refuse("finetuning_type", "trains other weights");
      for (const char* key : {"image_max_pixels", "video_max_pixels", "freeze_vision_tower",
                              "freeze_multi_modal_projector", "freeze_language_model"}) {
        if (is_given(job_.tree, key)) {
          refuse(key, "trains on images or sound");
          break;
        }
      }
    }
    if (!job_.problems.empty()) fail();
  }

  void take(const ConfigEntry& entry) {
    const std::string& key = entry.key;
    if (entry.value.kind == Kind::kNull) {
      empty_.push_back(key);
      return;
    }
    if (job_.is_without(key)) {
      job_.leave_out(key, entry.value);
      return;
    }
    if (take_special(entry)) return;
    const auto& words = words_;
    const auto word = std::ranges::find(words, key, &schema::ForeignWord::key);
    if (word != words.end()) {
      const ForeignReading reading = word->read(entry.value, job_.tree);
      if (job_.apply(reading, entry, "")) return;
    }
    const std::optional<std::string> path = own_path(*info_, key);
    if (!path) {
      job_.problem(entry.place,
                   fmt::format("{}: is no key of {} that weft import knows; --without {} "
                               "leaves it out",
                               key, program_, key));
      return;
    }
    // lora_dropout below adapter: needs no word on where it came from.
    const bool is_same = *path == key || path->ends_with("." + key);
    job_.put(*path, entry.value, is_same ? "" : key, entry.place);
  }

  /// Keys that are read together with others.
  bool take_special(const ConfigEntry& entry) {
    const std::string& key = entry.key;
    if (key == "base_model" || key == "model_name_or_path") {
      job_.sheet.set("base_model", ConfigNode::string(entry.value.text),
                     hub_note(entry.value.text, "put the folder or the GGUF file of the model"));
      return true;
    }
    if (key == "micro_batch_size" || key == "gradient_accumulation_steps" || key == "batch_size" ||
        key == "per_device_train_batch_size") {
      set_update();
      return true;
    }
    if (is_axolotl()) return take_axolotl(entry);
    return take_factory(entry);
  }

  bool take_axolotl(const ConfigEntry& entry) {
    const std::string& key = entry.key;
    if (key == "special_tokens") {
      take_special_tokens(entry);
      return true;
    }
    if (key == "lora_target_linear" || key == "lora_target_modules") {
      set_targets();
      return true;
    }
    if (key == "datasets" || key == "pretraining_dataset") {
      data_.add_axolotl(entry);
      return true;
    }
    if (key == "chat_template") {
      data_.set_axolotl_template(entry.value.text);
      return true;
    }
    if (key == "chat_template_jinja") {
      if (fs::path(entry.value.text).extension() == ".jinja") {
        job_.sheet.set("chat_template", ConfigNode::string(entry.value.text), key);
      } else {
        data_.add_template("chat_template", entry.value.text, key);
      }
      return true;
    }
    return false;
  }

  void take_special_tokens(const ConfigEntry& entry) {
    const auto word = std::ranges::find(words_, entry.key, &schema::ForeignWord::key);
    const ForeignReading reading = word->read(entry.value, job_.tree);
    if (reading.kind == ForeignReading::Kind::kLeftOut) {
      (void)job_.apply(reading, entry, "");
    } else if (!schema::is_off(entry.value)) {
      job_.sheet.set(
          "special_tokens",
          reading.kind == ForeignReading::Kind::kMeans ? reading.keys.front().second : entry.value,
          "have to be the model's own; pad_token and unk_token are not needed");
    }
  }

  bool take_factory(const ConfigEntry& entry) {
    const std::string& key = entry.key;
    if (key == "dataset" || key == "eval_dataset") {
      data_.add_factory(entry);
      return true;
    }
    if (key == "template") {
      data_.set_factory_template(entry.value.text);
      return true;
    }
    if (key == "stage") {
      job_.sheet.comment(fmt::format(
          "stage: {}: {}.", entry.value.text,
          entry.value.text == "pt" ? "all of the text is learned" : "answers are learned"));
      return true;
    }
    if (key == "max_samples") return true;  // in the datasets
    if (key == "num_train_epochs" && factory_max_steps()) {
      job_.sheet.comment(fmt::format("num_train_epochs: {}: not needed, max_steps ends the run.",
                                     entry.value.text));
      return true;
    }
    if (key == "packing" && is_on(job_.tree, "packing") && !is_on(job_.tree, "neat_packing") &&
        text_at(job_.tree, "stage") != "pt") {
      job_.sheet.set("packing", plain("true"),
                     "packed examples see each other there, and never here (as with neat_packing)");
      return true;
    }
    return false;
  }

  [[nodiscard]] bool factory_max_steps() const {
    const ConfigNode* steps = job_.tree.find("max_steps");
    return steps != nullptr && schema::as_number(*steps).value_or(0) > 0;
  }

  [[nodiscard]] bool is_packed() const {
    if (is_axolotl()) return is_on(job_.tree, "sample_packing");
    if (job_.tree.find("packing") != nullptr && is_given(job_.tree, "packing"))
      return is_on(job_.tree, "packing");
    return is_on(job_.tree, "neat_packing") || text_at(job_.tree, "stage") == "pt";
  }

  [[nodiscard]] double length() const {
    for (const char* key : {"sequence_len", "cutoff_len"}) {
      if (const ConfigNode* value = job_.tree.find(key)) {
        if (const auto number = schema::as_number(*value)) return *number;
      }
    }
    return is_axolotl() ? 512 : 2048;
  }

  /// Examples or rows that one update learns from.
  void set_update() {
    if (job_.sheet.has("tokens_per_update") || job_.sheet.has("examples_per_update")) return;
    const double rows = rows_per_update(job_.tree);
    const char* size = is_axolotl() ? "micro_batch_size" : "per_device_train_batch_size";
    std::string product = fmt::format("{} x gradient_accumulation_steps", size);
    if (is_given(job_.tree, "batch_size")) product = "batch_size";
    constexpr const char* kDevices = "times the devices where there were several";
    if (is_packed()) {
      job_.sheet.set(
          "tokens_per_update", plain(fmt::format("{:.0f}", rows * length())),
          fmt::format("{:.0f} rows ({}) of {:.0f} tokens; {}", rows, product, length(), kDevices));
    } else {
      job_.sheet.set("examples_per_update", plain(fmt::format("{:.0f}", rows)),
                     fmt::format("{}; {}", product, kDevices));
    }
  }

  void set_targets() {
    if (job_.sheet.has("adapter.target_modules")) return;
    const bool linear = is_on(job_.tree, "lora_target_linear");
    const ConfigNode* modules = job_.tree.find("lora_target_modules");
    const bool named = modules != nullptr && !schema::is_off(*modules);
    if (!linear) {
      if (named) job_.sheet.set("adapter.target_modules", *modules, "lora_target_modules");
      return;
    }
    job_.sheet.set("adapter.target_modules", ConfigNode::string("all-linear"),
                   named ? "lora_target_linear: true, which holds lora_target_modules"
                         : "lora_target_linear: true");
    if (!named) return;
    const std::vector<ConfigNode> names =
        modules->kind == Kind::kList ? modules->items : std::vector<ConfigNode>{*modules};
    for (const ConfigNode& name : names) {
      if (name.text == "all-linear" || name.text.ends_with("_proj")) continue;
      job_.problem(
          name.place,
          fmt::format("lora_target_modules: '{}' may be no linear layer of a decoder; write "
                      "the list without lora_target_linear",
                      name.text));
    }
  }

  /// Keys that the file does not have and that mean something else there than here.
  void add_defaults() {
    const auto usual = [&](const char* path, ConfigNode value, std::string why = "") {
      if (job_.sheet.has(path)) return;
      job_.sheet.set(path, std::move(value), why.empty() ? "the default there" : std::move(why));
    };
    set_update();
    const std::string scheduler =
        is_axolotl() ? text_at(job_.tree, "lr_scheduler") : text_at(job_.tree, "lr_scheduler_type");
    if (scheduler == "constant") {
      job_.sheet.set("warmup", plain("0"), "lr_scheduler: constant has no warm-up there");
    }
    if (is_axolotl()) {
      usual("sequence_len", plain("512"));
      usual("packing", plain("false"));
      usual("save.every", plain("1e"));
      usual("save.keep", plain("4"));
      usual("warmup", plain("3%"), "the default there, where 100 updates are the most");
      if (!job_.sheet.has("adapter.target_modules")) {
        job_.sheet.set(
            "adapter.target_modules",
            ConfigNode::list({ConfigNode::string("q_proj"), ConfigNode::string("v_proj")}),
            "PEFT's own choice for Llama, Mistral and Qwen2");
      }
      usual("adapter.r", plain("8"));
      usual("adapter.lora_alpha", plain("8"));
    } else {
      const ConfigNode* rank = job_.tree.find("lora_rank");
      const double r = rank != nullptr ? schema::as_number(*rank).value_or(8) : 8;
      usual("adapter.r", plain("8"));
      usual("adapter.lora_alpha", plain(fmt::format("{:.6g}", 2 * r)),
            "the default there, 2 x rank");
      usual("adapter.target_modules", ConfigNode::string("all-linear"));
      usual("sequence_len", plain("2048"));
      usual("over_length", plain("truncate"), "what is too long is cut there");
      usual("packing", plain(is_packed() ? "true" : "false"));
      usual("learning_rate", plain("5e-5"));
      usual("lr_scheduler", plain("linear"));
      usual("warmup", plain("0"));
      if (!factory_max_steps()) usual("num_epochs", plain("3"));
      usual("save.every", plain("500u"));
      usual("save.keep", plain("0"), "all stay there");
      if (!job_.sheet.has("dtype")) job_.sheet.set("dtype", plain("float32"), "without bf16 there");
    }
    if ((job_.sheet.has("validation_share") || job_.sheet.has("validation.path")) &&
        !job_.sheet.has("eval.every")) {
      job_.sheet.set("eval.every", ConfigNode{}, "at the end only: no evals there");
    }
  }

  /// What is written has to be read by weft train.
  static void require_readable(const std::string& yaml) {
    (void)schema::parse_config<TrainConfig>(
        yaml, {.name = "the imported configuration", .directory = {}});
  }

  ImportJob job_;
  ImportData data_{job_};
  const std::vector<schema::ForeignWord> words_ = train_words();
  const std::shared_ptr<const schema::SectionInfo> info_ = schema::section_info<TrainConfig>();
  std::string program_;
  std::vector<std::string> empty_;
};

}  // namespace

Imported import_config(std::string_view yaml, const schema::ConfigSource& source,
                       const std::vector<std::string>& without) {
  schema::Problems problems;
  const ConfigNode tree = schema::parse_yaml(yaml, problems);
  if (!problems.empty()) {
    const auto& [place, text] = problems.front();
    throw ConfigError("{}:{}:{}: {}", source.name, place.line, place.column, text);
  }
  return Importer(tree, source, without).run();
}

}  // namespace weft::train
