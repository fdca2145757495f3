#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "merge/merge.h"
#include "merge/recipe.h"

namespace weft::merge {

struct CombineRequest {
  Recipe recipe;
  std::filesystem::path out;
  std::optional<core::DType> dtype;    ///< Overrides the recipe's.
  std::optional<Rounding> rounding{};  ///< Overrides the recipe's.
  std::uint64_t seed = 0;              ///< Of methods that draw and of stochastic rounding.
  std::uint64_t max_shard_bytes = checkpoint::kDefaultShardBytes;
  core::Overwrite overwrite = core::Overwrite::kRefuse;
  bool allow_other_base = false;
  std::filesystem::path recipe_file{};  ///< Where the recipe was read from; empty: from no file.
};

/// Combines models as the recipe says into a folder that transformers loads, tensor by tensor, with
/// the writer that folding uses: everything in double, one rounding. The output's type is the
/// recipe's, or the narrowest that holds the numbers of all inputs. A head that some models tie to
/// the embedding and others have is written for itself, and config.json says so.
///
/// Memory beyond the mapped inputs: some tens of MiB, and at most 96 MiB of ranks where a method
/// chooses elements by magnitude; whatever the models' size.
///
/// ConfigError for a recipe that does not fit its method (number of models, missing parameters);
/// InputError naming model and tensor when shapes, layers or tokens differ. The folder
/// appears whole or not at all: digests are taken while it is written.
[[nodiscard]] MergeReport combine_models(const CombineRequest& request,
                                         const FoldControl& control = {},
                                         const core::Log& log = {});

}  // namespace weft::merge
