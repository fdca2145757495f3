// What `script/bench generate` measures of weft: one answer, token after token, as `weft generate`
// writes it. The prompt is one token and no id stops the answer, as llama-bench does it. Prints one
// JSON line: new tokens a second of each round, and the bytes of the model's tensors in memory.
//
//   bench_generate MODEL f32|bf16|auto THREADS TOKENS ROUNDS none|auto

#include "model/generate.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "core/error.h"
#include "model/decoder.h"
#include "model/generate.h"
#include "model/memory.h"
#include "model/runtime.h"

namespace {

using namespace weft;

model::Compute compute_of(const std::string& dtype) {
  if (dtype == "auto") return model::best_compute();
  return dtype == "f32" ? model::Compute::kF32 : model::Compute::kBF16;
}

int run(char** arguments) {
  model::prepare_runtime(std::stoi(arguments[3]));
  const auto checkpoint = checkpoint::Checkpoint::open(arguments[1]);
  const std::string wanted = arguments[6];
  const bool stored = wanted != "none";
  const model::Compute compute = compute_of(arguments[2]);
  const auto format = stored ? model::BaseFormat::kStored : model::BaseFormat::kDense;
  auto decoder = model::Decoder::load(checkpoint, compute, format);
  const model::MemoryNeed need = model::memory_need(
      decoder.spec(), {}, {.compute = compute, .base = format, .stored = &checkpoint});
  const std::int64_t tokens = std::stoll(arguments[4]);
  const std::vector<std::int32_t> prompt{1};
  std::vector<double> rates;
  for (std::int64_t round = 0; round <= std::stoll(arguments[5]); ++round) {
    model::KvCache cache;
    const auto begun = std::chrono::steady_clock::now();
    (void)model::generate_ids(decoder, prompt, {.max_tokens = tokens}, cache);
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
    if (round > 0) rates.push_back(static_cast<double>(tokens) / seconds);  // the first warms up
  }
  fmt::print("{{\"rates\": [{:.2f}], \"weights\": {}}}\n", fmt::join(rates, ", "), need.weights);
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 7) {
    fmt::print(stderr,
               "usage: bench_generate MODEL f32|bf16|auto THREADS TOKENS ROUNDS none|auto\n");
    return 2;
  }
  try {
    return run(arguments);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_generate: {}\n", error.what());
    return 1;
  }
}
