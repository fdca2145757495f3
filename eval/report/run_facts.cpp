#include "eval/report/run_facts.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>

#include "checkpoint/json_file.h"
#include "core/error.h"
#include "core/file.h"
#include "schema/node.h"

namespace weft::eval {
namespace {

namespace fs = std::filesystem;

/// The keys that a reader asks for first, and what a page calls them.
constexpr std::pair<std::string_view, std::string_view> kKeys[] = {
    {"base_model", "base"},
    {"adapter.r", "rank"},
    {"adapter.lora_alpha", "lora_alpha"},
    {"adapter.use_rslora", "use_rslora"},
    {"adapter.lora_dropout", "lora_dropout"},
    {"adapter.target_modules", "target modules"},
    {"learning_rate", "learning rate"},
    {"lr_scheduler", "schedule"},
    {"warmup", "warm-up"},
    {"weight_decay", "weight decay"},
    {"num_epochs", "epochs"},
    {"max_updates", "updates at most"},
    {"tokens_per_update", "tokens an update"},
    {"sequence_len", "tokens a row"},
    {"dtype", "precision"},
    {"base_quantization", "base held as"},
    {"seed", "seed"}};

const schema::ConfigNode* find(const schema::ConfigNode& tree, std::string_view path) {
  const schema::ConfigNode* node = &tree;
  while (node != nullptr && !path.empty()) {
    const std::size_t dot = std::min(path.find('.'), path.size());
    node = node->find(path.substr(0, dot));
    path.remove_prefix(std::min(dot + 1, path.size()));
  }
  return node;
}

std::string shown(const schema::ConfigNode& node) {
  return node.kind == schema::ConfigNode::Kind::kScalar ? node.text : schema::emit_flow(node);
}

/// The files of `datasets`, each on a line.
std::string data_of(const schema::ConfigNode& tree, std::string_view key) {
  const schema::ConfigNode* sets = tree.find(key);
  if (sets == nullptr) return {};
  std::vector<std::string> files;
  const auto add = [&](const schema::ConfigNode& set) {
    if (const schema::ConfigNode* path = set.find("path")) files.push_back(shown(*path));
  };
  if (sets->kind == schema::ConfigNode::Kind::kList) std::ranges::for_each(sets->items, add);
  if (sets->kind == schema::ConfigNode::Kind::kMap) add(*sets);
  return fmt::format("{}", fmt::join(files, "\n"));
}

void read_config(const fs::path& file, RunFacts::Lines& lines) {
  schema::Problems problems;
  const schema::ConfigNode tree = schema::parse_yaml(core::read_text(file), problems);
  if (!problems.empty()) return;
  const auto add = [&](std::string_view name, std::string_view value) {
    if (!value.empty()) lines.emplace_back(name, value);
  };
  for (const auto& [key, name] : kKeys) {
    const schema::ConfigNode* node = find(tree, key);
    if (node != nullptr && node->kind != schema::ConfigNode::Kind::kNull) add(name, shown(*node));
    if (key != "base_model") continue;
    add("training data", data_of(tree, "datasets"));
    add("validation data", data_of(tree, "validation"));
  }
}

std::string text_at(const nlohmann::json& json, const char* key) {
  return json.is_object() && json.contains(key) && json[key].is_string()
             ? json[key].get<std::string>()
             : std::string();
}

void read_provenance(const fs::path& file, RunFacts::Lines& lines) {
  const nlohmann::json json = checkpoint::read_json_object(file);
  const auto add = [&](std::string_view name, std::string_view value) {
    if (!value.empty()) lines.emplace_back(name, value);
  };
  add("program", text_at(json, "program"));
  add("started", text_at(json, "started"));
  if (json.contains("base")) add("weights of the base", text_at(json["base"], "weights"));
  add("tokenizer", text_at(json, "tokenizer"));
  add("chat template", text_at(json, "chat_template"));
  add("configuration", text_at(json, "config"));
  if (!json.contains("data") || !json["data"].is_object()) return;
  for (const auto& [place, files] : json["data"].items()) {
    if (!files.is_array()) continue;
    for (const nlohmann::json& entry : files) {
      const std::string name = fs::path(text_at(entry, "path")).filename().string();
      add(name.empty() ? std::string_view(place) : std::string_view(name),
          text_at(entry, "sha256"));
    }
  }
}

}  // namespace

RunFacts read_run_facts(const fs::path& folder) {
  RunFacts facts;
  std::error_code ignored;
  try {
    if (fs::exists(folder / "config.yaml", ignored))
      read_config(folder / "config.yaml", facts.made_of);
    if (fs::exists(folder / "provenance.json", ignored))
      read_provenance(folder / "provenance.json", facts.digests);
  } catch (const Error&) {
    // A page without them is better than none: the curves are what it is about.
  }
  return facts;
}

}  // namespace weft::eval
