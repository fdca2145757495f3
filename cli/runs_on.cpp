#include "cli/runs_on.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string>
#include <vector>

#include "core/error.h"
#include "export/readers.h"

namespace weft::cli {
namespace {

/// "llama.cpp misreads it: WHY; WHY (repair: COMMAND, or COMMAND)"
std::string shortcoming(const exporting::ReaderReport& report) {
  std::string text = fmt::format("{} {} it: {}", report.reader, exporting::name_of(report.verdict),
                                 fmt::join(report.reasons, "; "));
  if (!report.repairs.empty()) {
    text += fmt::format(" (after training: {})", fmt::join(report.repairs, ", or "));
  }
  return text;
}

}  // namespace

void require_known_readers(std::span<const schema::Variant<train::TrainConfig>> runs) {
  for (const auto& run : runs) {
    for (std::size_t i = 0; i < run.config.runs_on.size(); ++i) {
      const std::string& reader = run.config.runs_on[i];
      if (std::ranges::find(exporting::known_readers(), reader) !=
          exporting::known_readers().end()) {
        continue;
      }
      const auto origin = run.origins.find("runs_on");
      throw ConfigError("{}runs_on: '{}' is unknown; known are {}",
                        origin == run.origins.end() ? "" : origin->second + ": ", reader,
                        fmt::join(exporting::known_readers(), ", "));
    }
  }
}

void require_readers(const train::Prepared& run) {
  if (run.config.runs_on.empty()) return;
  const exporting::AdapterTraits adapter = exporting::traits_of(run.initial);
  std::vector<std::string> shortcomings;
  for (const std::string& reader : run.config.runs_on) {
    const exporting::ReaderReport report = exporting::check_reader(adapter, reader);
    if (report.verdict != exporting::Verdict::kReads) shortcomings.push_back(shortcoming(report));
  }
  if (shortcomings.empty()) return;
  throw Refused(
      "{}runs_on: the adapter would not be read as it is written: {}; change `adapter`, "
      "or leave the reader out of runs_on and export for it",
      run.name.empty() ? "" : run.name + ": ", fmt::join(shortcomings, "; "));
}

}  // namespace weft::cli
