#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <utility>

#include "checkpoint/dequantize.h"
#include "checkpoint/json_file.h"
#include "checkpoint/open_model.h"
#include "checkpoint/printable.h"
#include "core/error.h"

namespace weft::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr std::string_view kHead = "lm_head.weight";
constexpr std::string_view kEmbedding = "model.embed_tokens.weight";

// Files that make a folder usable besides configuration and weights.
constexpr std::array kSideFiles{"tokenizer.json",
                                "tokenizer.model",
                                "tokenizer_config.json",
                                "special_tokens_map.json",
                                "added_tokens.json",
                                "vocab.json",
                                "merges.txt",
                                "vocab.txt",
                                "chat_template.jinja",
                                "chat_template.json",
                                "generation_config.json"};

// Families whose configuration ties the head when it does not say (transformers'
// configuration_*.py); every other family is untied by default.
constexpr std::array<std::string_view, 5> kTiedByDefault{"gemma", "gemma2", "gemma3", "gemma3_text",
                                                         "gpt2"};

[[noreturn]] void no_model(const fs::path& folder) {
  std::error_code ignored;
  std::string hint = "expected config.json and *.safetensors, or a GGUF file";
  if (fs::exists(folder / "adapter_config.json", ignored)) {
    hint = "it holds an adapter; name its base model, and the adapter separately";
  }
  // The root of a model in the Hub's cache: its files are below snapshots/COMMIT.
  for (const fs::directory_entry& entry : fs::directory_iterator(folder / "snapshots", ignored)) {
    if (fs::exists(entry.path() / "config.json", ignored)) {
      hint = "it is the root of a model in the Hub's cache; name the folder of its files: " +
             entry.path().string();
    }
  }
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, ignored)) {
    if (entry.path().extension() == ".gguf") hint = "name the file: " + entry.path().string();
  }
  throw InputError("no model in {}: {}", folder.string(), hint);
}

