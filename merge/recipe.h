#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/number.h"
#include "merge/dither.h"
#include "merge/method.h"
#include "schema/node.h"

namespace weft::merge {

/// A model of a recipe: a checkpoint, or "checkpoint+adapter".
struct ModelReference {
  std::filesystem::path model;
  std::filesystem::path adapter;  ///< Empty: none.

  [[nodiscard]] bool operator==(const ModelReference&) const = default;
  [[nodiscard]] std::string text() const;
};

/// Parameters as written: a number or switch, a list of them (a gradient over the layers), or a
/// list of {filter, value}.
using Settings = std::map<std::string, schema::ConfigNode, std::less<>>;

struct RecipeSource {
  ModelReference model;
  /// [first, end) of its layers; nothing: all of them.
  std::optional<std::pair<std::int64_t, std::int64_t>> layers{};
  Settings parameters{};
};

/// Layers of the output, made from as many layers of each source.
struct RecipeSlice {
  std::vector<RecipeSource> sources;
  std::optional<ModelReference> base{};
  Settings parameters{};
};

/// How models are combined. A recipe with `models` is one slice of all layers.
struct Recipe {
  const Method* method = nullptr;
  std::vector<RecipeSlice> slices;
  std::optional<ModelReference> base{};
  Settings parameters{};
  std::optional<core::DType>
      dtype{};  ///< Of the output; nothing: what holds every input's numbers.
  Rounding rounding = Rounding::kNearest;  ///< Of what the method changes, to 16 bits.
  /// A tokenizer source is named: the models must have the same tokens, since weft permutes no
  /// embeddings; of identical tokenizers base, union and any one of them are the same.
  bool same_tokens = false;
  std::optional<ModelReference>
      tokenizer_from{};                        ///< Whose files are written; nothing: the donor's.
  std::int64_t pad_to_multiple_of = 1;         ///< Rows of the embedding must be one.
  std::optional<std::string> chat_template{};  ///< "auto" or a template.
  std::vector<std::string> idle{};             ///< What is given and has no effect, for a log.
  std::string text{};                          ///< As given, for the record.
};

/// Reads mergekit's YAML. `where` begins every message; `folder` is what relative paths start from
/// when there is such a path (mergekit: the working directory). ConfigError with file:line:column
/// for every problem: unknown keys, missing ones, what weft does not have.
[[nodiscard]] Recipe parse_recipe(std::string_view text, std::string_view where,
                                  const std::filesystem::path& folder);

/// The value of a setting for a tensor at place t in [0, 1] of its layers, by mergekit's rules:
/// numbers of a gradient are interpolated, switches chosen; of {filter, value} entries the first
/// whose filter is absent, "*", or part of the name counts. Nothing when none does.
[[nodiscard]] std::optional<double> setting_value(const schema::ConfigNode& setting,
                                                  std::string_view tensor, double t,
                                                  const ParameterSpec& spec);

/// The first of `scopes` that has a value for the tensor, else the default. ConfigError naming
/// parameter and tensor when there is neither.
[[nodiscard]] double resolve_parameter(const ParameterSpec& spec,
                                       std::span<const Settings* const> scopes,
                                       std::string_view tensor, double t);

}  // namespace weft::merge
