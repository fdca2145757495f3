#include "eval/instruction.h"

#include "core/error.h"
#include "data/prompt.h"
#include "eval/spread.h"

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

}  // namespace

InstructionData instruction_data(const data::DatasetConfig& config,
                                 const text::Tokenizer& tokenizer,
                                 const text::ChatTemplate* chat_template,
                                 const InstructionLimits& limits, const core::Log& log) {
  const std::vector<data::Sample> samples = data::load_samples(config, log);
  const data::PromptBuilder builder(
      tokenizer, chat_template,
      {.sequence_len = limits.max_tokens, .over_length = data::OverLength::kRaise});
  data::PromptStatistics statistics;
  InstructionData result;
  std::vector<std::size_t> chosen;  // those that examples could be made of
  for (const std::size_t index : spread(samples.size(), limits.limit)) {
    const data::Sample& sample = samples[index];
    if (sample.type == data::DatasetType::kText) {
      throw InputError(
          "{}: plain text has no answer to score; say `type: text` in `data`, or list the file "
          "under `text` (--text)",
          sample.origin.text());
    }
    std::vector<data::Example> built;
    try {
      built = builder.build(sample, statistics);
    } catch (const data::BadRow& row) {
      if (config.on_bad_row != data::OnBadRow::kSkip) throw;
      core::tell(log, core::Level::kWarning, std::string("left out: ") + row.what());
      continue;
    }
    chosen.push_back(index);
    for (const data::Example& example : built) {
      result.passes.push_back(pass_of(example));
      result.items.push_back({.bytes = example.answer_bytes});
    }
  }
  if (result.passes.empty()) {
    throw InputError("{}: there is no example to score in it", config.path.front().string());
  }
  for (const std::size_t place : spread(chosen.size(), limits.generate)) {
    const data::Sample& sample = samples[chosen[place]];
    data::PromptBuilder::Question question = builder.question(sample);
    result.questions.push_back({.tokens = std::move(question.prompt),
                                .text = question_text(sample),
                                .reference = std::move(question.reference)});
  }
  return result;
}

}  // namespace weft::eval
