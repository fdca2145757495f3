#include "text/chat_template.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "core/error.h"
#include "core/hash.h"
#include "core/utf8.h"
#include "text/bridge_text.h"
#include "text/date.h"
#include "text/template_file.h"
#include "text/tokenizer_config.h"

namespace weft::text {
namespace {

using Json = nlohmann::ordered_json;

/// Bounds a rendering: a conversation of a thousand turns takes well under a million instructions.
constexpr std::uint64_t kFuel = 50'000'000;

struct FreeTemplate {
  void operator()(WeftTemplate* handle) const { weft_template_free(handle); }
};

std::string dump(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// The messages as transformers gives them to a template: without keys that are null, and with the
/// names filled that templates know a turn's reasoning by.
Json as_rendered(const Json& messages) {
  constexpr std::array kNames{"reasoning_content", "thinking", "reasoning"};
  Json aliased = Json::array();
  for (const Json& given : messages) {
    Json message = Json::object();
    for (const auto& [key, value] : given.items()) {
      if (!value.is_null()) message[key] = value;
    }
    const auto filled =
        std::ranges::find_if(kNames, [&](const char* name) { return message.contains(name); });
    if (filled == kNames.end()) {
      aliased.push_back(std::move(message));
      continue;
    }
    const Json reasoning = message[*filled];
    Json copy = {{"thinking", reasoning}};
    copy.update(message);
    copy["reasoning_content"] = reasoning;
    aliased.push_back(std::move(copy));
  }
  return aliased;
}

/// Text in no variable and not in the template, so that what stands between two copies of it in the
/// output is what the template put there.
std::string unused_mark(const std::string& source, const std::string& variables) {
  for (int i = 0;; ++i) {
    std::string mark =
        fmt::format("\xEF\xB7\x90{}\xEF\xB7\x91", i);  // noncharacters U+FDD0, U+FDD1
    if (source.find(mark) == std::string::npos && variables.find(mark) == std::string::npos) {
      return mark;
    }
  }
}

/// Takes the marks out of `text` and gives what stood between them.
Rendered unmark(const std::string& text, const std::string& mark) {
  Rendered rendered;
  std::vector<std::size_t> open;
  std::size_t begin = 0;
  std::size_t marks = 0;
  for (std::size_t at = text.find(mark); at != std::string::npos; at = text.find(mark, begin)) {
    rendered.text += text.substr(begin, at - begin);
    begin = at + mark.size();
    if (marks++ % 2 == 0) {
      open.push_back(rendered.text.size());
    } else {
      rendered.generation.emplace_back(open.back(), rendered.text.size());
    }
  }
  rendered.text += text.substr(begin);
  return rendered;
}

}  // namespace

struct ChatTemplate::State {
  std::unique_ptr<WeftTemplate, FreeTemplate> handle;
  std::string name;
  std::string source;
  Json special_tokens;
  std::string digest;
  std::string date;
  bool marks_generation = false;

  [[nodiscard]] std::string render(const std::string& variables, const std::string& mark) const;
};

std::string ChatTemplate::State::render(const std::string& variables,
                                        const std::string& mark) const {
  WeftText out{};
  WeftText error{};
  bool raised = false;
  if (!weft_template_render(handle.get(), variables.data(), variables.size(), mark.data(),
                            mark.size(), date.data(), date.size(), kFuel, &out, &raised, &error)) {
    if (raised) throw InputError("{} refuses the conversation: {}", name, take(error));
    throw InputError("{} fails: {}", name, take(error));
  }
  return take(out);
}

ChatTemplate::ChatTemplate(std::string source, nlohmann::json special_tokens,
                           const std::string& file)
    : state_(std::make_unique<State>()) {
  state_->name = file.empty() ? "the chat template" : fmt::format("the chat template {}", file);
  state_->source = core::replace_invalid_utf8(source);
  state_->special_tokens = std::move(special_tokens);
  state_->digest = core::sha256(state_->source);
  state_->date = default_date();
  WeftText error{};
  state_->handle.reset(weft_template_new(state_->source.data(), state_->source.size(), &error));
  if (!state_->handle) throw InputError("{} cannot be read: {}", state_->name, take(error));
  state_->marks_generation = weft_template_marks_generation(state_->handle.get());
}

ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

std::optional<ChatTemplate> ChatTemplate::load(const checkpoint::Checkpoint& model) {
  return open(model.path());
}

std::optional<ChatTemplate> ChatTemplate::open(const std::filesystem::path& path) {
  const std::string where = path.string();
  const FileTexts files = template_files(path);
  const StoredTemplate stored = stored_template(files, where);
  if (stored.value.is_null()) return std::nullopt;
  const std::optional<std::string> source = default_template(stored.value);
  if (!source) {
    throw InputError("{}/{}: chat_template has no template named \"default\"", where, stored.file);
  }
  const bool own_file = stored.file.ends_with(".jinja");
  return ChatTemplate(*source, TokenizerConfig::parse(files, where).special_tokens,
                      own_file ? (path / stored.file).string() : where);
}

Rendered ChatTemplate::render(const Json& messages, bool add_generation_prompt,
                              const Json& extra) const {
  if (!messages.is_array()) {
    throw InputError("a conversation is a list of messages, found {}", messages.type_name());
  }
  for (const Json& message : messages) {
    if (!message.is_object()) {
      throw InputError("a message is an object with \"role\" and \"content\", found {}",
                       message.type_name());
    }
  }
  Json variables = state_->special_tokens;
  variables["tools"] = nullptr;
  variables["documents"] = nullptr;
  variables.update(extra);
  variables["messages"] = as_rendered(messages);
  variables["add_generation_prompt"] = add_generation_prompt;
  const std::string document = dump(variables);
  Rendered plain{state_->render(document, ""), {}};
  if (!state_->marks_generation) return plain;

  const std::string mark = unused_mark(state_->source, document);
  Rendered marked = unmark(state_->render(document, mark), mark);
  if (marked.text != plain.text) {
    throw InputError(
        "{} changes the text of its {{% generation %}} blocks after they end (trim, "
        "length, ...): what the model is to learn cannot be told",
        state_->name);
  }
  return marked;
}

void ChatTemplate::set_date(std::string date) {
  if (!is_date(date)) throw InputError("'{}' is no day; write it as 2026-11-29", date);
  state_->date = std::move(date);
}

const std::string& ChatTemplate::date() const { return state_->date; }
bool ChatTemplate::prints_date() const { return names("strftime_now"); }

bool ChatTemplate::names(std::string_view word) const {
  const std::string& source = state_->source;
  const auto is_letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  };
  for (std::size_t at = source.find(word); at != std::string::npos;
       at = source.find(word, at + 1)) {
    const std::size_t end = at + word.size();
    if ((at == 0 || !is_letter(source[at - 1])) &&
        (end == source.size() || !is_letter(source[end])))
      return true;
  }
  return false;
}

const std::string& ChatTemplate::name() const { return state_->name; }
const std::string& ChatTemplate::source() const { return state_->source; }
const std::string& ChatTemplate::digest() const { return state_->digest; }
bool ChatTemplate::marks_generation() const { return state_->marks_generation; }

}  // namespace weft::text
