// Makes an adapter as weft train would at its start, for comparison with PEFT:
//   make_adapter BASE CONFIG.json OUT SEED [random-b]
// prints the chosen modules as JSON. random-b fills B, so that the adapter changes the model.

#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "checkpoint/checkpoint.h"
#include "core/error.h"
#include "core/file.h"
#include "lora/adapter.h"
#include "lora/config.h"
#include "lora/random.h"

namespace {

using namespace std::string_literals;

void fill_b(weft::lora::Adapter& adapter, std::uint64_t seed) {
  for (weft::lora::Factors& factors : adapter.factors) {
    const weft::lora::RandomStream stream(seed, factors.target.module.path + ".b");
    for (std::size_t i = 0; i < factors.b.size(); ++i) factors.b[i] = stream.uniform(i) - 0.5F;
  }
}

int run(char** arguments, bool random_b) {
  using namespace weft;
  const auto base = checkpoint::Checkpoint::open(arguments[1]);
  const lora::AdapterConfig config =
      lora::parse_config(core::read_text(arguments[2]), arguments[2]);
  const std::uint64_t seed = std::strtoull(arguments[4], nullptr, 10);
  lora::Adapter adapter =
      lora::make_adapter(config, lora::resolve_targets(config, lora::linear_modules(base)), seed);
  if (random_b) fill_b(adapter, seed);
  adapter.provenance = lora::Provenance{base.weights_digest(), "F32", "F32", "", "", "", {}};
  std::filesystem::create_directories(arguments[3]);
  lora::write_peft(adapter, arguments[3]);
  nlohmann::json chosen = nlohmann::json::array();
  for (const lora::Factors& factors : adapter.factors) {
    const lora::Target& target = factors.target;
    chosen.push_back(
        {{"path", target.module.path}, {"rank", target.rank}, {"scale", target.scale}});
  }
  fmt::print("{}\n", chosen.dump());
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 5 && !(count == 6 && arguments[5] == "random-b"s)) {
    fmt::print(stderr, "usage: make_adapter BASE CONFIG.json OUT SEED [random-b]\n");
    return 2;
  }
  try {
    return run(arguments, count == 6);
  } catch (const weft::Error& error) {
    fmt::print(stderr, "make_adapter: {}\n", error.what());
    return static_cast<int>(error.exit_code());
  }
}
