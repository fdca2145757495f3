#include "data/prompt.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <set>
#include <utility>

#include "core/error.h"

namespace weft::data {
namespace {

using Json = nlohmann::ordered_json;

bool is_space(std::string_view text) {
  return text.find_first_not_of(" \t\r\n") == std::string_view::npos;
}

bool is_chat(DatasetType type) {
  return type == DatasetType::kInstruction || type == DatasetType::kChat;
}

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

/// What no row can mend.
class NoEnd : public InputError {
  using InputError::InputError;
};

/// Roles that templates print without naming them.
constexpr std::array kRoles{"system", "developer", "user", "assistant", "tool", "function"};
/// Keys of messages that weft itself or every template reads, or that say nothing to learn.
constexpr std::array kQuietKeys{"role", "content", "tool_calls"};
/// The names under which a template finds a turn's reasoning, whichever of them the row has.
constexpr std::array kReasoning{"reasoning_content", "thinking", "reasoning"};

std::int64_t content_bytes(const Json& message) {
  const auto content = message.find("content");
  return content != message.end() && content->is_string()
             ? static_cast<std::int64_t>(content->get_ref<const std::string&>().size())
             : 0;
}

}  // namespace

/// Text with the ranges of bytes that are answers.
struct PromptBuilder::Marked {
  std::string text;
  std::vector<std::pair<std::size_t, std::size_t>> spans;
  std::vector<std::pair<std::size_t, std::size_t>>
      excluded;  ///< Turns marked as not to be learned.
  std::int64_t answer_bytes = 0;
  bool with_template = false;
};

/// Tokens of a Marked, each with its bytes of the text.
struct PromptBuilder::Encoded {
  std::vector<std::int32_t> ids;
  std::vector<std::pair<std::size_t, std::size_t>> offsets;
  std::vector<std::uint8_t> supervised;

