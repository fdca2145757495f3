#include "checkpoint/gguf_family.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "checkpoint/printable.h"
#include "core/error.h"

namespace weft::checkpoint {
namespace {

using nlohmann::json;
using Absent = GgufKey::Absent;

/// ggml-org/llama.cpp, gguf-py/gguf/constants.py, TENSOR_NAMES
std::string_view usual_name(Part part) noexcept {
  switch (part) {
    case Part::kEmbedding: return "token_embd";
    case Part::kPositions: return "position_embd";
    case Part::kEmbeddingNorm: return "token_embd_norm";
    case Part::kFinalNorm: return "output_norm";
    case Part::kHead: return "output";
    case Part::kInputNorm: return "blk.{}.attn_norm";
    case Part::kQuery: return "blk.{}.attn_q";
    case Part::kKey: return "blk.{}.attn_k";
    case Part::kValue: return "blk.{}.attn_v";
    case Part::kQueryKeyValue: return "blk.{}.attn_qkv";
    case Part::kQueryNorm: return "blk.{}.attn_q_norm";
    case Part::kKeyNorm: return "blk.{}.attn_k_norm";
    case Part::kSinks: return "blk.{}.attn_sinks";
    case Part::kOutput: return "blk.{}.attn_output";
    case Part::kOutputNorm: return "blk.{}.post_attention_norm";
    case Part::kMlpNorm: return "blk.{}.ffn_norm";
    case Part::kGate: return "blk.{}.ffn_gate";
    case Part::kUp:
    case Part::kGateUp: return "blk.{}.ffn_up";
    case Part::kDown: return "blk.{}.ffn_down";
    case Part::kMlpOutputNorm: return "blk.{}.post_ffw_norm";
    case Part::kRouter: return "blk.{}.ffn_gate_inp";
    case Part::kExpertGate: return "blk.{}.ffn_gate_exps";
    case Part::kExpertUp: return "blk.{}.ffn_up_exps";
    case Part::kExpertDown: return "blk.{}.ffn_down_exps";
    case Part::kExpertsGateUp: return "blk.{}.ffn_gate_up_exps";
    case Part::kExpertsDown: return "blk.{}.ffn_down_exps";
    case Part::kSharedGate: return "blk.{}.ffn_gate_shexp";
    case Part::kSharedUp: return "blk.{}.ffn_up_shexp";
    case Part::kSharedDown: return "blk.{}.ffn_down_shexp";
    case Part::kSharedRouter: return "blk.{}.ffn_gate_inp_shexp";
  }
  return {};
}

bool is_norm(Part part) noexcept {
  return part == Part::kEmbeddingNorm || part == Part::kFinalNorm || part == Part::kInputNorm ||
         part == Part::kQueryNorm || part == Part::kKeyNorm || part == Part::kOutputNorm ||
         part == Part::kMlpNorm || part == Part::kMlpOutputNorm;
}

/// Of a Hugging Face tensor's name: the row, the layer and ".weight" or ".bias".
struct Instance {
  const TensorRow* row = nullptr;
  std::int64_t layer = 0;
  std::string_view suffix;
};

std::optional<Instance> instance_of(const Family& family, std::string_view tensor) {
  const auto dot = tensor.rfind('.');
  if (dot == std::string_view::npos) return std::nullopt;
  const std::string_view suffix = tensor.substr(dot);
  const std::string_view path = tensor.substr(0, dot);
  if (suffix != ".weight" && suffix != ".bias") return std::nullopt;
  const TensorRow* const row = find_row(family, path);
  if (row == nullptr) return std::nullopt;
  std::int64_t layer = 0;
  if (const auto hole = row->name.find("{}"); hole != std::string_view::npos) {
    for (std::size_t at = hole; at < path.size() && path[at] >= '0' && path[at] <= '9'; ++at) {
      if (layer > 99'999'999 || (at > hole && layer == 0)) return std::nullopt;  // "007"
      layer = 10 * layer + (path[at] - '0');
    }
  }
  return Instance{row, layer, suffix};
}

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

/// For each row of the file: the row of the model whose heads are not interleaved.
std::int64_t not_interleaved(std::int64_t row, std::int64_t head) noexcept {
  const std::int64_t within = row % head;
  return row - within + within % 2 * (head / 2) + within / 2;
}

bool is_identity(const std::vector<std::int64_t>& rows) {
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i] != static_cast<std::int64_t>(i)) return false;
  }
  return true;
}

[[noreturn]] void wrong_rows(std::string_view tensor, std::int64_t wanted, std::int64_t heads,
                             std::int64_t head_dim, const std::vector<std::int64_t>& shape) {
  throw InputError("tensor {} must have {} rows ({} heads of {}), its shape is [{}]",
                   printable(tensor), wanted, heads, head_dim, fmt::join(shape, ", "));
}

