#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "data/foreign_words.h"
#include "train/import_parts.h"

namespace weft::train {
namespace {
namespace fs = std::filesystem;

using schema::ConfigEntry;
using schema::ConfigNode;
using Kind = schema::ConfigNode::Kind;

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts;
  std::string part;
  for (const char c : text + at) {
    if (c != at) {
      part += c;
      continue;
    }
    const std::size_t first = part.find_first_not_of(' ');
    if (first != std::string::npos) {
      parts.push_back(part.substr(first, part.find_last_not_of(' ') - first + 1));
    }
    part.clear();
  }
  return parts;
}

std::string text_of(const nlohmann::json& object, const char* key) {
  const auto value = object.find(key);
  return value != object.end() && value->is_string() ? value->get<std::string>() : "";
}

bool any_chat(const ConfigNode& tree) {
  const ConfigNode* datasets = tree.find("datasets");
  return datasets != nullptr && std::ranges::any_of(datasets->items, [](const ConfigNode& item) {
           const std::string type = text_at(item, "type");
           return type == "chat_template" || type == "sharegpt";
         });
}

}  // namespace

ImportData::ImportData(ImportJob& job)
    : job_(job), words_(data::dataset_words()), has_chat_(any_chat(job.tree)) {}

void ImportData::add_template(const std::string& name, std::string text, const std::string& note) {
  const std::string file = name + ".jinja";
  const bool known =
      std::ranges::any_of(job_.files, [&](const SideFile& f) { return f.name == file; });
  if (!known) job_.files.push_back({file, std::move(text)});
  job_.sheet.set("chat_template", ConfigNode::string(file), note);
}

void ImportData::set_axolotl_template(const std::string& name) {
  if (!has_chat_) {
    job_.sheet.comment(
        fmt::format("chat_template: {}: not needed, no dataset here is a chat.", name));
    return;
  }
  if (name == "jinja") return;  // chat_template_jinja has it
  constexpr std::string_view kFallback = "tokenizer_default_fallback_";
  if (name == "tokenizer_default") {
    job_.sheet.comment("chat_template: tokenizer_default: the model's own, as without the key.");
  } else if (name.starts_with(kFallback)) {
    const std::string other = name.substr(kFallback.size());
    if (const std::string text = named_template(other); !text.empty()) {
      job_.files.push_back({other + ".jinja", text});
    }
    job_.sheet.comment(fmt::format(
        "chat_template: {}: the model's own; where it has none, write chat_template: {}.jinja.",
        name, other));
  } else {
    set_named_template(name, "chat_template");
  }
}

void ImportData::set_named_template(const std::string& name, const std::string& key) {
  if (std::string text = named_template(name); !text.empty()) {
    add_template(name, std::move(text), fmt::format("{}: {}", key, name));
    return;
  }
  job_.sheet.comment(fmt::format(
      "{}: {}: the model's own template is used. Where that is another, write it into a file and "
      "its name here: chat_template: FILE.jinja",
      key, name));
}

void ImportData::set_factory_template(const std::string& name) {
  if (text_at(job_.tree, "stage") == "pt") {
    job_.sheet.comment(fmt::format("template: {}: not needed, text has none.", name));
    return;
  }
  // Under this name LLaMA-Factory has another prompt than the datasets of axolotl.
  if (name == "alpaca") {
    add_template("alpaca",
                 "{%- for message in messages %}\n"
                 "{%- if loop.first and message['role'] != 'system' %}\n"
                 "{{- 'Below is an instruction that describes a task. Write a response that "
                 "appropriately completes the request.\\n\\n' }}\n"
                 "{%- endif %}\n"
                 "{%- if message['role'] == 'system' %}\n"
                 "{{- message['content'] }}\n"
                 "{%- elif message['role'] == 'user' %}\n"
                 "{{- '### Instruction:\\n' + message['content'] + '\\n\\n### Response:\\n' }}\n"
                 "{%- else %}\n"
                 "{{- message['content'] + eos_token + '\\n\\n' }}\n"
                 "{%- endif %}\n"
                 "{%- endfor %}\n",
                 "template: alpaca");
    return;
  }
  set_named_template(name, "template");
}

