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
  std::vector<const GgufTensor*> tensors;
};

/// Finds the tensors of a row in a layer, and takes them from `left`. Nothing where the file has
/// none of them; InputError for one that is missing.
std::optional<Source> take(const Gguf& file, const Family& family, const TensorRow& row,
                           std::int64_t layer, std::string_view suffix,
                           std::set<std::string, std::less<>>& left) {
  Source source{numbered(row.name, layer) + std::string(suffix), {}};
  std::string missing;
  for (const std::string& plain : gguf_names(family, row, layer)) {
    const std::string name = plain + std::string(suffix);
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

/// What the first layer or the last has, every layer has.
std::vector<Source> find_sources(const Gguf& file, const Family& family, std::int64_t layers) {
  std::set<std::string, std::less<>> left;
  for (const GgufTensor& tensor : file.tensors()) {
    if (!is_factor(*family.gguf, tensor.name)) left.insert(tensor.name);
  }
  std::vector<Source> sources;
  for (const TensorRow& row : rows_in_order(file, family)) {
    const bool in_layers = row.name.find("{}") != std::string_view::npos;
    const bool essential = row.part == Part::kEmbedding || row.part == Part::kFinalNorm ||
                           row.part == Part::kOutput || row.part == Part::kDown;
    const std::int64_t count = in_layers ? layers : 1;
    for (const std::string_view suffix : {".weight", ".bias"}) {
      const auto in = [&](std::int64_t layer) {
        return std::ranges::any_of(gguf_names(family, row, layer), [&](const std::string& name) {
          return left.contains(name + std::string(suffix));
        });
      };
      if (!in(0) && !in(count - 1) && !(essential && suffix == ".weight")) continue;
      for (std::int64_t layer = 0; layer < count; ++layer) {
        auto source = take(file, family, row, layer, suffix, left);
        if (!source) {
          throw InputError("{}: the tensor '{}{}' is missing", file.path().string(),
                           gguf_names(family, row, layer).front(), suffix);
        }
        sources.push_back(std::move(*source));
      }
    }
  }
  if (!left.empty()) {
    throw InputError("{}: tensor {} is not part of the architecture '{}' as weft knows it",
                     file.path().string(), printable(*left.begin()), family.gguf->architecture);
  }
  return sources;
}

/// The shape of the model's tensor: that of the pieces, one below the other.
std::vector<std::int64_t> shape_of(const Gguf& file, const Source& source, bool transposed) {
  std::vector<std::int64_t> shape = source.tensors.front()->shape;
  for (std::size_t i = 1; i < source.tensors.size(); ++i) {
    const std::vector<std::int64_t>& other = source.tensors[i]->shape;
    if (other.size() != shape.size() || shape.empty() ||
        !std::equal(shape.begin() + 1, shape.end(), other.begin() + 1)) {
      throw InputError("{}: tensors {} and {} have shapes that do not fit each other",
                       file.path().string(), printable(source.tensors.front()->name),
                       printable(source.tensors[i]->name));
    }
    shape[0] += other[0];
  }
  if (transposed && shape.size() == 2) std::swap(shape[0], shape[1]);
  return shape;
}

/// Null where the tensor lies in the file row after row.
std::shared_ptr<const Arrangement> arrange(const Gguf& file, const Source& source,
                                           const GgufPlaces& places, bool is_vector) {
  const auto moved = [](const GgufPlace& place) { return !place.rows.empty(); };
  const bool moves = std::ranges::any_of(places.tensors, moved);
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

void add_tensors(OpenModel& model, const Family& family) {
  const Gguf& file = *model.gguf;
  const std::string where = model.path.string();
  const GgufSizes sizes = gguf_sizes(model.config, *family.gguf, where);
  for (Source& source : find_sources(file, family, sizes.layers)) {
    const GgufTensor& first = *source.tensors.front();
    const std::string_view path = std::string_view(source.name).substr(0, source.name.rfind('.'));
    const bool transposed = find_row(family, path)->layout == Layout::kTransposed;
    StoredTensor stored;
    stored.info = {.name = source.name,
                   .shape = shape_of(file, source, transposed),
                   .storage = storage_of(first.type->name),
                   .storage_name = std::string(first.type->name),
                   .bytes = 0,
                   .file = model.path};
    for (const GgufTensor* tensor : source.tensors) stored.info.bytes += tensor->bytes;
    if (stored.info.shape.empty()) {
      throw InputError("{}: tensor {} is a single number", where, printable(first.name));
    }
    const GgufPlaces places = places_of(family, sizes, stored.info, first, where);
    stored.bytes = file.bytes(first);
    stored.file_tensor = &first;
    stored.arrangement = arrange(file, source, places, stored.info.shape.size() == 1);
    model.tensors.push_back(std::move(stored));
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
