#include "merge/recipe.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "core/error.h"
#include "core/suggest.h"

namespace weft::merge {
namespace {

using schema::ConfigEntry;
using schema::ConfigNode;
namespace fs = std::filesystem;

/// True for a parameter that some method has.
bool is_parameter_of_any(std::string_view name) {
  return std::ranges::any_of(all_methods(), [&](const Method* method) {
    return std::ranges::find(method->parameters(), name, &ParameterSpec::name) !=
           method->parameters().end();
  });
}

class RecipeReader {
 public:
  RecipeReader(std::string_view where, const fs::path& folder) : where_(where), folder_(folder) {}

  Recipe read(const ConfigNode& root) {
    expect_keys(root, "the recipe",
                std::array{"merge_method", "models", "slices", "base_model", "parameters", "dtype",
                           "out_dtype", "rounding", "tokenizer_source", "tokenizer",
                           "chat_template", "name"});
    Recipe recipe;
    recipe.method = &method(need(root, "merge_method"));
    if (const ConfigNode* base = given(root, "base_model")) recipe.base = reference(*base);
    recipe.parameters = settings(root);
    check_parameters(recipe.parameters, *recipe.method);
    recipe.dtype = dtype(root, "dtype");
    if (const auto out = dtype(root, "out_dtype")) recipe.dtype = out;
    if (const ConfigNode* node = given(root, "rounding")) recipe.rounding = rounding(*node);
    read_tokenizer(root, recipe);
    if (const ConfigNode* node = given(root, "chat_template")) {
      recipe.chat_template = chat_template(*node);
    }
    const ConfigNode* models = given(root, "models");
    const ConfigNode* slices = given(root, "slices");
    if ((models == nullptr) == (slices == nullptr)) {
      fail(root, "exactly one of 'models' and 'slices' is wanted");
    }
    if (models != nullptr) {
      recipe.slices.push_back(read_models(*models, recipe));
    } else {
      for (const ConfigNode& slice : list_of(*slices, "slices")) {
        recipe.slices.push_back(read_slice(slice, *recipe.method));
      }
    }
    recipe.idle = std::move(idle_);
    return recipe;
  }

 private:
  template <typename... Args>
  [[noreturn]] void fail(const ConfigNode& node, fmt::format_string<Args...> text,
                         Args&&... args) const {
    throw ConfigError("{}:{}:{}: {}", where_, node.place.line, node.place.column,
                      fmt::format(text, std::forward<Args>(args)...));
  }

  template <std::size_t n>
  void expect_keys(const ConfigNode& node, std::string_view what,
                   const std::array<const char*, n>& known) const {
    if (node.kind != ConfigNode::Kind::kMap) fail(node, "{} is {}, wanted keys", what, node.what());
    const std::vector<std::string> names(known.begin(), known.end());
    for (const ConfigEntry& entry : node.entries) {
      if (std::ranges::find(names, entry.key) != names.end()) continue;
      if (entry.key == "modules" || entry.key == "residual_weight") {
        fail(entry.value, "weft does not have mergekit's '{}'", entry.key);
      }
      const std::string near = core::nearest(entry.key, names);
      fail(entry.value, "unknown key '{}' in {}{}", entry.key, what,
           near.empty() ? "" : "; did you mean '" + near + "'?");
    }
  }

  [[nodiscard]] static const ConfigNode* given(const ConfigNode& node, std::string_view key) {
    const ConfigNode* value = node.find(key);
    return value != nullptr && value->kind != ConfigNode::Kind::kNull ? value : nullptr;
  }
  [[nodiscard]] const ConfigNode& need(const ConfigNode& node, std::string_view key) const {
    const ConfigNode* value = given(node, key);
    if (value == nullptr) fail(node, "'{}' is missing", key);
    return *value;
  }
  [[nodiscard]] const std::string& text_of(const ConfigNode& node, std::string_view what) const {
    if (node.kind != ConfigNode::Kind::kScalar) fail(node, "'{}' is {}", what, node.what());
    return node.text;
  }
  [[nodiscard]] const std::vector<ConfigNode>& list_of(const ConfigNode& node,
                                                       std::string_view what) const {
    if (node.kind != ConfigNode::Kind::kList || node.items.empty()) {
      fail(node, "'{}' is {}, wanted a list with entries", what, node.what());
    }
    return node.items;
  }

