#include "lora/config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <set>

#include "checkpoint/printable.h"
#include "core/error.h"
#include "lora/targets.h"

namespace weft::lora {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMaxDepth = 32;
constexpr std::int64_t kMaxRank = 1 << 16;
constexpr std::string_view kPeftVersion = "0.21.2";

/// Keys that change no number of an adapter that is applied as it is: how it was made, what it is
/// called, settings of features that are off.
constexpr std::array<std::string_view, 11> kWithoutEffect{
    "auto_mapping", "eva_config", "inference_mode", "megatron_core", "peft_version",
    "qalora_group_size", "runtime_config", "base_model_class", "parent_library",
    // Learning rates of ms-swift's LoRA+, which it writes beside PEFT's keys.
    "lorap_lr_ratio", "lorap_emb_lr"};

/// Keys of AdapterExtras that are null where they are not used.
constexpr std::array<const char*, 2> kNullExtras{"modules_to_save", "trainable_token_indices"};

/// Methods of PEFT (tuners/lora/variants.py) whose layers compute and fold as plain ones do unless
/// they are being trained: VeLoRA changes the backward pass, Monte Carlo LoRA draws around A.
constexpr std::array<std::string_view, 2> kTrainingMethods{"velora_config", "monteclora_config"};

struct Refusal {
  std::string_view key;
  std::string_view feature;
};

/// Features of PEFT that change numbers or shapes and that weft does not have.
constexpr std::array<Refusal, 10> kRefusals{{
    {"layer_replication", "replicated layers"},
    {"megatron_config", "Megatron layers"},
    {"alora_invocation_tokens", "activated LoRA (aLoRA)"},
    {"use_qalora", "QA-LoRA"},
    {"arrow_config", "Arrow routing"},
    {"use_bdlora", "block-diagonal LoRA"},
    {"kasa_config", "KaSA"},
    {"corda_config", "CorDA, which changes the base weights"},
    {"lora_ga_config", "LoRA-GA, which changes the base weights"},
    {"loftq_config", "LoftQ, which changes the base weights"},
}};

/// null, false, 0, "", [] and {} are what "not used" looks like.
bool is_neutral(const Json& value) {
  if (value.is_null()) return true;
  if (value.is_boolean()) return !value.get<bool>();
  if (value.is_number()) return value.get<double>() == 0;
  if (value.is_string()) return value.get_ref<const std::string&>().empty();
  return value.empty();
}

std::string shown(const Json& value) {
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

/// Parses JSON whose objects have no duplicate keys and whose depth is bounded.
Json parse_json(std::string_view text, std::string_view where) {
  std::vector<std::set<std::string>> keys;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    using Event = Json::parse_event_t;
    if (depth > kMaxDepth) throw InputError("{}: nested deeper than {} levels", where, kMaxDepth);
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key && !keys.back().insert(parsed.get<std::string>()).second) {
      throw InputError("{}: the key {} appears twice", where,
                       checkpoint::printable(parsed.get<std::string>()));
    }
    return true;
  };
  try {
    return Json::parse(text, watch);
  } catch (const Json::parse_error& error) {
    throw InputError("{}: not JSON (byte {}): {}", where, error.byte, error.what());
  } catch (const Json::exception& error) {
    throw InputError("{}: not JSON: {}", where, error.what());
  }
}

/// Typed access to one key; every failure names file, key, what was wanted and found.
class Field {
 public:
  Field(std::string_view where, std::string key, const Json& value)
      : where_(where), key_(std::move(key)), value_(&value) {}

  [[nodiscard]] const Json& json() const { return *value_; }
  [[nodiscard]] const std::string& key() const { return key_; }

  [[noreturn]] void wanted(std::string_view what) const {
    throw InputError("{}: {} must be {}, found {}", where_, checkpoint::printable(key_), what,
                     shown(*value_));
  }

  [[nodiscard]] bool boolean() const {
    if (!value_->is_boolean()) wanted("true or false");
    return value_->get<bool>();
  }
  [[nodiscard]] std::string text() const {
    if (!value_->is_string()) wanted("a string");
    return value_->get<std::string>();
  }
  [[nodiscard]] std::string text_or_null() const {
    return value_->is_null() ? std::string() : text();
  }

