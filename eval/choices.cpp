#include "eval/choices.h"

#include <algorithm>

#include "core/error.h"
#include "core/utf8.h"
#include "data/dataset.h"
#include "data/record.h"
#include "eval/spread.h"
#include "eval/text.h"
#include "eval/utf8.h"

namespace weft::eval {
namespace {

/// A row as it is written.
struct Row {
  std::string context;
  std::vector<std::string> choices;
  std::int32_t answer = 0;
  std::string source;
};

std::int32_t answer_of(const nlohmann::ordered_json& value, const std::vector<std::string>& choices,
                       const data::Origin& origin) {
  const auto count = static_cast<std::int64_t>(choices.size());
  if (value.is_number_integer()) {
    const auto place = value.get<std::int64_t>();
    if (place >= 0 && place < count) return static_cast<std::int32_t>(place);
    throw InputError("{}: the answer is choice {}, and there are {}, counted from 0", origin.text(),
                     place, count);
  }
  if (!value.is_string())
    throw InputError("{}: the answer must be a number or text", origin.text());
  const auto text = value.get<std::string>();
  const auto found = std::ranges::find(choices, text);
  if (found != choices.end()) return static_cast<std::int32_t>(found - choices.begin());
  if (text.size() == 1 && text[0] >= 'A' && text[0] < 'A' + count) return text[0] - 'A';
  throw InputError("{}: the answer '{}' is none of the choices", origin.text(), text);
}

Row row_of(const data::Record& record, const SuiteSection& suite,
           const data::FieldTemplate& context) {
  const ChoiceSection& section = *suite.choices;
  const auto column = [&](const std::string& name) -> const nlohmann::ordered_json& {
    const auto found = record.values.find(name);
    if (found == record.values.end())
      throw InputError("{}: there is no column '{}'", record.origin.text(), name);
    return *found;
  };
  Row row;
  try {
    row.context = context.fill(record.values, data::FieldTemplate::Empty::kAllow);
  } catch (const Error& error) {
    throw InputError("{}: {}", record.origin.text(), error.what());
  }
  const nlohmann::ordered_json& choices = column(section.choices);
  const bool is_list =
      choices.is_array() && choices.size() >= 2 &&
      std::ranges::all_of(choices, [](const auto& choice) { return choice.is_string(); });
  if (!is_list) {
    throw InputError("{}: '{}' must be a list of two or more texts", record.origin.text(),
                     section.choices);
  }
  row.choices = choices.get<std::vector<std::string>>();
  for (const std::string& choice : row.choices) {
    if (choice.empty()) throw InputError("{}: a choice is empty", record.origin.text());
  }
  row.answer = answer_of(column(section.answer), row.choices, record.origin);
  if (!suite.source.empty()) row.source = source_text(column(suite.source));
  return row;
}

std::vector<Row> read_rows(const SuiteSection& suite) {
  const data::FieldTemplate context(suite.choices->context, "choices.context");
  std::vector<Row> rows;
  for (const std::filesystem::path& path : data::resolve_files(suite.choices->path)) {
    data::RecordOptions options;
    options.format = data::format_of(path).value_or(data::Format::kJsonl);
    const auto reader = data::open_records(path, options, [](const data::Fault& fault) {
      throw InputError("{}: {}", fault.origin.text(), fault.what);
    });
    while (const auto record = reader->next()) rows.push_back(row_of(*record, suite, context));
  }
  if (rows.empty()) {
    throw InputError("suite '{}': there is no question in {}", suite.name,
                     suite.choices->path.front().string());
  }
  return rows;
}

/// Where the white space at the end of a text begins (Python's rstrip).
std::size_t stripped_size(const std::string& text) {
  std::size_t size = text.size();
  while (size > 0) {
    std::size_t begin = size - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0U) == 0x80U) --begin;
    const std::u32string last = decode_utf8(std::string_view(text).substr(begin, size - begin));
    if (last.size() != 1 || !is_python_space(last[0])) break;
    size = begin;
  }
  return size;
}

class Builder {
 public:
  Builder(const SuiteSection& suite, const text::Tokenizer& tokenizer, std::int64_t max_tokens)
      : delimiter_(suite.choices->delimiter), tokenizer_(tokenizer), max_tokens_(max_tokens) {}

  void add(const Row& row) {
    ChoiceResult question{.answer = row.answer};
    const auto number = static_cast<std::uint32_t>(data.questions.size());
    for (std::uint32_t i = 0; i < row.choices.size(); ++i) {
      const std::string& choice = row.choices[i];
      question.characters.push_back(static_cast<std::int64_t>(core::count_characters(choice)));
      question.bytes.push_back(static_cast<std::int64_t>(choice.size()));
      const std::string text = delimiter_ + choice;
      add_pass({number, i, false}, after_context(row.context, text));
      add_pass({number, i, true}, on_its_own(text));
    }
    const auto answer = static_cast<std::size_t>(row.answer);
    data.items.push_back(
        {.bytes = static_cast<std::int64_t>(delimiter_.size() + row.choices[answer].size())});
    data.questions.push_back(std::move(question));
    if (!row.source.empty()) data.sources.push_back(row.source);
  }

