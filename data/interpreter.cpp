#include "data/interpreter.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <utility>

#include "core/error.h"
#include "core/suggest.h"
#include "data/record_readers.h"

namespace weft::data {
namespace {

using Json = nlohmann::ordered_json;

/// Two answers to one question, of which one is better (DPO, ORPO, reward models).
constexpr std::array kPreferences{"rejected", "rejected_messages", "rejected_response"};
/// Whether the answer is wanted (KTO; LLaMA-Factory's name for it).
constexpr std::array kVerdicts{"label", "kto_tag"};
constexpr std::array kMedia{"images", "image", "audios", "audio", "videos", "video"};
constexpr std::array kMediaMarks{"<image>", "<audio>", "<video>"};

/// The type that the given names (of columns, or of parts in `fields`) can only mean.
std::optional<DatasetType> type_of_names(const auto& has) {
  if (has("messages") || has("conversations")) return DatasetType::kChat;
  if (has("prompt") && has("completion")) return DatasetType::kCompletion;
  if (has("instruction") && has("output")) return DatasetType::kInstruction;
  if (has("text")) return DatasetType::kText;
  return std::nullopt;
}

/// Whether a verdict says that the answer is not wanted.
bool is_false(const Json& value) {
  if (value.is_boolean()) return !value.get<bool>();
  if (!value.is_string()) return false;
  const auto& text = value.get_ref<const std::string&>();
  return text == "false" || text == "False" || text == "FALSE";
}

bool holds_media_mark(const Json& value) {
  if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    return std::ranges::any_of(
        kMediaMarks, [&](const char* mark) { return text.find(mark) != std::string::npos; });
  }
  if (!value.is_structured()) return false;
  return std::ranges::any_of(value, [](const Json& inner) { return holds_media_mark(inner); });
}

/// A list of rows inside the row: a file that is one JSON object around them.
std::optional<std::string> inner_rows(const Json& row) {
  for (const auto& [key, value] : row.items()) {
    if (value.is_array() && !value.empty() && value[0].is_object()) return key;
  }
  return std::nullopt;
}

bool begins_with_system(const Json& list) {
  if (!list.is_array() || list.empty() || !list[0].is_object()) return false;
  return list[0].value("role", list[0].value("from", Json())) == "system";
}

}  // namespace

std::vector<Part> parts_of(DatasetType type) {
  switch (type) {
    case DatasetType::kInstruction:
      return {{"instruction", true}, {"input", false}, {"output", true}, {"system", false}};
    case DatasetType::kChat: return {{"messages", true}, {"system", false}};
    case DatasetType::kCompletion: return {{"prompt", true}, {"completion", true}};
    case DatasetType::kText: return {{"text", true}};
  }
  return {};
}

std::string_view name_of(DatasetType type) {
  switch (type) {
    case DatasetType::kInstruction: return "instruction";
    case DatasetType::kChat: return "chat";
    case DatasetType::kCompletion: return "completion";
    case DatasetType::kText: return "text";
  }
  return "";
}

std::optional<DatasetType> configured_type(const DatasetConfig& config) {
  if (config.type) return config.type;
  return type_of_names([&](const char* name) { return config.fields.count(name) > 0; });
}

std::optional<DatasetType> type_of_columns(const Json& row) {
  return type_of_names([&](const char* name) { return row.contains(name); });
}

std::string unknown_type(const Json& row) {
  std::vector<std::string> names;
  for (const auto& [key, value] : row.items()) names.push_back(key);
  std::string text =
      fmt::format("its columns ({}) do not tell what to learn; ", fmt::join(names, ", "));
  if (row.contains("chosen")) {
    const bool messages = row["chosen"].is_array();
    return text +
           "they hold a better and a worse answer, and weft learns no preferences; to learn "
           "the better one, set " +
           (messages ? R"(fields: {messages: "{chosen}"})"
                     : R"(fields: {instruction: "{prompt}", output: "{chosen}"})");
  }
  if (names.size() == 1) {
    if (const auto inner = inner_rows(row)) {
      return text + fmt::format(
                        "the rows are inside '{}': write that list alone as the file "
                        "(jq '.{}' FILE > ROWS.json)",
                        *inner, *inner);
    }
  }
  return text + fmt::format(
                    "set type and fields, for example fields: {{instruction: \"Translate: "
                    "{{{}}}\", output: \"{{{}}}\"}}",
                    names.empty() ? "a" : names.front(), names.empty() ? "b" : names.back());
}

Interpreter::Interpreter(const DatasetConfig& config, DatasetType type,
                         const std::vector<std::string>& columns)
    : type_(type), columns_(columns), ignored_(config.ignore.begin(), config.ignore.end()) {
  for (const Part& part : parts_of(type)) {
    const auto given = config.fields.find(part.name);
    const bool explicitly = given != config.fields.end();
    const std::string text = explicitly ? given->second : fmt::format("{{{}}}", part.name);
    const Slot& added = slots_.emplace_back(
        Slot{part, explicitly, FieldTemplate(text, fmt::format("fields.{}", part.name))});
    named_.insert(added.text.names().begin(), added.text.names().end());
  }
}

