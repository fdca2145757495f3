#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/file.h"
#include "core/log.h"
#include "lora/adapter.h"
#include "merge/merge.h"
#include "merge/method.h"

namespace weft::merge {

/// How near one module of a written adapter is to the update it stands for.
struct ModuleError {
  std::string path;
  std::int64_t rank = 0;
  double norm = 0;   ///< |D|, Frobenius, of the exact update D.
  double error = 0;  ///< |D - B A|; 0: exact.
};

/// What was done by combine_adapters() and extract_adapter().
struct AdapterReport {
  std::string method;
  std::vector<MergeReport::Adapter> adapters;  ///< Inputs, where they are adapters.
  std::filesystem::path model;                 ///< The inputs of extract_adapter().
  std::filesystem::path base;
  ParameterValues parameters;
  std::optional<std::uint64_t> seed;
  std::vector<ModuleError> modules;   ///< In order of path.
  std::vector<std::string> left_out;  ///< Tensors that differ and that an adapter cannot hold.
};

/// sqrt(sum error^2 / sum norm^2) over the modules.
[[nodiscard]] double relative_error(const AdapterReport& report);
[[nodiscard]] nlohmann::json report_json(const AdapterReport& report);
[[nodiscard]] std::string report_table(const AdapterReport& report);

/// Factors of rank `rank` for a module, scale 1 (alpha = rank).
[[nodiscard]] lora::Factors make_factors(const lora::Module& module, std::int64_t rank);

/// Writes the adapter and merge.json to a folder that appears whole or not at all. r is the largest
/// rank, rank_pattern and alpha_pattern say where it is smaller; every scale is 1.
void write_adapter(lora::Adapter adapter, const AdapterReport& report,
                   const std::filesystem::path& out, core::Overwrite overwrite);

}  // namespace weft::merge
