#include <fmt/format.h>

#include "cli/inspect.h"
#include "cli/machine.h"
#include "cli/torch_library.h"
#include "core/terminal.h"

namespace weft::cli {

InspectReport inspect_machine() {
  const auto describe = reinterpret_cast<DescribeMachine>(torch_symbol("weft_describe_machine"));
  model::Machine machine;
  describe(machine).rethrow();
  InspectReport report;
  report.json["kind"] = "machine";
  report.json["processor"] = machine.processor;
  report.json["cores"] = machine.cores;
  report.json["available_bytes"] = machine.available_bytes;
  report.line("processor", machine.processor);
  report.line("cores allowed", std::to_string(machine.cores));
  report.line("memory", core::human_bytes(machine.available_bytes) + " available");
  auto caches = nlohmann::ordered_json::array();
  for (const model::Machine::Cache& cache : machine.caches) {
    report.line(cache.name + " cache",
                fmt::format("{}{}", core::human_bytes(cache.bytes),
                            cache.cores > 1 ? fmt::format(" for {} processors", cache.cores) : ""));
    caches.push_back({{"name", cache.name}, {"bytes", cache.bytes}, {"cores", cache.cores}});
  }
  report.json["caches"] = caches;
  report.line("kernels",
              fmt::format("{} ({})", machine.chosen,
                          machine.forced ? "by WEFT_KERNELS"
                                         : "the fastest here; WEFT_KERNELS=NAME chooses others"));
  report.line("dtype: auto", machine.prefers_bfloat16 ? "bfloat16" : "float32");
  core::Table table({"kernels", "bfloat16 GFLOP/s", "float32 GFLOP/s"});
  auto rates = nlohmann::ordered_json::array();
  for (const model::Machine::Rate& rate : machine.rates) {
    table.add({rate.kernels + (rate.kernels == machine.chosen ? " *" : ""),
               fmt::format("{:.0f}", rate.bfloat16), fmt::format("{:.0f}", rate.float32)});
    rates.push_back({{"kernels", rate.kernels},
                     {"bfloat16_gflops", rate.bfloat16},
                     {"float32_gflops", rate.float32}});
  }
  report.json["kernels"] = machine.chosen;
  report.json["forced"] = machine.forced;
  report.json["dtype_auto"] = machine.prefers_bfloat16 ? "bfloat16" : "float32";
  report.json["rates"] = rates;
  report.block(table.text() +
               "* what is computed with; rates on all cores, operands in the cache\n");
  return report;
}

}  // namespace weft::cli
