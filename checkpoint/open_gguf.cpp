#include <algorithm>
#include <utility>

#include "checkpoint/dequantize.h"
#include "checkpoint/gguf_family.h"
#include "checkpoint/open_model.h"
#include "checkpoint/printable.h"
#include "core/error.h"

namespace weft::checkpoint {
namespace {

/// The head width by which rows are interleaved, after checking that the rows are whole heads.
std::int64_t interleaved_head(const OpenModel& model, const GgufTensor& tensor, RowOrder order) {
  if (order == RowOrder::kSame) return 0;
  const char* const count_key =
      order == RowOrder::kInterleavedQuery ? "num_attention_heads" : "num_key_value_heads";
  const auto heads = model.config[count_key].get<std::int64_t>();
  const auto head_dim = model.config["head_dim"].get<std::int64_t>();
  if (tensor.shape.empty() || tensor.shape[0] != heads * head_dim) {
    throw InputError("{}: tensor {} must have {} rows ({} heads of {}), its shape is [{}]",
                     model.path.string(), printable(tensor.name), heads * head_dim, heads, head_dim,
                     fmt::join(tensor.shape, ", "));
  }
  // The elements of a bias are moved one by one.
  if (tensor.shape.size() == 1 && tensor.type->block_elements != 1) {
    throw InputError("{}: tensor {}: a bias in blocks of {} is not supported", model.path.string(),
                     printable(tensor.name), tensor.type->name);
  }
  return head_dim;
}

void add_tensors(OpenModel& model, const GgufFamily& family) {
  for (const GgufTensor& tensor : model.gguf->tensors()) {
    auto mapped = hugging_face_name(family, tensor.name);
    if (!mapped) {
      throw InputError("{}: tensor {} is not part of the architecture '{}' as weft knows it",
                       model.path.string(), printable(tensor.name), family.architecture);
    }
    if (mapped->name.empty()) continue;
    StoredTensor stored;
    stored.info = {.name = std::move(mapped->name),
                   .shape = tensor.shape,
                   .storage = storage_of(tensor.type->name),
                   .storage_name = std::string(tensor.type->name),
                   .bytes = tensor.bytes,
                   .file = model.path};
    stored.bytes = model.gguf->bytes(tensor);
    stored.file_tensor = &tensor;
    stored.interleaved_head = interleaved_head(model, tensor, mapped->rows);
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
  const GgufFamily* const family = find_gguf_family(*architecture);
  if (family == nullptr) {
    throw InputError("{}: the GGUF architecture {} is not supported; supported: {}", file.string(),
                     printable(*architecture), known_gguf_families());
  }
  model.config = gguf_config(gguf, *family);
  check_gguf_layers(gguf, *family, model.config["num_hidden_layers"].get<std::int64_t>());
  add_tensors(model, *family);
  return model;
}

}  // namespace weft::checkpoint
