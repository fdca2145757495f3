// Tokens per second and peak memory of one forward and backward over a packed row: what a training
// update costs before the optimiser. Random tokens in segments of equal length.
//
//   bench_train_step --model MODEL [--dtype f32|bf16] [--row 1024] [--segment 128] [--supervised
//   0.4]
//   bench_train_step --family NAME|all: random weights of a family's shape, four layers of width
//   1024; besides tokens per second the arithmetic of its products per second, as a share of
//   Llama's in the same run.
// (bench/train.py compares whole training runs with PEFT.)
#include <fmt/format.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
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
  std::string family;
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

/// Best tokens per second of a decoder over the rounds.
double measure(const Options& options, weft::model::Decoder& decoder, bool tell) {
  namespace model = weft::model;
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
    if (!tell) continue;
    fmt::print("round {}: {:.3f} s, {:.0f} tokens/s, loss {:.4f}\n", round, seconds,
               options.row / seconds, sum.loss / static_cast<double>(sum.tokens));
  }
  return best;
}

weft::model::Compute compute_of(const Options& options) {
  return options.dtype == "bf16" ? weft::model::Compute::kBF16 : weft::model::Compute::kF32;
}

struct Shape {
  const char* name;
  nlohmann::json config;
};

/// One of each group of docs/families.md; heads of 64.
std::vector<Shape> shapes() {
  const nlohmann::json sizes{{"vocab_size", 32000},
                             {"hidden_size", 1024},
                             {"intermediate_size", 2816},
                             {"num_hidden_layers", 4},
                             {"num_attention_heads", 16},
                             {"num_key_value_heads", 4},
                             {"head_dim", 64},
                             {"max_position_embeddings", 2048}};
  const auto make = [&](const char* name, const char* architecture, nlohmann::json changes) {
    nlohmann::json config = sizes;
    config["architectures"] = {architecture};
    config.update(changes);
    return Shape{name, config};
  };
  const nlohmann::json classic{
      {"n_embd", 1024}, {"n_layer", 4}, {"n_head", 16}, {"num_key_value_heads", nullptr}};
  return {make("llama", "LlamaForCausalLM", nlohmann::json::object()),
          make("qwen3", "Qwen3ForCausalLM", nlohmann::json::object()),
          make("gemma3", "Gemma3ForCausalLM", {{"sliding_window", 512}}),
          make("olmo2", "Olmo2ForCausalLM", nlohmann::json::object()),
          make("phi3", "Phi3ForCausalLM", nlohmann::json::object()),
          make("gpt_neox", "GPTNeoXForCausalLM",
               {{"num_key_value_heads", nullptr}, {"intermediate_size", 4096}}),
          make("bloom", "BloomForCausalLM", classic),
          make("cohere", "CohereForCausalLM", nlohmann::json::object()),
          make("glm4", "Glm4ForCausalLM", nlohmann::json::object()),
          make("mixtral", "MixtralForCausalLM",
               {{"num_local_experts", 8}, {"num_experts_per_tok", 2}})};
}

/// Multiplications of the frozen matrices for one token, forward and backward; the head's for the
/// supervised ones.
double products(const Options& options, const weft::model::Spec& spec) {
  double sum = 0;
  for (const weft::lora::Module& module : weft::model::linear_modules(spec))
    sum += static_cast<double>(module.in * module.out);
  for (const weft::model::LayerSpec& layer : spec.layers) {
    if (!layer.experts) continue;
    const weft::model::ExpertsSpec& e = *layer.experts;
    sum += static_cast<double>(e.chosen * 3 * e.mlp.width * spec.hidden);
  }
  return 2 * (sum + options.supervised * static_cast<double>(spec.vocabulary * spec.hidden));
}

int run_families(const Options& options) {
  namespace model = weft::model;
  double of_llama = 0;
  for (const Shape& shape : shapes()) {
    if (options.family != "all" && options.family != shape.name &&
        shape.name != std::string("llama"))
      continue;
    const model::Spec spec = model::read_spec(shape.config, shape.name);
    model::Decoder decoder = model::Decoder::filled(
        spec, compute_of(options),
        [](const std::string&, const at::Tensor& to, std::int64_t) { to.normal_(0, 0.02); });
    const double tokens = measure(options, decoder, false);
    const double rate = tokens * products(options, spec) * 2 / 1e9;
    if (of_llama == 0) of_llama = rate;
    fmt::print("{:<9} {:7.0f} tokens/s {:7.1f} GFLOP/s of products  {:4.0f} % of llama\n",
               shape.name, tokens, rate, 100 * rate / of_llama);
  }
  return 0;
}

int run(const Options& options) {
  namespace model = weft::model;
  model::prepare_runtime(options.threads);
  if (!options.family.empty()) return run_families(options);
  const auto checkpoint = weft::checkpoint::Checkpoint::open(options.model);
  model::Decoder decoder = model::Decoder::load(checkpoint, compute_of(options));
  const double best = measure(options, decoder, true);
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
  auto* const given = app.add_option("--model", options.model);
  app.add_option("--family", options.family)->excludes(given);
  app.add_option("--dtype", options.dtype)->check(CLI::IsMember({"f32", "bf16"}));
  app.add_option("--row", options.row);
  app.add_option("--segment", options.segment);
  app.add_option("--supervised", options.supervised);
  app.add_option("--rank", options.rank);
  app.add_option("--dropout", options.dropout);
  app.add_option("--rounds", options.rounds);
  app.add_option("--threads", options.threads);
  CLI11_PARSE(app, argc, argv);
  if (options.model.empty() && options.family.empty()) {
    fmt::print(stderr, "bench_train_step: --model or --family is needed\n");
    return 2;
  }
  try {
    return run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
