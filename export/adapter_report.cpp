#include "export/adapter_report.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/terminal.h"

namespace weft::exporting {

nlohmann::json report_json(const AdapterReport& report) {
  return {{"modules", report.modules},
          {"rank", report.rank},
          {"ranks_differ", report.ranks_differ},
          {"largest_error", report.largest_error},
          {"bytes", report.bytes}};
}

std::string report_table(const AdapterReport& report) {
  return fmt::format(
      "adapter   {} modules, rank {}{}, {}\nread back differs from the source by {:.1e} of the "
      "largest number\n",
      report.modules, report.ranks_differ ? "up to " : "", report.rank,
      core::human_bytes(report.bytes), report.largest_error);
}

void require_same_update(double difference, const std::string& module, const std::string& where,
                         double allowed) {
  if (difference <= allowed) return;
  throw NumericError("{}: the update of '{}' read back differs from its source by {:.2g}", where,
                     module, difference);
}

}  // namespace weft::exporting