  [[nodiscard]] double number() const {
    if (!value_->is_number()) wanted("a number");
    const auto result = value_->get<double>();
    if (!std::isfinite(result)) wanted("a finite number");
    return result;
  }
  [[nodiscard]] std::int64_t integer(std::int64_t least, std::int64_t most) const {
    if (!value_->is_number_integer()) wanted("an integer");
    if (value_->is_number_unsigned() &&
        value_->get<std::uint64_t>() > std::uint64_t{std::numeric_limits<std::int64_t>::max()}) {
      wanted(fmt::format("in {}..{}", least, most));
    }
    const auto result = value_->get<std::int64_t>();
    if (result < least || result > most) wanted(fmt::format("in {}..{}", least, most));
    return result;
  }
  [[nodiscard]] std::vector<std::string> texts() const {
    if (!value_->is_array()) wanted("a string or a list of strings");
    std::vector<std::string> result;
    for (const Json& item : *value_) {
      const std::string text = Field(where_, key_, item).text();
      if (text.empty()) wanted("a list without empty strings");
      result.push_back(text);
    }
    return result;
  }
  [[nodiscard]] Targets targets() const {
    if (value_->is_null()) return {};
    if (value_->is_string()) {
      if (text().empty()) return {};
      return {text(), {}};
    }
    return {std::nullopt, texts()};
  }
  [[nodiscard]] std::vector<std::int64_t> layers() const {
    constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
    if (value_->is_null()) return {};
    if (!value_->is_array()) return {integer(0, kMost)};
    std::vector<std::int64_t> result;
    for (const Json& item : *value_) result.push_back(Field(where_, key_, item).integer(0, kMost));
    return result;
  }
  /// The members of an object (or null), each as a field named "key['member']".
  [[nodiscard]] std::vector<std::pair<std::string, Field>> members() const {
    std::vector<std::pair<std::string, Field>> result;
    if (value_->is_null()) return result;
    if (!value_->is_object()) wanted("an object");
    for (const auto& [name, item] : value_->items()) {
      result.emplace_back(name, Field(where_, fmt::format("{}['{}']", key_, name), item));
    }
    return result;
  }

 private:
  std::string_view where_;
  std::string key_;
  const Json* value_;
};

void require_unchanged_base(const Field& field, std::string_view where) {
  const Json& value = field.json();
  if (value.is_null() || value.is_boolean()) return;
  // These start from the untouched base, so that A and B are all of the update.
  static constexpr std::array<std::string_view, 4> kPlain{"gaussian", "eva", "orthogonal", "mica"};
  const std::string method = field.text();
  if (std::ranges::find(kPlain, method) != kPlain.end()) return;
  throw InputError(
      "{}: init_lora_weights {} is not supported: such an adapter belongs to a base "
      "that the method changed. Save it from PEFT with "
      "path_initial_model_for_weight_conversion, which makes it an ordinary one",
      where, checkpoint::printable(method));
}

/// What the adapted model is used for says nothing about the factors; what a task trains besides
/// them (a classifier's head) is a tensor of the file, and named where it has no place.
void require_task(const Field& field, std::string_view where) {
  static constexpr std::array<std::string_view, 6> kTasks{
      "CAUSAL_LM", "FEATURE_EXTRACTION", "SEQ_2_SEQ_LM", "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"};
  const std::string task = field.text_or_null();
  if (task.empty() || std::ranges::find(kTasks, task) != kTasks.end()) return;
  throw InputError("{}: task_type {} is unknown; PEFT has {}", where, checkpoint::printable(task),
                   fmt::join(kTasks, ", "));
}

std::string bias_kind(const Field& field) {
  const std::string bias = field.text_or_null();
  if (bias.empty() || bias == "none") return "none";
  if (bias != "lora_only" && bias != "all") field.wanted("none, lora_only or all");
  return bias;
}

/// A list of rows of the input embedding, or an object of module names with such lists.
std::vector<std::pair<std::string, std::vector<std::int64_t>>> token_rows(const Field& field) {
  if (field.json().is_null()) return {};
  if (field.json().is_array()) {
    if (field.json().empty()) return {};
    return {{"", field.layers()}};
  }
  std::vector<std::pair<std::string, std::vector<std::int64_t>>> rows;
  for (const auto& [name, member] : field.members()) rows.emplace_back(name, member.layers());
  return rows;
}

