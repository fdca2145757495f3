#include "merge/adapter_result.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/version.h"
#include "lora/peft_file.h"

namespace weft::merge {

double relative_error(const AdapterReport& report) {
  double error = 0;
  double norm = 0;
  for (const ModuleError& module : report.modules) {
    error += module.error * module.error;
    norm += module.norm * module.norm;
  }
  return norm > 0 ? std::sqrt(error / norm) : 0;
}

nlohmann::json report_json(const AdapterReport& report) {
  nlohmann::json json;
  json["program"] = fmt::format("weft {}", core::kVersion);
  json["method"] = report.method;
  json["parameters"] = report.parameters;
  if (report.seed) json["seed"] = *report.seed;
  if (!report.model.empty()) {
    json["model"] = report.model.string();
    json["base"] = report.base.string();
  }
  json["adapters"] = nlohmann::json::array();
  for (const MergeReport::Adapter& adapter : report.adapters) {
    json["adapters"].push_back({{"path", adapter.directory.string()},
                                {"weight", adapter.weight},
                                {"sha256", adapter.digest}});
  }
  json["relative_error"] = relative_error(report);
  json["left_out"] = report.left_out;
  json["modules"] = nlohmann::json::array();
  for (const ModuleError& module : report.modules) {
    json["modules"].push_back({{"module", module.path},
                               {"rank", module.rank},
                               {"norm", module.norm},
                               {"error", module.error}});
  }
  return json;
}

std::string report_table(const AdapterReport& report) {
  const auto share = [](const ModuleError& m) { return m.norm > 0 ? m.error / m.norm : 0; };
  std::int64_t rank = 0;
  for (const ModuleError& module : report.modules) rank = std::max(rank, module.rank);
  std::string text =
      fmt::format("method    {}\nmodules   {}, rank up to {}\nerror     {:.3g} of the update",
                  report.method, report.modules.size(), rank, relative_error(report));
  if (!report.modules.empty() && relative_error(report) > 0) {
    const auto worst = std::ranges::max_element(report.modules, {}, share);
    text += fmt::format("; largest {:.3g} in {}", share(*worst), worst->path);
  }
  return text + "\n";
}

lora::Factors make_factors(const lora::Module& module, std::int64_t rank) {
  lora::Factors factors{{module, rank, static_cast<double>(rank), 1}, {}, {}};
  factors.a.resize(static_cast<std::size_t>(rank * module.in));
  factors.b.resize(static_cast<std::size_t>(rank * module.out));
  return factors;
}

namespace {

/// Reads the folder as any reader does and holds every factor and scale against what was written.
void check_adapter_written(const lora::Adapter& adapter, const std::filesystem::path& folder) {
  const lora::PeftFile written = lora::PeftFile::open(folder);
  bool same = written.targets().size() == adapter.factors.size();
  for (std::size_t i = 0; same && i < adapter.factors.size(); ++i) {
    const lora::Factors& wanted = adapter.factors[i];
    const auto found =
        std::ranges::find(written.targets(), wanted.target.module.path,
                          [](const lora::Target& target) { return target.module.path; });
    if (found == written.targets().end()) {
      same = false;
      continue;
    }
    const lora::Factors back =
        written.load(static_cast<std::size_t>(found - written.targets().begin()));
    same = back.a == wanted.a && back.b == wanted.b && back.target.scale == wanted.target.scale;
  }
  if (same) return;
  throw NumericError("'{}' reads back otherwise than it was written", folder.string());
}

}  // namespace

void write_adapter(lora::Adapter adapter, const AdapterReport& report,
                   const std::filesystem::path& out, core::Overwrite overwrite) {
  std::ranges::sort(adapter.factors, {},
                    [](const lora::Factors& f) { return f.target.module.path; });
  lora::AdapterConfig& config = adapter.config;
  config.r = 0;
  for (const lora::Factors& factors : adapter.factors) {
    config.r = std::max(config.r, factors.target.rank);
    config.target_modules.names.push_back(factors.target.module.path);
  }
  config.lora_alpha = static_cast<double>(config.r);
  for (const lora::Factors& factors : adapter.factors) {
    if (factors.target.rank == config.r) continue;
    config.rank_pattern.emplace_back(factors.target.module.path, factors.target.rank);
    config.alpha_pattern.emplace_back(factors.target.module.path, factors.target.alpha);
  }
  core::AtomicDirectory folder(out, overwrite);
  lora::write_peft(adapter, folder.path());
  core::write_text(
      folder.path() / "merge.json",
      report_json(report).dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  check_adapter_written(adapter, folder.path());
  folder.commit();
}

}  // namespace weft::merge
