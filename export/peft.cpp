#include "export/peft.h"

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/output_claim.h"
#include "export/factors.h"
#include "lora/targets.h"

namespace weft::exporting {
namespace {

using lora::Factors;

/// Names that choose exactly the modules: path endings where every layer has all of them, else
/// whole paths, so that no reader adapts a layer that the adapter leaves alone.
std::vector<std::string> target_names(const std::vector<Factors>& factors) {
  std::set<std::string> paths;
  std::set<std::string> names;
  std::set<std::string> parents;  // "model.layers.3." of "model.layers.3.mlp.up_proj"
  for (const Factors& module : factors) {
    const std::string& path = module.target.module.path;
    paths.insert(path);
    names.emplace(lora::last_name(path));
    const auto layers = path.find("layers.");
    const auto end = layers == path.npos ? path.npos : path.find('.', layers + 7);
    parents.insert(end == path.npos ? "" : path.substr(0, end));
  }
  std::set<std::string> endings;
  for (const std::string& path : paths) {
    for (const std::string& parent : parents) {
      if (!parent.empty() && path.starts_with(parent + ".")) {
        endings.insert(path.substr(parent.size() + 1));
      }
    }
  }
  const bool every_layer = !parents.contains("") && endings.size() == names.size() &&
                           paths.size() == parents.size() * endings.size() &&
                           parents.contains("model.layers.0");
  const std::set<std::string>& chosen = every_layer ? names : paths;
  return {chosen.begin(), chosen.end()};
}

lora::Adapter portable(const OpenAdapters& adapters) {
  lora::Adapter result;
  result.factors = plain_factors(adapters.weighted);
  const std::int64_t rank = largest_rank(result.factors);
  pad_rank(result.factors, rank);
  result.config.r = rank;
  result.config.lora_alpha = static_cast<double>(rank);
  result.config.target_modules.names = target_names(result.factors);
  const lora::AdapterConfig& source = adapters.files.front().config();
  result.config.base_model_name_or_path = source.base_model_name_or_path;
  result.config.revision = source.revision;
  result.config.fan_in_fan_out = source.fan_in_fan_out;
  if (adapters.files.size() == 1) result.provenance = adapters.files.front().provenance();
  return result;
}

void require_one(const PeftRequest& request) {
  if (request.adapters.size() == 1 && request.adapters.front().weight == 1) return;
  throw ConfigError(
      "--profile faithful writes one adapter as it is; several adapters, or a weight, need "
      "--profile portable");
}

/// The update of every module, as it was and as the folder says.
double compare(const OpenAdapters& adapters, const std::filesystem::path& folder) {
  const lora::PeftFile written = lora::PeftFile::open(folder);
  const PlainUpdates expected(adapters.weighted);
  const merge::WeightedAdapter back{&written, 1};
  const PlainUpdates found(std::span(&back, 1));
  if (expected.targets().size() != found.targets().size()) {
    throw NumericError("{}: {} modules were read back, {} were written", folder.string(),
                       found.targets().size(), expected.targets().size());
  }
  double largest = 0;
  for (std::size_t i = 0; i < expected.targets().size(); ++i) {
    const double difference = relative_difference(expected.load(i), found.load(i));
    require_same_update(difference, expected.targets()[i].module.path, folder.string(), 1e-5);
    largest = std::max(largest, difference);
  }
  return largest;
}

}  // namespace

AdapterReport write_portable_peft(const PeftRequest& request, const core::Log& log) {
  const bool faithful = request.profile == PeftProfile::kFaithful;
  if (faithful) require_one(request);
  std::vector<std::filesystem::path> inputs;
  for (const auto& adapter : request.adapters) inputs.push_back(adapter.directory);
  core::claim_output({request.out, core::OutputKind::kFolder}, inputs, request.overwrite);
  const OpenAdapters adapters = open_adapters(request.adapters, "weft export --to peft",
                                              lora::PeftFile::Stacks::kRefused, log);
  core::AtomicDirectory folder(request.out, request.overwrite);
  const lora::Adapter adapter =
      faithful ? lora::read_peft(adapters.files.front().directory(), log) : portable(adapters);
  lora::write_peft(adapter, folder.path());
  AdapterReport report{adapter.factors.size(), largest_rank(adapter.factors),
                       !one_rank(adapter.factors), compare(adapters, folder.path()),
                       std::filesystem::file_size(folder.path() / lora::kWeightsFile)};
  folder.commit();
  return report;
}

}  // namespace weft::exporting