void Interpreter::check_columns(const std::string& file) const {
  if (columns_.empty()) return;
  for (const Slot& slot : slots_) {
    if (!slot.part.required && !slot.given) continue;
    for (const std::string& name : slot.text.names()) {
      if (has_column(name) || (name == "messages" && has_column("conversations"))) continue;
      const std::string near = core::nearest(name, columns_);
      throw InputError("{}: fields.{} needs the column '{}'; the file has {}{}{}", file,
                       slot.part.name, name, fmt::join(columns_, ", "),
                       near.empty() ? "" : fmt::format("; did you mean '{}'?", near),
                       delimiter_hint(columns_));
    }
  }
}

bool Interpreter::has_column(const std::string& name) const {
  return std::find(columns_.begin(), columns_.end(), name) != columns_.end();
}

const Interpreter::Slot& Interpreter::slot(std::string_view name) const {
  return *std::find_if(slots_.begin(), slots_.end(),
                       [&](const Slot& candidate) { return candidate.part.name == name; });
}

/// Whether the row has such a column that nothing in the configuration speaks of.
bool Interpreter::is_free(const Json& row, const char* name) const {
  const auto found = row.find(name);
  return found != row.end() && is_filled(*found) && !named_.contains(name) &&
         !ignored_.contains(name);
}

std::string Interpreter::part(const Json& row, std::string_view name) const {
  const Slot& place = slot(name);
  if (!place.part.required && !place.given) {
    const auto found = row.find(name);
    if (found == row.end() || found->is_null()) return "";
  }
  return place.text.fill(
      row, place.part.required ? FieldTemplate::Empty::kRefuse : FieldTemplate::Empty::kAllow);
}

/// A row that says by another column that its answer is not, or not alone, what to learn.
void Interpreter::require_wanted(const Json& row) const {
  const bool chosen = named_.contains("chosen") || named_.contains("chosen_messages");
  for (const char* name : kPreferences) {
    if (chosen || !is_free(row, name)) continue;
    throw InputError(
        "the column '{}' holds a worse answer beside a better one, and weft learns no preferences; "
        "name the answer to learn with fields (\"{{chosen}}\"), or leave the column out with "
        "ignore: [chosen, {}]",
        name, name);
  }
  for (const char* name : kVerdicts) {
    const auto found = row.find(name);
    if (found == row.end() || named_.contains(name) || ignored_.contains(name)) continue;
    // An instruction's label in a CSV file may be a class by any name.
    if (type_ == DatasetType::kInstruction && found->is_string()) continue;
    if (!is_false(*found)) continue;
    throw InputError(
        "'{}' is false: an answer that is not wanted, which would be learned as a good one; take "
        "such rows out, set on_bad_row: skip, or say ignore: [{}] if it means something else",
        name, name);
  }
}

void Interpreter::require_text_only(const Json& row) const {
  const bool marked = holds_media_mark(row);
  for (const char* name : kMedia) {
    if (!is_free(row, name) || (!row[name].is_structured() && !marked)) continue;
    throw InputError(
        "the row has {} (column '{}'), and weft learns text only; take such rows out, or say "
        "ignore: [{}] to learn their text alone",
        name, name, name);
  }
}

void Interpreter::add_system(const Json& row, Conversation& to) const {
  if (std::string system = part(row, "system"); !system.empty()) {
    add_message("system", std::move(system), to);
  }
}

/// Alpaca's `history`: earlier questions with their answers, which are learned as well.
void Interpreter::add_history(const Json& row, Conversation& to) const {
  if (!is_free(row, "history") || row["history"].is_string()) return;
  const Json& history = row["history"];
  std::size_t turn = 0;
  for (const Json& pair : history.is_array() ? history : Json::array({history})) {
    if (!pair.is_array() || pair.size() != 2 || !pair[0].is_string() || !pair[1].is_string()) {
      throw InputError(
          "turn {} of 'history' is no pair of question and answer; repair it, or say ignore: "
          "[history]",
          turn);
    }
    if (!is_filled(pair[1])) throw InputError("the answer of turn {} of 'history' is empty", turn);
    add_message("user", pair[0].get<std::string>(), to);
    add_message("assistant", pair[1].get<std::string>(), to);
    ++turn;
  }
}

/// What the chat template sees of the row besides its messages.
void Interpreter::take_tools(const Json& row, Sample& sample) const {
  if (!is_free(row, "tools")) return;
  Json tools = list_of(row["tools"], "the column 'tools'");
  if (tools.is_null()) return;
  for (const Json& tool : tools) {
    if (!tool.is_object()) throw InputError("the column 'tools' holds something that is no object");
  }
  sample.variables["tools"] = std::move(tools);
}