/// Applies a key of AdapterExtras; false for any other.
bool apply_extra(AdapterExtras& extras, const Field& field) {
  const std::string& key = field.key();
  const bool null = field.json().is_null();
  if (key == "use_dora") {
    extras.use_dora = !null && field.boolean();
  } else if (key == "lora_bias") {
    extras.lora_bias = !null && field.boolean();
  } else if (key == "ensure_weight_tying") {
    extras.ensure_weight_tying = !null && field.boolean();
  } else if (key == "bias") {
    extras.bias = bias_kind(field);
  } else if (key == "modules_to_save") {
    if (!null) extras.modules_to_save = field.texts();
  } else if (key == "target_parameters") {
    if (!null) extras.target_parameters = field.texts();
  } else if (key == "trainable_token_indices") {
    extras.trainable_token_indices = token_rows(field);
  } else {
    return false;
  }
  return true;
}

/// Applies a key that weft knows; false for any other.
bool apply(AdapterConfig& config, const Field& field) {
  const std::string& key = field.key();
  const bool null = field.json().is_null();  // Written by trainers for "not set".
  if (key == "r") {
    config.r = field.integer(1, kMaxRank);
  } else if (key == "lora_alpha") {
    config.lora_alpha = field.number();
  } else if (key == "lora_dropout") {
    config.lora_dropout = null ? 0 : field.number();
    if (config.lora_dropout < 0 || config.lora_dropout > 1) field.wanted("in 0..1");
  } else if (key == "use_rslora") {
    config.use_rslora = !null && field.boolean();
  } else if (key == "fan_in_fan_out") {
    config.fan_in_fan_out = !null && field.boolean();
  } else if (key == "target_modules") {
    config.target_modules = field.targets();
  } else if (key == "exclude_modules") {
    config.exclude_modules = field.targets();
  } else if (key == "layers_to_transform") {
    config.layers_to_transform = field.layers();
  } else if (key == "layers_pattern") {
    const Targets names = field.targets();
    config.layers_pattern = names.pattern ? std::vector{*names.pattern} : names.names;
  } else if (key == "rank_pattern") {
    for (const auto& [name, value] : field.members()) {
      config.rank_pattern.emplace_back(name, value.integer(1, kMaxRank));
    }
  } else if (key == "alpha_pattern") {
    for (const auto& [name, value] : field.members()) {
      config.alpha_pattern.emplace_back(name, value.number());
    }
  } else if (key == "base_model_name_or_path") {
    config.base_model_name_or_path = field.text_or_null();
  } else if (key == "revision") {
    config.revision = field.text_or_null();
  } else {
    return false;
  }
  return true;
}

/// A method of training alone, if it is used.
bool is_training_method(const Field& field) {
  if (std::ranges::find(kTrainingMethods, field.key()) == kTrainingMethods.end()) return false;
  if (is_neutral(field.json())) return false;
  if (!field.json().is_object()) field.wanted("an object");
  return true;
}

void apply_or_refuse(AdapterConfig& config, const Field& field, std::string_view where) {
  const std::string& key = field.key();
  if (apply(config, field) || apply_extra(config.extras, field)) return;
  if (key == "init_lora_weights") return require_unchanged_base(field, where);
  if (key == "task_type") return require_task(field, where);
  if (key == "peft_type" || std::ranges::find(kWithoutEffect, key) != kWithoutEffect.end()) return;
  if (is_neutral(field.json())) return;
  if (is_training_method(field)) return;
  for (const Refusal& refusal : kRefusals) {
    if (refusal.key != key) continue;
    throw InputError("{}: {} ({} = {}) is not supported", where, refusal.feature, key,
                     shown(field.json()));
  }
  throw InputError("{}: the key {} = {} is unknown to weft and may change the adapter's numbers",
                   where, checkpoint::printable(key), shown(field.json()));
}

nlohmann::json number_json(double value) {
  // PEFT users write whole alphas as integers, and Ollama reads nothing else.
  constexpr double kExact = 9007199254740992.0;
  if (value == std::trunc(value) && std::abs(value) < kExact)
    return static_cast<std::int64_t>(value);
  return value;
}

