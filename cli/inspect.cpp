#include "cli/inspect.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>

#include "cli/command.h"
#include "cli/output.h"
#include "core/error.h"
#include "core/terminal.h"

namespace weft::cli {
namespace {

namespace fs = std::filesystem;

// Asked in this order; the first that matches describes the path.
constexpr std::array kKinds{
    InspectKind{is_adapter_folder, inspect_adapter},    InspectKind{is_run_folder, inspect_run},
    InspectKind{is_model_folder, inspect_model_folder}, InspectKind{is_gguf, inspect_gguf},
    InspectKind{is_safetensors, inspect_safetensors},
};

/// Names and metadata come from files.
std::string shown(std::string_view text) { return core::one_line(text, '?'); }

InspectReport inspect(const fs::path& path, const InspectOptions& options) {
  std::error_code error;
  if (!fs::exists(path, error)) throw InputError("no such file or folder: {}", path.string());
  for (const InspectKind& kind : kKinds) {
    if (kind.matches(path)) return kind.inspect(path, options);
  }
  throw InputError(
      "{} is nothing that weft knows: a Hugging Face model folder (config.json), an "
      "adapter folder (adapter_config.json), the folder of a run (config.yaml and "
      "checkpoints), a .safetensors or a GGUF file",
      path.string());
}

}  // namespace

void InspectReport::line(std::string label, std::string text) {
  lines_.emplace_back(shown(label), shown(text));
}

void InspectReport::block(std::string text) { blocks_.push_back(std::move(text)); }

std::string InspectReport::text() const {
  int width = 0;
  for (const auto& [label, value] : lines_) width = std::max(width, core::display_width(label));
  std::string text;
  for (const auto& [label, value] : lines_) {
    const auto gap = static_cast<std::size_t>(width - core::display_width(label) + 2);
    text += label + std::string(gap, ' ') + value + '\n';
  }
  for (const std::string& block : blocks_) text += '\n' + block;
  return text;
}

void TensorCensus::add(std::string name, std::string storage, std::vector<std::int64_t> shape,
                       std::uint64_t bytes) {
  std::uint64_t elements = 1;
  for (const std::int64_t size : shape) elements *= static_cast<std::uint64_t>(size);
  Sum& sum = storages_[storage];
  sum.tensors += 1;
  sum.elements += elements;
  sum.bytes += bytes;
  tensors_.push_back({std::move(name), std::move(storage), std::move(shape), elements, bytes});
}

void TensorCensus::describe(InspectReport& report, const InspectOptions& options) const {
  Sum all;
  core::Table types({"type", "tensors", "parameters", "bytes"});
  auto json_types = nlohmann::ordered_json::array();
  for (const auto& [storage, sum] : storages_) {
    all.tensors += sum.tensors;
    all.elements += sum.elements;
    all.bytes += sum.bytes;
    types.add({storage, std::to_string(sum.tensors), core::human_count(sum.elements),
               core::human_bytes(sum.bytes)});
    json_types.push_back({{"type", storage},
                          {"tensors", sum.tensors},
                          {"parameters", sum.elements},
                          {"bytes", sum.bytes}});
  }
  report.line("parameters",
              fmt::format("{} in {} tensors", core::human_count(all.elements), all.tensors));
  report.line("size", core::human_bytes(all.bytes));
  report.json["parameters"] = all.elements;
  report.json["bytes"] = all.bytes;
  report.json["types"] = json_types;
  if (!storages_.empty()) report.block(types.text());

  if (!options.tensors) return;
  core::Table table({"tensor", "shape", "type", "bytes"});
  auto list = nlohmann::ordered_json::array();
  for (const Tensor& tensor : tensors_) {
    table.add({shown(tensor.name), fmt::format("{}", fmt::join(tensor.shape, " x ")),
               tensor.storage, core::human_bytes(tensor.bytes)});
    list.push_back({{"name", tensor.name},
                    {"shape", tensor.shape},
                    {"type", tensor.storage},
                    {"bytes", tensor.bytes}});
  }
  report.json["tensors"] = list;
  report.block(table.text());
}

Run add_inspect(CommandLine& app);
Run add_inspect(CommandLine& app) {
  struct Arguments {
    std::string path;
    InspectOptions options;
    bool json = false;
    bool no_hash = false;
    bool verify = false;
    bool machine = false;
  };
  const auto arguments = std::make_shared<Arguments>();
  app.description(
      "Says what a model, a weights file, an adapter or a run's folder holds, or what the machine "
      "computes with.");
  const CommandOption path =
      app.option("path", arguments->path,
                 "Hugging Face folder, GGUF or .safetensors file, adapter, run's folder");
  const CommandOption tensors =
      app.flag("--tensors", arguments->options.tensors, "list every tensor");
  const CommandOption no_hash =
      app.flag("--no-hash", arguments->no_hash, "skip the digest, which reads all weights");
  const CommandOption verify =
      app.flag("--verify", arguments->verify,
               "hold a folder that weft merge wrote against its merge.json: every file's SHA-256; "
               "with --no-hash the inputs are not read");
  app.flag("--machine", arguments->machine,
           "this machine: processor, caches, the kernels that it can multiply with, which are "
           "chosen and how fast they are (takes a second)")
      .excludes(path)
      .excludes(tensors)
      .excludes(no_hash)
      .excludes(verify);
  app.flag("--json", arguments->json, "for programs: one JSON object");
  return [arguments] {
    arguments->options.hash = !arguments->no_hash;
    if (arguments->path.empty() && !arguments->machine)
      throw ConfigError("inspect: name a file or folder, or give --machine");
    const auto describe = [&] {
      if (arguments->machine) return inspect_machine();
      return arguments->verify ? verify_folder(arguments->path, arguments->options)
                               : inspect(arguments->path, arguments->options);
    };
    const InspectReport report = describe();
    if (arguments->json) {
      // Names and metadata come from files: malformed bytes must not end the output.
      print("{}\n", report.json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
    } else {
      print("{}", report.text());
    }
    return 0;
  };
}

}  // namespace weft::cli