/// Fills in the rows of the places of q, k and v, which lie in `layout` in the model.
void order_rows(const GgufForm& form, const GgufSizes& sizes, Part part, Layout layout,
                std::string_view tensor, const std::vector<std::int64_t>& shape,
                GgufPlaces& places) {
  const std::int64_t queries = sizes.heads * sizes.head_dim;
  const std::int64_t keys = sizes.key_heads * sizes.head_dim;
  const bool fused = part == Part::kQueryKeyValue;
  std::vector<std::int64_t> counts;  // Rows of q, k and v that the tensor has.
  if (fused || part == Part::kQuery) counts.push_back(queries);
  if (fused || part == Part::kKey) counts.push_back(keys);
  if (fused) counts.push_back(keys);
  if (counts.empty()) return;
  if (!fused && !form.interleaved) return;
  const std::int64_t wanted = std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
  if (places.tensors.front().outputs != wanted || sizes.head_dim % 2 != 0 || shape.size() > 2) {
    wrong_rows(tensor, wanted, fused ? sizes.heads + 2 * sizes.key_heads : wanted / sizes.head_dim,
               sizes.head_dim, shape);
  }
  const std::vector<std::int64_t> order =
      stored_row_order(layout, sizes.heads, sizes.key_heads, sizes.head_dim);
  std::vector<std::vector<std::int64_t>> rows;
  std::int64_t start = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    std::vector<std::int64_t> part_rows;
    for (std::int64_t row = 0; row < counts[i]; ++row) {
      const bool turns = form.interleaved && i < 2;  // Values have no positions.
      const std::int64_t plain = start + (turns ? not_interleaved(row, sizes.head_dim) : row);
      part_rows.push_back(order.empty() ? plain : order[static_cast<std::size_t>(plain)]);
    }
    rows.push_back(std::move(part_rows));
    start += counts[i];
  }
  if (places.tensors.size() == 1) {
    std::vector<std::int64_t>& all = places.tensors.front().rows;
    for (const auto& some : rows) all.insert(all.end(), some.begin(), some.end());
    if (is_identity(all)) return all.clear();
  } else {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      places.tensors[i].outputs = counts[i];
      places.tensors[i].rows = std::move(rows[i]);
    }
  }
  places.group = sizes.head_dim;
}

/// Whether the family has every tensor of the file's first layer.
bool has_tensors(const Family& family, const Gguf& file) {
  std::vector<std::string> names;
  for (const TensorRow& row : family.tensors) {
    for (std::string& name : gguf_names(family, row, 0)) names.push_back(std::move(name));
  }
  return std::ranges::all_of(file.tensors(), [&](const GgufTensor& tensor) {
    if (!tensor.name.starts_with("blk.0.")) return true;
    return std::ranges::find(names, tensor.name.substr(0, tensor.name.rfind('.'))) != names.end();
  });
}

}  // namespace

std::string_view gguf_name(const TensorRow& row) noexcept {
  return row.gguf.empty() ? usual_name(row.part) : row.gguf;
}

const Family* find_gguf_family(const Gguf& file) {
  const auto architecture = file.string("general.architecture");
  const Family* first = nullptr;
  for (const Family& family : families()) {
    if (family.gguf == nullptr || family.gguf->architecture != architecture) continue;
    if (has_tensors(family, file)) return &family;
    if (first == nullptr) first = &family;
  }
  return first;
}

const Family* find_gguf_family_of(std::string_view model_type) noexcept {
  const Family* const family = find_family_of(model_type);
  return family == nullptr || family->gguf == nullptr ? nullptr : family;
}

std::string known_gguf_families() {
  std::vector<std::string_view> names;
  for (const Family& family : families()) {
    if (family.gguf == nullptr) continue;
    const std::string_view name = family.gguf->architecture;
    if (std::ranges::find(names, name) == names.end()) names.push_back(name);
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

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

std::vector<std::string> gguf_names(const Family& family, const TensorRow& row,
                                    std::int64_t layer) {
  if (row.part == Part::kQueryKeyValue && family.gguf != nullptr && family.gguf->split) {
    std::vector<std::string> names;
    for (const Part part : {Part::kQuery, Part::kKey, Part::kValue}) {
      names.push_back(numbered(usual_name(part), layer));
    }
    return names;
  }
  return {numbered(gguf_name(row), layer)};
}

std::vector<std::string> gguf_names(const Family& family, std::string_view tensor) {
  const auto instance = instance_of(family, tensor);
  if (!instance) return {};
  std::vector<std::string> names = gguf_names(family, *instance->row, instance->layer);
  for (std::string& name : names) name += instance->suffix;
  return names;
}

std::optional<GgufPlaces> gguf_places(const Family& family, const GgufSizes& sizes,
                                      std::string_view tensor,
                                      const std::vector<std::int64_t>& shape,
                                      std::string_view shown) {
  const auto instance = instance_of(family, tensor);
  if (!instance || shape.empty()) return std::nullopt;
  const TensorRow& row = *instance->row;
  GgufPlaces places;
  places.transposed = row.layout == Layout::kTransposed && shape.size() == 2;
  places.shift = is_norm(row.part) && instance->suffix == ".weight" ? family.gguf->norm_shift : 0;
  if (places.shift != 0 && shape.size() > 1) {
    throw InputError("tensor {} must be a vector, its shape is [{}]",
                     printable(shown.empty() ? tensor : shown), fmt::join(shape, ", "));
  }
  const std::int64_t outputs = places.transposed ? shape[1] : shape[0];
  for (const std::string& name : gguf_names(family, row, instance->layer)) {
    places.tensors.push_back({name + std::string(instance->suffix), outputs, {}});
  }
  order_rows(*family.gguf, sizes, row.part, row.layout, shown.empty() ? tensor : shown, shape,
             places);
  return places;
}

std::vector<float> llama3_rope_factors(double theta, std::int64_t head_dim,
                                       const Llama3Scaling& scaling) {
  std::vector<float> factors(static_cast<std::size_t>(head_dim / 2));
  for (std::size_t i = 0; i < factors.size(); ++i) {
    const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(head_dim);
    const double wavelength = 2.0 * std::numbers::pi * std::pow(theta, exponent);
    double value = 1.0;
    if (wavelength > scaling.original / scaling.low) {
      value = scaling.factor;
    } else if (wavelength >= scaling.original / scaling.high) {
      const double smooth =
          (scaling.original / wavelength - scaling.low) / (scaling.high - scaling.low);
      value = 1.0 / ((1.0 - smooth) / scaling.factor + smooth);
    }
    factors[i] = static_cast<float>(value);
  }
  return factors;
}

}  // namespace weft::checkpoint