Conversation Interpreter::instruction(const Json& row) const {
  Conversation all;
  add_system(row, all);
  add_history(row, all);
  const std::string instruction = part(row, "instruction");
  const std::string input = part(row, "input");
  if (input.empty()) {
    add_message("user", instruction, all);
  } else {
    add_message("user", instruction + "\n" + input, all);
    // For templates that write the two apart, as Alpaca's does.
    all.messages.back()["instruction"] = instruction;
    all.messages.back()["input"] = input;
  }
  add_message("assistant", part(row, "output"), all);
  return all;
}

/// The column of the messages: `conversations` where `messages` is absent or null.
std::string Interpreter::message_column(const Json& row) const {
  const Slot& place = slot("messages");
  std::string column = *place.text.single_column();
  const auto empty = [&](const std::string& name) {
    const auto found = row.find(name);
    return found == row.end() || found->is_null();
  };
  if (!place.given && empty(column) && !empty("conversations")) column = "conversations";
  return column;
}

Conversation Interpreter::conversation(const Json& row) const {
  const std::string column = message_column(row);
  const auto found = row.find(column);
  if (found == row.end() || !found->is_array() || found->empty()) {
    throw InputError("expected a list of messages in '{}'", column);
  }
  Conversation own;
  add_messages(*found, own);
  if (own.messages[0]["role"] == "system") return own;
  Conversation all;
  add_system(row, all);
  for (Json& message : own.messages) all.messages.push_back(std::move(message));
  all.learned.insert(all.learned.end(), own.learned.begin(), own.learned.end());
  return all;
}

/// Prompt and completion are texts, or lists of messages of which the completion's are learned.
Sample Interpreter::completion(const Json& row) const {
  const auto list = [&](const char* name) -> const Json* {
    const auto column = slot(name).text.single_column();
    const auto found = column ? row.find(*column) : row.end();
    return found != row.end() && found->is_array() ? &*found : nullptr;
  };
  const Json* prompt = list("prompt");
  const Json* answer = list("completion");
  Sample sample;
  sample.type = type_;
  if (prompt == nullptr && answer == nullptr) {
    sample.prompt = part(row, "prompt");
    sample.completion = part(row, "completion");
    return sample;
  }
  if (prompt == nullptr || answer == nullptr) {
    throw InputError(
        "one of prompt and completion is a list of messages and the other is text; make both "
        "lists, or both text");
  }
  Conversation all;
  add_messages(*prompt, all);
  std::ranges::fill(all.learned, std::uint8_t{0});
  add_messages(*answer, all);
  sample.type = DatasetType::kChat;
  sample.messages = std::move(all.messages);
  sample.learned = std::move(all.learned);
  take_tools(row, sample);
  return sample;
}

Sample Interpreter::interpret(const Record& record) const {
  const Json& row = record.values;
  Sample sample;
  sample.type = type_;
  if (type_ != DatasetType::kText) {
    require_wanted(row);
    require_text_only(row);
  }
  if (type_ == DatasetType::kText) sample.text = part(row, "text");
  if (type_ == DatasetType::kCompletion) sample = completion(row);
  if (type_ == DatasetType::kInstruction || type_ == DatasetType::kChat) {
    Conversation all = type_ == DatasetType::kChat ? conversation(row) : instruction(row);
    sample.messages = std::move(all.messages);
    sample.learned = std::move(all.learned);
    take_tools(row, sample);
  }
  if (sample.type == DatasetType::kChat) {
    bool answered = false;
    bool learned = false;
    for (std::size_t i = 0; i < sample.messages.size(); ++i) {
      if (sample.messages[i]["role"] != "assistant") continue;
      answered = true;
      learned = learned || sample.learned[i] != 0;
    }
    if (!answered) throw InputError("the conversation has no assistant message to learn from");
    if (!learned) {
      throw InputError(
          "every assistant message of the conversation is marked not to be learned; take the row "
          "out, or set on_bad_row: skip");
    }
  }
  sample.origin = record.origin;
  return sample;
}

std::vector<std::string> Interpreter::unused(const Json& row) const {
  const bool chat = type_ == DatasetType::kChat;
  const bool templated = chat || type_ == DatasetType::kInstruction;
  const std::string column = chat ? message_column(row) : "";
  // A conversation that begins with a system message keeps its own.
  const bool has_system = chat && row.contains(column) && begins_with_system(row[column]);
  std::vector<std::string> names;
  for (const auto& [name, value] : row.items()) {
    if (!is_filled(value) || ignored_.contains(name)) continue;
    if (chat && name == column) continue;
    const bool set_aside = chat && (name == "messages" || (name == "system" && has_system));
    if (named_.contains(name) && !set_aside) continue;
    if (name == "tools" && (templated || row.value("prompt", Json()).is_array())) continue;
    if (name == "history" && type_ == DatasetType::kInstruction && !value.is_string()) continue;
    if ((name == "label" || name == "kto_tag") && value.is_boolean() &&
        type_ != DatasetType::kText) {
      continue;  // an answer that is wanted, as every row is
    }
    names.push_back(name);
  }
  return names;
}

}  // namespace weft::data
