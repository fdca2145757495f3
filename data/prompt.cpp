#include "data/prompt.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "core/error.h"

namespace weft::data {
namespace {

using Json = nlohmann::ordered_json;

bool is_space(std::string_view text) {
  return text.find_first_not_of(" \t\r\n") == std::string_view::npos;
}

/// The messages up to and with the last of the assistant.
Json until_last_answer(const Json& messages) {
  std::size_t end = 0;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    if (messages[i]["role"] == "assistant") end = i + 1;
  }
  if (end == 0) throw InputError("the conversation has no assistant message to learn from");
  return Json(messages.begin(), messages.begin() + static_cast<std::ptrdiff_t>(end));
}

Json first(const Json& messages, std::size_t count) {
  return Json(messages.begin(), messages.begin() + static_cast<std::ptrdiff_t>(count));
}

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

std::string PromptBuilder::render(const Json& messages, bool add_generation_prompt) const {
  return chat_template_->render(messages, add_generation_prompt, options_.template_variables).text;
}

PromptBuilder::Marked PromptBuilder::mark(const Sample& sample) const {
  if (sample.type == DatasetType::kInstruction || sample.type == DatasetType::kChat) {
    return mark_chat(sample);
  }
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

PromptBuilder::Marked PromptBuilder::mark_chat(const Sample& sample) const {
  require_template();
  const Json messages = until_last_answer(sample.messages);
  text::Rendered whole = chat_template_->render(messages, false, options_.template_variables);
  Marked marked;
  marked.with_template = true;
  marked.text = std::move(whole.text);
  const bool last_only = options_.train_on_turns == Turns::kLast;
  if (chat_template_->marks_generation()) {
    marked.spans = std::move(whole.generation);
    if (last_only && marked.spans.size() > 1) {
      marked.spans.erase(marked.spans.begin(), marked.spans.end() - 1);
    }
  }
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const bool last = i + 1 == messages.size();
    if (messages[i]["role"] != "assistant" || (last_only && !last)) continue;
    marked.answer_bytes += content_bytes(messages[i]);
    if (chat_template_->marks_generation()) continue;
    const std::string before = render(first(messages, i), true);
    const std::string after = last ? marked.text : render(first(messages, i + 1), false);
    if (!marked.text.starts_with(before) || !marked.text.starts_with(after) ||
        after.size() < before.size()) {
      throw InputError(
          "{} writes message {} differently once later messages follow, so where the "
          "answer begins and ends cannot be told; {}use a template with "
          "{{% generation %}} marks",
          chat_template_->name(), i, last ? "" : "set train_on_turns: last, or ");
    }
    marked.spans.emplace_back(before.size(), after.size());
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

Example PromptBuilder::finish(const Marked& marked, Encoded encoded,
                              PromptStatistics& statistics) const {
  supervise(marked, encoded);
  Example example;
  example.answer_bytes = marked.answer_bytes;
  example.tokens = std::move(encoded.ids);
  example.supervised = std::move(encoded.supervised);
  // What follows the last answer teaches nothing.
  while (!example.tokens.empty() && example.supervised.back() == 0) {
    example.tokens.pop_back();
    example.supervised.pop_back();
  }
  if (example.tokens.empty()) return example;
  if (!is_stop(example.tokens.back())) {
    const std::optional<std::int32_t> eos = tokenizer_.eos();
    if (!eos) {
      throw InputError(
          "the tokenizer has no end-of-text token, so where an answer ends cannot be "
          "learned; name one in tokenizer_config.json (eos_token)");
    }
    example.tokens.push_back(*eos);
    example.supervised.push_back(1);
    if (marked.with_template) ++statistics.appended_end;
  }
  if (!marked.with_template && bos_ && example.tokens.front() != *bos_) {
    example.tokens.insert(example.tokens.begin(), *bos_);
    example.supervised.insert(example.supervised.begin(), 0);
  }
  if (options_.train_on_inputs) {
    std::fill(example.supervised.begin(), example.supervised.end(), std::uint8_t{1});
    example.answer_bytes = static_cast<std::int64_t>(marked.text.size());
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
    // The answer alone fills the row: without any of its question it teaches to answer nothing.
    if (example.supervised[bos] != 0 && !options_.train_on_inputs) return false;
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
  } else if (options_.over_length == OverLength::kTruncate && truncate(example, type)) {
    ++statistics.truncated;
    fitting.push_back(std::move(example));
  } else {
    ++statistics.dropped;
  }
  return fitting;
}

std::vector<Example> PromptBuilder::build(const Sample& sample,
                                          PromptStatistics& statistics) const {
  try {
    ++statistics.samples;
    const Marked marked = mark(sample);
    Example example = finish(marked, encode(marked, statistics), statistics);
    example.origin = sample.origin;
    if (example.supervised_count() == 0) {
      if (!options_.allow_answerless) {
        const std::string writer =
            marked.with_template
                ? fmt::format(" or {}, which writes nothing to learn", chat_template_->name())
                : "";
        throw InputError(
            "no token of the example is learned; repair the row{}, or set "
            "allow_answerless: true to leave such rows out",
            writer);
      }
      ++statistics.answerless;
      return {};
    }
    std::vector<Example> examples = fit(std::move(example), sample.type, statistics);
    statistics.examples += static_cast<std::int64_t>(examples.size());
    return examples;
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
    const Json messages = until_last_answer(sample.messages);
    question.prompt = tokenizer_.encode(render(first(messages, messages.size() - 1), true));
    const auto content = messages.back().find("content");
    if (content != messages.back().end() && content->is_string()) question.reference = *content;
    return question;
  } catch (const InputError& error) {
    throw InputError("{}: {}", sample.origin.text(), error.what());
  }
}

}  // namespace weft::data
