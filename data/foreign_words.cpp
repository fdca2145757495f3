#include "data/foreign_words.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "schema/types.h"

namespace weft::data {
namespace {

using schema::ConfigNode;
using schema::ForeignReading;
using schema::ForeignWord;
using schema::left_out_word;
using schema::only_word;
using schema::refused_word;

constexpr const char* kAxolotl = "axolotl";

ForeignWord word(std::string key, std::string meaning, schema::ReadForeign read) {
  return schema::read_word(std::move(key), kAxolotl, std::move(meaning), std::move(read));
}

/// A word that names the column of a part.
ForeignWord column_of(std::string key, std::string part) {
  return word(std::move(key), fmt::format("`fields.{}: \"{{COLUMN}}\"`", part),
              [part](const ConfigNode& value, const ConfigNode&) {
                return ForeignReading::means("fields." + part,
                                             ConfigNode::string("{" + value.text + "}"));
              });
}

ForeignReading read_type(const ConfigNode& value, const ConfigNode& section) {
  if (value.kind == ConfigNode::Kind::kMap) {
    return ForeignReading::refused(
        "a prompt format of axolotl; write type: completion with fields: {prompt: TEXT WITH "
        "{COLUMNS}, completion: \"{COLUMN}\"} (weft import does so)");
  }
  const std::string& type = value.text;
  if (type == "chat_template" || type == "sharegpt") {
    return ForeignReading::means("type", ConfigNode::string("chat"));
  }
  if (type == "alpaca" || type.starts_with("alpaca:") || type == "alpaca_chat" ||
      type == "gpteacher") {
    return ForeignReading::refused(
        "a prompt of axolotl's own; weft import writes it as a chat template, or write type: "
        "instruction for the model's own template");
  }
  // A completion of axolotl is one text, all of it learned; ours has a prompt and its completion.
  if (type == "completion" && section.find("field") != nullptr) {
    return ForeignReading::means("type", ConfigNode::string("text"));
  }
  return ForeignReading::own();
}

/// `train`, `train[:1000]`.
ForeignReading read_split(const ConfigNode& value, const ConfigNode&) {
  const std::string& text = value.text;
  const std::size_t open = text.find("[:");
  if (open == std::string::npos && text.find('[') == std::string::npos) {
    return ForeignReading::left_out("a file here is one split; name the file of this one");
  }
  if (open != std::string::npos && text.ends_with("]")) {
    const std::string rows = text.substr(open + 2, text.size() - open - 3);
    if (const auto count = schema::parse_integer(rows); count && *count > 0) {
      return ForeignReading::means("limit", ConfigNode::scalar(std::to_string(*count)));
    }
  }
  return ForeignReading::refused(
      "write limit: N, the number of rows that this slice of the file has");
}

ForeignReading read_mappings(const ConfigNode& value, const ConfigNode&) {
  const bool known = std::ranges::all_of(value.entries, [](const schema::ConfigEntry& entry) {
    const std::string& column = entry.value.text;
    return column == entry.key || (entry.key == "role" && column == "from") ||
           (entry.key == "content" && column == "value");
  });
  if (known) {
    return ForeignReading::left_out("messages with role and content, or from and value, are read");
  }
  return ForeignReading::refused(
      "a message has role and content, or from and value, here; rename the keys in the data");
}

/// {user: [human, user], ...}
ForeignReading read_roles(const ConfigNode& value, const ConfigNode&) {
  static const std::vector<std::pair<std::string, std::vector<std::string>>> kKnown{
      {"user", {"user", "human"}},
      {"assistant", {"assistant", "gpt", "chatgpt", "bot", "model"}},
      {"system", {"system"}},
      {"tool", {"tool", "observation", "tool_response", "function_response"}}};
  const auto is_known = [](const std::string& role, const std::string& name) {
    const auto found = std::ranges::find(kKnown, role, &decltype(kKnown)::value_type::first);
    return found != kKnown.end() && std::ranges::find(found->second, name) != found->second.end();
  };
  for (const schema::ConfigEntry& entry : value.entries) {
    const std::vector<ConfigNode> names = entry.value.kind == ConfigNode::Kind::kList
                                              ? entry.value.items
                                              : std::vector<ConfigNode>{entry.value};
    for (const ConfigNode& name : names) {
      if (is_known(entry.key, name.text)) continue;
      return ForeignReading::refused(
          fmt::format("the role '{}' is not read as {}; write {} for it in the data", name.text,
                      entry.key, entry.key));
    }
  }
  return ForeignReading::left_out("human is read as user, and gpt as assistant");
}

}  // namespace

std::vector<ForeignWord> dataset_words() {
  constexpr const char* kOneTemplate =
      "a run has one chat template: name its file with chat_template, outside of datasets";
  return {
      word("type",
           "`chat_template`, `sharegpt`: `type: chat`; `completion` with `field`: `type: text`; "
           "`alpaca`, `gpteacher`: by `weft import`",
           read_type),
      column_of("field", "text"),
      column_of("field_messages", "messages"),
      column_of("field_instruction", "instruction"),
      column_of("field_input", "input"),
      column_of("field_output", "output"),
      column_of("field_system", "system"),
      word("message_property_mappings", "left out where the names are role/content or from/value",
           read_mappings),
      only_word("message_field_role", kAxolotl, {"role", "from"}, "both names are read",
                "a message has role or from here; rename the key in the data"),
      only_word("message_field_content", kAxolotl, {"content", "value"}, "both names are read",
                "a message has content or value here; rename the key in the data"),
      only_word("message_field_training", kAxolotl,
                {"weight", "train", "trainable", "training", "loss"},
                "a message marked so is not learned",
                "a message says by train or weight that it is not learned; rename the key in the "
                "data"),
      refused_word("message_field_training_detail", kAxolotl,
                   "parts of a message cannot be left unlearned by offsets; split the message"),
      only_word(
          "roles_to_train", kAxolotl, {"assistant", "gpt"},
          "the assistant's messages are what is learned",
          "the assistant's messages are what is learned; train_on_inputs: true learns all others, "
          "too"),
      only_word("train_on_eos", kAxolotl, {"turn"}, "the end of each learned turn is learned",
                "the end of each learned turn is learned, and no other; remove the key"),
      only_word("train_on_eot", kAxolotl, {"turn"}, "the end of each learned turn is learned",
                "the end of each learned turn is learned, and no other; remove the key"),
      word("roles", "left out where each role has its usual names", read_roles),
      refused_word("drop_system_message", kAxolotl,
                   "system messages are kept; remove them from the data"),
      only_word(
          "field_thinking", kAxolotl, {"reasoning_content"},
          "the template reads it under this name",
          "the template reads a message's reasoning as reasoning_content; rename the key in the "
          "data"),
      only_word(
          "template_thinking_key", kAxolotl, {"reasoning_content"},
          "the template reads it under this name",
          "the template reads a message's reasoning as reasoning_content; rename the key in the "
          "data"),
      only_word("field_tools", kAxolotl, {"tools"}, "tools are read from this column",
                "tools are read from the column tools; rename it in the data"),
      only_word("chat_template", kAxolotl, {"tokenizer_default"},
                "the model's own template is used", kOneTemplate),
      refused_word("chat_template_jinja", kAxolotl, kOneTemplate),
      refused_word("conversation", kAxolotl, kOneTemplate),
      word("split", "`train[:N]`: `limit: N`; a whole split is left out", read_split),
      only_word("ds_type", kAxolotl, {"json", "jsonl", "csv", "text"},
                "the file's name tells its format",
                "write the data as .jsonl, .json, .csv, .tsv or .txt"),
      refused_word("data_files", kAxolotl, "write the files under path: [FILE, FILE]"),
      left_out_word("name", kAxolotl, "a file has no configurations to choose from"),
      left_out_word("revision", kAxolotl, "a file has no revisions"),
      left_out_word("trust_remote_code", kAxolotl, "no code is run"),
      refused_word("shards", kAxolotl, "write limit: N, the number of rows to use"),
      refused_word("shards_idx", kAxolotl, "write limit: N, the number of rows to use"),
      left_out_word("preprocess_shards", kAxolotl, "rows are read one by one"),
      refused_word("input_transform", kAxolotl, "no code is run on rows; transform the data"),
      refused_word("split_thinking", kAxolotl,
                   "write reasoning_content into the messages of the data"),
  };
}

}  // namespace weft::data
