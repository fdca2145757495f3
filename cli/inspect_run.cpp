#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "checkpoint/json_file.h"
#include "cli/inspect.h"
#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/terminal.h"
#include "lora/peft_file.h"
#include "lora/provenance.h"

// A run's folder, as docs/run_folder.md describes it. The run may be under way, or may have ended
// anywhere: what is not there yet is told as such.

namespace weft::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

/// What metrics.jsonl tells about the whole run.
struct Curve {
  Json last_update;      ///< Null before the first.
  Json best_validation;  ///< Null without one.
  std::int64_t evaluations = 0;
  Json last_suites;  ///< The figures of `evaluate:`, null before the first.
};

/// A line of metrics.jsonl: an update has `loss`, an evaluation `validation_loss` or `suites`.
Json read_line(const std::string& line, const std::string& where) {
  Json entry = checkpoint::parse_json(line, where);
  const char* loss = entry.contains("loss") ? "loss" : "validation_loss";
  const auto is_number = [&](const char* key) {
    return entry.contains(key) && entry[key].is_number();
  };
  const bool has_suites = entry.contains("suites") && entry["suites"].is_object();
  if (!is_number("update") || !(is_number(loss) || has_suites)) {
    throw InputError(
        "{}: expected an object with numbers 'update' and 'loss' or 'validation_loss', "
        "or the 'suites'",
        where);
  }
  return entry;
}

Curve read_curve(const fs::path& file) {
  Curve curve;
  std::error_code ignored;
  if (!fs::exists(file, ignored)) return curve;
  std::istringstream lines(core::read_text(file));
  std::int64_t number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (lines.eof()) break;  // Without its line end: still being written.
    const Json entry = read_line(line, fmt::format("{}:{}", file.string(), number));
    if (entry.contains("loss")) {
      curve.last_update = entry;
      continue;
    }
    if (entry.contains("suites")) {
      curve.last_suites = entry;
      continue;
    }
    ++curve.evaluations;
    if (entry.value("best", Json()) == true) curve.best_validation = entry;
  }
  return curve;
}

/// The object in a file of the folder; null when the run has not written it.
Json read_part(const fs::path& file) {
  std::error_code ignored;
  if (!fs::exists(file, ignored)) return nullptr;
  return checkpoint::read_json_object(file);
}

std::uint64_t size_of(const fs::path& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    const std::uintmax_t size = fs::file_size(path, error);
    return error ? 0 : size;
  }
  std::uint64_t bytes = 0;
  // A run under way removes files meanwhile, so an error ends the walk and not the report.
  for (fs::recursive_directory_iterator entry(path, error), end; entry != end && !error;
       entry.increment(error)) {
    if (entry->is_regular_file(error)) bytes += size_of(entry->path());
  }
  return bytes;
}

/// Numbers of updates after which a checkpoint was written, in order. Other names are leftovers.
std::vector<std::int64_t> checkpoints_in(const fs::path& folder) {
  std::vector<std::int64_t> updates;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    const bool is_number = name.find_first_not_of("0123456789") == std::string::npos;
    if (is_number && name.size() < 18 && fs::exists(entry.path() / "state.json", error)) {
      updates.push_back(std::stoll(name));
    }
  }
  std::ranges::sort(updates);
  return updates;
}

std::string text_at(const Json& json, const Json::json_pointer& place) {
  return json.contains(place) && json[place].is_string() ? json[place].get<std::string>() : "?";
}

void describe_provenance(const Json& provenance, InspectReport& report) {
  report.json["provenance"] = provenance;
  if (provenance.is_null()) {
    report.line("provenance", "not written yet");
    return;
  }
  using Place = Json::json_pointer;
  report.line("program", fmt::format("{}, started {}", text_at(provenance, Place("/program")),
                                     text_at(provenance, Place("/started"))));
  report.line("base", fmt::format("{} ({}, stored as {}, computed in {})",
                                  text_at(provenance, Place("/base/path")),
                                  text_at(provenance, Place("/base/weights")),
                                  text_at(provenance, Place("/base/storage")),
                                  text_at(provenance, Place("/base/compute"))));
  report.line("tokenizer", text_at(provenance, Place("/tokenizer")));
  const std::string chat_template = text_at(provenance, Place("/chat_template"));
  report.line("template", chat_template.empty() ? "none" : chat_template);
  if (!provenance.contains("data")) return;
  for (const auto& [place, files] : provenance["data"].items()) {
    for (const Json& file : files) {
      report.line(place, fmt::format("{} ({})", text_at(file, Place("/path")),
                                     text_at(file, Place("/sha256"))));
    }
  }
}

