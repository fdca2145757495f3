#include "lora/adapter.h"

#include <algorithm>
#include <cmath>

#include "lora/peft_file.h"
#include "lora/random.h"

namespace weft::lora {
namespace {

Factors initial_factors(const Target& target, std::uint64_t seed) {
  Factors factors{target, {}, {}};
  const RandomStream stream(seed, target.module.path);
  const auto bound = static_cast<float>(1.0 / std::sqrt(static_cast<double>(target.module.in)));
  factors.a.resize(static_cast<std::size_t>(target.ranks() * target.module.in));
  for (std::size_t i = 0; i < factors.a.size(); ++i) {
    factors.a[i] = (2.0F * stream.uniform(i) - 1.0F) * bound;
  }
  factors.b.assign(static_cast<std::size_t>(target.module.out * target.ranks()), 0.0F);
  return factors;
}

}  // namespace

Adapter make_adapter(AdapterConfig config, std::vector<Target> targets, std::uint64_t seed) {
  std::ranges::sort(targets, {}, [](const Target& target) { return target.module.path; });
  Adapter adapter;
  adapter.config = std::move(config);
  for (const Target& target : targets) adapter.factors.push_back(initial_factors(target, seed));
  return adapter;
}

Adapter read_peft(const std::filesystem::path& directory, const core::Log& log) {
  const PeftFile file = PeftFile::open(directory, log);
  file.require_plain("computing with base and adapter", PeftFile::Stacks::kTaken);
  Adapter adapter{file.config(), {}, file.provenance()};
  adapter.factors.reserve(file.targets().size());
  for (std::size_t i = 0; i < file.targets().size(); ++i) adapter.factors.push_back(file.load(i));
  // The file's order is that of keys, which PEFT's wrappers of stacks lengthen.
  std::ranges::sort(adapter.factors, {}, [](const Factors& f) { return f.target.module.path; });
  return adapter;
}

}  // namespace weft::lora
