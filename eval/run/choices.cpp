#include "eval/run/choices.h"

#include <algorithm>
#include <charconv>

#include "core/error.h"
#include "core/utf8.h"
#include "data/dataset.h"
#include "data/record.h"
#include "eval/run/text.h"
#include "eval/statistics/spread.h"
#include "text/white_space.h"

namespace weft::eval {
namespace {

/// A row as it is written.
struct Row {
  std::string context;
  std::vector<std::string> choices;
  std::int32_t answer = 0;
  std::string source;
};

using Json = nlohmann::ordered_json;

/// The column of the name, or with dots the one within others: "choices.text".
const Json& column_of(const data::Record& record, const std::string& name) {
  const Json* values = &record.values;
  std::string_view left = name;
  for (;;) {
    // A column may have a dot in its own name.
    if (const auto whole = values->find(std::string(left)); whole != values->end()) return *whole;
    const std::size_t dot = left.find('.');
    const auto found = dot == std::string_view::npos
                           ? values->end()
                           : values->find(std::string(left.substr(0, dot)));
    if (found == values->end() || !found->is_object())
      throw InputError("{}: there is no column '{}'", record.origin.text(), name);
    values = &*found;
    left.remove_prefix(dot + 1);
  }
}

std::vector<std::string> texts_of(const Json& value, const std::string& name,
                                  const data::Origin& origin) {
  const bool is_list = value.is_array() && value.size() >= 2 &&
                       std::ranges::all_of(value, [](const Json& one) { return one.is_string(); });
  if (!is_list)
    throw InputError("{}: '{}' must be a list of two or more texts", origin.text(), name);
  return value.get<std::vector<std::string>>();
}

/// How a suite's rows are read.
class RowReader {
 public:
  explicit RowReader(const SuiteSection& suite)
      : suite_(suite), section_(*suite.choices), context_(section_.context, "choices.context") {
    if (section_.choices.size() == 1) return;
    for (const std::string& text : section_.choices)
      templates_.emplace_back(text, "choices.choices");
  }

  [[nodiscard]] Row read(const data::Record& record) const {
    Row row;
    try {
      row.context = context_.fill(record.values, data::FieldTemplate::Empty::kAllow);
      row.choices = choices(record);
    } catch (const Error& error) {
      const std::string where = record.origin.text();
      const std::string what = error.what();
      throw InputError("{}", what.starts_with(where) ? what : where + ": " + what);
    }
    for (const std::string& choice : row.choices) {
      if (choice.empty()) throw InputError("{}: a choice is empty", record.origin.text());
    }
    row.answer = answer(record, row.choices);
    if (!suite_.source.empty()) row.source = source_text(column_of(record, suite_.source));
    return row;
  }

 private:
  [[nodiscard]] std::vector<std::string> choices(const data::Record& record) const {
    if (templates_.empty()) {
      const std::string& name = section_.choices.front();
      return texts_of(column_of(record, name), name, record.origin);
    }
    std::vector<std::string> all;
    for (std::size_t i = 0; i < templates_.size(); ++i) {
      const std::string& text = section_.choices[i];
      // As it stands, "mc_answer1" would be scored as those ten letters.
      if (templates_[i].names().empty() && record.values.contains(text)) {
        throw InputError(
            "{}: the choice '{}' is the name of a column; write \"{{{}}}\" for its text",
            record.origin.text(), text, text);
      }
      all.push_back(templates_[i].fill(record.values, data::FieldTemplate::Empty::kRefuse));
    }
    return all;
  }

  [[nodiscard]] std::int32_t answer(const data::Record& record,
                                    const std::vector<std::string>& choices) const {
    const Json& value = column_of(record, section_.answer);
    const auto place_of = [](const std::vector<std::string>& all, const std::string& text) {
      const auto found = std::ranges::find(all, text);
      return found == all.end() ? -1 : static_cast<std::int32_t>(found - all.begin());
    };
    if (value.is_number_integer()) return numbered(value.get<std::int64_t>(), choices, record);
    if (!value.is_string())
      throw InputError("{}: the answer must be a number or text", record.origin.text());
    const auto text = value.get<std::string>();
    if (section_.labels) {
      const auto labels =
          texts_of(column_of(record, *section_.labels), *section_.labels, record.origin);
      if (labels.size() != choices.size()) {
        throw InputError("{}: there are {} labels and {} choices", record.origin.text(),
                         labels.size(), choices.size());
      }
      if (const std::int32_t place = place_of(labels, text); place >= 0) return place;
      throw InputError("{}: the answer '{}' is none of the labels", record.origin.text(), text);
    }
    if (const std::int32_t place = place_of(choices, text); place >= 0) return place;
    const auto count = static_cast<std::int64_t>(choices.size());
    if (text.size() == 1 && text[0] >= 'A' && text[0] < 'A' + count) return text[0] - 'A';
    std::int64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error == std::errc() && end == text.data() + text.size())
      return numbered(number, choices, record);
    throw InputError("{}: the answer '{}' is none of the choices", record.origin.text(), text);
  }

  [[nodiscard]] std::int32_t numbered(std::int64_t number, const std::vector<std::string>& choices,
                                      const data::Record& record) const {
    const std::int64_t place = number - section_.answer_from;
    if (place >= 0 && place < static_cast<std::int64_t>(choices.size()))
      return static_cast<std::int32_t>(place);
    throw InputError("{}: the answer is choice {}, and there are {}, counted from {} (answer_from)",
                     record.origin.text(), number, choices.size(), section_.answer_from);
  }

  const SuiteSection& suite_;
  const ChoiceSection& section_;
  data::FieldTemplate context_;
  std::vector<data::FieldTemplate> templates_;  ///< Empty: a column holds the list.
};

std::vector<Row> read_rows(const SuiteSection& suite) {
  const RowReader row_reader(suite);
  std::vector<Row> rows;
  for (const std::filesystem::path& path : data::resolve_files(suite.choices->path)) {
    data::RecordOptions options;
    options.format = data::format_of(path).value_or(data::Format::kJsonl);
    const auto reader = data::open_records(path, options, [](const data::Fault& fault) {
      throw InputError("{}: {}", fault.origin.text(), fault.what);
    });
    while (const auto record = reader->next()) rows.push_back(row_reader.read(*record));
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
    const std::u32string last =
        core::decode_utf8(std::string_view(text).substr(begin, size - begin));
    if (last.size() != 1 || !text::is_python_space(last[0])) break;
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
