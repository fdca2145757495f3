// Conversations: what the chat template makes of them, and where their answers lie in it.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <set>
#include <utility>

#include "core/error.h"
#include "data/prompt_parts.h"

namespace weft::data {
namespace {

using Json = nlohmann::ordered_json;

/// Whether message i is an answer that the row wants to be learned.
bool is_learned(const Sample& sample, std::size_t i) {
  return sample.messages[i]["role"] == "assistant" &&
         (sample.learned.empty() || sample.learned.at(i) != 0);
}

/// The number of messages up to and with the last answer that is learned.
std::size_t until_last_answer(const Sample& sample) {
  for (std::size_t i = sample.messages.size(); i-- > 0;) {
    if (is_learned(sample, i)) return i + 1;
  }
  throw InputError("the conversation has no assistant message to learn from");
}

bool has_calls(const Json& message) {
  const auto calls = message.find("tool_calls");
  return calls != message.end() && calls->is_array() && !calls->empty();
}

/// Roles that templates print without naming them.
constexpr std::array kRoles{"system", "developer", "user", "assistant", "tool", "function"};
/// Keys of messages that weft itself or every template reads, or that say nothing to learn.
constexpr std::array kQuietKeys{"role", "content", "tool_calls", "tool_call_id"};
/// The names under which a template finds a turn's reasoning, whichever of them the row has.
constexpr std::array kReasoning{"reasoning_content", "thinking", "reasoning"};

std::int64_t content_bytes(const Json& message) {
  const auto content = message.find("content");
  return content != message.end() && content->is_string()
             ? static_cast<std::int64_t>(content->get_ref<const std::string&>().size())
             : 0;
}

}  // namespace

void PromptBuilder::require_template() const {
  if (chat_template_ != nullptr) return;
  throw InputError(
      "the model has no chat template for instruction and chat data; name one with "
      "chat_template: FILE.jinja, or use a dataset of type completion");
}

text::Rendered PromptBuilder::render(const Sample& sample, std::size_t messages,
                                     bool add_generation_prompt) const {
  const auto end = sample.messages.begin() + static_cast<std::ptrdiff_t>(messages);
  Json variables = options_.template_variables;
  variables.update(sample.variables);
  return chat_template_->render(Json(sample.messages.begin(), end), add_generation_prompt,
                                variables);
}

/// What the template would pass over although the row is about it.
void PromptBuilder::require_named(const Sample& sample) const {
  for (std::size_t i = 0; i < sample.messages.size(); ++i) {
    const Json& message = sample.messages[i];
    const std::string role = message["role"];
    if (std::ranges::find(kRoles, role) == kRoles.end() && !chat_template_->names(role)) {
      throw InputError(
          "message {} has the role '{}', which neither weft nor {} names; known are {}", i, role,
          chat_template_->name(), fmt::join(kRoles, ", "));
    }
    if (has_calls(message) && !chat_template_->names("tool_calls")) {
      throw InputError(
          "message {} calls a tool, and {} has no place for tool_calls, so that the call would be "
          "lost; name a template that has with chat_template: FILE.jinja",
          i, chat_template_->name());
    }
  }
}

void PromptBuilder::note_unnamed(const Sample& sample, PromptStatistics& statistics) const {
  std::set<std::string> unnamed;
  for (const auto& [name, value] : sample.variables.items()) {
    if (!chat_template_->names(name)) unnamed.insert(name);
  }
  const auto names = [&](const char* key) { return chat_template_->names(key); };
  for (const Json& message : sample.messages) {
    for (const auto& [key, value] : message.items()) {
      if (value.is_null() || std::ranges::find(kQuietKeys, key) != kQuietKeys.end() ||
          names(key.c_str()))
        continue;
      // An instruction's parts are in `content` as well.
      const bool is_part = key == "instruction" || key == "input";
      if (is_part && sample.type == DatasetType::kInstruction) continue;
      const bool reasoning = std::ranges::find(kReasoning, key) != kReasoning.end();
      if (!reasoning || std::ranges::none_of(kReasoning, names)) unnamed.insert("messages." + key);
    }
  }
  for (const std::string& name : unnamed) ++statistics.unnamed[name];
}

/// The text of a turn without the tokens that end it.
std::string PromptBuilder::call_text(std::string_view turn) const {
  std::string text = tokenizer_.decode(tokenizer_.encode(turn), text::Tokenizer::Specials::kSkip);
  const std::size_t end = text.find_last_not_of(" \t\r\n");
  text.resize(end == std::string::npos ? 0 : end + 1);
  return text;
}

PromptBuilder::Marked PromptBuilder::mark_chat(const Sample& sample) const {
  require_named(sample);
  const std::size_t count = until_last_answer(sample);
  text::Rendered whole = render(sample, count, false);
  Marked marked;
  marked.with_template = true;
  marked.text = std::move(whole.text);
  const bool last_only = options_.train_on_turns == Turns::kLast;
  const bool by_marks = chat_template_->marks_generation();
  std::size_t answers = 0;
  std::size_t set_aside = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const Json& message = sample.messages[i];
    if (message["role"] != "assistant") continue;
    const std::size_t answer = answers++;
    const bool last = i + 1 == count;
    const bool learned = is_learned(sample, i);
    if (!learned) ++set_aside;
    // A turn that is not learned matters only where everything else is.
    if (!(learned ? !last_only || last : options_.train_on_inputs)) continue;
    if (learned && !has_calls(message)) marked.answer_bytes += content_bytes(message);
    if (by_marks) {
      if (answer < whole.generation.size()) {
        (learned ? marked.spans : marked.excluded).push_back(whole.generation[answer]);
      }
      continue;
    }
    const std::string before = render(sample, i, true).text;
    const std::string after = last ? marked.text : render(sample, i + 1, false).text;
    if (!marked.text.starts_with(before) || !marked.text.starts_with(after) ||
        after.size() < before.size()) {
      throw InputError(
          "{} writes message {} differently once later messages follow, so where the "
          "answer begins and ends cannot be told; {}use a template with "
          "{{% generation %}} marks",
          chat_template_->name(), i, last ? "" : "set train_on_turns: last, or ");
    }
    (learned ? marked.spans : marked.excluded).emplace_back(before.size(), after.size());
    if (learned && has_calls(message)) {
      marked.answer_bytes += static_cast<std::int64_t>(
          call_text(std::string_view(after).substr(before.size())).size());
    }
  }
  if (!by_marks) return marked;
  if (set_aside == 0) {
    marked.spans = std::move(whole.generation);
    if (last_only && marked.spans.size() > 1) {
      marked.spans.erase(marked.spans.begin(), marked.spans.end() - 1);
    }
  } else if (whole.generation.size() != answers) {
    throw InputError(
        "{} marks {} parts as generated in {} assistant messages, so which of them belong to a "
        "message that is marked not to be learned cannot be told",
        chat_template_->name(), whole.generation.size(), answers);
  }
  return marked;
}

