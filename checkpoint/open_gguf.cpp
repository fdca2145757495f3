#include <algorithm>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "checkpoint/dequantize.h"
#include "checkpoint/gguf_family.h"
#include "checkpoint/open_model.h"
#include "checkpoint/printable.h"
#include "core/error.h"

namespace weft::checkpoint {
namespace {

/// What is no weight: rotary factors, which become the configuration's rope_scaling, and buffers of
/// old converters that follow from it.
bool is_factor(const GgufForm& form, std::string_view name) {
  if (form.rotation.llama3 && (name == "rope_freqs.weight" || name.ends_with(".attn_rot_embd"))) {
    return true;
  }
  return form.rotation.longrope &&
         (name == "rope_factors_long.weight" || name == "rope_factors_short.weight");
}

/// The tensors of the file that make one of the model.
struct Source {
  std::string name;  ///< The model's.
  const TensorRow* row = nullptr;
  std::vector<const GgufTensor*> tensors;
};

/// Finds the tensors of a row in a layer, and takes them from `left`. Nothing where the file has
/// none of them; InputError for one that is missing.
std::optional<Source> take(const Gguf& file, const Family& family, const TensorRow& row,
                           std::int64_t layer, bool bias,
                           std::set<std::string, std::less<>>& left) {
  Source source{tensor_name(row, layer, 0, bias), &row, {}};
  std::string missing;
  for (const std::string& plain : gguf_names(family, row, layer)) {
    const std::string name = plain + (bias ? ".bias" : ".weight");
    const auto found = left.find(name);
    if (found == left.end()) {
      missing = name;
      continue;
    }
    source.tensors.push_back(file.find_tensor(name));
    left.erase(found);
  }
  if (source.tensors.empty()) return std::nullopt;
  if (missing.empty()) return source;
  throw InputError("{}: the tensor '{}' is missing", file.path().string(), missing);
}

/// Rows with names of their own come first, where the file has them: of two that share a name
/// (Falcon with one norm a layer or two) they are the special case.
std::vector<TensorRow> rows_in_order(const Gguf& file, const Family& family) {
  const bool has_own = std::ranges::all_of(family.tensors, [&](const TensorRow& row) {
    return row.gguf.empty() || file.find_tensor(numbered(row.gguf, 0) + ".weight") != nullptr;
  });
  std::vector<TensorRow> rows(family.tensors.begin(), family.tensors.end());
  std::ranges::stable_partition(rows, [](const TensorRow& row) { return !row.gguf.empty(); });
  if (!has_own) std::erase_if(rows, [](const TensorRow& row) { return !row.gguf.empty(); });
  return rows;
}

/// What no file of the family lacks. Layers have experts or an MLP.
bool is_essential(const Family& family, Part part) {
  const bool has_experts = find_row(family, Part::kRouter) != nullptr;
  const bool one_by_one = find_row(family, Part::kExpertDown) != nullptr;
  const Part down = !has_experts ? Part::kDown
                    : one_by_one ? Part::kExpertDown
                                 : Part::kExpertsDown;
  return part == Part::kEmbedding || part == Part::kFinalNorm || part == Part::kOutput ||
         part == down;
}

/// A hostile file says that it has many experts: its stack has them too, or is refused here.
void require_experts(const Gguf& file, const GgufTensor& stack, std::int64_t experts) {
  if (!stack.shape.empty() && stack.shape.front() == experts) return;
  throw InputError("{}: tensor {} must hold {} experts, its shape is [{}]", file.path().string(),
                   printable(stack.name), experts, fmt::join(stack.shape, ", "));
}

/// Adds what a row has in every layer, experts one by one.
void add_sources(const Gguf& file, const Family& family, const TensorRow& row,
                 const GgufSizes& sizes, bool bias, std::set<std::string, std::less<>>& left,
                 std::vector<Source>& sources) {
  const bool in_layers = row.name.find("{}") != std::string_view::npos;
  const std::int64_t layers = in_layers ? sizes.layers : 1;
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    auto source = take(file, family, row, layer, bias, left);
    if (!source) {
      throw InputError("{}: the tensor '{}{}' is missing", file.path().string(),
                       gguf_names(family, row, layer).front(), bias ? ".bias" : ".weight");
    }
    if (!is_expert(row.part)) {
      sources.push_back(std::move(*source));
      continue;
    }
    require_experts(file, *source->tensors.front(), sizes.experts);
    for (std::int64_t expert = 0; expert < sizes.experts; ++expert) {
      sources.push_back({tensor_name(row, layer, expert, bias), &row, source->tensors});
    }
  }
}

/// What the first layer or the last has, every layer has.
std::vector<Source> find_sources(const Gguf& file, const Family& family,
                                 std::span<const TensorRow> rows, const GgufSizes& sizes) {
  std::set<std::string, std::less<>> left;
  for (const GgufTensor& tensor : file.tensors()) {
    if (!is_factor(*family.gguf, tensor.name)) left.insert(tensor.name);
  }
  std::vector<Source> sources;
  // Of several spellings of one part the first is the model's.
  const auto is_found = [&](Part part) {
    return std::ranges::any_of(sources, [&](const Source& s) { return s.row->part == part; });
  };
  for (const TensorRow& row : rows) {
    const bool in_layers = row.name.find("{}") != std::string_view::npos;
    const std::int64_t last = in_layers ? sizes.layers - 1 : 0;
    for (const bool bias : {false, true}) {
      const auto in = [&](std::int64_t layer) {
        return std::ranges::any_of(gguf_names(family, row, layer), [&](const std::string& name) {
          return left.contains(name + (bias ? ".bias" : ".weight"));
        });
      };
      const bool needed = !bias && is_essential(family, row.part) && !is_found(row.part);
      if (in(0) || in(last) || needed) {
        add_sources(file, family, row, sizes, bias, left, sources);
      }
    }
  }
  if (!left.empty()) {
    throw InputError("{}: tensor {} is not part of the architecture '{}' as weft knows it",
                     file.path().string(), printable(*left.begin()), family.gguf->architecture);
  }
  return sources;
}

/// The shape of the model's tensor: that of the pieces, one below the other, or by turns in a
/// stack.
std::vector<std::int64_t> shape_of(const Gguf& file, const Source& source) {
  std::vector<std::int64_t> shape = source.tensors.front()->shape;
  if (is_expert(source.row->part) && shape.size() > 1) shape.erase(shape.begin());
  const std::size_t outputs = is_stack(source.row->part) && shape.size() > 1 ? 1 : 0;
  for (std::size_t i = 1; i < source.tensors.size(); ++i) {
    const std::vector<std::int64_t>& other = source.tensors[i]->shape;
    std::vector<std::int64_t> same = shape;
    if (other.size() == shape.size() && !shape.empty()) {
      same[outputs] = other[outputs];
      shape[outputs] += other[outputs];
    }
    if (other != same || (outputs > 0 && other != source.tensors.front()->shape)) {
      throw InputError("{}: tensors {} and {} have shapes that do not fit each other",
                       file.path().string(), printable(source.tensors.front()->name),
                       printable(source.tensors[i]->name));
    }
  }
  const bool turned =
      source.row->layout == Layout::kTransposed || source.row->layout == Layout::kAlternating;
  if (turned && shape.size() == 2 + outputs) std::swap(shape[outputs], shape[outputs + 1]);
  return shape;
}

/// A stack of the model: matrices that are transposed one by one, or rows that have the pieces' by
/// turns.
std::shared_ptr<const Arrangement> arrange_stack(const Gguf& file, const Source& source,
                                                 std::int64_t experts) {
  auto arranged = std::make_shared<Arrangement>();
  for (const GgufTensor* tensor : source.tensors) {
    std::int64_t rows = 1;
    for (std::size_t i = 0; i + 1 < tensor->shape.size(); ++i) rows *= tensor->shape[i];
    arranged->pieces.push_back({file.bytes(*tensor), storage_of(tensor->type->name), rows});
  }
  const bool matrices = source.tensors.front()->shape.size() == 3;
  if (!matrices && source.tensors.size() == 1) return {};
  arranged->transposed = matrices;
  arranged->matrices = matrices ? experts : 0;
  arranged->by_turns = !matrices;
  return arranged;
}

/// Null where the tensor lies in the file row after row.
std::shared_ptr<const Arrangement> arrange(const Gguf& file, const Source& source,
                                           const GgufPlaces& places, bool is_vector) {
  const auto moved = [](const GgufPlace& place) { return !place.rows.empty(); };
  const bool moves = std::ranges::any_of(places.tensors, moved);
  if (places.expert) return {};
  if (source.tensors.size() == 1 && !moves && !places.transposed && places.shift == 0) return {};
  auto arranged = std::make_shared<Arrangement>();
  arranged->transposed = places.transposed;
  arranged->shift = -places.shift;
  std::int64_t start = 0;
  for (std::size_t i = 0; i < source.tensors.size(); ++i) {
    const GgufTensor& tensor = *source.tensors[i];
    // The elements of a vector are moved one by one.
    if (is_vector && tensor.type->block_elements != 1) {
      throw InputError("{}: tensor {}: a vector in blocks of {} is not supported",
                       file.path().string(), printable(tensor.name), tensor.type->name);
    }
    const GgufPlace& place = places.tensors[i];
    if (tensor.shape[0] != place.outputs) {
      throw InputError("{}: tensor {} must have {} rows, its shape is [{}]", file.path().string(),
                       printable(tensor.name), place.outputs, fmt::join(tensor.shape, ", "));
    }
    arranged->pieces.push_back(
        {file.bytes(tensor), storage_of(tensor.type->name), tensor.shape[0]});
    if (moves) {
      arranged->rows.resize(static_cast<std::size_t>(start + place.outputs));
      start += place.outputs;
    }
  }
  start = 0;
  for (const GgufPlace& place : places.tensors) {
    if (!moves) break;
    for (std::int64_t row = 0; row < place.outputs; ++row) {
      const std::int64_t of_model =
          place.rows.empty() ? start + row : place.rows[static_cast<std::size_t>(row)];
      arranged->rows[static_cast<std::size_t>(of_model)] = start + row;
    }
    start += place.outputs;
  }
  return arranged;
}

GgufPlaces places_of(const Family& family, const GgufSizes& sizes, const TensorInfo& info,
                     const GgufTensor& first, const std::string& where) {
  try {
    return gguf_places(family, sizes, info.name, info.shape, first.name).value();
  } catch (const InputError& error) {
    throw InputError("{}: {}", where, error.what());
  }
}

/// Of an expert, the part of its stack.
std::span<const std::byte> bytes_of(const Gguf& file, const GgufTensor& tensor,
                                    const GgufPlaces& places) {
  const std::span<const std::byte> bytes = file.bytes(tensor);
  if (!places.expert) return bytes;
  const std::size_t each = bytes.size() / static_cast<std::size_t>(places.experts);
  return bytes.subspan(static_cast<std::size_t>(*places.expert) * each, each);
}

StoredTensor stored_tensor(const OpenModel& model, const Family& family, const GgufSizes& sizes,
                           const Source& source) {
  const Gguf& file = *model.gguf;
  const std::string where = model.path.string();
  const GgufTensor& first = *source.tensors.front();
  StoredTensor stored;
  stored.info = {.name = source.name,
                 .shape = shape_of(file, source),
                 .storage = storage_of(first.type->name),
                 .storage_name = std::string(first.type->name),
                 .bytes = 0,
                 .file = model.path};
  if (stored.info.shape.empty()) {
    throw InputError("{}: tensor {} is a single number", where, printable(first.name));
  }
  for (const GgufTensor* tensor : source.tensors) {
    if (storage_of(tensor->type->name) != Storage::kOther) continue;
    stored.info.storage = Storage::kOther;
    stored.info.storage_name = std::string(tensor->type->name);
  }
  const GgufPlaces places = places_of(family, sizes, stored.info, first, where);
  stored.bytes = bytes_of(file, first, places);
  for (const GgufTensor* tensor : source.tensors) {
    stored.info.bytes += bytes_of(file, *tensor, places).size();
  }
  stored.file_tensor = &first;
  const bool is_vector = stored.info.shape.size() == 1;
  if (is_stack(source.row->part)) {
    stored.arrangement = arrange_stack(file, source, sizes.experts);
  } else {
    stored.arrangement = arrange(file, source, places, is_vector);
  }
  return stored;
}

void add_tensors(OpenModel& model, const Family& family) {
  const Gguf& file = *model.gguf;
  const GgufSizes sizes = gguf_sizes(model.config, *family.gguf, model.path.string());
  const std::vector<TensorRow> rows = rows_in_order(file, family);
  for (const Source& source : find_sources(file, family, rows, sizes)) {
    model.tensors.push_back(stored_tensor(model, family, sizes, source));
  }
}

}  // namespace

