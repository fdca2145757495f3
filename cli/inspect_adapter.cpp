#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "cli/inspect.h"
#include "core/terminal.h"
#include "lora/peft_file.h"
#include "lora/targets.h"

namespace weft::cli {
namespace {

using Json = nlohmann::ordered_json;

/// ||scale B A||_F without forming B A: sum over k, l of (B^T B)_kl (A A^T)_kl.
/// Of a stack of experts that is summed over them: A holds them one after the other, B fastest.
double update_norm(const lora::Factors& factors) {
  const auto rank = static_cast<std::size_t>(factors.target.rank);
  const auto experts = static_cast<std::size_t>(factors.target.experts);
  const auto in = static_cast<std::size_t>(factors.target.module.in);
  const auto out = static_cast<std::size_t>(factors.target.module.out);
  const auto a_at = [&](std::size_t expert, std::size_t k, std::size_t j) {
    return static_cast<double>(factors.a[(expert * rank + k) * in + j]);
  };
  const auto b_at = [&](std::size_t expert, std::size_t i, std::size_t k) {
    return static_cast<double>(factors.b[(i * rank + k) * experts + expert]);
  };
  double sum = 0;
  for (std::size_t e = 0; e < experts; ++e) {
    for (std::size_t k = 0; k < rank; ++k) {
      for (std::size_t l = 0; l <= k; ++l) {
        double a = 0;
        double b = 0;
        for (std::size_t j = 0; j < in; ++j) a += a_at(e, k, j) * a_at(e, l, j);
        for (std::size_t i = 0; i < out; ++i) b += b_at(e, i, k) * b_at(e, i, l);
        sum += (k == l ? 1 : 2) * a * b;
      }
    }
  }
  return std::abs(factors.target.scale) * std::sqrt(std::max(0.0, sum));
}

Json module_json(const lora::Factors& factors) {
  const lora::Target& target = factors.target;
  return {{"path", target.module.path},
          {"in", target.module.in},
          {"out", target.module.out},
          {"rank", target.rank},
          {"alpha", target.alpha},
          {"scale", target.scale},
          {"parameters", target.parameters()},
          {"update_norm", update_norm(factors)}};
}

Json targets_json(const lora::Targets& targets) {
  if (targets.pattern) return *targets.pattern;
  return targets.names;
}

Json provenance_json(const lora::Provenance& provenance) {
  return {{"base_weights", provenance.base_weights},
          {"base_storage", provenance.base_storage},
          {"compute_dtype", provenance.compute_dtype},
          {"base_quantization", provenance.base_quantization},
          {"tokenizer", provenance.tokenizer},
          {"chat_template", provenance.chat_template},
          {"more", Json(provenance.more)}};
}

/// "16" or "4-16" over all values of `key` in the modules.
std::string range_of(const std::vector<const Json*>& modules, const char* key) {
  double least = modules.front()->at(key).get<double>();
  double most = least;
  for (const Json* module : modules) {
    least = std::min(least, module->at(key).get<double>());
    most = std::max(most, module->at(key).get<double>());
  }
  return least == most ? fmt::format("{:.4g}", most) : fmt::format("{:.4g}-{:.4g}", least, most);
}

std::string shape_of(const Json& module) {
  return fmt::format("{} x {}", module.at("out").get<std::int64_t>(),
                     module.at("in").get<std::int64_t>());
}

void add_row(core::Table& table, const std::string& name, const std::vector<const Json*>& modules) {
  std::uint64_t parameters = 0;
  bool same_shape = true;
  for (const Json* module : modules) {
    parameters += module->at("parameters").get<std::uint64_t>();
    same_shape = same_shape && shape_of(*module) == shape_of(*modules.front());
  }
  table.add({name, fmt::format("{}", modules.size()),
             same_shape ? shape_of(*modules.front()) : "various", range_of(modules, "rank"),
             range_of(modules, "alpha"), range_of(modules, "scale"), core::human_count(parameters),
             range_of(modules, "update_norm")});
}

/// One row for each kind of layer, or for each module.
std::string modules_table(const Json& modules, bool each) {
  core::Table table({each ? "module" : "layer", "count", "out x in", "rank", "alpha", "scale",
                     "parameters", "|update|"});
  std::map<std::string, std::vector<const Json*>> groups;
  for (const Json& module : modules) {
    const auto path = module.at("path").get<std::string>();
    groups[each ? path : std::string(lora::last_name(path))].push_back(&module);
  }
  for (const auto& [name, members] : groups) add_row(table, name, members);
  return table.text();
}

void describe_provenance(InspectReport& report, const std::optional<lora::Provenance>& provenance) {
  report.json["provenance"] = provenance ? provenance_json(*provenance) : Json(nullptr);
  if (!provenance) {
    report.line("trained on", "not recorded");
    return;
  }
  const std::string& kept = provenance->base_quantization;
  report.line("trained on",
              fmt::format("{} (stored as {}, computed in {}{})", provenance->base_weights,
                          provenance->base_storage, provenance->compute_dtype,
                          kept.empty() || kept == "none" ? "" : ", layers kept as " + kept));
  if (!provenance->tokenizer.empty()) report.line("tokenizer", provenance->tokenizer);
  if (!provenance->chat_template.empty()) report.line("template", provenance->chat_template);
}

std::string rank_text(const lora::AdapterConfig& config) {
  return fmt::format("{} (alpha {:g}, scale {:.4g}{}, dropout {:g})", config.r, config.lora_alpha,
                     lora::scale(config.lora_alpha, config.r, config.use_rslora),
                     config.use_rslora ? ", rank-stabilised" : "", config.lora_dropout);
}

}  // namespace

bool is_adapter_folder(const std::filesystem::path& path) {
  return std::filesystem::exists(path / lora::kConfigFile);
}

InspectReport inspect_adapter(const std::filesystem::path& path, const InspectOptions& options) {
  const lora::PeftFile file = lora::PeftFile::open(path);
  const lora::AdapterConfig& config = file.config();
  InspectReport report;
  report.json = {{"kind", "adapter"},
                 {"path", path.string()},
                 {"base_model_name_or_path", config.base_model_name_or_path},
                 {"r", config.r},
                 {"lora_alpha", config.lora_alpha},
                 {"use_rslora", config.use_rslora},
                 {"lora_dropout", config.lora_dropout},
                 {"scale", lora::scale(config.lora_alpha, config.r, config.use_rslora)},
                 {"target_modules", targets_json(config.target_modules)},
                 {"exclude_modules", targets_json(config.exclude_modules)},
                 {"layers_to_transform", config.layers_to_transform},
                 {"storage", file.storage()}};
  Json modules = Json::array();
  std::uint64_t parameters = 0;
  for (std::size_t i = 0; i < file.targets().size(); ++i) {
    parameters += static_cast<std::uint64_t>(file.targets()[i].parameters());
    modules.push_back(module_json(file.load(i)));
  }
  report.line("adapter", path.string());
  if (!config.base_model_name_or_path.empty()) report.line("base", config.base_model_name_or_path);
  report.line("rank", rank_text(config));
  report.line("targets", targets_json(config.target_modules).dump());
  report.line("parameters", fmt::format("{} in {} modules, {}", core::human_count(parameters),
                                        modules.size(), file.storage()));
  report.json["parameters"] = parameters;
  if (options.hash) {
    report.json["digest"] = file.digest();
    report.line("digest", file.digest());
  }
  describe_provenance(report, file.provenance());
  report.block(modules_table(modules, options.tensors));
  report.json["modules"] = std::move(modules);
  return report;
}

}  // namespace weft::cli
