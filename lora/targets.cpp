#include "lora/targets.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <set>

#include "core/error.h"
#include "core/suggest.h"

namespace weft::lora {
namespace {

std::string anchored_key(const std::string& key) { return fmt::format(R"((.*\.)?({})$)", key); }

std::string quoted_list(const std::vector<std::string>& words) {
  return fmt::format("'{}'", fmt::join(words, "', '"));
}

bool matches(const Targets& targets, const std::optional<PythonRegex>& regex,
             std::string_view path) {
  if (targets.pattern) return targets.all_linear() || (regex && regex->full_match(path));
  return std::ranges::any_of(targets.names,
                             [&](const std::string& entry) { return ends_in_name(path, entry); });
}

/// "; nearest: 'q_proj'", or the names there are when none is near.
std::string hint(const std::string& wrong, const std::vector<Module>& modules) {
  std::set<std::string> names;
  for (const Module& module : modules) names.emplace(last_name(module.path));
  std::vector<std::string> candidates(names.begin(), names.end());
  const std::string listed = quoted_list(candidates);
  for (const Module& module : modules) candidates.push_back(module.path);
  const std::string near = core::nearest(wrong, candidates);
  return near.empty() ? fmt::format("linear layers are named {}", listed)
                      : fmt::format("nearest: '{}'", near);
}

/// "mlp.experts.gate_up_proj": what follows the number of the layer.
std::vector<std::string> endings_of(const std::vector<Stack>& stacks) {
  std::set<std::string> endings;
  for (const Stack& stack : stacks) {
    const std::string& path = stack.module.path;
    const std::size_t digit = path.find_last_of("0123456789");
    endings.insert(digit == std::string::npos ? path : path.substr(digit + 2));
  }
  return {endings.begin(), endings.end()};
}

void require_entries_match(const AdapterConfig& config, const std::vector<Module>& modules) {
  const auto matches_some = [&](const std::string& entry) {
    return std::ranges::any_of(modules,
                               [&](const Module& m) { return ends_in_name(m.path, entry); });
  };
  for (const std::string& entry : config.target_modules.names) {
    if (matches_some(entry)) continue;
    if (is_embedding_or_head(entry)) {
      throw ConfigError(
          "target_modules: '{}' is an embedding or output head, which weft does not "
          "adapt yet; take it out of the list",
          entry);
    }
    throw ConfigError("target_modules: '{}' matches no linear layer of the model; {}", entry,
                      hint(entry, modules));
  }
  for (const std::string& entry : config.exclude_modules.names) {
    // Heads and embeddings are never targets: naming them is superfluous, not wrong.
    if (matches_some(entry) || is_embedding_or_head(entry)) continue;
    throw ConfigError("exclude_modules: '{}' matches no linear layer of the model; {}", entry,
                      hint(entry, modules));
  }
}

/// The stacks that target_parameters chooses.
std::vector<Target> chosen_stacks(const TargetRule& rule, const AdapterConfig& config,
                                  const std::vector<Stack>& stacks) {
  const std::vector<std::string>& entries = config.extras.target_parameters;
  for (const std::string& entry : entries) {
    const auto is_of = [&](const Stack& stack) { return ends_in_name(stack.module.path, entry); };
    if (std::ranges::any_of(stacks, is_of)) continue;
    if (stacks.empty()) {
      throw ConfigError(
          "target_parameters: '{}' names a stack of experts, and the model has no experts; name "
          "linear layers in target_modules",
          entry);
    }
    const std::string near = core::nearest(entry, endings_of(stacks));
    throw ConfigError("target_parameters: '{}' names no stack of experts of the model; {}", entry,
                      near.empty() ? "there are " + quoted_list(endings_of(stacks))
                                   : fmt::format("nearest: '{}'", near));
  }
  if (!entries.empty() && !config.layers_to_transform.empty()) {
    throw ConfigError(
        "layers_to_transform does not choose among stacks of experts (PEFT's rule); remove it, and "
        "name the stacks of single layers in target_parameters, as '{}'",
        stacks.front().module.path);
  }
  require_no_dropout_on_stacks(config);
  std::vector<Target> targets;
  for (const Stack& stack : stacks) {
    const auto names = [&](const std::string& entry) {
      return ends_in_name(stack.module.path, entry);
    };
    if (std::ranges::none_of(entries, names)) continue;
    targets.push_back(rule.target(stack.module));
    targets.back().kind = TargetKind::kExperts;
    targets.back().experts = stack.experts;
  }
  return targets;
}

/// Why nothing is left, for a configuration whose entries all match something.
[[noreturn]] void explain_nothing(const TargetRule& rule, const AdapterConfig& config,
                                  const std::vector<Module>& modules) {
  const auto named =
      std::ranges::count_if(modules, [&](const Module& m) { return rule.names(m.path); });
  if (named == 0) {
    const std::string pattern = config.target_modules.pattern.value_or("");
    throw ConfigError(
        "target_modules: '{}' matches no linear layer of the model (a regular "
        "expression must match the whole path, such as '{}'); {}",
        pattern, modules.empty() ? "" : modules.front().path, hint(pattern, modules));
  }
  throw ConfigError(
      "no layer is left to adapt: target_modules names {}, exclude_modules and "
      "layers_to_transform take all of them away",
      named);
}

void require_layers_exist(const TargetRule& rule, const AdapterConfig& config,
                          const std::vector<Module>& modules) {
  std::set<std::int64_t> present;
  for (const Module& module : modules) {
    if (!rule.names(module.path)) continue;
    if (const auto layer = rule.layer_of(module.path)) present.insert(*layer);
  }
  for (const std::int64_t index : config.layers_to_transform) {
    if (present.contains(index)) continue;
    if (present.empty()) {
      throw ConfigError("layers_to_transform: no targeted path holds a layer index{}",
                        config.layers_pattern.empty()
                            ? std::string()
                            : " after layers_pattern " + quoted_list(config.layers_pattern));
    }
    throw ConfigError("layers_to_transform: there is no layer {}; the model has layers {} to {}",
                      index, *present.begin(), *present.rbegin());
  }
}

}  // namespace

bool Targets::all_linear() const {
  static constexpr std::string_view kWord = "all-linear";
  return pattern && std::ranges::equal(*pattern, kWord, [](char a, char b) {
           return (a >= 'A' && a <= 'Z' ? static_cast<char>(a - 'A' + 'a') : a) == b;
         });
}

void require_no_dropout_on_stacks(const AdapterConfig& config) {
  if (config.extras.target_parameters.empty() || config.lora_dropout == 0) return;
  throw ConfigError(
      "lora_dropout: {} has no effect on target_parameters, as in PEFT, which refuses it; set "
      "lora_dropout: 0",
      config.lora_dropout);
}

double scale(double alpha, std::int64_t rank, bool use_rslora) {
  const auto r = static_cast<double>(rank);
  return use_rslora ? alpha / std::sqrt(r) : alpha / r;
}

bool ends_in_name(std::string_view path, std::string_view entry) {
  if (!path.ends_with(entry)) return false;
  return path.size() == entry.size() || path[path.size() - entry.size() - 1] == '.';
}

std::string_view last_name(std::string_view path) { return path.substr(path.rfind('.') + 1); }

bool is_embedding_or_head(std::string_view path) {
  static constexpr std::array<std::string_view, 12> kNames{"embed_tokens",
                                                           "lm_head",
                                                           "wte",
                                                           "wpe",
                                                           "embed_in",
                                                           "embed_out",
                                                           "shared",
                                                           "output",
                                                           "word_embeddings",
                                                           "embed_positions",
                                                           "tok_embeddings",
                                                           "output_layer"};
  return std::ranges::find(kNames, last_name(path)) != kNames.end();
}

bool is_lookup_table(std::string_view path) {
  const std::string_view name = last_name(path);
  return name.starts_with("embed_") || name.ends_with("_embed") || name.ends_with("embedding") ||
         name.ends_with("embeddings") || name == "relative_attention_bias";
}

TargetRule::TargetRule(const AdapterConfig& config) : config_(config) {
  const Targets& targets = config.target_modules;
  if (targets.empty() && config.extras.target_parameters.empty()) {
    throw ConfigError("target_modules is empty: name the layers to adapt, or 'all-linear'");
  }
  if (targets.pattern && !config.layers_to_transform.empty()) {
    throw ConfigError(
        "layers_to_transform works with a list of target_modules, not with the pattern "
        "'{}' (PEFT's rule); put the layers into the pattern",
        *targets.pattern);
  }
  if (!config.layers_pattern.empty() && config.layers_to_transform.empty()) {
    throw ConfigError("layers_pattern is given without layers_to_transform");
  }
  if (targets.pattern && !targets.all_linear()) target_.emplace(*targets.pattern);
  if (config.exclude_modules.pattern) exclude_.emplace(*config.exclude_modules.pattern);
  if (config.layers_pattern.empty()) {
    layers_.emplace_back(R"(.*?\.[^.]*\.(?P<idx>\d+)\.)");
  }
  for (const std::string& name : config.layers_pattern) {
    PythonRegex::require_portable(name);
    layers_.emplace_back(fmt::format(R"((?:^|.*?\.){}\.(?P<idx>\d+)\.)", name));
  }
  for (const auto& [key, rank] : config.rank_pattern) {
    PythonRegex::require_portable(key);
    ranks_.push_back({key, rank, PythonRegex(anchored_key(key))});
  }
  for (const auto& [key, alpha] : config.alpha_pattern) {
    PythonRegex::require_portable(key);
    alphas_.push_back({key, alpha, PythonRegex(anchored_key(key))});
  }
}

bool TargetRule::names(std::string_view path) const {
  return matches(config_.target_modules, target_, path);
}

bool TargetRule::excludes(std::string_view path) const {
  // Here PEFT gives "all-linear" no meaning of its own: it is a regular expression.
  if (exclude_) return exclude_->full_match(path);
  return matches(config_.exclude_modules, exclude_, path);
}

std::optional<std::int64_t> TargetRule::layer_of(std::string_view path) const {
  for (const PythonRegex& regex : layers_) {
    const std::string digits = regex.match_group(path, "idx");
    std::int64_t index = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
    if (!digits.empty() && error == std::errc() && end == digits.data() + digits.size())
      return index;
  }
  return std::nullopt;
}

bool TargetRule::selects(std::string_view path) const {
  if (excludes(path) || !names(path)) return false;
  if (config_.layers_to_transform.empty()) return true;
  const auto layer = layer_of(path);
  return layer && std::ranges::find(config_.layers_to_transform, *layer) !=
                      config_.layers_to_transform.end();
}

template <typename Value>
Value TargetRule::look_up(const std::vector<Pattern<Value>>& patterns, std::string_view kind,
                          const std::string& path, Value otherwise) {
  const Pattern<Value>* first = nullptr;
  for (const Pattern<Value>& pattern : patterns) {
    if (!pattern.regex.match(path)) continue;
    if (first == nullptr) {
      first = &pattern;
    } else if (first->value != pattern.value) {
      throw ConfigError(
          "{}: the keys '{}' ({}) and '{}' ({}) both match '{}'; write keys that match "
          "one module each, such as '^{}'",
          kind, first->key, first->value, pattern.key, pattern.value, path, path);
    }
  }
  return first != nullptr ? first->value : otherwise;
}

Target TargetRule::target(Module module) const {
  Target result;
  result.rank = look_up(ranks_, "rank_pattern", module.path, config_.r);
  result.alpha = look_up(alphas_, "alpha_pattern", module.path, config_.lora_alpha);
  result.scale = scale(result.alpha, result.rank, config_.use_rslora);
  result.module = std::move(module);
  return result;
}

std::vector<std::string> TargetRule::idle_patterns(const std::vector<Target>& targets) const {
  std::vector<std::string> idle;
  const auto collect = [&](const auto& patterns, std::string_view kind) {
    for (const auto& pattern : patterns) {
      const bool used = std::ranges::any_of(
          targets, [&](const Target& target) { return pattern.regex.match(target.module.path); });
      if (!used) idle.push_back(fmt::format("{} '{}'", kind, pattern.key));
    }
  };
  collect(ranks_, "rank_pattern");
  collect(alphas_, "alpha_pattern");
  return idle;
}

std::vector<Target> resolve_targets(const AdapterConfig& config, const std::vector<Module>& modules,
                                    const std::vector<Stack>& stacks) {
  const TargetRule rule(config);
  require_entries_match(config, modules);
  std::vector<Target> targets = chosen_stacks(rule, config, stacks);
  for (const Module& module : modules) {
    if (rule.selects(module.path)) targets.push_back(rule.target(module));
  }
  if (!config.layers_to_transform.empty()) require_layers_exist(rule, config, modules);
  if (targets.empty()) explain_nothing(rule, config, modules);
  if (const auto idle = rule.idle_patterns(targets); !idle.empty()) {
    throw ConfigError(
        "{} matches no adapted layer (a key matches a path or its ending after a '.')",
        idle.front());
  }
  std::ranges::sort(targets, {}, [](const Target& target) { return target.module.path; });
  return targets;
}

}  // namespace weft::lora