OpenModel open_gguf(const std::filesystem::path& file) {
  OpenModel model;
  model.kind = Kind::kGguf;
  model.path = file;
  model.gguf = Gguf::open(file);
  const Gguf& gguf = *model.gguf;
  const auto architecture = gguf.string("general.architecture");
  if (!architecture) {
    throw InputError("{}: metadata 'general.architecture' is missing", file.string());
  }
  if (gguf.string("general.type").value_or("model") == "adapter") {
    throw InputError("{}: holds an adapter, a model was expected", file.string());
  }
  if (const auto parts = gguf.integer("split.count"); parts && *parts > 1) {
    throw InputError("{}: one of {} parts of a model; join them first (llama-gguf-split --merge)",
                     file.string(), *parts);
  }
  if (gguf.tensors().empty()) {
    // A vocabulary: it has a tokenizer and nothing that could be computed wrongly.
    model.config = {{"model_type", *architecture}};
    return model;
  }
  const Family* const family = find_gguf_family(gguf);
  if (family == nullptr) {
    throw InputError("{}: the GGUF architecture {} is not supported; supported: {}", file.string(),
                     printable(*architecture), known_gguf_families());
  }
  model.config = gguf_config(gguf, *family);
  add_tensors(model, *family);
  return model;
}

}  // namespace weft::checkpoint