  void append(const text::Tokenizer::Encoding& part, std::size_t shift) {
    ids.insert(ids.end(), part.ids.begin(), part.ids.end());
    for (const auto& [begin, end] : part.offsets) offsets.emplace_back(begin + shift, end + shift);
  }
};

std::int64_t Example::supervised_count() const {
  return std::accumulate(supervised.begin(), supervised.end(), std::int64_t{0});
}

PromptBuilder::PromptBuilder(const text::Tokenizer& tokenizer,
                             const text::ChatTemplate* chat_template, PromptOptions options)
    : tokenizer_(tokenizer),
      chat_template_(chat_template),
      options_(std::move(options)),
      stop_ids_(tokenizer.stop_ids()) {
  if (options_.sequence_len < 2) throw ConfigError("sequence_len must be at least 2");
  const std::vector<std::int32_t> empty = tokenizer.encode("", text::AddSpecial::kYes);
  if (tokenizer.bos() && !empty.empty() && empty.front() == *tokenizer.bos()) bos_ = empty.front();
  if (const auto eos = tokenizer.eos(); eos && !is_stop(*eos)) stop_ids_.push_back(*eos);
}

bool PromptBuilder::is_stop(std::int32_t id) const {
  return std::find(stop_ids_.begin(), stop_ids_.end(), id) != stop_ids_.end();
}

text::Rendered PromptBuilder::render(const Sample& sample, std::size_t messages,
                                     bool add_generation_prompt) const {
  const auto end = sample.messages.begin() + static_cast<std::ptrdiff_t>(messages);
  Json variables = options_.template_variables;
  variables.update(sample.variables);
  return chat_template_->render(Json(sample.messages.begin(), end), add_generation_prompt,
                                variables);
}

PromptBuilder::Marked PromptBuilder::mark(const Sample& sample) const {
  if (is_chat(sample.type)) return mark_chat(sample);
  Marked marked;
  if (sample.type == DatasetType::kCompletion) {
    marked.text = sample.prompt + sample.completion;
    marked.spans.emplace_back(sample.prompt.size(), marked.text.size());
    marked.answer_bytes = static_cast<std::int64_t>(sample.completion.size());
  } else {
    marked.text = sample.text;
    marked.spans.emplace_back(0, marked.text.size());
    marked.answer_bytes = static_cast<std::int64_t>(sample.text.size());
  }
  return marked;
}

void PromptBuilder::require_template() const {
  if (chat_template_ != nullptr) return;
  throw InputError(
      "the model has no chat template for instruction and chat data; name one with "
      "chat_template: FILE.jinja, or use a dataset of type completion");
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

bool PromptBuilder::keeps_prompts(const Marked& marked, const Encoded& joint) const {
  for (const auto& [begin, end] : marked.spans) {
    if (begin == 0) continue;
    const std::vector<std::int32_t> prompt =
        tokenizer_.encode(std::string_view(marked.text).substr(0, begin));
    if (prompt.size() > joint.ids.size() ||
        !std::equal(prompt.begin(), prompt.end(), joint.ids.begin())) {
      return false;
    }
    if (prompt.size() < joint.ids.size() && joint.offsets[prompt.size()].first < begin)
      return false;
  }
  return true;
}

std::optional<PromptBuilder::Encoded> PromptBuilder::encode_apart(const Marked& marked) const {
  Encoded apart;
  std::size_t at = 0;
  const auto piece = [&](std::size_t end) {
    if (end > at) {
      const std::string_view text = std::string_view(marked.text).substr(at, end - at);
      apart.append(tokenizer_.encode_with_offsets(text), at);
    }
    at = end;
  };
  for (const auto& [begin, end] : marked.spans) {
    piece(begin);
    piece(end);
  }
  piece(marked.text.size());
  if (tokenizer_.decode(apart.ids) != tokenizer_.decode(tokenizer_.encode(marked.text))) {
    return std::nullopt;
  }
  return apart;
}

PromptBuilder::Encoded PromptBuilder::encode(const Marked& marked,
                                             PromptStatistics& statistics) const {
  Encoded encoded;
  encoded.append(tokenizer_.encode_with_offsets(marked.text), 0);
  if (!keeps_prompts(marked, encoded)) {
    if (std::optional<Encoded> apart = encode_apart(marked)) {
      ++statistics.unmerged;
      encoded = std::move(*apart);
    } else {
      ++statistics.straddled;
    }
  }
  return encoded;
}

void PromptBuilder::supervise(const Marked& marked, Encoded& encoded) const {
  encoded.supervised.assign(encoded.ids.size(), 0);
  std::size_t t = 0;
  for (const auto& [begin, end] : marked.spans) {
    while (t < encoded.ids.size() && encoded.offsets[t].first < begin) ++t;
    const std::size_t from = t;
    std::size_t mark_end = from;  // After the last special token that only white space follows.
    while (t < encoded.ids.size() && encoded.offsets[t].first < end) {
      encoded.supervised[t] = 1;
      const auto [a, b] = encoded.offsets[t];
      ++t;
      if (!marked.with_template) continue;
      if (tokenizer_.is_special(encoded.ids[t - 1]))
        mark_end = t;
      else if (!is_space(std::string_view(marked.text).substr(a, b - a)))
        mark_end = from;
    }
    if (mark_end > from) {
      std::fill(encoded.supervised.begin() + static_cast<std::ptrdiff_t>(mark_end),
                encoded.supervised.begin() + static_cast<std::ptrdiff_t>(t), std::uint8_t{0});
    } else if (marked.with_template && t > from && t < encoded.ids.size() &&
               tokenizer_.is_special(encoded.ids[t])) {
      encoded.supervised[t] = 1;  // {% generation %} that stops before the end token.
    }
  }
}

/// Everything is learned but the turns that the row sets aside.
void PromptBuilder::learn_inputs(const Marked& marked, Encoded& encoded) const {
  std::ranges::fill(encoded.supervised, std::uint8_t{1});
  for (const auto& [begin, end] : marked.excluded) {
    for (std::size_t t = 0; t < encoded.ids.size(); ++t) {
      const std::size_t at = encoded.offsets[t].first;
      if (at >= begin && at < end) encoded.supervised[t] = 0;
    }
  }
}

Example PromptBuilder::finish(const Marked& marked, Encoded encoded,
                              PromptStatistics& statistics) const {
  supervise(marked, encoded);
  // What follows the last answer teaches nothing.
  while (!encoded.ids.empty() && encoded.supervised.back() == 0) {
    encoded.ids.pop_back();
    encoded.supervised.pop_back();
  }
  if (options_.train_on_inputs) learn_inputs(marked, encoded);
  Example example;
  example.answer_bytes = marked.answer_bytes;
  example.tokens = std::move(encoded.ids);
  example.supervised = std::move(encoded.supervised);
  if (example.tokens.empty()) return example;
  if (!is_stop(example.tokens.back())) {
    const std::optional<std::int32_t> eos = tokenizer_.eos();
    if (!eos) {
      throw NoEnd(
          "the tokenizer has no end-of-text token, so where an answer ends cannot be "
          "learned; name one in tokenizer_config.json (eos_token)");
    }
    example.tokens.push_back(*eos);
    example.supervised.push_back(1);
    if (marked.with_template) ++statistics.appended_end;
  }
  if (!marked.with_template && bos_ && example.tokens.front() != *bos_) {
    example.tokens.insert(example.tokens.begin(), *bos_);
    example.supervised.insert(example.supervised.begin(), options_.train_on_inputs ? 1 : 0);
  }
  if (options_.train_on_inputs) {
    std::size_t excluded = 0;
    for (const auto& [begin, end] : marked.excluded) excluded += end - begin;
    example.answer_bytes = static_cast<std::int64_t>(marked.text.size() - excluded);
  }
  example.supervised.front() = 0;  // Nothing stands before it to predict it from.
  return example;
}

std::int64_t PromptBuilder::learned_bytes(const Example& example) const {
  std::vector<std::int32_t> learned;
  for (std::size_t t = 0; t < example.tokens.size(); ++t) {
    if (example.supervised[t] != 0) learned.push_back(example.tokens[t]);
  }
  return static_cast<std::int64_t>(
      tokenizer_.decode(learned, text::Tokenizer::Specials::kSkip).size());
}

bool PromptBuilder::truncate(Example& example, DatasetType type) const {
  const auto keep = static_cast<std::size_t>(options_.sequence_len);
  if (type == DatasetType::kText) {
    example.tokens.resize(keep);
    example.supervised.resize(keep);
  } else {
    const std::size_t bos = bos_ && example.tokens.front() == *bos_ ? 1 : 0;
    const auto cut = static_cast<std::ptrdiff_t>(example.tokens.size() - keep);
    const auto head = static_cast<std::ptrdiff_t>(bos);
    example.tokens.erase(example.tokens.begin() + head, example.tokens.begin() + head + cut);
    example.supervised.erase(example.supervised.begin() + head,
                             example.supervised.begin() + head + cut);
    if (!options_.train_on_inputs) {
      // Half an answer without its question teaches nothing: what is left of it is context, and
      // learned is what answers a question that is still there.
      const auto begin = example.supervised.begin() + head;
      const auto question = std::find(begin, example.supervised.end(), std::uint8_t{0});
      if (std::find(question, example.supervised.end(), std::uint8_t{1}) ==
          example.supervised.end()) {
        return false;
      }
      std::fill(begin, question, std::uint8_t{0});
    }
    example.supervised.front() = 0;
  }
  example.answer_bytes = learned_bytes(example);
  return true;
}

std::vector<Example> PromptBuilder::split(const Example& example) const {
  std::vector<Example> pieces;
  const auto length = static_cast<std::size_t>(options_.sequence_len);
  // Pieces overlap by one token, which is context in the second: every token is learned once.
  for (std::size_t begin = 0; begin + 1 < example.tokens.size(); begin += length - 1) {
    const std::size_t end = std::min(begin + length, example.tokens.size());
    const auto from = static_cast<std::ptrdiff_t>(begin);
    const auto to = static_cast<std::ptrdiff_t>(end);
    Example piece;
    piece.origin = example.origin;
    piece.tokens.assign(example.tokens.begin() + from, example.tokens.begin() + to);
    piece.supervised.assign(example.supervised.begin() + from, example.supervised.begin() + to);
    piece.supervised.front() = 0;
    piece.answer_bytes = learned_bytes(piece);
    pieces.push_back(std::move(piece));
  }
  return pieces;
}

std::vector<Example> PromptBuilder::fit(Example example, DatasetType type,
                                        PromptStatistics& statistics) const {
  const auto length = static_cast<std::int64_t>(example.tokens.size());
  statistics.longest = std::max(statistics.longest, length);
  std::vector<Example> fitting;
  if (length <= options_.sequence_len) {
    fitting.push_back(std::move(example));
  } else if (options_.over_length == OverLength::kRaise) {
    throw InputError(
        "the example has {} tokens, more than sequence_len {}; raise sequence_len, or "
        "set over_length: drop, truncate or split",
        length, options_.sequence_len);
  } else if (options_.over_length == OverLength::kSplit && type == DatasetType::kText) {
    ++statistics.split;
    fitting = split(example);
    statistics.pieces += std::ssize(fitting);
  } else if (options_.over_length == OverLength::kTruncate && truncate(example, type)) {
    ++statistics.truncated;
    if (type == DatasetType::kText) ++statistics.truncated_texts;
    fitting.push_back(std::move(example));
  } else {
    ++statistics.dropped;
  }
  return fitting;
}

/// BadRow where the sample is to blame.
Example PromptBuilder::example_of(const Sample& sample, PromptStatistics& statistics) const {
  try {
    const Marked marked = mark(sample);
    Example example = finish(marked, encode(marked, statistics), statistics);
    example.origin = sample.origin;
    if (example.supervised_count() == 0 && !options_.allow_answerless) {
      const std::string writer =
          marked.with_template
              ? fmt::format(" or {}, which writes nothing to learn", chat_template_->name())
              : "";
      throw InputError(
          "no token of the example is learned; repair the row{}, or set "
          "allow_answerless: true to leave such rows out",
          writer);
    }
    if (is_chat(sample.type)) note_unnamed(sample, statistics);
    return example;
  } catch (const NoEnd&) {
    throw;
  } catch (const InputError& error) {
    throw BadRow(sample.origin, error.what());
  }
}

std::vector<Example> PromptBuilder::build(const Sample& sample,
                                          PromptStatistics& statistics) const {
  try {
    if (is_chat(sample.type)) require_template();
    Example example = example_of(sample, statistics);
    ++statistics.samples;
    if (example.supervised_count() == 0) {
      ++statistics.answerless;
      return {};
    }
    std::vector<Example> examples = fit(std::move(example), sample.type, statistics);
    statistics.examples += std::ssize(examples);
    return examples;
  } catch (const BadRow&) {
    throw;
  } catch (const InputError& error) {
    throw InputError("{}: {}", sample.origin.text(), error.what());
  }
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
