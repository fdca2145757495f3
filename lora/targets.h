#pragma once

#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "lora/adapter.h"
#include "lora/python_regex.h"

namespace weft::lora {

/// The rules by which PEFT 0.21.2 chooses modules (tuners_utils.py check_target_module_exists) and
/// their rank and alpha (utils/other.py get_pattern_key), compiled from a configuration.
///
/// - A list entry matches the path itself or a path that ends in "." + entry; a string is a regular
///   expression that matches the whole path; "all-linear" matches every linear layer.
/// - exclude_modules, by the same rules, wins.
/// - layers_to_transform keeps modules whose first ".<name>.<digits>." has one of the indices.
/// - rank_pattern and alpha_pattern: the first key, in file order, for which (.*\.)?(key)$ matches.
class TargetRule {
 public:
  /// Throws ConfigError for what PEFT rejects (layers_to_transform with a pattern, no targets) and
  /// for regular expressions that do not compile.
  explicit TargetRule(const AdapterConfig& config);

  [[nodiscard]] bool selects(std::string_view path) const;
  /// Matched by target_modules alone: before exclusion and layers.
  [[nodiscard]] bool names(std::string_view path) const;
  [[nodiscard]] bool excludes(std::string_view path) const;
  /// The index in the first ".<name>.<digits>." of the path that layers_pattern allows.
  [[nodiscard]] std::optional<std::int64_t> layer_of(std::string_view path) const;

  /// Rank, alpha and scale of a module. Throws ConfigError when two pattern keys match it with
  /// different values: PEFT writes its keys sorted, so the file cannot say which came first.
  [[nodiscard]] Target target(Module module) const;

  /// Keys of rank_pattern and alpha_pattern that match none of `targets`, as "rank_pattern 'key'".
  [[nodiscard]] std::vector<std::string> idle_patterns(const std::vector<Target>& targets) const;

 private:
  template <typename Value>
  struct Pattern {
    std::string key;
    Value value;
    PythonRegex regex;
  };
  template <typename Value>
  [[nodiscard]] static Value look_up(const std::vector<Pattern<Value>>& patterns,
                                     std::string_view kind, const std::string& path,
                                     Value otherwise);

  AdapterConfig config_;
  std::optional<PythonRegex> target_;   ///< Set when target_modules is a regular expression.
  std::optional<PythonRegex> exclude_;  ///< Set when exclude_modules is one.
  std::vector<PythonRegex> layers_;
  std::vector<Pattern<std::int64_t>> ranks_;
  std::vector<Pattern<double>> alphas_;
};

/// ConfigError where a configuration asks for dropout on stacks of experts, whose factors are added
/// to the matrices and see no input (PEFT refuses it too).
void require_no_dropout_on_stacks(const AdapterConfig& config);

/// True when `path` is `entry` or ends in "." + entry.
[[nodiscard]] bool ends_in_name(std::string_view path, std::string_view entry);

/// "q_proj" of "model.layers.0.self_attn.q_proj".
[[nodiscard]] std::string_view last_name(std::string_view path);

/// True when the last name of a path is that of an embedding or an output head in the families of
/// transformers (embed_tokens, wte, lm_head, ...).
[[nodiscard]] bool is_embedding_or_head(std::string_view path);

/// True when the last name says that the module looks rows up, and multiplies nothing: positions,
/// token types ("position_embedding", "pos_embed").
[[nodiscard]] bool is_lookup_table(std::string_view path);

}  // namespace weft::lora