/// `type:` of a dataset: the key and value of ours, and what goes with them.
void ImportData::axolotl_type(const ConfigNode& type, const ConfigNode& item,
                              const std::string& prefix, const schema::Place& place) {
  if (type.kind == Kind::kMap) {
    own_prompt(type, prefix, place);
    return;
  }
  const std::string& name = type.text;
  const std::string shown = "type: " + name;
  if (name == "chat_template" || name == "sharegpt") {
    job_.sheet.set(prefix + "type", plain("chat"), shown);
  } else if (name == "completion" || name == "pretrain") {
    job_.sheet.set(prefix + "type", plain("text"), shown);
  } else if (name == "alpaca" || name == "alpaca_chat" || name.starts_with("alpaca:") ||
             name == "gpteacher") {
    job_.sheet.set(prefix + "type", plain("instruction"), shown);
    if (name == "gpteacher" && item.find("field_output") == nullptr) {
      job_.sheet.set(prefix + "fields.output", ConfigNode::string("{response}"), "of gpteacher");
    }
    const std::string style = name.starts_with("alpaca:") ? name.substr(7)
                              : name == "alpaca_chat"     ? "chat"
                                                          : "instruct";
    const std::string file = style == "instruct" ? "alpaca" : "alpaca-" + style;
    const std::string text = named_template(file);
    if (text.empty()) {
      job_.problem(place, fmt::format("{}: this style of the Alpaca prompt is not known; write the "
                                      "prompt into a chat template",
                                      shown));
    } else if (!prompt_.empty() && prompt_ != file) {
      job_.problem(
          place, fmt::format("{}: a run has one prompt, and another dataset has {}; make two runs",
                             shown, prompt_));
    } else {
      prompt_ = file;
      add_template(file, text, "the prompt of " + shown);
    }
  } else {
    job_.problem(place, fmt::format("{}: is no type that weft import knows; write the data as "
                                    "messages (type: chat_template), or as instruction and output",
                                    shown));
  }
}

/// {field_instruction: q, field_output: a, format: "Q: {instruction}\nA:"}
void ImportData::own_prompt(const ConfigNode& type, const std::string& prefix,
                            const schema::Place& place) {
  const std::string format =
      is_given(type, "format") ? text_at(type, "format") : text_at(type, "no_input_format");
  const auto column = [&](const char* key, const char* usual) {
    return fmt::format("{{{}}}", is_given(type, key) ? text_at(type, key) : std::string(usual));
  };
  if (format.empty() || format.find("{input}") != std::string::npos ||
      is_given(type, "system_prompt") || is_given(type, "field_system")) {
    job_.problem(place,
                 "type: a prompt with an input or a system text cannot be told in fields; write it "
                 "into a chat template, and type: chat_template here");
    return;
  }
  std::string prompt = format;
  constexpr std::string_view kName = "{instruction}";
  if (const std::size_t at = prompt.find(kName); at != std::string::npos) {
    prompt.replace(at, kName.size(), column("field_instruction", "instruction"));
  }
  job_.sheet.set(prefix + "type", plain("completion"), "type with a format of its own");
  job_.sheet.set(prefix + "fields.prompt", ConfigNode::string(prompt), "format");
  job_.sheet.set(prefix + "fields.completion", ConfigNode::string(column("field_output", "output")),
                 "field_output");
}

void ImportData::axolotl_path(const ConfigNode& item, const std::string& prefix) {
  const std::string path = text_at(item, "path");
  std::vector<std::string> files;
  if (const ConfigNode* named = item.find("data_files"); named != nullptr) {
    if (named->kind == Kind::kList) {
      for (const ConfigNode& one : named->items) files.push_back(one.text);
    } else if (named->kind == Kind::kScalar) {
      files.push_back(named->text);
    }
  }
  std::string note = hub_note(path, "put the file of the data (.jsonl, .json, .csv, .tsv, .txt)");
  if (!files.empty()) {
    note += fmt::format("{}data_files: {}", note.empty() ? "" : "; ", fmt::join(files, ", "));
  }
  job_.sheet.set(prefix + "path", ConfigNode::string(path), note);
}

