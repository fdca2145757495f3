// Tokens per second and peak memory of one forward and backward over a packed row: what a training
// update costs before the optimiser. Random tokens in segments of equal length.
//
//   bench_train_step --model MODEL [--dtype f32|bf16] [--row 1024] [--segment 128] [--supervised
//   0.4]
// (bench/train.py compares whole training runs with PEFT.)
#include <fmt/format.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <random>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "core/terminal.h"
#include "lora/adapter.h"
#include "model/decoder.h"
#include "model/runtime.h"

namespace {

struct Options {
  std::string model;
  std::string dtype = "bf16";
  std::int32_t row = 1024;
  std::int32_t segment = 128;
  double supervised = 0.4;
  std::int64_t rank = 16;
  double dropout = 0;
  int rounds = 5;
  int threads = 0;
};

weft::data::Row make_row(const Options& options, std::int64_t vocabulary) {
  std::mt19937_64 random(1);
  std::uniform_int_distribution<std::int32_t> token(0, static_cast<std::int32_t>(vocabulary) - 1);
  weft::data::Row row;
  for (std::int32_t begin = 0; begin < options.row; begin += options.segment) {
    const std::int32_t end = std::min(begin + options.segment, options.row);
    row.segments.push_back({begin, end});
    // The answer ends the example, so the supervised share is its last part.
    const auto answer = end - static_cast<std::int32_t>(options.supervised * (end - begin));
    for (std::int32_t t = begin; t < end; ++t) {
      row.tokens.push_back(token(random));
      row.positions.push_back(t - begin);
      row.targets.push_back(t + 1 < end && t + 1 >= answer ? token(random) : weft::data::kNoTarget);
    }
  }
  return row;
}

int run(const Options& options) {
  namespace model = weft::model;
  model::prepare_runtime(options.threads);
  const auto checkpoint = weft::checkpoint::Checkpoint::open(options.model);
  model::Decoder decoder = model::Decoder::load(
      checkpoint, options.dtype == "bf16" ? model::Compute::kBF16 : model::Compute::kF32);
  weft::lora::AdapterConfig config;
  config.r = options.rank;
  config.target_modules.pattern = "all-linear";
  decoder.attach(weft::lora::make_adapter(
                     config, weft::lora::resolve_targets(config, decoder.linear_modules()), 1),
                 model::Decoder::Use::kTraining);
  const weft::data::Row row = make_row(options, decoder.spec().vocabulary);
  double best = 0;
  for (int round = 0; round < options.rounds; ++round) {
    const auto begun = std::chrono::steady_clock::now();
    const model::LossSum sum =
        decoder.train(row, {.gradient_scale = 1e-3, .dropout = options.dropout, .dropout_seed = 1});
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
    best = std::max(best, options.row / seconds);
    fmt::print("round {}: {:.3f} s, {:.0f} tokens/s, loss {:.4f}\n", round, seconds,
               options.row / seconds, sum.loss / static_cast<double>(sum.tokens));
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  fmt::print("{} row {} segment {}: best {:.0f} tokens/s, peak {}, {} page faults\n", options.dtype,
             options.row, options.segment, best,
             weft::core::human_bytes(static_cast<std::uint64_t>(usage.ru_maxrss) * 1024),
             usage.ru_minflt);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Speed of a training pass");
  app.add_option("--model", options.model)->required();
  app.add_option("--dtype", options.dtype)->check(CLI::IsMember({"f32", "bf16"}));
  app.add_option("--row", options.row);
  app.add_option("--segment", options.segment);
  app.add_option("--supervised", options.supervised);
  app.add_option("--rank", options.rank);
  app.add_option("--dropout", options.dropout);
  app.add_option("--rounds", options.rounds);
  app.add_option("--threads", options.threads);
  CLI11_PARSE(app, argc, argv);
  try {
    return run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
