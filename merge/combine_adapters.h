#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/log.h"
#include "merge/adapter_result.h"
#include "merge/low_rank.h"

namespace weft::merge {

/// Adapters that become one adapter. The base is not needed: methods act on the updates
/// D_i = scale_i B_i A_i, weighted by the adapters' weights.
struct AdapterRequest {
  std::vector<MergeRequest::Adapter> adapters;
  /// linear or cat: the exact sum, ranks added. svd: the same cut to `rank`. knots_ties: ties on
  /// what is left of the updates in their common space (arXiv 2410.19735). peft_factor_METHOD:
  /// PEFT's numbers, which combine A and B separately. Else a method of merge/method.h that starts
  /// from a base (ties:peft, dare_ties:mergekit's name dare_ties, della, ...), cut to `rank`.
  std::string method = "linear";
  ParameterValues parameters;  ///< Of the method.
  std::int64_t rank = 0;       ///< 0: the largest of the adapters, or what the method makes.
  Svd svd = Svd::kRandomised;
  std::uint64_t seed = 0;
  std::filesystem::path out;
  core::Overwrite overwrite = core::Overwrite::kRefuse;
  bool allow_other_base = false;  ///< Combine adapters that record different bases.
};

/// Writes the combined adapter as a PEFT folder with merge.json. Every scale is folded into B, so
/// that lora_alpha = r. A module that some adapters lack is 0 there.
/// ConfigError for unknown methods and parameters; InputError naming the module when shapes differ,
/// and when the adapters record different bases; the folder appears whole or not at all.
[[nodiscard]] AdapterReport combine_adapters(const AdapterRequest& request,
                                             const core::Log& log = {});

}  // namespace weft::merge
