// What `script/bench eval` measures of weft: scoring and answering the examples of a file and
// choosing between the choices of another, as `weft eval` does them, timed without loading the
// model. Prints one JSON line.
//
//   bench_eval MODEL PAIRS.jsonl CHOICES.jsonl f32|bf16 THREADS ANSWERS MAX_TOKENS BATCH

#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>

#include "checkpoint/checkpoint.h"
#include "core/error.h"
#include "eval/run/choices.h"
#include "eval/run/instruction.h"
#include "eval/run/score.h"
#include "model/decode_batch.h"
#include "model/decoder.h"
#include "model/runtime.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace {

double seconds_of(const auto& work) {
  const auto begun = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
}

using namespace weft;

/// The log-probabilities' sum, to hold against the peer's.
double choose(const eval::ChoiceData& data, const eval::TokenLosses& losses) {
  const std::vector<eval::PassLoss> scored = eval::score(data.passes, 2048, losses);
  double sum = 0;
  for (const eval::ChoiceResult& question : eval::choices_with_scores(data, scored).questions) {
    sum += std::accumulate(question.log_p.begin(), question.log_p.end(), 0.0);
  }
  return sum;
}

int run(char** arguments) {
  const std::string dtype = arguments[4];
  model::prepare_runtime(std::stoi(arguments[5]));
  const auto checkpoint = checkpoint::Checkpoint::open(arguments[1]);
  const auto tokenizer = text::Tokenizer::load(checkpoint);
  const auto chat_template = text::ChatTemplate::load(checkpoint);
  data::DatasetConfig dataset;
  dataset.path = {arguments[2]};
  const eval::InstructionData data = eval::instruction_data(
      dataset, tokenizer, chat_template ? &*chat_template : nullptr,
      {.max_tokens = 2048, .limit = {}, .generate = std::stoll(arguments[6])}, {});
  auto decoder = model::Decoder::load(
      checkpoint, dtype == "bf16" ? model::Compute::kBF16 : model::Compute::kF32);
  const eval::TokenLosses losses = [&](const data::Row& row) { return decoder.token_losses(row); };
  (void)eval::score(std::span(data.passes).first(std::min<std::size_t>(8, data.passes.size())),
                    2048,
                    losses);  // warm-up
  double loss = 0;
  std::int64_t answer_tokens = 0, tokens = 0;
  const double scoring = seconds_of([&] {
    for (const eval::PassLoss& pass : eval::score(data.passes, 2048, losses)) {
      loss += pass.loss;
      answer_tokens += pass.tokens;
    }
  });
  for (const eval::Pass& pass : data.passes) tokens += std::ssize(pass.tokens) + 1;
  std::vector<std::vector<std::int32_t>> prompts;
  for (const eval::Question& question : data.questions) prompts.push_back(question.tokens);
  // No stop id: every answer is as long as the peer's.
  const model::GenerateOptions options{.max_tokens = std::stoll(arguments[7])};
  std::int64_t new_tokens = 0;
  const double generating = seconds_of([&] {
    for (const auto& answer :
         model::generate_batch(decoder, prompts, options, {.sequences = std::stoll(arguments[8])}))
      new_tokens += std::ssize(answer.ids);
  });
  eval::SuiteSection quiz;
  quiz.choices.emplace();
  quiz.choices->path = {arguments[3]};
  const eval::ChoiceData choices = eval::choice_data(quiz, tokenizer, 2048, {});
  double log_p = 0;
  const double choosing = seconds_of([&] { log_p = choose(choices, losses); });
  fmt::print("{}\n", nlohmann::ordered_json{{"score_s", scoring},
                                            {"tokens", tokens},
                                            {"answer_tokens", answer_tokens},
                                            {"loss", loss},
                                            {"generate_s", generating},
                                            {"new_tokens", new_tokens},
                                            {"choose_s", choosing},
                                            {"questions", choices.questions.size()},
                                            {"log_p", log_p}}
                         .dump());
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 9) {
    fmt::print(
        stderr,
        "usage: bench_eval MODEL PAIRS.jsonl CHOICES.jsonl f32|bf16 THREADS ANSWERS MAX_TOKENS "
        "BATCH\n");
    return 2;
  }
  try {
    return run(arguments);
  } catch (const weft::Error& error) {
    fmt::print(stderr, "bench_eval: {}\n", error.what());
    return static_cast<int>(error.exit_code());
  }
}