  ChoiceData data;
  std::int64_t cut = 0;  ///< Passes that lost their beginning.

 private:
  struct Tokens {
    std::vector<std::int32_t> ids;  ///< Context, then what is scored.
    std::size_t context = 0;        ///< At least 1.
  };

  Tokens on_its_own(const std::string& text) const {
    const std::int32_t prefix = prefix_token(tokenizer_);
    Tokens tokens{.ids = tokenizer_.encode(text), .context = 1};
    if (tokens.ids.empty() || tokens.ids.front() != prefix || tokens.ids.size() == 1)
      tokens.ids.insert(tokens.ids.begin(), prefix);
    return tokens;
  }

  Tokens after_context(const std::string& context, const std::string& text) const {
    const std::size_t size = stripped_size(context);
    const std::string before = context.substr(0, size);
    if (before.empty()) return on_its_own(context + text);
    const std::size_t length = encode(before).size();
    Tokens tokens{.ids = encode(context + text), .context = length};
    if (length == 0 || tokens.ids.size() <= length) {
      throw InputError("the choice '{}' has no token of its own after '{}'", text, before);
    }
    return tokens;
  }

  /// With what the tokenizer adds to a text, unless the text has it already, as lm-eval.
  std::vector<std::int32_t> encode(const std::string& text) const {
    const auto marker = tokenizer_.bos() ? tokenizer_.id_to_token(*tokenizer_.bos()) : std::nullopt;
    const bool has_it = marker && text.starts_with(*marker);
    return tokenizer_.encode(text, has_it ? text::AddSpecial::kNo : text::AddSpecial::kYes);
  }

  void add_pass(ChoiceData::Place place, Tokens tokens) {
    const auto most = static_cast<std::size_t>(max_tokens_) + 1;
    if (tokens.ids.size() > most) {
      const std::size_t lost = tokens.ids.size() - most;
      if (lost >= tokens.context) {
        throw InputError("a choice has {} tokens, more than sequence_len {}",
                         tokens.ids.size() - tokens.context, max_tokens_);
      }
      tokens.ids.erase(tokens.ids.begin(), tokens.ids.begin() + static_cast<std::ptrdiff_t>(lost));
      tokens.context -= lost;
      if (!place.alone) ++cut;
    }
    Pass pass;
    for (std::size_t i = 0; i + 1 < tokens.ids.size(); ++i) {
      pass.tokens.push_back(tokens.ids[i]);
      pass.targets.push_back(i + 1 < tokens.context ? data::kNoTarget : tokens.ids[i + 1]);
    }
    data.passes.push_back(std::move(pass));
    data.places.push_back(place);
  }

  std::string delimiter_;
  const text::Tokenizer& tokenizer_;
  std::int64_t max_tokens_;
};

}  // namespace

ChoiceData choice_data(const SuiteSection& suite, const text::Tokenizer& tokenizer,
                       std::int64_t max_tokens, const core::Log& log) {
  const std::vector<Row> rows = read_rows(suite);
  Builder builder(suite, tokenizer, max_tokens);
  for (const std::size_t index : spread(rows.size(), suite.limit)) builder.add(rows[index]);
  if (builder.cut > 0) {
    core::tell(log, core::Level::kWarning,
               fmt::format("suite '{}': {} choices with their context are longer than {} tokens; "
                           "the beginning of the context is left out",
                           suite.name, builder.cut, max_tokens));
  }
  return std::move(builder.data);
}

ScoredChoices choices_with_scores(const ChoiceData& data, std::span<const PassLoss> losses) {
  ScoredChoices result{data.questions, data.items};
  for (ChoiceResult& question : result.questions) {
    question.log_p.resize(question.bytes.size());
    question.log_p_alone.resize(question.bytes.size());
  }
  for (std::size_t i = 0; i < losses.size(); ++i) {
    const ChoiceData::Place& place = data.places[i];
    ChoiceResult& question = result.questions[place.question];
    (place.alone ? question.log_p_alone : question.log_p)[place.choice] = -losses[i].loss;
    if (place.alone || static_cast<std::int32_t>(place.choice) != question.answer) continue;
    result.items[place.question].tokens = losses[i].tokens;
    result.items[place.question].loss = losses[i].loss;
  }
  return result;
}

}  // namespace weft::eval