nlohmann::json targets_json(const Targets& targets) {
  if (targets.pattern) return *targets.pattern;
  std::vector<std::string> names = targets.names;
  std::ranges::sort(names);
  return names;
}

/// What stands for "all-linear": the last names of the chosen layers, which choose the same layers
/// again (heads and embeddings are named otherwise, exclude_modules is saved too).
nlohmann::json resolved_names(const std::vector<Target>& targets) {
  std::set<std::string> names;
  for (const Target& target : targets) {
    if (target.kind == TargetKind::kLinear) names.emplace(last_name(target.module.path));
  }
  return names;
}

template <typename Value>
nlohmann::json or_null(const Value& value) {
  return value.empty() ? nlohmann::json(nullptr) : nlohmann::json(value);
}

}  // namespace

AdapterConfig parse_config(std::string_view text, std::string_view where,
                           std::vector<std::string>* training_methods) {
  const Json json = parse_json(text, where);
  if (!json.is_object()) throw InputError("{}: must hold an object, found {}", where, shown(json));
  const auto type = json.find("peft_type");
  if (type == json.end()) {
    const bool mlx = json.contains("fine_tune_type") || json.contains("lora_parameters");
    throw InputError("{}: has no 'peft_type'; {}", where,
                     mlx ? "it is an adapter of mlx-lm; convert the adapter to PEFT first"
                         : "is it the configuration of a PEFT adapter?");
  }
  if (*type != "LORA") {
    throw InputError("{}: peft_type {} is not supported; weft reads LORA", where, shown(*type));
  }
  AdapterConfig config;
  for (const auto& [key, value] : json.items()) {
    const Field field(where, key, value);
    apply_or_refuse(config, field, where);
    if (training_methods != nullptr && is_training_method(field)) training_methods->push_back(key);
  }
  if (config.target_modules.empty() && config.extras.target_parameters.empty()) {
    throw InputError("{}: 'target_modules' is missing or empty, so no layer is adapted", where);
  }
  return config;
}

std::string config_text(const AdapterConfig& config, const std::vector<Target>& targets) {
  nlohmann::json json = {
      {"auto_mapping", nullptr},
      {"base_model_name_or_path", or_null(config.base_model_name_or_path)},
      {"bias", "none"},
      {"ensure_weight_tying", false},
      {"eva_config", nullptr},
      {"exclude_modules", config.exclude_modules.empty() ? nlohmann::json(nullptr)
                                                         : targets_json(config.exclude_modules)},
      {"fan_in_fan_out", config.fan_in_fan_out},
      {"inference_mode", true},
      {"init_lora_weights", true},
      {"layers_pattern", or_null(config.layers_pattern)},
      {"layers_to_transform", or_null(config.layers_to_transform)},
      {"lora_alpha", number_json(config.lora_alpha)},
      {"lora_dropout", config.lora_dropout},
      {"megatron_core", "megatron.core"},
      {"peft_type", "LORA"},
      {"peft_version", kPeftVersion},
      {"qalora_group_size", 16},
      {"r", config.r},
      {"revision", or_null(config.revision)},
      {"task_type", "CAUSAL_LM"},
      {"use_rslora", config.use_rslora},
  };
  for (const Refusal& refusal : kRefusals) json[std::string(refusal.key)] = nullptr;
  for (const char* key : kNullExtras) json[key] = nullptr;
  for (const std::string_view key : kTrainingMethods) json[std::string(key)] = nullptr;
  for (const char* flag : {"use_dora", "use_qalora", "lora_bias"}) json[flag] = false;
  json["loftq_config"] = nlohmann::json::object();
  json["rank_pattern"] = nlohmann::json::object();
  for (const auto& [key, rank] : config.rank_pattern) json["rank_pattern"][key] = rank;
  json["alpha_pattern"] = nlohmann::json::object();
  for (const auto& [key, alpha] : config.alpha_pattern)
    json["alpha_pattern"][key] = number_json(alpha);
  json["target_parameters"] = or_null(config.extras.target_parameters);
  json["target_modules"] = config.target_modules.all_linear() ? resolved_names(targets)
                                                              : targets_json(config.target_modules);
  return json.dump(2, ' ', true, nlohmann::json::error_handler_t::replace);
}

}  // namespace weft::lora
