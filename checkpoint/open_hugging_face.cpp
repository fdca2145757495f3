#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <utility>

#include "checkpoint/dequantize.h"
#include "checkpoint/json_file.h"
#include "checkpoint/mxfp4.h"
#include "checkpoint/open_model.h"
#include "checkpoint/printable.h"
#include "checkpoint/python_json.h"
#include "checkpoint/roles.h"
#include "core/error.h"
#include "core/file.h"

namespace weft::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

// Weights in this and other formats, and what belongs to them.
constexpr std::array<std::string_view, 14> kWeightEndings{
    ".safetensors", ".bin", ".pt",      ".pth",  ".gguf",      ".ggml", ".onnx",
    ".h5",          ".ot",  ".msgpack", ".ckpt", ".onnx_data", ".npz",  ".safetensors.index.json"};

/// Files and folders that belong to one state of the weights, to weft's own outputs, or to the
/// model's place on a disk, and not to the model.
constexpr std::array<std::string_view, 8> kNotOfTheModel{
    "config.json",       "merge.json",         "merge_recipe.yaml",    "adapter_config.json",
    "training_args.bin", "trainer_state.json", "weft_provenance.json", "README.md"};

/// Folders of files that a tokenizer or a processor loads.
constexpr std::array<std::string_view, 1> kSideFolders{"additional_chat_templates"};

bool is_side_file(const fs::path& path) {
  const std::string name = path.filename();
  if (name.starts_with('.') || name.ends_with(".index.json")) return false;
  const auto ends = [&](std::string_view ending) { return name.ends_with(ending); };
  return std::ranges::none_of(kWeightEndings, ends) &&
         std::ranges::find(kNotOfTheModel, name) == kNotOfTheModel.end();
}

/// All that lies beside the weights and is needed to use them, or to pass them on: tokenizers and
/// processors of any kind, chat templates, modelling code, licences.
std::vector<fs::path> side_files_of(const fs::path& folder) {
  std::vector<fs::path> files;
  const auto add = [&](const fs::path& from) {
    std::error_code error;
    for (fs::directory_iterator entry(from, error), end; !error && entry != end;
         entry.increment(error)) {
      std::error_code ignored;
      if (entry->is_regular_file(ignored) && is_side_file(entry->path())) {
        files.push_back(entry->path());
      }
    }
  };
  add(folder);
  for (const std::string_view name : kSideFolders) add(folder / name);
  std::ranges::sort(files);
  return files;
}

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
}

void sort_by_name(OpenModel& model) {
  std::ranges::sort(model.tensors, {}, [](const StoredTensor& t) { return t.info.name; });
}

/// Gives tensors of a family whose published files lack the beginning of their names ("h.0.ln_1" of
/// GPT-2) the names that they have in the model, and in adapters for it.
void complete_names(OpenModel& model) {
  const std::string_view prefix = optional_prefix(model.config);
  if (prefix.empty()) return;
  const bool complete = std::ranges::any_of(
      model.tensors, [&](const StoredTensor& t) { return t.info.name.starts_with(prefix); });
  if (complete) return;
  for (StoredTensor& tensor : model.tensors) {
    if (!is_head_name(tensor.info.name)) tensor.info.name = std::string(prefix) + tensor.info.name;
  }
  sort_by_name(model);
}

/// What transformers does with a head that the configuration ties to the embedding: a head that
/// equals it is dropped, one that differs is kept and the tie dissolved, one that stands alone is
/// the embedding (modeling_utils.py, tie_weights).
void resolve_tied_head(OpenModel& model) {
  if (!ties_head(model.config, (model.path / "config.json").string())) return;
  const auto find = [&](std::string_view name) {
    return std::ranges::find(model.tensors, name,
                             [](const StoredTensor& t) -> std::string_view { return t.info.name; });
  };
  const RoleNames names = role_names(
      model.config, [&](std::string_view name) { return find(name) != model.tensors.end(); });
  if (names.head.empty()) return;
  const auto head = find(names.head);
  if (names.embedding.empty()) {
    if (names.usual_embedding.empty()) return;
    head->info.name = names.usual_embedding;
    return sort_by_name(model);
  }
  const auto embedding = find(names.embedding);
  const bool equal = head->info.storage_name == embedding->info.storage_name &&
                     head->info.shape == embedding->info.shape &&
                     std::ranges::equal(head->bytes, embedding->bytes);
  if (equal) {
    model.tensors.erase(head);
  } else {
    model.config["tie_word_embeddings"] = false;
  }
}

/// config.json as Python writes it.
nlohmann::json read_config(const fs::path& path) {
  constexpr std::uint64_t kMostBytes = std::uint64_t{256} << 20;
  nlohmann::json config =
      parse_json(quote_constants(core::read_text(path, kMostBytes)), path.string());
  if (config.is_object()) return config;
  throw InputError("{}: expected a JSON object, found {}", path.string(), config.type_name());
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
  model.config = read_config(config);
  open_weights(model);
  join_mxfp4(model);
  sort_by_name(model);
  complete_names(model);
  resolve_tied_head(model);
  model.side_files = side_files_of(folder);
  return model;
}

}  // namespace weft::checkpoint
