#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "merge/row_deltas.h"
#include "merge/tensor_input.h"

// Methods that combine several versions of a tensor, element by element or by a few numbers of the
// whole tensor. They have mergekit's names, parameters, defaults and formulas; where PEFT has a
// method of the same name with other numbers, that one is called "ties:peft" and so on.
// docs/combine.md says which is which; docs/add_a_merge_method.md how to add one.

namespace weft::merge {

/// A parameter of a method. Switches are numbers: 0 or 1.
struct ParameterSpec {
  enum class Scope {
    kShared,   ///< One value for the tensor.
    kInput,    ///< One for each model.
    kNonBase,  ///< One for each model but the base.
  };
  std::string_view name;
  Scope scope = Scope::kShared;
  bool is_switch = false;
  std::optional<double> fallback{};  ///< Nothing: the recipe must give it.
};

using ParameterValues = std::map<std::string, double, std::less<>>;

/// A tensor of all models, with the parameters that hold for it.
struct TensorGroup {
  std::string name;
  std::vector<TensorInput> inputs;
  std::optional<std::size_t> base;  ///< Index into inputs.
  ParameterValues shared;
  std::vector<ParameterValues> own;  ///< For each input.
  std::uint64_t seed = 0;            ///< Of methods that draw (lora/random.h).

  /// The input that the result is written as a change of: the base, or the first.
  [[nodiscard]] const TensorInput& reference() const { return inputs[base.value_or(0)]; }
  /// Indices of the inputs that are not the base, in order.
  [[nodiscard]] std::vector<std::size_t> others() const;
  /// True when no input differs from the base.
  [[nodiscard]] bool all_alike() const;
};

/// How many models a method takes.
struct InputRule {
  enum class Base { kIgnored, kOptional, kRequired };
  Base base = Base::kIgnored;
  std::size_t least = 1;  ///< Models, the base included.
  std::size_t most = SIZE_MAX;
  std::size_t least_others = 0;  ///< Models that are not the base.
  std::size_t most_others = SIZE_MAX;
};

class Method {
 public:
  virtual ~Method() = default;
  [[nodiscard]] virtual std::string_view name() const noexcept = 0;
  [[nodiscard]] virtual std::span<const ParameterSpec> parameters() const noexcept = 0;
  [[nodiscard]] virtual InputRule rule() const noexcept = 0;
  /// True when results depend on TensorGroup::seed.
  [[nodiscard]] virtual bool draws() const noexcept { return false; }

  /// The result minus the checkpoint's numbers of group.reference(), or null when there is no
  /// change. Passes over the inputs for norms and thresholds are made here. `group` is kept.
  /// ConfigError for parameters out of range, naming parameter and tensor.
  [[nodiscard]] virtual std::unique_ptr<const RowDeltas> deltas(TensorGroup group) const = 0;
};

/// ConfigError with the nearest name when there is no such method.
[[nodiscard]] const Method& find_method(std::string_view name);
/// Every method, in the order of the documentation.
[[nodiscard]] std::span<const Method* const> all_methods();

}  // namespace weft::merge
