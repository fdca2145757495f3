#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

namespace weft::exporting {

/// What was written for an adapter, and what its file says when it is opened again.
struct AdapterReport {
  std::size_t modules = 0;
  std::int64_t rank = 0;  ///< Of every module; the largest where they differ.
  bool ranks_differ = false;
  double largest_error = 0;  ///< Of the update read back, relative to its largest number.
  std::uint64_t bytes = 0;   ///< Of the weights' file.
};

[[nodiscard]] nlohmann::json report_json(const AdapterReport& report);
/// A few lines for people.
[[nodiscard]] std::string report_table(const AdapterReport& report);

/// NumericError when an update read back differs from its source by more than roundings of F32:
/// then the file at `where` must not be used. `allowed` is relative to the largest number.
void require_same_update(double difference, const std::string& module, const std::string& where,
                         double allowed);

}  // namespace weft::exporting
