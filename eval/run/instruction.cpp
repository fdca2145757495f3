#include "eval/run/instruction.h"

#include <algorithm>
#include <map>

#include "core/error.h"
#include "data/prompt.h"
#include "data/record.h"
#include "eval/statistics/spread.h"
#include "text/white_space.h"

namespace weft::eval {
namespace {

Pass pass_of(const data::Example& example) {
  Pass pass;
  // The last token is predicted but never read.
  for (std::size_t t = 0; t + 1 < example.tokens.size(); ++t) {
    pass.tokens.push_back(example.tokens[t]);
    pass.targets.push_back(example.supervised[t + 1] != 0 ? example.tokens[t + 1]
                                                          : data::kNoTarget);
  }
  return pass;
}

/// What the user wrote last before the answer.
std::string question_text(const data::Sample& sample) {
  if (sample.type == data::DatasetType::kCompletion) return sample.prompt;
  for (auto message = sample.messages.rbegin(); message != sample.messages.rend(); ++message) {
    if (message->value("role", "") == "user" && message->contains("content") &&
        (*message)["content"].is_string()) {
      return (*message)["content"];
    }
  }
  return {};
}

/// Whether the last answer is more than text: its reference is then what the template makes of it.
bool has_calls(const data::Sample& sample) {
  for (auto message = sample.messages.rbegin(); message != sample.messages.rend(); ++message) {
    if (message->value("role", "") != "assistant") continue;
    const auto calls = message->find("tool_calls");
    return calls != message->end() && calls->is_array() && !calls->empty();
  }
  return false;
}

/// The last supervised run of an example as text: what a model that answers right writes.
std::string answer_text(const Pass& pass, const text::Tokenizer& tokenizer) {
  std::size_t end = pass.targets.size();
  while (end > 0 && pass.targets[end - 1] == data::kNoTarget) --end;
  std::size_t begin = end;
  while (begin > 0 && pass.targets[begin - 1] != data::kNoTarget) --begin;
  const std::vector<std::int32_t> ids(pass.targets.begin() + static_cast<std::ptrdiff_t>(begin),
                                      pass.targets.begin() + static_cast<std::ptrdiff_t>(end));
  return tokenizer.decode(ids, text::Tokenizer::Specials::kSkip);
}

/// A text, or a list of texts.
std::vector<std::string> references_in(const data::Record& record, const std::string& column) {
  const auto found = record.values.find(column);
  if (found == record.values.end())
    throw InputError("{}: there is no column '{}' (references)", record.origin.text(), column);
  if (found->is_string()) return {found->get<std::string>()};
  const bool is_list = found->is_array() &&
                       std::ranges::all_of(*found, [](const auto& one) { return one.is_string(); });
  if (!is_list) {
    throw InputError("{}: '{}' (references) must be a text or a list of texts",
                     record.origin.text(), column);
  }
  return found->get<std::vector<std::string>>();
}

/// Fills the references that stand in a column of the questions' rows.
void add_references(const data::DatasetConfig& config, const std::string& column,
                    const std::vector<std::string>& origins, std::vector<Question>& questions) {
  std::map<std::string, std::size_t> places;
  for (std::size_t i = 0; i < origins.size(); ++i) places.emplace(origins[i], i);
  const data::RecordOptions options{.format = config.format,
                                    .columns = config.columns,
                                    .header = config.header,
                                    .delimiter = config.delimiter,
                                    .quotes = config.quotes,
                                    .documents = config.documents};
  std::optional<std::size_t> count;
  for (const std::filesystem::path& file : data::resolve_files(config.path)) {
    const auto reader = data::open_records(file, options, [](const data::Fault&) {});
    while (const auto record = reader->next()) {
      const auto place = places.find(record->origin.text());
      if (place == places.end()) continue;
      auto found = references_in(*record, column);
      if (!count) count = found.size();
      if (found.size() != *count) {
        throw InputError(
            "{}: there are {} references in '{}', and {} in the first row; give each as many",
            record->origin.text(), found.size(), column, *count);
      }
      questions[place->second].more_references = std::move(found);
    }
  }
}

}  // namespace

InstructionData instruction_data(const data::DatasetConfig& config,
                                 const text::Tokenizer& tokenizer,
                                 const text::ChatTemplate* chat_template,
                                 const InstructionLimits& limits, const core::Log& log) {
  const std::vector<data::Sample> samples = data::load_samples(config, log);
  const data::PromptBuilder builder(
      tokenizer, chat_template,
      {.sequence_len = limits.max_tokens, .over_length = data::OverLength::kDrop});
  InstructionData result;
  std::vector<std::size_t> chosen;     // Those that examples could be made of.
  std::vector<std::size_t> last_pass;  // Of each chosen sample.
  for (const std::size_t index : spread(samples.size(), limits.limit)) {
    const data::Sample& sample = samples[index];
    if (sample.type == data::DatasetType::kText) {
      throw InputError(
          "{}: plain text has no answer to score; say `type: text` in `data`, or list the file "
          "under `text` (--text)",
          sample.origin.text());
    }
    data::PromptStatistics statistics;
    std::vector<data::Example> built;
    try {
      built = builder.build(sample, statistics);
    } catch (const data::BadRow& row) {
      if (config.on_bad_row != data::OnBadRow::kSkip) throw;
      core::tell(log, core::Level::kWarning, std::string("left out: ") + row.what());
      continue;
    }
    if (statistics.dropped > 0) {
      throw InputError(
          "{}: the example has {} tokens, more than sequence_len {}; raise sequence_len "
          "(--sequence-len) or leave the row out of the file: a test set without its longest rows "
          "would be another one",
          sample.origin.text(), statistics.longest, limits.max_tokens);
    }
    chosen.push_back(index);
    for (const data::Example& example : built) {
      result.passes.push_back(pass_of(example));
      result.items.push_back({.bytes = example.answer_bytes});
    }
    last_pass.push_back(result.passes.size());
  }
  if (result.passes.empty()) {
    throw InputError("{}: there is no example to score in it", config.path.front().string());
  }
  std::vector<std::string> origins;
  for (const std::size_t place : spread(chosen.size(), limits.generate)) {
    origins.push_back(samples[chosen[place]].origin.text());
    const data::Sample& sample = samples[chosen[place]];
    data::PromptBuilder::Question question = builder.question(sample);
    const std::size_t passes = last_pass[place];
    if ((question.reference.empty() || has_calls(sample)) && passes > 0)
      question.reference = answer_text(result.passes[passes - 1], tokenizer);
    if (text::is_blank(question.reference)) {
      throw InputError(
          "{}: the answer holds no text, so that a generated one cannot be compared with it; leave "
          "the row out, or measure without generate (--generate)",
          sample.origin.text());
    }
    result.questions.push_back({.tokens = std::move(question.prompt),
                                .text = question_text(sample),
                                .reference = std::move(question.reference)});
  }
  if (!limits.references.empty())
    add_references(config, limits.references, origins, result.questions);
  return result;
}

}  // namespace weft::eval
