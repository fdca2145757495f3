#include "eval/run/stage_runner.h"

#include <algorithm>
#include <chrono>

#include "core/error.h"
#include "core/ranks.h"
#include "eval/metrics/answer.h"
#include "model/decode_batch.h"

namespace weft::eval {

namespace {

/// What stands before the first of the texts.
std::string_view until_stop(std::string_view text, const std::vector<std::string>& stop) {
  for (const std::string& one : stop) text = text.substr(0, text.find(one));
  return text;
}

}  // namespace

bool StageWork::is_finished() const {
  return std::ranges::all_of(
      suites, [](const SuiteWork& part) { return part.finished && !part.states_needed; });
}

void StageRunner::run(StageWork& work, const text::Tokenizer& tokenizer, model::Decoder* decoder) {
  StageResult& stage = work.stage;
  stage_ = stage.name;
  const auto begun = std::chrono::steady_clock::now();
  for (SuiteWork& part : work.suites) {
    if (!part.finished || part.states_needed) {
      const SuiteInput& input = *part.input;
      SuiteResult suite{.name = input.name, .labels = input.labels};
      suite.other_tokenizer = work.other_tokenizer;
      suite.digest = input.digest;
      suite.asked_digest = input.asked_digest;
      if (input.text) text_suite(input, part.compared, *decoder, suite);
      if (input.data) instruction_suite(part, tokenizer, *decoder, suite);
      if (input.choices) choice_suite(input, part.compared, *decoder, suite);
      if (!part.finished && !part.key.empty() && hooks_.parts.keep)
        hooks_.parts.keep(part.key, suite);
      part.finished = std::move(suite);
    }
    stage.suites.push_back(std::move(*part.finished));
  }
  stage.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
}

void StageRunner::check_stop() const {
  if (hooks_.stop != nullptr && hooks_.stop->load()) {
    throw Interrupted("stopped while measuring '{}'; {}", stage_,
                      hooks_.parts.keep ? "the same command goes on from the last finished suite"
                                        : "nothing was written");
  }
}

void StageRunner::report(std::string_view suite, std::string_view what, std::int64_t done,
                         std::size_t total) const {
  check_stop();
  if (hooks_.progress) {
    hooks_.progress({stage_, suite, what, done, static_cast<std::int64_t>(total)});
  }
}

/// Scores the passes; with a reference, `item_of` says whose a pass is (-1: not compared).
template <typename ItemOf>
std::vector<PassLoss> StageRunner::losses(const SuiteInput& input, const std::vector<Pass>& passes,
                                          Compared compared, const ItemOf& item_of,
                                          model::Decoder& decoder, SuiteResult& suite) {
  const auto done = [&](std::int64_t count) { report(input.name, "scored", count, passes.size()); };
  if (compared == Compared::kNot) {
    return score_together(
        passes, input.row_tokens,
        [&](const data::Row& row) {
          check_stop();
          return decoder.token_losses(row);
        },
        ranks(), done);
  }
  check_stop();
  ReferenceStates& reference = references_.try_emplace(input.name, decoder.head()).first->second;
  if (compared == Compared::kReference) {
    return score(
        passes, input.row_tokens,
        [&](const data::Row& row) { return reference.record(decoder, row); }, done);
  }
  std::size_t rows = 0, placed = 0;
  std::vector<TokenDistance> all;
  const auto scored = score(
      passes, input.row_tokens,
      [&](const data::Row& row) { return reference.compare(decoder, row, rows++, all); }, done,
      [&](std::span<const std::uint32_t> owners) {
        for (const std::uint32_t owner : owners) {
          const std::int64_t item = item_of(owner);
          TokenDistance distance = all[placed++];
          if (item < 0) continue;
          distance.item = static_cast<std::uint32_t>(item);
          suite.distances.push_back(distance);
        }
      });
  return scored;
}

void StageRunner::text_suite(const SuiteInput& input, Compared compared, model::Decoder& decoder,
                             SuiteResult& suite) {
  const RollingText& rolling = *input.text;
  suite.kind = SuiteKind::kText;
  suite.unit = rolling.unit;
  const auto item_of = [&](std::uint32_t pass) {
    return static_cast<std::int64_t>(rolling.item_of_pass[pass]);
  };
  suite.items =
      items_with_losses(rolling, losses(input, rolling.passes, compared, item_of, decoder, suite));
}

void StageRunner::instruction_suite(const SuiteWork& part, const text::Tokenizer& tokenizer,
                                    model::Decoder& decoder, SuiteResult& suite) {
  const SuiteInput& input = *part.input;
  suite.kind = SuiteKind::kInstruction;
  suite.unit = Unit::kExample;
  suite.items = input.data->items;
  const auto item_of = [](std::uint32_t pass) { return std::int64_t{pass}; };
  const auto scored = losses(input, input.data->passes, part.compared, item_of, decoder, suite);
  for (std::size_t i = 0; i < scored.size(); ++i) {
    suite.items[i].tokens = scored[i].tokens;
    suite.items[i].loss = scored[i].loss;
  }
  // What is scored again for its states need not be answered again.
  if (part.finished) {
    suite.generations = part.finished->generations;
  } else {
    answer(input.data->questions, tokenizer, decoder, suite);
  }
}

void StageRunner::choice_suite(const SuiteInput& input, Compared compared, model::Decoder& decoder,
                               SuiteResult& suite) {
  const ChoiceData& data = *input.choices;
  suite.kind = SuiteKind::kChoice;
  suite.unit = Unit::kQuestion;
  // Compared are the tokens of the choices after their contexts.
  const auto item_of = [&](std::uint32_t pass) {
    return data.places[pass].alone ? std::int64_t{-1} : std::int64_t{data.places[pass].question};
  };
  ScoredChoices scored =
      choices_with_scores(data, losses(input, data.passes, compared, item_of, decoder, suite));
  suite.items = std::move(scored.items);
  suite.choices = std::move(scored.questions);
}

void StageRunner::answer(const std::vector<Question>& questions, const text::Tokenizer& tokenizer,
                         model::Decoder& decoder, SuiteResult& suite) {
  model::GenerateOptions options;  // greedy
  if (config_.generate) {
    options.max_tokens = config_.generate->max_tokens;
    options.sampling.repetition_penalty = config_.generate->repetition_penalty;
  }
  options.stop_ids = tokenizer.stop_ids();
  std::vector<std::vector<std::int32_t>> prompts;
  for (const Question& question : questions) prompts.push_back(question.tokens);
  model::BatchOptions batch{.sequences = config_.generate ? config_.generate->batch : 1,
                            .progress = [&](std::int64_t done) {
                              report(suite.name, "answered", done, questions.size());
                            }};
  const std::vector<std::string> stop =
      config_.generate ? config_.generate->stop : std::vector<std::string>{};
  const auto text_of = [&](std::span<const std::int32_t> ids) {
    return tokenizer.decode(ids, text::Tokenizer::Specials::kSkip);
  };
  if (!stop.empty()) {
    batch.is_over = [&](std::span<const std::int32_t> ids) {
      const std::string text = text_of(ids);
      return until_stop(text, stop).size() < text.size();
    };
  }
  std::vector<std::string> answers(questions.size());
  std::vector<int> rank_of;
  batch.only.emplace();  // those of this rank
  core::Dealer dealer(ranks());
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    rank_of.push_back(dealer.deal(std::ssize(prompts[i]) + options.max_tokens));
    if (rank_of.back() == ranks().rank()) batch.only->push_back(i);
  }
  core::together(ranks(), [&] {
    const auto ids = model::generate_batch(decoder, prompts, options, batch);
    for (const std::size_t i : *batch.only) answers[i] = text_of(ids[i].ids);
  });
  core::gather_texts(ranks(), answers, rank_of);
  for (std::size_t i = 0; i < questions.size(); ++i) {
    suite.generations.push_back(compare_answer(questions[i].text, questions[i].reference,
                                               std::string(until_stop(answers[i], stop)),
                                               questions[i].more_references));
  }
  score_answers(suite);
}

}  // namespace weft::eval
