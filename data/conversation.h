#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

/// Lists of messages as files hold them: OpenAI's and ShareGPT's words, made into what chat
/// templates know. Internal to data/.
namespace weft::data {

/// A list of messages, and which of them the row wants to be learned.
struct Conversation {
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  std::vector<std::uint8_t> learned;  ///< One a message: 0 where the row says not to learn it.
};

/// Adds the messages of `list` to `to`.
///
/// A message is {"role", "content", ...}, or ShareGPT's {"from", "value"}. The roles human, gpt,
/// function_call and observation (and their like) become user, assistant, a tool call and tool.
/// Keys without a value are left out, as transformers does before it renders; other keys are passed
/// on to the chat template. `weight`, `train` and their like are taken out and honoured.
/// InputError, without a place, that names the message and what cannot be used in it.
void add_messages(const nlohmann::ordered_json& list, Conversation& to);

/// One message of text.
void add_message(std::string_view role, std::string text, Conversation& to);

/// Whether a value is there: not null, and no empty text, list or object.
[[nodiscard]] bool is_filled(const nlohmann::ordered_json& value);

/// The list behind a value that is a list, or a text that holds one as JSON (as Arrow files and
/// LLaMA-Factory store it); null for a value that is not filled. InputError with `what` otherwise.
[[nodiscard]] nlohmann::ordered_json list_of(const nlohmann::ordered_json& value,
                                             std::string_view what);

}  // namespace weft::data
