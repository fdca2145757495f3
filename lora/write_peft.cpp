#include <algorithm>
#include <bit>
#include <map>

#include "checkpoint/safetensors.h"
#include "core/error.h"
#include "core/file.h"
#include "lora/adapter.h"
#include "lora/config.h"
#include "lora/peft_file.h"
#include "lora/provenance.h"

namespace weft::lora {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data are little-endian");

void require_whole(const Factors& factors) {
  const Target& target = factors.target;
  const auto a = static_cast<std::size_t>(target.ranks() * target.module.in);
  const auto b = static_cast<std::size_t>(target.ranks() * target.module.out);
  if (factors.a.size() == a && factors.b.size() == b) return;
  throw std::logic_error(
      fmt::format("factors of '{}' have {} and {} numbers, rank {} wants {} and {}",
                  target.module.path, factors.a.size(), factors.b.size(), target.rank, a, b));
}

}  // namespace

void write_peft(const Adapter& adapter, const std::filesystem::path& directory) {
  std::vector<Target> targets;
  std::vector<checkpoint::TensorPlan> plans;
  std::map<std::string, const std::vector<float>*, std::less<>> values;
  for (const Factors& factors : adapter.factors) {
    require_whole(factors);
    const Target& target = factors.target;
    targets.push_back(target);
    const std::string path = key_path(target, adapter.config.extras);
    const std::string a = key_of_a(path);
    const std::string b = key_of_b(path);
    plans.push_back({a, "F32", {target.ranks(), target.module.in}});
    plans.push_back({b, "F32", {target.module.out, target.ranks()}});
    values.emplace(a, &factors.a);
    values.emplace(b, &factors.b);
  }
  checkpoint::SafetensorsWriter writer(directory / kWeightsFile, plans);
  for (const checkpoint::TensorPlan& plan : writer.order()) {
    writer.write(std::span<const float>(*values.at(plan.name)));
  }
  writer.finish();
  core::write_text(directory / kConfigFile, config_text(adapter.config, targets));
  if (adapter.provenance) write_provenance(*adapter.provenance, directory);
}

}  // namespace weft::lora
