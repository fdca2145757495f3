// Recipes of whole models: whatever the bytes, the result is a recipe or a ConfigError, and so are
// the values of its parameters for a tensor.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <optional>
#include <string_view>

#include "core/error.h"
#include "merge/recipe.h"

namespace {

void resolve(const weft::merge::Recipe& recipe, const weft::merge::Settings& settings) {
  for (const weft::merge::ParameterSpec& spec : recipe.method->parameters()) {
    const auto found = settings.find(spec.name);
    if (found == settings.end()) continue;
    for (const double t : {0.0, 0.3, 1.0}) {
      try {
        (void)weft::merge::setting_value(found->second, "model.layers.0.mlp.up_proj.weight", t,
                                         spec);
      } catch (const weft::ConfigError&) {
      }
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const weft::merge::Recipe recipe =
        weft::merge::parse_recipe(text, "fuzz", "/folder that is not there");
    if (recipe.method == nullptr || recipe.slices.empty()) std::abort();
    resolve(recipe, recipe.parameters);
    for (const weft::merge::RecipeSlice& slice : recipe.slices) {
      resolve(recipe, slice.parameters);
      for (const weft::merge::RecipeSource& source : slice.sources) {
        resolve(recipe, source.parameters);
        (void)source.model.text();
      }
    }
  } catch (const weft::ConfigError&) {
  }
  return 0;
}