void ImportData::axolotl_dataset(const ConfigNode& item, const std::string& prefix) {
  axolotl_path(item, prefix);
  if (item.find("type") == nullptr && prefix.starts_with("datasets") &&
      job_.tree.find("pretraining_dataset") != nullptr) {
    job_.sheet.set(prefix + "type", plain("text"), "pretraining_dataset");
  }
  for (const ConfigEntry& entry : item.entries) {
    const std::string name = prefix + entry.key;
    if (entry.key == "path" || entry.key == "data_files" || schema::is_off(entry.value)) continue;
    if (job_.is_without(name)) {
      job_.leave_out(name, entry.value);
    } else if (entry.key == "type") {
      axolotl_type(entry.value, item, prefix, entry.place);
    } else if (entry.key == "chat_template") {
      if (!job_.sheet.has("chat_template") && job_.tree.find("chat_template") == nullptr) {
        set_axolotl_template(entry.value.text);
      }
    } else if (entry.key == "text_column") {
      job_.sheet.set(prefix + "fields.text", ConfigNode::string("{" + entry.value.text + "}"),
                     entry.key);
    } else if (entry.key == "split" && entry.value.text.find("[:") != std::string::npos &&
               entry.value.text.ends_with("%]")) {
      job_.sheet.set(prefix + "path", ConfigNode{},
                     fmt::format("split: {}: keep only so much of the file, or write limit: N",
                                 entry.value.text));
    } else {
      dataset_word(entry, prefix);
    }
  }
}

void ImportData::dataset_word(const ConfigEntry& entry, const std::string& prefix) {
  const auto word = std::ranges::find(words_, entry.key, &schema::ForeignWord::key);
  if (word == words_.end()) {
    job_.problem(entry.place, fmt::format("{}{}: is no key of a dataset that weft import knows; "
                                          "--without {}{} leaves it out",
                                          prefix, entry.key, prefix, entry.key));
    return;
  }
  (void)job_.apply(word->read(entry.value, job_.tree), entry, prefix);
}

void ImportData::add_axolotl(const ConfigEntry& entry) {
  const std::vector<ConfigNode> items =
      entry.value.kind == Kind::kList ? entry.value.items : std::vector<ConfigNode>{entry.value};
  std::size_t index = item_count_;
  job_.sheet.add_item("datasets");
  for (const ConfigNode& item : items) {
    const std::string prefix = fmt::format("datasets.{}.", index++);
    if (item.kind == Kind::kScalar) {
      ConfigNode alone = ConfigNode::map();
      alone.add("path", item);
      axolotl_dataset(alone, prefix);
    } else {
      axolotl_dataset(item, prefix);
    }
  }
  item_count_ = index;
  if (has_chat_ && !prompt_.empty()) {
    job_.problem(
        entry.place,
        "datasets: chats and the Alpaca prompt need two chat templates, and a run has one; "
        "make two runs");
  }
}

void ImportData::add_factory(const ConfigEntry& entry) {
  const bool is_validation = entry.key == "eval_dataset";
  const std::vector<std::string> names = split(entry.value.text, ',');
  if (is_validation && names.size() != 1) {
    job_.problem(entry.place, "eval_dataset: one validation is measured; write one name");
    return;
  }
  const nlohmann::json registry = factory_registry();
  for (std::size_t i = 0; i < names.size(); ++i) {
    const std::string prefix = is_validation ? "validation." : fmt::format("datasets.{}.", i);
    const auto known = registry.find(names[i]);
    if (known != registry.end() && known->is_object()) {
      registered_dataset(names[i], *known, prefix, entry.place);
    } else {
      job_.sheet.set(prefix + "path", ConfigNode::string(names[i]),
                     "put the file of the data, which dataset_info.json names (.json, .jsonl)");
      if (text_at(job_.tree, "stage") == "pt") {
        job_.sheet.set(prefix + "type", plain("text"), "stage: pt");
      }
    }
    if (const ConfigNode* most = job_.tree.find("max_samples");
        most != nullptr && !schema::is_off(*most)) {
      job_.sheet.set(prefix + "limit", *most, "max_samples");
    }
  }
}

