#include "checkpoint/gguf_family.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <numeric>

#include "checkpoint/printable.h"
#include "core/error.h"

namespace weft::checkpoint {
namespace {

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

/// Is no module's weight, but a parameter with a name of its own.
bool is_parameter(Part part) noexcept { return part == Part::kSinks || is_stack(part); }

/// Of a Hugging Face tensor's name: the row, the numbers in it and which of the two it is.
struct Instance {
  const TensorRow* row = nullptr;
  std::int64_t layer = 0;
  std::int64_t expert = 0;
  bool bias = false;

  [[nodiscard]] std::string_view suffix() const noexcept { return bias ? ".bias" : ".weight"; }
};

/// Reads the number at the beginning of `text` and takes it away; nothing for "007".
std::optional<std::int64_t> take_number(std::string_view& text) {
  std::int64_t number = 0;
  std::size_t at = 0;
  for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) {
    if (number > 99'999'999 || (at > 0 && number == 0)) return std::nullopt;
    number = 10 * number + (text[at] - '0');
  }
  text.remove_prefix(at);
  return number;
}

/// The numbers that a path has where the row's name has "{}": of the layer and of the expert.
std::optional<std::array<std::int64_t, 2>> numbers_of(std::string_view name,
                                                      std::string_view path) {
  std::array<std::int64_t, 2> numbers{};
  for (std::int64_t& number : numbers) {
    const auto hole = name.find("{}");
    if (hole == std::string_view::npos) break;
    name.remove_prefix(hole + 2);
    path.remove_prefix(hole);
    const auto taken = take_number(path);
    if (!taken) return std::nullopt;
    number = *taken;
  }
  return numbers;
}

std::optional<Instance> instance_of(const Family& family, std::string_view tensor) {
  struct Ending {
    std::string_view text;
    bool bias;
    bool parameter;
  };
  static constexpr std::array<Ending, 4> kEndings{{{".weight", false, false},
                                                   {".bias", true, false},
                                                   {"_bias", true, true},
                                                   {"", false, true}}};
  for (const Ending& ending : kEndings) {
    if (!tensor.ends_with(ending.text)) continue;
    const std::string_view path = tensor.substr(0, tensor.size() - ending.text.size());
    const TensorRow* const row = find_row(family, path);
    if (row == nullptr || is_parameter(row->part) != ending.parameter) continue;
    const auto numbers = numbers_of(row->name, path);
    if (!numbers) return std::nullopt;
    return Instance{row, (*numbers)[0], (*numbers)[1], ending.bias};
  }
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

/// What an expert's matrix and a stack have to be.
void place_experts(const GgufSizes& sizes, const Instance& instance, std::string_view tensor,
                   const std::vector<std::int64_t>& shape, GgufPlaces& places) {
  const Part part = instance.row->part;
  if (!is_expert(part) && !is_stack(part)) return;
  places.experts = sizes.experts;
  if (is_expert(part)) places.expert = instance.expert;
  const std::size_t dimensions = (instance.bias ? 1U : 2U) + (is_stack(part) ? 1U : 0U);
  const bool fits = is_stack(part) ? shape.front() == sizes.experts : places.expert < sizes.experts;
  if (shape.size() == dimensions && fits) return;
  throw InputError("tensor {} does not belong to a model of {} experts, its shape is [{}]",
                   printable(tensor), sizes.experts, fmt::join(shape, ", "));
}

/// Gives the tensors of a stack's outputs their parts: halves, or by turns.
void cut_outputs(Layout layout, GgufPlaces& places) {
  const auto parts = std::ssize(places.tensors);
  const std::int64_t each = places.tensors.front().outputs / parts;
  if (each * parts != places.tensors.front().outputs) {
    throw InputError("{} outputs cannot be cut into '{}' and '{}'", places.tensors.front().outputs,
                     places.tensors.front().name, places.tensors.back().name);
  }
  const bool by_turns = layout == Layout::kAlternating;
  for (std::int64_t i = 0; i < parts; ++i) {
    GgufPlace& place = places.tensors[static_cast<std::size_t>(i)];
    place.outputs = each;
    place.first = by_turns ? i : i * each;
    place.step = by_turns ? parts : 1;
  }
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

std::vector<std::string> gguf_names(const Family& family, const TensorRow& row,
                                    std::int64_t layer) {
  if (row.part == Part::kQueryKeyValue && family.gguf != nullptr && family.gguf->split) {
    std::vector<std::string> names;
    for (const Part part : {Part::kQuery, Part::kKey, Part::kValue}) {
      names.push_back(numbered(usual_name(part), layer));
    }
    return names;
  }
  if (row.part == Part::kExpertsGateUp) {
    return {numbered(usual_name(Part::kExpertGate), layer),
            numbered(usual_name(Part::kExpertUp), layer)};
  }
  return {numbered(gguf_name(row), layer)};
}

std::vector<std::string> gguf_names(const Family& family, std::string_view tensor) {
  const auto instance = instance_of(family, tensor);
  if (!instance) return {};
  std::vector<std::string> names = gguf_names(family, *instance->row, instance->layer);
  for (std::string& name : names) name += instance->suffix();
  return names;
}

const TensorRow* find_tensor_row(const Family& family, std::string_view tensor) {
  const auto instance = instance_of(family, tensor);
  return instance ? instance->row : nullptr;
}

std::string tensor_name(const TensorRow& row, std::int64_t layer, std::int64_t expert, bool bias) {
  const std::string_view ending = is_parameter(row.part) ? (bias ? "_bias" : "")
                                  : bias                 ? ".bias"
                                                         : ".weight";
  return numbered(row.name, layer, expert) + std::string(ending);
}

std::optional<GgufPlaces> gguf_places(const Family& family, const GgufSizes& sizes,
                                      std::string_view tensor,
                                      const std::vector<std::int64_t>& shape,
                                      std::string_view shown) {
  const auto instance = instance_of(family, tensor);
  if (!instance || shape.empty()) return std::nullopt;
  const TensorRow& row = *instance->row;
  const std::string_view name_shown = shown.empty() ? tensor : shown;
  GgufPlaces places;
  place_experts(sizes, *instance, name_shown, shape, places);
  const bool in_stack = is_stack(row.part);
  const auto matrix = std::span(shape).subspan(in_stack ? 1 : 0);
  const bool turned = row.layout == Layout::kTransposed || row.layout == Layout::kAlternating;
  places.transposed = turned && matrix.size() == 2;
  places.shift = is_norm(row.part) && !instance->bias ? family.gguf->norm_shift : 0;
  if (places.shift != 0 && shape.size() > 1) {
    throw InputError("tensor {} must be a vector, its shape is [{}]", printable(name_shown),
                     fmt::join(shape, ", "));
  }
  const std::int64_t outputs = places.transposed ? matrix[1] : matrix[0];
  for (const std::string& name : gguf_names(family, row, instance->layer)) {
    places.tensors.push_back({name + std::string(instance->suffix()), outputs, {}});
  }
  if (in_stack) {
    cut_outputs(row.layout, places);
  } else {
    order_rows(*family.gguf, sizes, row.part, row.layout, name_shown, shape, places);
  }
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
