// What `script/bench eval` measures of weft: scoring and answering the examples of a file, as
// `weft eval` does them, timed without loading the model. Prints one JSON line.
//
//   bench_eval MODEL PAIRS.jsonl f32|bf16 THREADS ANSWERS MAX_TOKENS BATCH

#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>

#include "checkpoint/checkpoint.h"
#include "core/error.h"
#include "eval/instruction.h"
#include "eval/score.h"
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

int run(char** arguments) {
  using namespace weft;
  const std::string dtype = arguments[3];
  model::prepare_runtime(std::stoi(arguments[4]));
  const auto checkpoint = checkpoint::Checkpoint::open(arguments[1]);
  const auto tokenizer = text::Tokenizer::load(checkpoint);
  const auto chat_template = text::ChatTemplate::load(checkpoint);
  data::DatasetConfig dataset;
  dataset.path = {arguments[2]};
  const eval::InstructionData data = eval::instruction_data(
      dataset, tokenizer, chat_template ? &*chat_template : nullptr,
      {.max_tokens = 2048, .limit = {}, .generate = std::stoll(arguments[5])}, {});
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
  const model::GenerateOptions options{.max_tokens = std::stoll(arguments[6])};
  std::int64_t new_tokens = 0;
  const double generating = seconds_of([&] {
    for (const auto& answer :
         model::generate_batch(decoder, prompts, options, {.sequences = std::stoll(arguments[7])}))
      new_tokens += std::ssize(answer.ids);
  });
  fmt::print("{}\n", nlohmann::ordered_json{{"score_s", scoring},
                                            {"tokens", tokens},
                                            {"answer_tokens", answer_tokens},
                                            {"loss", loss},
                                            {"generate_s", generating},
                                            {"new_tokens", new_tokens}}
                         .dump());
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 8) {
    fmt::print(stderr,
               "usage: bench_eval MODEL PAIRS.jsonl f32|bf16 THREADS ANSWERS MAX_TOKENS BATCH\n");
    return 2;
  }
  try {
    return run(arguments);
  } catch (const weft::Error& error) {
    fmt::print(stderr, "bench_eval: {}\n", error.what());
    return static_cast<int>(error.exit_code());
  }
}
