#include <algorithm>

#include "core/terminal.h"
#include "export/gguf_model.h"

namespace weft::exporting {

nlohmann::json report_json(const GgufReport& report) {
  nlohmann::json updates = nlohmann::json::array();
  for (const WrittenUpdate& update : report.updates) {
    updates.push_back({{"tensor", update.name},
                       {"storage", update.storage},
                       {"retained", update.retained},
                       {"noise", update.noise}});
  }
  nlohmann::json storages = nlohmann::json::object();
  for (const auto& [name, count] : report.storages) storages[name] = count;
  nlohmann::json json = {{"base_weights", report.base_digest},
                         {"tensors", report.tensors},
                         {"storages", storages},
                         {"weighted", report.weighted},
                         {"bytes", report.bytes},
                         {"seconds", report.seconds},
                         {"updates", updates}};
  if (report.verification) json["verification"] = merge::verification_json(*report.verification);
  return json;
}

std::string report_table(const GgufReport& report) {
  std::string storages;
  for (const auto& [name, count] : report.storages) {
    storages += fmt::format("{}{} {}", storages.empty() ? "" : ", ", count, name);
  }
  std::string text =
      fmt::format("tensors   {} ({})\nsize      {}, written in {:.1f} s\n", report.tensors,
                  storages, core::human_bytes(report.bytes), report.seconds);
  if (report.weighted > 0) {
    text += fmt::format("imatrix   {} tensors quantised with importance\n", report.weighted);
  }
  if (report.verification) text += merge::verification_line(*report.verification);
  if (report.updates.empty()) return text;
  double retained = 0;
  double noise = 0;
  for (const WrittenUpdate& update : report.updates) {
    retained += update.retained / static_cast<double>(report.updates.size());
    noise = std::max(noise, update.noise);
  }
  text += fmt::format(
      "update    in {} tensors, read back: {:.1f} % of it along its own direction, beside rounding "
      "of up to {:.2f} times its size\n",
      report.updates.size(), 100 * retained, noise);
  return text;
}

}  // namespace weft::exporting
