#include "data/prompt.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "data/prompt_parts.h"
#include "text/white_space.h"

namespace weft::data {
namespace {

/// What no row can mend.
class NoEnd : public InputError {
  using InputError::InputError;
};

}  // namespace

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
      else if (!text::is_blank(std::string_view(marked.text).substr(a, b - a)))
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

}  // namespace weft::data
