#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <initializer_list>
#include <optional>
#include <set>

#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf.h"
#include "checkpoint/json_file.h"
#include "checkpoint/safetensors.h"
#include "cli/inspect.h"
#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/terminal.h"
#include "text/template_file.h"

namespace weft::cli {
namespace {

namespace fs = std::filesystem;
using checkpoint::Checkpoint;
using checkpoint::Gguf;
using nlohmann::json;

/// The first of `names` that is a number in `config`, as text; families spell them differently.
std::string number(const json& config, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const auto found = config.find(name);
    if (found != config.end() && found->is_number()) return found->dump();
  }
  return {};
}

std::string text_or_empty(const json& config, const char* name) {
  const auto found = config.find(name);
  return found != config.end() && found->is_string() ? found->get<std::string>() : std::string();
}

/// "30 layers, width 576, 9 heads of 64 (3 for keys and values), feed-forward 1536, ..."
std::string describe_shape(const json& config) {
  std::vector<std::string> parts;
  const auto add = [&](std::string_view pattern, const std::string& value) {
    if (!value.empty()) parts.push_back(fmt::format(fmt::runtime(pattern), value));
  };
  add("{} layers", number(config, {"num_hidden_layers", "n_layer", "block_count"}));
  add("width {}", number(config, {"hidden_size", "n_embd", "embedding_length"}));
  std::string heads = number(config, {"num_attention_heads", "n_head", "attention.head_count"});
  if (const std::string width = number(config, {"head_dim"}); !heads.empty() && !width.empty()) {
    heads += " heads of " + width;
  } else if (!heads.empty()) {
    heads += " heads";
  }
  if (const std::string keys = number(config, {"num_key_value_heads", "attention.head_count_kv"});
      !heads.empty() && !keys.empty()) {
    heads += fmt::format(" ({} for keys and values)", keys);
  }
  add("{}", heads);
  add("feed-forward {}", number(config, {"intermediate_size", "n_inner", "feed_forward_length"}));
  add("vocabulary {}", number(config, {"vocab_size"}));
  return fmt::format("{}", fmt::join(parts, ", "));
}

void describe_config(const json& config, InspectReport& report) {
  std::string family = text_or_empty(config, "model_type");
  const auto classes = config.find("architectures");
  if (classes != config.end() && classes->is_array() && !classes->empty() &&
      (*classes)[0].is_string()) {
    family += fmt::format(" ({})", (*classes)[0].get<std::string>());
  }
  report.line("family", family.empty() ? "not named in config.json" : family);
  if (const std::string shape = describe_shape(config); !shape.empty()) report.line("shape", shape);
  const std::string context =
      number(config, {"max_position_embeddings", "n_positions", "context_length"});
  if (!context.empty()) report.line("context", context + " tokens");
  const auto tied = config.find("tie_word_embeddings");
  if (tied != config.end() && tied->is_boolean()) {
    report.line("head", tied->get<bool>() ? "tied to the embeddings" : "its own weights");
  }
  report.json["family"] = text_or_empty(config, "model_type");
  report.json["config"] = config;
}

void describe_template(const std::optional<std::string>& source, InspectReport& report) {
  if (!source) {
    report.line("chat template", "none");
    report.json["chat_template"] = nullptr;
    return;
  }
  const std::string digest = core::sha256(*source);
  report.line("chat template", fmt::format("{} bytes, sha256 {}", source->size(), digest));
  report.json["chat_template"] = {{"bytes", source->size()}, {"sha256", digest}};
}

void describe_folder_tokenizer(const fs::path& folder, InspectReport& report) {
  std::error_code ignored;
  auto& out = report.json["tokenizer"];
  out = nullptr;
  for (const char* name : {"tokenizer.json", "tokenizer.model"}) {
    const fs::path file = folder / name;
    if (!fs::exists(file, ignored)) continue;
    std::string kind = "SentencePiece";
    if (file.extension() == ".json") {
      const json tokenizer = checkpoint::read_json_object(file);
      const auto model = tokenizer.find("model");
      kind = model != tokenizer.end() && model->is_object() ? text_or_empty(*model, "type") : "";
    }
    const std::string digest = core::sha256_file(file);
    report.line("tokenizer", fmt::format("{} ({}), sha256 {}", name, kind, digest));
    out = {{"file", name}, {"kind", kind}, {"sha256", digest}};
    return;
  }
  report.line("tokenizer", "none");
}

void describe_gguf_tokenizer(const Gguf& file, InspectReport& report) {
  const auto model = file.string("tokenizer.ggml.model");
  auto& out = report.json["tokenizer"];
  if (!model) {
    out = nullptr;
    report.line("tokenizer", "none");
    return;
  }
  const std::string pre(file.string("tokenizer.ggml.pre").value_or(""));
  const auto tokens = file.strings("tokenizer.ggml.tokens");
  const std::size_t count = tokens ? tokens->size() : 0;
  report.line("tokenizer", fmt::format("in the file ({}{}), {} tokens", *model,
                                       pre.empty() ? "" : ", pre " + pre, count));
  out = {{"kind", *model}, {"pre", pre}, {"tokens", count}};
}

void describe_weights(const Checkpoint& model, const InspectOptions& options,
                      InspectReport& report) {
  TensorCensus census;
  for (const checkpoint::TensorInfo& tensor : model.tensors()) {
    census.add(tensor.name, tensor.storage_name, tensor.shape, tensor.bytes);
  }
  census.describe(report, options);
  if (options.hash && !model.tensors().empty()) {
    const std::string digest = model.weights_digest();
    report.line("weights", fmt::format("sha256 {} (of their values)", digest));
    report.json["weights_digest"] = digest;
  }
}

/// GGUF metadata of the architecture under config.json's role, for families weft cannot use.
json raw_gguf_config(const Gguf& file, std::string_view architecture) {
  json config = {{"model_type", architecture}};
  const std::string prefix = fmt::format("{}.", architecture);
  for (const checkpoint::GgufEntry& entry : file.metadata()) {
    if (!entry.key.starts_with(prefix)) continue;
    const std::string name = entry.key.substr(prefix.size());
    if (const auto* integer = std::get_if<std::int64_t>(&entry.value)) {
      config[name] = *integer;
    } else if (const auto* count = std::get_if<std::uint64_t>(&entry.value)) {
      config[name] = *count;
    } else if (const auto* real = std::get_if<double>(&entry.value)) {
      config[name] = *real;
    }
  }
  return config;
}

}  // namespace

