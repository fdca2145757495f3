#include <algorithm>
#include <cmath>

#include "checkpoint/gguf_family.h"
#include "core/error.h"

// What config.json says where GGUF asks.

namespace weft::checkpoint {
namespace {

using nlohmann::json;
using Absent = GgufKey::Absent;

const json* find_first(const json& config, std::string_view keys) {
  const json* null = nullptr;
  while (!keys.empty()) {
    const auto bar = keys.find('|');
    const auto found = config.find(std::string(keys.substr(0, bar)));
    if (found != config.end()) {
      if (!found->is_null()) return &*found;
      if (null == nullptr) null = &*found;
    }
    keys = bar == std::string_view::npos ? std::string_view() : keys.substr(bar + 1);
  }
  return null;
}

std::string spelled(std::string_view keys) {
  std::string text;
  for (const char letter : keys)
    text += letter == '|' ? std::string("' or '") : std::string(1, letter);
  return fmt::format("'{}'", text);
}

std::optional<double> absent_value(const json& config, const GgufForm& form, const GgufKey& key,
                                   std::string_view where) {
  const auto other = [&](const char* name) { return gguf_value(config, form, name, where); };
  switch (key.absent) {
    case Absent::kOmitted: return std::nullopt;
    case Absent::kDefault: return key.fallback;
    case Absent::kFourfold: return 4 * other("embedding_length").value_or(0);
    case Absent::kHeads: return other("attention.head_count");
    case Absent::kWidth: return other("embedding_length");
    case Absent::kQuotient:
      if (key.fallback > 0) return key.fallback;
      return std::floor(other("embedding_length").value_or(0) /
                        other("attention.head_count").value_or(1));
    case Absent::kRefused: break;
  }
  throw InputError("{}: config.json must have a positive whole number {}", where,
                   spelled(key.config));
}

/// Falcon's heads of keys are said by three keys (modeling_falcon.py, FalconAttention).
std::optional<double> falcon_key_heads(const json& config, const GgufForm& form,
                                       std::string_view where) {
  const bool grouped = config.value("new_decoder_architecture", json(false)) == true;
  const bool shared = config.value("multi_query", json(true)) != false;
  if (!grouped && shared) return 1;
  if (!grouped) return gguf_value(config, form, "attention.head_count", where);
  return std::nullopt;
}

}  // namespace

std::optional<double> gguf_value(const json& config, const GgufForm& form, const GgufKey& key,
                                 std::string_view where) {
  if (form.architecture == "falcon" && key.gguf == "attention.head_count_kv") {
    if (const auto heads = falcon_key_heads(config, form, where)) return heads;
  }
  const json* const found = find_first(config, key.config);
  if (found == nullptr) return absent_value(config, form, key, where);
  if (found->is_null()) {
    if (key.absent != Absent::kDefault) return absent_value(config, form, key, where);
    throw InputError("{}: config.json has {} = null, which the GGUF architecture '{}' cannot say",
                     where, spelled(key.config), form.architecture);
  }
  const auto wrong = [&](const char* wanted) {
    return InputError("{}: config.json must have {} {}, found {}", where, wanted,
                      spelled(key.config), found->dump());
  };
  if (key.kind == GgufKey::Kind::kFlag) {
    if (!found->is_boolean()) throw wrong("true or false as");
    return found->get<bool>() ? 1 : 0;
  }
  if (key.kind == GgufKey::Kind::kReal) {
    if (!found->is_number()) throw wrong("a number");
    return found->get<double>();
  }
  if (!found->is_number_integer() || found->get<std::int64_t>() < 1) {
    throw wrong("a positive whole number");
  }
  return static_cast<double>(found->get<std::int64_t>());
}

std::optional<double> gguf_value(const json& config, const GgufForm& form, std::string_view gguf,
                                 std::string_view where) {
  const auto key = std::ranges::find(form.keys, gguf, &GgufKey::gguf);
  return key == form.keys.end() ? std::nullopt : gguf_value(config, form, *key, where);
}

GgufSizes gguf_sizes(const json& config, const GgufForm& form, std::string_view where) {
  const auto count = [&](const char* name) {
    const auto value = gguf_value(config, form, name, where);
    return value ? std::optional(static_cast<std::int64_t>(*value)) : std::nullopt;
  };
  GgufSizes sizes;
  sizes.hidden = count("embedding_length").value_or(0);
  sizes.layers = count("block_count").value_or(0);
  sizes.heads = count("attention.head_count").value_or(1);
  sizes.key_heads = count("attention.head_count_kv").value_or(sizes.heads);
  const std::int64_t quotient = sizes.hidden / sizes.heads;
  sizes.head_dim = count("attention.key_length").value_or(quotient);
  sizes.experts = count("expert_count").value_or(0);
  // More than any model has; their product must stay a number.
  constexpr std::int64_t kMost = std::int64_t{1} << 24;
  if (std::max({sizes.heads, sizes.key_heads, sizes.head_dim}) > kMost) {
    throw InputError("{}: {} attention heads of {} cannot be meant", where, sizes.heads,
                     sizes.head_dim);
  }
  if (sizes.heads % sizes.key_heads != 0) {
    throw InputError("{}: {} attention heads cannot share {} key-value heads", where, sizes.heads,
                     sizes.key_heads);
  }
  const auto key = std::ranges::find(form.keys, "attention.key_length", &GgufKey::gguf);
  const json* const stated = find_first(config, "head_dim");
  const bool fixed = key == form.keys.end() || key->absent == Absent::kQuotient;
  if (key == form.keys.end() && stated != nullptr && stated->is_number_integer()) {
    sizes.head_dim = stated->get<std::int64_t>();
  }
  if (fixed && sizes.head_dim != quotient) {
    throw InputError(
        "{}: config.json says heads of {}, and the GGUF architecture '{}' cannot say another width "
        "than hidden_size / num_attention_heads = {}",
        where, sizes.head_dim, form.architecture, quotient);
  }
  return sizes;
}

}  // namespace weft::checkpoint
