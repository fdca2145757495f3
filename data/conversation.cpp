#include "data/conversation.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <utility>

#include "checkpoint/json_file.h"
#include "core/error.h"
#include "text/white_space.h"

namespace weft::data {
namespace {

using Json = nlohmann::ordered_json;

/// What other programs call the roles of chat templates.
constexpr std::array<std::pair<std::string_view, std::string_view>, 10> kRoles{{
    {"human", "user"},
    {"gpt", "assistant"},
    {"chatgpt", "assistant"},
    {"bot", "assistant"},
    {"model", "assistant"},
    {"function_call", "assistant"},
    {"tool_call", "assistant"},
    {"observation", "tool"},
    {"tool_response", "tool"},
    {"function_response", "tool"},
}};

/// Keys by which a message says whether it is to be learned: OpenAI's `weight`, axolotl's `train`,
/// verl's `trainable`, ms-swift's `loss`.
constexpr std::array kMarks{"weight", "train", "trainable", "training", "loss"};
/// Keys that mark parts of a message, which weft does not.
constexpr std::array kPartMarks{"train_detail", "training_detail", "loss_mask", "loss_scale"};

void drop_nulls(Json& message) {
  for (auto entry = message.begin(); entry != message.end();) {
    entry = entry.value().is_null() ? message.erase(entry) : std::next(entry);
  }
}

void rename(Json& message, const char* from, const char* to) {
  if (message.contains(to) || !message.contains(from)) return;
  message[to] = message[from];
  message.erase(from);
}

/// 1 or 0 as a mark says it; nothing for another value.
std::optional<bool> mark_of(const Json& value) {
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number() && value == 0) return false;
  if (value.is_number() && value == 1) return true;
  return std::nullopt;
}

/// Takes the marks out of the message.
bool take_marks(Json& message, std::size_t index) {
  for (const char* key : kPartMarks) {
    if (!message.contains(key)) continue;
    throw InputError(
        "message {} marks parts of its text with '{}'; weft learns a message as a whole or not at "
        "all: mark the message (\"train\": false), or remove '{}'",
        index, key, key);
  }
  const bool answers = message["role"] == "assistant";
  std::optional<bool> learned;
  for (const char* key : kMarks) {
    const auto found = message.find(key);
    if (found == message.end()) continue;
    const std::optional<bool> mark = mark_of(*found);
    if (!mark) {
      throw InputError(
          "message {}: '{}' is {}; weft learns a message (1, true) or does not (0, "
          "false), and knows no weights between",
          index, key, found->dump());
    }
    if (learned && *learned != *mark) {
      throw InputError("message {}: '{}' contradicts an earlier mark of the same message", index,
                       key);
    }
    learned = mark;
    message.erase(key);
  }
  if (learned.value_or(false) && !answers) {
    throw InputError(
        "message {} ({}) is marked to be learned; weft learns the assistant's messages: remove the "
        "mark (train_on_inputs: true learns every message)",
        index, message["role"].get<std::string>());
  }
  return learned.value_or(true);
}

std::string text_of_parts(const Json& parts, std::size_t index) {
  std::string text;
  for (const Json& piece : parts) {
    if (!piece.is_object() || piece.value("type", Json()) != "text" || !piece.contains("text") ||
        !piece["text"].is_string()) {
      throw InputError("message {} holds something that is not text", index);
    }
    for (const char* key : kMarks) {
      const auto found = piece.find(key);
      if (found == piece.end() || found->is_null() || mark_of(*found) == true) continue;
      throw InputError(
          "message {} marks a part of its text with '{}'; weft learns a message as a whole or not "
          "at all: mark the message itself",
          index, key);
    }
    text += piece["text"].get_ref<const std::string&>();
  }
  return text;
}

/// ShareGPT's text of a function_call, {"name", "arguments"} or a list of such, as the tool calls
/// that templates know.
Json calls_of(const Json& content, std::size_t index) {
  const auto refuse = [&]() -> InputError {
    return InputError(
        "message {} is a function call, and its text is none: expected JSON as "
        "{{\"name\": ..., \"arguments\": {{...}}}}",
        index);
  };
  Json value = content;
  if (content.is_string()) {
    try {
      value = checkpoint::parse_ordered_json(content.get_ref<const std::string&>(), "the call");
    } catch (const InputError&) {
      throw refuse();
    }
  }
  if (value.is_object()) value = Json::array({value});
  if (!value.is_array() || value.empty()) throw refuse();
  Json calls = Json::array();
  for (const Json& call : value) {
    const Json& function = call.is_object() && call.contains("function") ? call["function"] : call;
    if (!function.is_object() || !function.contains("name") || !function["name"].is_string()) {
      throw refuse();
    }
    Json arguments = Json::object();
    for (const char* key : {"arguments", "parameters"}) {
      if (function.contains(key) && !function[key].is_null()) {
        arguments = function[key];
        break;
      }
    }
    calls.push_back(
        {{"type", "function"},
         {"function", {{"name", function["name"]}, {"arguments", std::move(arguments)}}}});
  }
  return calls;
}

bool is_blank(const Json& text) { return text::is_blank(text.get_ref<const std::string&>()); }

/// The message in the words of chat templates; InputError for one that cannot be used.
Json message_of(const Json& given, std::size_t index) {
  if (!given.is_object()) throw InputError("message {} is no object", index);
  Json out = given;
  drop_nulls(out);
  rename(out, "from", "role");
  rename(out, "value", "content");
  if (!out.contains("role") || !out["role"].is_string()) {
    throw InputError("message {} has no role", index);
  }
  const std::string role = out["role"];
  const auto known = std::ranges::find(kRoles, role, [](const auto& pair) { return pair.first; });
  if (known != kRoles.end()) out["role"] = known->second;
  if ((role == "function_call" || role == "tool_call") && !out.contains("tool_calls")) {
    out["tool_calls"] = calls_of(out.value("content", Json()), index);
    out["content"] = "";
  }
  if (out.contains("content") && out["content"].is_array()) {
    out["content"] = text_of_parts(out["content"], index);
  }
  if (out.contains("tool_calls") && !out["tool_calls"].is_array()) {
    throw InputError("message {}: 'tool_calls' holds {}, expected a list of calls", index,
                     out["tool_calls"].type_name());
  }
  const bool calls = out.contains("tool_calls") && !out["tool_calls"].empty();
  const bool text = out.contains("content") && out["content"].is_string();
  if (!text && !calls) throw InputError("message {} has no text", index);
  if (text && out["role"] == "assistant" && !calls && is_blank(out["content"])) {
    throw InputError("message {} (assistant) is empty", index);
  }
  return out;
}

}  // namespace

bool is_filled(const Json& value) {
  if (value.is_string()) return !is_blank(value);
  return !value.is_null() && !(value.is_structured() && value.empty());
}

Json list_of(const Json& value, std::string_view what) {
  if (!is_filled(value)) return nullptr;
  Json list = value;
  if (value.is_string()) {
    list = checkpoint::parse_ordered_json(value.get_ref<const std::string&>(), what);
  }
  if (list.is_null() || (list.is_array() && list.empty())) return nullptr;
  if (!list.is_array()) {
    throw InputError("{} holds {}, expected a list", what,
                     list.is_object()   ? "an object"
                     : list.is_string() ? "text"
                                        : list.type_name());
  }
  return list;
}

void add_messages(const Json& list, Conversation& to) {
  for (std::size_t i = 0; i < list.size(); ++i) {
    Json message = message_of(list[i], i);
    const bool learned = take_marks(message, i);
    to.messages.push_back(std::move(message));
    to.learned.push_back(learned ? 1 : 0);
  }
}

void add_message(std::string_view role, std::string text, Conversation& to) {
  to.messages.push_back({{"role", role}, {"content", std::move(text)}});
  to.learned.push_back(1);
}

}  // namespace weft::data