  /// "ties" and "ties:mergekit" are the same.
  [[nodiscard]] const Method& method(const ConfigNode& node) const {
    constexpr std::string_view kMergekit = ":mergekit";
    std::string name = text_of(node, "merge_method");
    if (name.ends_with(kMergekit)) name.resize(name.size() - kMergekit.size());
    return find_method(name);
  }

  /// A text that is too long for a path, or has a part that is no folder, is none that exists.
  [[nodiscard]] static bool is_there(const fs::path& path) {
    std::error_code error;
    return fs::exists(path, error);
  }
  [[nodiscard]] fs::path path(const std::string& text) const {
    const fs::path beside = folder_ / text;
    return is_there(beside) ? beside : fs::path(text);
  }

  /// "path", "path+adapter", or mergekit's long form {model: {path: ...}, lora: {path: ...}}.
  [[nodiscard]] ModelReference reference(const ConfigNode& node) const {
    if (node.kind == ConfigNode::Kind::kMap) {
      expect_keys(node, "a model", std::array{"model", "lora"});
      const auto inner = [&](const ConfigNode& part) -> const std::string& {
        return text_of(part.kind == ConfigNode::Kind::kMap ? need(part, "path") : part, "path");
      };
      const ConfigNode* adapter = given(node, "lora");
      return {path(inner(need(node, "model"))),
              adapter != nullptr ? path(inner(*adapter)) : fs::path()};
    }
    const std::string& text = text_of(node, "model");
    const std::size_t plus = text.rfind('+');
    if (plus == std::string::npos || is_there(path(text))) return {path(text), {}};
    return {path(text.substr(0, plus)), path(text.substr(plus + 1))};
  }

  [[nodiscard]] Settings settings(const ConfigNode& node) const {
    Settings result;
    const ConfigNode* parameters = given(node, "parameters");
    if (parameters == nullptr) return result;
    if (parameters->kind != ConfigNode::Kind::kMap) {
      fail(*parameters, "'parameters' is {}, wanted keys", parameters->what());
    }
    for (const ConfigEntry& entry : parameters->entries) result.emplace(entry.key, entry.value);
    return result;
  }

  /// mergekit passes over names that its method does not know; a slip of the pen is lost there. A
  /// parameter of another method is what is left when a recipe changes its method: that is told.
  void check_parameters(const Settings& given, const Method& method) {
    std::vector<std::string> names;
    for (const ParameterSpec& spec : method.parameters()) names.emplace_back(spec.name);
    for (const auto& [name, node] : given) {
      if (std::ranges::find(names, name) != names.end()) continue;
      if (is_parameter_of_any(name)) {
        idle_.push_back(fmt::format("{}:{}:{}: method {} does not use the parameter '{}'", where_,
                                    node.place.line, node.place.column, method.name(), name));
        continue;
      }
      fail(node, "method {} has no parameter '{}'; it has {}", method.name(), name,
           fmt::join(names, ", "));
    }
  }

  [[nodiscard]] Rounding rounding(const ConfigNode& node) const {
    const std::string& name = text_of(node, "rounding");
    if (const auto known = parse_rounding(name)) return *known;
    fail(node, "rounding '{}' is unknown; it is nearest, stochastic or error_feedback", name);
  }

  [[nodiscard]] std::optional<core::DType> dtype(const ConfigNode& root,
                                                 std::string_view key) const {
    const ConfigNode* node = given(root, key);
    if (node == nullptr) return std::nullopt;
    const auto parsed = core::parse_dtype(text_of(*node, key));
    if (!parsed)
      fail(*node, "'{}: {}' is unknown; it is float32, float16 or bfloat16", key, node->text);
    return parsed;
  }

  /// "auto" (the template that most of the models have) or a template itself.
  [[nodiscard]] std::string chat_template(const ConfigNode& node) const {
    const std::string& text = text_of(node, "chat_template");
    const bool is_template = text.find("{{") != text.npos || text.find("{%") != text.npos;
    if (text == "auto" || is_template) return text;
    fail(
        node,
        "chat_template '{}' is neither auto nor a template in Jinja; mergekit's names of templates "
        "are not known here, give the template's text",
        text);
  }

