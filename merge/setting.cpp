#include <charconv>
#include <cmath>

#include "core/error.h"
#include "merge/recipe.h"

namespace weft::merge {
namespace {

using schema::ConfigNode;

[[noreturn]] void complain(const ConfigNode& node, const ParameterSpec& spec) {
  throw ConfigError("line {}:{}: '{}' is {}, wanted {}", node.place.line, node.place.column,
                    spec.name, node.what(), spec.is_switch ? "true or false" : "a number");
}

double scalar_value(const ConfigNode& node, const ParameterSpec& spec) {
  const std::string& text = node.text;
  for (const auto& [word, value] : {std::pair{"true", 1.0},
                                    {"True", 1.0},
                                    {"yes", 1.0},
                                    {"false", 0.0},
                                    {"False", 0.0},
                                    {"no", 0.0}}) {
    if (text == word && spec.is_switch) return value;
  }
  double value = 0;
  const char* begin = text.data() + (text.starts_with('+') ? 1 : 0);
  const auto [end, error] = std::from_chars(begin, text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value) ||
      (spec.is_switch && value != 0 && value != 1)) {
    complain(node, spec);
  }
  return value;
}

double gradient_value(const ConfigNode& list, double t, const ParameterSpec& spec) {
  const double place = t * static_cast<double>(list.items.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const double first = scalar_value(list.items[below], spec);
  if (spec.is_switch) return first;
  const double second = scalar_value(list.items[std::min(below + 1, list.items.size() - 1)], spec);
  const double part = place - static_cast<double>(below);
  return (1 - part) * first + part * second;
}

/// {filter, value}: nothing when the filter is for other tensors.
std::optional<double> conditional_value(const ConfigNode& entry, std::string_view tensor, double t,
                                        const ParameterSpec& spec) {
  const ConfigNode* value = entry.find("value");
  if (value == nullptr || value->kind == ConfigNode::Kind::kMap) complain(entry, spec);
  const ConfigNode* filter = entry.find("filter");
  const bool holds = filter == nullptr || filter->kind == ConfigNode::Kind::kNull ||
                     filter->text == "*" || tensor.find(filter->text) != std::string_view::npos;
  return holds ? setting_value(*value, tensor, t, spec) : std::nullopt;
}

}  // namespace

std::optional<double> setting_value(const ConfigNode& setting, std::string_view tensor, double t,
                                    const ParameterSpec& spec) {
  switch (setting.kind) {
    case ConfigNode::Kind::kNull: return std::nullopt;
    case ConfigNode::Kind::kScalar: return scalar_value(setting, spec);
    case ConfigNode::Kind::kMap: return conditional_value(setting, tensor, t, spec);
    case ConfigNode::Kind::kList: break;
  }
  if (setting.items.empty()) return std::nullopt;
  if (setting.items.front().kind == ConfigNode::Kind::kScalar) {
    return gradient_value(setting, t, spec);
  }
  for (const ConfigNode& entry : setting.items) {
    if (entry.kind != ConfigNode::Kind::kMap) complain(entry, spec);
    if (const auto value = conditional_value(entry, tensor, t, spec)) return value;
  }
  return std::nullopt;
}

double resolve_parameter(const ParameterSpec& spec, std::span<const Settings* const> scopes,
                         std::string_view tensor, double t) {
  for (const Settings* scope : scopes) {
    const auto found = scope->find(spec.name);
    if (found == scope->end()) continue;
    if (const auto value = setting_value(found->second, tensor, t, spec)) return *value;
  }
  if (spec.fallback) return *spec.fallback;
  throw ConfigError(
      "no value for parameter '{}' of tensor '{}': none is given, or no filter fits "
      "and there is no entry without one",
      spec.name, tensor);
}

}  // namespace weft::merge