/// config.yaml is written as its digest is recorded, so that the two tell whether it was edited.
void describe_config(const fs::path& file, const Json& provenance, InspectReport& report) {
  const std::string digest = core::sha256_file(file);
  const bool is_recorded = provenance.contains("config");
  const bool is_edited = is_recorded && provenance["config"] != digest;
  report.line("config",
              fmt::format("sha256 {}{}", digest, is_edited ? "; edited since the run began" : ""));
  report.json["config"] = {{"sha256", digest},
                           {"edited", is_recorded ? Json(is_edited) : Json(nullptr)}};
}

void describe_curve(const Curve& curve, const Json& preflight, InspectReport& report) {
  const Json total = preflight.contains("updates") ? preflight["updates"] : Json(nullptr);
  const Json done = curve.last_update.is_null() ? Json(0) : curve.last_update["update"];
  report.line("updates",
              fmt::format("{} of {}", done.dump(), total.is_null() ? "?" : total.dump()));
  report.json["updates"] = {{"done", done}, {"total", total}};
  report.json["last_update"] = curve.last_update;
  report.json["best_validation"] = curve.best_validation;
  report.json["evaluations"] = curve.evaluations;
  report.json["last_suites"] = curve.last_suites;
  if (!curve.last_update.is_null()) {
    report.line("last loss", fmt::format("{:.4f}", curve.last_update["loss"].get<double>()));
  }
  if (!curve.best_validation.is_null()) {
    report.line("validation loss",
                fmt::format("{:.4f}, the lowest of {}, at update {}",
                            curve.best_validation["validation_loss"].get<double>(),
                            curve.evaluations, curve.best_validation["update"].dump()));
  }
}

void describe_adapter(const fs::path& folder, InspectReport& report) {
  report.json["adapter"] = nullptr;
  if (!is_adapter_folder(folder)) {
    report.line("adapter", "not written yet");
    return;
  }
  const std::uint64_t bytes = size_of(folder);
  const auto provenance = lora::read_provenance(folder);
  const Json more = provenance ? Json(provenance->more) : Json(nullptr);
  const Json update = more.contains("update") ? more["update"] : Json(nullptr);
  const Json chosen = more.contains("chosen") ? more["chosen"] : Json(nullptr);
  report.json["adapter"] = {
      {"path", folder.string()}, {"update", update}, {"chosen", chosen}, {"bytes", bytes}};
  report.line(
      "adapter",
      fmt::format("of update {} ({}), {}", update.is_null() ? "?" : update.dump(),
                  chosen.is_string() ? chosen.get<std::string>() : "?", core::human_bytes(bytes)));
}

void describe_checkpoints(const fs::path& folder, InspectReport& report) {
  core::Table table({"checkpoint", "bytes"});
  Json list = Json::array();
  for (const std::int64_t update : checkpoints_in(folder)) {
    const std::string name = fmt::format("{:06}", update);
    const std::uint64_t bytes = size_of(folder / name);
    table.add({name, core::human_bytes(bytes)});
    list.push_back({{"update", update}, {"path", (folder / name).string()}, {"bytes", bytes}});
  }
  if (!list.empty()) report.block(table.text());
  report.line("checkpoints", fmt::format("{}", list.size()));
  report.json["checkpoints"] = std::move(list);
}

}  // namespace

bool is_run_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path / "config.yaml", ignored) &&
         fs::is_directory(path / "checkpoints", ignored);
}

InspectReport inspect_run(const fs::path& path, const InspectOptions&) {
  const Json provenance = read_part(path / "provenance.json");
  InspectReport report;
  report.line("kind", "folder of a training run");
  report.json["kind"] = "run";
  report.json["path"] = path.string();
  describe_provenance(provenance, report);
  describe_config(path / "config.yaml", provenance, report);
  describe_curve(read_curve(path / "metrics.jsonl"), read_part(path / "preflight.json"), report);
  describe_adapter(path / "adapter", report);
  describe_checkpoints(path / "checkpoints", report);
  const std::uint64_t bytes = size_of(path);
  report.line("size", core::human_bytes(bytes));
  report.json["bytes"] = bytes;
  return report;
}

}  // namespace weft::cli