bool is_model_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored) && fs::exists(path / "config.json", ignored);
}

InspectReport inspect_model_folder(const fs::path& path, const InspectOptions& options) {
  const Checkpoint model = Checkpoint::open(path);
  InspectReport report;
  report.line("kind", "Hugging Face folder");
  report.json["kind"] = "huggingface";
  report.json["path"] = path.string();
  describe_config(model.config(), report);
  std::set<fs::path> files;
  for (const checkpoint::TensorInfo& tensor : model.tensors()) files.insert(tensor.file);
  report.line("files", fmt::format("{} of weights", files.size()));
  report.json["files"] = files.size();
  describe_folder_tokenizer(path, report);
  describe_template(text::find_template(path), report);
  describe_weights(model, options, report);
  return report;
}

bool is_gguf(const fs::path& path) {
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) return false;
  std::string magic(4, '\0');
  std::ifstream(path, std::ios::binary).read(magic.data(), 4);
  return magic == "GGUF" || path.extension() == ".gguf";
}

InspectReport inspect_gguf(const fs::path& path, const InspectOptions& options) {
  const Gguf file = Gguf::open(path);
  const std::string architecture(file.string("general.architecture").value_or(""));
  InspectReport report;
  report.line("kind", fmt::format("GGUF file, version {}", file.version()));
  report.json["kind"] = "gguf";
  report.json["path"] = path.string();
  report.json["version"] = file.version();
  for (const char* key : {"general.name", "general.license"}) {
    if (const auto value = file.string(key)) report.line(key + 8, std::string(*value));
  }
  std::optional<Checkpoint> model;
  std::string fault;
  try {
    model = Checkpoint::open(path);
  } catch (const InputError& error) {  // Unusable is a fact to report, not a failure of inspect.
    fault = error.what();
  }
  describe_config(
      model && !model->tensors().empty() ? model->config() : raw_gguf_config(file, architecture),
      report);
  describe_gguf_tokenizer(file, report);
  const auto source = file.string("tokenizer.chat_template");
  describe_template(source ? std::optional<std::string>(*source) : std::nullopt, report);
  report.json["usable"] = model.has_value();
  if (model && !model->tensors().empty()) {
    describe_weights(*model, options, report);
  } else {
    TensorCensus census;
    for (const checkpoint::GgufTensor& tensor : file.tensors()) {
      census.add(tensor.name, std::string(tensor.type->name), tensor.shape, tensor.bytes);
    }
    census.describe(report, options);
  }
  if (!fault.empty()) {
    report.line("not usable", fault);
    report.json["fault"] = fault;
  }
  return report;
}

bool is_safetensors(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored) && path.extension() == ".safetensors";
}

InspectReport inspect_safetensors(const fs::path& path, const InspectOptions& options) {
  const auto file = checkpoint::Safetensors::open(path);
  InspectReport report;
  report.line("kind", "safetensors file");
  report.json["kind"] = "safetensors";
  report.json["path"] = path.string();
  for (const auto& [key, value] : file.metadata()) report.line("metadata " + key, value);
  report.json["metadata"] = file.metadata();
  TensorCensus census;
  for (const checkpoint::SafetensorsEntry& entry : file.entries()) {
    census.add(entry.name, entry.dtype, entry.shape, entry.bytes());
  }
  census.describe(report, options);
  if (options.hash) {
    const std::string digest = core::sha256_file(path);
    report.line("file", "sha256 " + digest);
    report.json["sha256"] = digest;
  }
  return report;
}

}  // namespace weft::cli