/// dataset_info.json of dataset_dir, beside the file or in the current folder; empty without one.
nlohmann::json ImportData::factory_registry() {
  const std::string given = text_at(job_.tree, "dataset_dir");
  data_folder_ = given.empty() ? "data" : given;
  std::error_code error;
  for (const fs::path& folder : {job_.source.directory / data_folder_, data_folder_}) {
    const fs::path file = folder / "dataset_info.json";
    if (!fs::is_regular_file(file, error)) continue;
    data_folder_ = fs::absolute(folder, error).lexically_normal();
    nlohmann::json registry =
        nlohmann::json::parse(core::read_text(file), nullptr, /*allow_exceptions=*/false);
    if (registry.is_object()) return registry;
    throw InputError("{}: expected an object with a key for each data set", file.string());
  }
  return nlohmann::json::object();
}

/// A data set as the registry describes it.
void ImportData::registered_dataset(const std::string& name, const nlohmann::json& info,
                                    const std::string& prefix, const schema::Place& place) {
  const auto refuse = [&](std::string_view what) {
    job_.problem(place, fmt::format("dataset: {}: {}", name, what));
  };
  const std::string file = text_of(info, "file_name");
  if (file.empty()) {
    job_.sheet.set(
        prefix + "path", ConfigNode::string(name),
        "put the file of the data; dataset_info.json names a hub, and nothing is fetched");
  } else {
    job_.sheet.set(prefix + "path", ConfigNode::string((data_folder_ / file).string()),
                   "dataset: " + name);
  }
  if (info.value("ranking", nlohmann::json(false)) == true) {
    refuse("has answers to prefer and to avoid, which weft does not learn from");
  }
  const nlohmann::json columns = info.value("columns", nlohmann::json::object());
  for (const char* part : {"images", "videos", "audios"}) {
    if (columns.contains(part)) refuse("has images or sound");
  }
  for (const char* part : {"chosen", "rejected", "kto_tag"}) {
    if (columns.contains(part)) {
      refuse(fmt::format("has a column of {}, which weft does not learn from", part));
    }
  }
  for (const char* part : {"history", "tools"}) {
    const std::string column = text_of(columns, part);
    if (column.empty() || column == part) continue;
    refuse(
        fmt::format("has its {} in the column '{}'; name it {} in the data", part, column, part));
  }
  const auto field = [&](const char* part, const char* key) {
    if (const std::string column = text_of(columns, key); !column.empty()) {
      job_.sheet.set(prefix + "fields." + part, ConfigNode::string("{" + column + "}"), key);
    }
  };
  if (text_at(job_.tree, "stage") == "pt") {
    job_.sheet.set(prefix + "type", plain("text"), "stage: pt");
    field("text", "prompt");
  } else if (text_of(info, "formatting") == "sharegpt") {
    job_.sheet.set(prefix + "type", plain("chat"), "formatting: sharegpt");
    field("messages", "messages");
    field("system", "system");
    const nlohmann::json tags = info.value("tags", nlohmann::json::object());
    for (const auto& [tag, value] : tags.items()) {
      static const std::set<std::string> kRead{"from",   "role", "value",         "content",
                                               "human",  "user", "assistant",     "gpt",
                                               "system", "tool", "function_call", "observation"};
      if (!value.is_string() || kRead.contains(value.get<std::string>())) continue;
      refuse(
          fmt::format("its {} is '{}'; messages have role and content, or from and value, of "
                      "user and assistant, or human and gpt",
                      tag, value.get<std::string>()));
    }
  } else {
    job_.sheet.set(prefix + "type", plain("instruction"), "formatting: alpaca");
    field("instruction", "prompt");
    field("input", "query");
    field("output", "response");
    field("system", "system");
  }
  if (info.contains("num_samples") && !is_given(job_.tree, "max_samples")) {
    job_.sheet.set(prefix + "limit", plain(info.at("num_samples").dump()), "num_samples");
  }
}

}  // namespace weft::train
