#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "core/terminal.h"
#include "core/version.h"
#include "merge/merge.h"

namespace weft::merge {
namespace {

/// Folded tensors of one kind of layer, such as all q_proj.
struct Group {
  std::size_t tensors = 0;
  std::int64_t least_rank = 0;
  std::int64_t most_rank = 0;
  double base = 0;  ///< Squared norms.
  double update = 0;
  double kept = 0;
  double changed = 0;  ///< Sum of shares: tensors of one kind have the same shape.
  double error = 0;
};

/// "q_proj" of "model.layers.0.self_attn.q_proj.weight".
std::string kind_of(const std::string& name) {
  const std::string path = name.substr(0, name.rfind('.'));
  return path.substr(path.rfind('.') + 1);
}

std::string rank_text(const Group& group) {
  return group.least_rank == group.most_rank
             ? fmt::format("{}", group.most_rank)
             : fmt::format("{}-{}", group.least_rank, group.most_rank);
}

std::string folded_table(const std::vector<FoldedTensor>& folded) {
  std::map<std::string, Group> groups;
  for (const FoldedTensor& tensor : folded) {
    Group& group = groups[kind_of(tensor.name)];
    group.least_rank = group.tensors == 0 ? tensor.rank : std::min(group.least_rank, tensor.rank);
    group.most_rank = std::max(group.most_rank, tensor.rank);
    group.tensors += 1;
    group.base += tensor.base_norm * tensor.base_norm;
    group.update += tensor.update_norm * tensor.update_norm;
    group.kept += tensor.retained * tensor.update_norm * tensor.update_norm;
    group.changed += tensor.changed;
    group.error = std::max(group.error, tensor.largest_error);
  }
  core::Table table(
      {"layer", "tensors", "rank", "|update|/|base|", "changed", "retained", "largest error"});
  for (const auto& [name, group] : groups) {
    table.add({name, fmt::format("{}", group.tensors), rank_text(group),
               group.base > 0 ? fmt::format("{:.3e}", std::sqrt(group.update / group.base)) : "-",
               fmt::format("{:.1f} %", 100 * group.changed / static_cast<double>(group.tensors)),
               group.update > 0 ? fmt::format("{:.2f} %", 100 * group.kept / group.update) : "-",
               fmt::format("{:.1e}", group.error)});
  }
  return table.text();
}

/// Every tensor of the adapter and the tensor of the model that it went into.
nlohmann::json used_keys(const std::vector<lora::KeyUse>& keys) {
  nlohmann::json used = nlohmann::json::object();
  for (const lora::KeyUse& use : keys) used[use.key] = use.tensor;
  return used;
}

nlohmann::json outputs_json(const std::vector<WrittenFile>& outputs) {
  nlohmann::json list = nlohmann::json::array();
  for (const WrittenFile& file : outputs) {
    list.push_back({{"file", file.name}, {"bytes", file.bytes}, {"sha256", file.sha256}});
  }
  return list;
}

nlohmann::json choice_json(const TypeChoice& choice) {
  nlohmann::json tensors = nlohmann::json::object();
  for (const RetainedShare& tensor : choice.tensors) {
    tensors[tensor.name] = {{"as_planned", tensor.as_planned}, {"F16", tensor.f16}};
  }
  return {{"chosen", choice.dtype ? core::name_of(*choice.dtype) : "as planned"},
          {"below", choice.below()},
          {"sampled", std::move(tensors)}};
}

nlohmann::json folded_json(const FoldedTensor& tensor) {
  nlohmann::json json = {{"name", tensor.name},
                         {"rank", tensor.rank},
                         {"dtype", core::name_of(tensor.dtype)},
                         {"rounding", name_of(tensor.rounding)},
                         {"base_norm", tensor.base_norm},
                         {"update_norm", tensor.update_norm},
                         {"largest_error", tensor.largest_error},
                         {"changed", tensor.changed},
                         {"retained", tensor.retained}};
  if (!tensor.device.empty()) json["device"] = tensor.device;
  return json;
}

/// Changed tensors by what computed them, but for those of the processor. A merge that was stopped
/// and went on elsewhere has several.
std::map<std::string, std::int64_t> computed_elsewhere(const MergeReport& report) {
  std::map<std::string, std::int64_t> tensors;
  if (!report.device.empty()) tensors[report.device] = 0;
  for (const FoldedTensor& tensor : report.folded) {
    if (!tensor.device.empty()) ++tensors[tensor.device];
  }
  return tensors;
}

}  // namespace

nlohmann::json report_json(const MergeReport& report) {
  nlohmann::json json = {
      {"format", 1},
      {"weft_version", core::kVersion},
      {"base",
       {{"path", report.model.string()},
        {"weights_digest", report.base_digest},
        {"digest_kept", report.base_digest_kept},
        {"storage", report.base_storage}}},
      {"dtype", core::name_of(report.dtype)},
      {"tensors", report.tensors},
      {"files", report.files},
      {"bytes", report.bytes},
      {"seconds", report.seconds},
      {"retained", retained(report.folded)},
      {"outputs", outputs_json(report.outputs)},
      {"adapters", nlohmann::json::array()},
      {"folded", nlohmann::json::array()},
  };
  if (report.choice) json["auto_dtype"] = choice_json(*report.choice);
  if (report.rounding != Rounding::kNearest) {
    json["rounding"] = name_of(report.rounding);
    if (report.seed) json["seed"] = *report.seed;
  }
  if (!report.method.empty()) {
    json["method"] = report.method;
    json["recipe"] = report.recipe;
    json["models"] = nlohmann::json::array();
    if (report.seed) json["seed"] = *report.seed;
  }
  for (const MergeReport::Model& model : report.models) {
    json["models"].push_back({{"path", model.path},
                              {"weights_digest", model.digest},
                              {"digest_kept", model.digest_kept},
                              {"storage", model.storage},
                              {"base", model.base}});
  }
  for (const MergeReport::Adapter& adapter : report.adapters) {
    json["adapters"].push_back({{"path", adapter.directory.string()},
                                {"weight", adapter.weight},
                                {"digest", adapter.digest},
                                {"modules", adapter.modules},
                                {"keys", adapter.stored_keys},
                                {"used", used_keys(adapter.keys)},
                                {"parameters", adapter.parameters},
                                {"base_check", adapter.base_check}});
  }
  for (const FoldedTensor& tensor : report.folded) json["folded"].push_back(folded_json(tensor));
  for (const auto& [name, tensors] : computed_elsewhere(report)) {
    json["devices"].push_back({{"name", name}, {"tensors", tensors}});
  }
  if (report.verification) json["verification"] = verification_json(*report.verification);
  return json;
}

std::string report_table(const MergeReport& report) {
  std::string text;
  if (!report.method.empty()) {
    text += fmt::format("method    {}{}\n", report.method,
                        report.seed ? fmt::format(" (seed {})", *report.seed) : "");
  }
  for (const MergeReport::Model& model : report.models) {
    text += fmt::format("model     {} ({}){}\n", model.path, model.storage,
                        model.base ? ", the base" : "");
  }
  for (const MergeReport::Adapter& adapter : report.adapters) {
    text += fmt::format("adapter   {} (weight {:g}): {} modules, {} parameters, base {}\n",
                        adapter.directory.string(), adapter.weight, adapter.modules,
                        core::human_count(static_cast<std::uint64_t>(adapter.parameters)),
                        adapter.base_check == "same"         ? "as in training"
                        : adapter.base_check == "unrecorded" ? "not recorded"
                                                             : "not that of training");
  }
  if (!report.folded.empty()) text += folded_table(report.folded);
  text += fmt::format(
      "written   {} tensors as {}, {} in {} file{}, {}; {} {}, {} as in the base\n", report.tensors,
      core::name_of(report.dtype), core::human_bytes(report.bytes), report.files,
      report.files == 1 ? "" : "s", core::human_duration(report.seconds), report.folded.size(),
      report.method.empty() ? "folded" : "changed", report.tensors - report.folded.size());
  for (const auto& [name, tensors] : computed_elsewhere(report)) {
    text += fmt::format("computed  {} of {} changed tensors by {}\n", tensors, report.folded.size(),
                        name);
  }
  if (report.verification) text += verification_line(*report.verification);
  return text;
}

}  // namespace weft::merge