  void read_tokenizer(const ConfigNode& root, Recipe& recipe) const {
    const ConfigNode* node = given(root, "tokenizer_source");
    if (const ConfigNode* section = given(root, "tokenizer")) {
      if (node != nullptr) fail(*section, "'tokenizer' and 'tokenizer_source' are both given");
      if (section->kind == ConfigNode::Kind::kMap) {
        expect_keys(*section, "tokenizer", std::array{"source", "pad_to_multiple_of"});
        node = &need(*section, "source");
        if (const ConfigNode* pad = given(*section, "pad_to_multiple_of")) {
          recipe.pad_to_multiple_of = whole(*pad, "pad_to_multiple_of");
        }
      } else {
        node = section;
      }
    }
    if (node == nullptr) return;
    recipe.same_tokens = true;
    const bool is_word =
        node->kind == ConfigNode::Kind::kScalar && (node->text == "base" || node->text == "union");
    if (!is_word) recipe.tokenizer_from = reference(*node);
  }

  [[nodiscard]] std::int64_t whole(const ConfigNode& node, std::string_view what) const {
    const std::string& text = text_of(node, what);
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < 1) {
      fail(node, "'{}: {}' is no whole number of at least 1", what, text);
    }
    return value;
  }

  [[nodiscard]] RecipeSlice read_models(const ConfigNode& node, const Recipe& recipe) {
    RecipeSlice slice;
    for (const ConfigNode& entry : list_of(node, "models")) {
      expect_keys(entry, "models", std::array{"model", "parameters"});
      slice.sources.push_back({reference(need(entry, "model")), {}, settings(entry)});
      check_parameters(slice.sources.back().parameters, *recipe.method);
    }
    // As mergekit: a base that is not listed is one of the models all the same.
    const auto is_base = [&](const RecipeSource& source) { return source.model == *recipe.base; };
    if (recipe.base && std::ranges::none_of(slice.sources, is_base)) {
      slice.sources.push_back({*recipe.base});
    }
    return slice;
  }

  [[nodiscard]] RecipeSlice read_slice(const ConfigNode& node, const Method& method) {
    expect_keys(node, "slices", std::array{"sources", "base_model", "parameters"});
    RecipeSlice slice;
    if (const ConfigNode* base = given(node, "base_model")) slice.base = reference(*base);
    slice.parameters = settings(node);
    check_parameters(slice.parameters, method);
    for (const ConfigNode& entry : list_of(need(node, "sources"), "sources")) {
      expect_keys(entry, "sources", std::array{"model", "layer_range", "parameters"});
      slice.sources.push_back({reference(need(entry, "model")),
                               layer_range(need(entry, "layer_range")), settings(entry)});
      check_parameters(slice.sources.back().parameters, method);
    }
    return slice;
  }

  [[nodiscard]] std::pair<std::int64_t, std::int64_t> layer_range(const ConfigNode& node) const {
    std::array<std::int64_t, 2> ends{};
    const bool pair = node.kind == ConfigNode::Kind::kList && node.items.size() == 2;
    for (std::size_t i = 0; pair && i < 2; ++i) {
      const std::string& text = text_of(node.items[i], "layer_range");
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), ends[i]);
      if (error != std::errc() || end != text.data() + text.size()) ends = {1, 0};
    }
    if (!pair || ends[0] < 0 || ends[0] >= ends[1]) {
      fail(node, "'layer_range' is [first, end), two whole numbers with first < end");
    }
    return {ends[0], ends[1]};
  }

  std::string_view where_;
  fs::path folder_;
  std::vector<std::string> idle_;
};

}  // namespace

std::string ModelReference::text() const {
  return adapter.empty() ? model.string() : model.string() + "+" + adapter.string();
}

Recipe parse_recipe(std::string_view text, std::string_view where,
                    const std::filesystem::path& folder) {
  schema::Problems problems;
  const ConfigNode root = schema::parse_yaml(text, problems);
  if (!problems.empty()) {
    const auto& [place, problem] = problems.front();
    throw ConfigError("{}:{}:{}: {}", where, place.line, place.column, problem);
  }
  Recipe recipe = RecipeReader(where, folder).read(root);
  recipe.text = text;
  return recipe;
}

}  // namespace weft::merge