PromptBuilder::Question PromptBuilder::question(const Sample& sample) const {
  Question question;
  question.origin = sample.origin;
  try {
    if (sample.type == DatasetType::kText) throw InputError("plain text holds no question");
    if (sample.type == DatasetType::kCompletion) {
      question.prompt = tokenizer_.encode(sample.prompt);
      if (bos_ && (question.prompt.empty() || question.prompt.front() != *bos_)) {
        question.prompt.insert(question.prompt.begin(), *bos_);
      }
      question.reference = sample.completion;
      return question;
    }
    require_template();
    require_named(sample);
    const std::size_t count = until_last_answer(sample);
    const std::string before = render(sample, count - 1, true).text;
    question.prompt = tokenizer_.encode(before);
    const Json& answer = sample.messages[count - 1];
    const auto content = answer.find("content");
    if (has_calls(answer)) {
      const std::string whole = render(sample, count, false).text;
      if (!whole.starts_with(before)) {
        throw InputError(
            "{} writes the prompt differently once the answer follows, so what it is "
            "cannot be told",
            chat_template_->name());
      }
      question.reference = call_text(std::string_view(whole).substr(before.size()));
    } else if (content != answer.end() && content->is_string()) {
      question.reference = *content;
    }
    return question;
  } catch (const InputError& error) {
    throw InputError("{}: {}", sample.origin.text(), error.what());
  }
}

}  // namespace weft::data