/// A file name from an index must stay inside the folder.
bool is_plain_name(const std::string& name) {
  return name.ends_with(".safetensors") && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

/// tensor -> file, as the index says.
std::map<std::string, std::string> read_index(const fs::path& path) {
  const nlohmann::json index = read_json_object(path);
  const auto found = index.find("weight_map");
  if (found == index.end() || !found->is_object() || found->empty()) {
    throw InputError("{}: expected an object 'weight_map' that names tensors", path.string());
  }
  std::map<std::string, std::string> weight_map;
  for (const auto& [tensor, file] : found->items()) {
    if (!file.is_string() || !is_plain_name(file.get_ref<const std::string&>())) {
      throw InputError("{}: weight_map {} must name a .safetensors file beside it, found {}",
                       path.string(), printable(tensor), file.dump());
    }
    weight_map.emplace(tensor, file.get<std::string>());
  }
  return weight_map;
}

void add_shard(OpenModel& model, const fs::path& path) {
  const std::size_t shard = model.shards.size();
  const Safetensors& file = model.shards.emplace_back(Safetensors::open(path));
  for (const SafetensorsEntry& entry : file.entries()) {
    StoredTensor stored;
    stored.info = {.name = entry.name,
                   .shape = entry.shape,
                   .storage = storage_of(entry.dtype),
                   .storage_name = entry.dtype,
                   .bytes = entry.bytes(),
                   .file = path};
    stored.bytes = file.bytes(entry);
    stored.shard = shard;
    stored.file_tensor = &entry;
    model.tensors.push_back(std::move(stored));
  }
}

/// Every tensor of the index is in the file it names, and every tensor of the files in the index.
void open_shards(OpenModel& model) {
  const fs::path index = model.path / kIndexFile;
  const std::map<std::string, std::string> weight_map = read_index(index);
  std::map<std::string, bool> opened;
  for (const auto& [tensor, file] : weight_map) opened[file];
  model.shards.reserve(opened.size());
  for (const auto& [file, ignored] : opened) add_shard(model, model.path / file);

  std::map<std::string_view, const StoredTensor*> present;
  for (const StoredTensor& tensor : model.tensors) {
    const auto [first, is_new] = present.emplace(tensor.info.name, &tensor);
    if (!is_new) {
      throw InputError("tensor {} is in two files: {} and {}", printable(tensor.info.name),
                       first->second->info.file.string(), tensor.info.file.string());
    }
  }
  for (const auto& [name, tensor] : present) {
    const fs::path& file = tensor->info.file;
    const auto entry = weight_map.find(tensor->info.name);
    if (entry == weight_map.end()) {
      throw InputError("{}: tensor {} is not in {}", file.string(), printable(name), kIndexFile);
    }
    if (file.filename() != entry->second) {
      throw InputError("{}: places tensor {} in {}, it is in {}", index.string(), printable(name),
                       entry->second, file.filename().string());
    }
  }
  for (const auto& [tensor, file] : weight_map) {
    if (!present.contains(tensor)) {
      throw InputError("{}: places tensor {} in {}, which lacks it", index.string(),
                       printable(tensor), file);
    }
  }
}

void open_weights(OpenModel& model) {
  std::error_code ignored;
  if (fs::exists(model.path / kSingleFile, ignored)) {  // transformers looks for it first.
    model.shards.reserve(1);
    add_shard(model, model.path / kSingleFile);
  } else if (fs::exists(model.path / kIndexFile, ignored)) {
    open_shards(model);
  } else if (fs::exists(model.path / "pytorch_model.bin", ignored) ||
             fs::exists(model.path / "pytorch_model.bin.index.json", ignored)) {
    throw InputError(
        "{}: holds pytorch_model.bin, which can run code when it is read; save the "
        "model as safetensors",
        model.path.string());
  } else {
    throw InputError("{}: neither {} nor {} is there", model.path.string(), kSingleFile,
                     kIndexFile);
  }
  std::ranges::sort(model.tensors, {}, [](const StoredTensor& t) { return t.info.name; });
}

bool is_tied(const OpenModel& model) {
  const auto& config = model.config;
  if (const auto tied = config.find("tie_word_embeddings"); tied != config.end()) {
    if (tied->is_boolean()) return tied->get<bool>();
    if (!tied->is_null()) {
      throw InputError("{}: tie_word_embeddings must be true or false, found {}",
                       (model.path / "config.json").string(), tied->dump());
    }
  }
  const auto type = config.find("model_type");
  return type != config.end() && type->is_string() &&
         std::ranges::find(kTiedByDefault, type->get_ref<const std::string&>()) !=
             kTiedByDefault.end();
}

/// What transformers does with a head that the configuration ties to the embedding: a head that
/// equals it is dropped, one that differs is kept and the tie dissolved, one that stands alone is
/// the embedding (modeling_utils.py, tie_weights).
void resolve_tied_head(OpenModel& model) {
  if (!is_tied(model)) return;
  const auto find = [&](std::string_view name) {
    return std::ranges::find(model.tensors, name,
                             [](const StoredTensor& t) -> std::string_view { return t.info.name; });
  };
  const auto head = find(kHead);
  if (head == model.tensors.end()) return;
  const auto embedding = find(kEmbedding);
  if (embedding == model.tensors.end()) {
    head->info.name = kEmbedding;
    std::ranges::sort(model.tensors, {}, [](const StoredTensor& t) { return t.info.name; });
    return;
  }
  const bool equal = head->info.storage_name == embedding->info.storage_name &&
                     head->info.shape == embedding->info.shape &&
                     std::ranges::equal(head->bytes, embedding->bytes);
  if (equal) {
    model.tensors.erase(head);
  } else {
    model.config["tie_word_embeddings"] = false;
  }
}

}  // namespace

OpenModel open_safetensors(const fs::path& file) {
  OpenModel model;
  model.path = file;
  model.config = nlohmann::json::object();
  model.shards.reserve(1);
  add_shard(model, file);
  return model;
}

OpenModel open_hugging_face(const fs::path& folder) {
  OpenModel model;
  model.kind = Kind::kHuggingFace;
  model.path = folder;
  std::error_code ignored;
  const fs::path config = folder / "config.json";
  if (!fs::exists(config, ignored)) no_model(folder);
  model.config = read_json_object(config);
  open_weights(model);
  resolve_tied_head(model);
  for (const char* name : kSideFiles) {
    if (fs::exists(folder / name, ignored)) model.side_files.push_back(folder / name);
  }
  return model;
}

}  // namespace weft::checkpoint
