#include <cmath>
#include <deque>

#include "core/error.h"
#include "merge/method_rows.h"
#include "merge/methods.h"
#include "merge/row_kernels.h"
#include "merge/sparsify.h"

// Task vectors d_i = x_i - base (arXiv 2212.04089), made sparse, weighted and added:
// M = base + lambda * (sum_i w_i d_i) / n, over the models that take part at each element.
//
// What the methods differ in:
//   consensus  which models take part: all, or those whose sign is that of the sum of the weighted
//              (mergekit) or unweighted (PEFT) task vectors;
//   divisor    n: 1, the sum of the weights that take part (`normalize`), or their number (PEFT).

namespace weft::merge {
namespace {

enum class Consensus { kNone, kWeightedSum, kPlainSum };

struct TaskRule {
  std::string_view name;
  Sparsity sparsity = Sparsity::kNone;
  Rescale rescale = Rescale::kNone;
  Consensus consensus = Consensus::kNone;
  bool normalize = false;  ///< mergekit's default of the switch.
  bool peft = false;
};

constexpr TaskRule kRules[] = {
    {"task_arithmetic"},
    {"ties", Sparsity::kMagnitude, Rescale::kNone, Consensus::kWeightedSum, true},
    {"dare_ties", Sparsity::kRandom, Rescale::kL1, Consensus::kWeightedSum},
    {"dare_linear", Sparsity::kRandom, Rescale::kL1},
    {"breadcrumbs", Sparsity::kOutliers},
    {"breadcrumbs_ties", Sparsity::kOutliers, Rescale::kNone, Consensus::kWeightedSum},
    {"della", Sparsity::kRankedRandom, Rescale::kL1, Consensus::kWeightedSum, true},
    {"della_linear", Sparsity::kRankedRandom, Rescale::kL1},
    {"magnitude_prune", Sparsity::kMagnitude, Rescale::kNone, Consensus::kNone, false, true},
    {"ties:peft", Sparsity::kMagnitude, Rescale::kNone, Consensus::kPlainSum, false, true},
    {"dare_ties:peft", Sparsity::kRandom, Rescale::kDensity, Consensus::kPlainSum, false, true},
    {"dare_linear:peft", Sparsity::kRandom, Rescale::kDensity, Consensus::kNone, false, true},
};

class TaskDeltas final : public GroupDeltas {
 public:
  TaskDeltas(TensorGroup tensors, Mix mix, bool votes, std::span<const SparsifyRule> rules)
      : GroupDeltas(std::move(tensors)),
        others_(group().others()),
        mix_(std::move(mix)),
        votes_(votes) {
    const TensorInput& base = group().reference();
    for (std::size_t i = 0; i < others_.size(); ++i) {
      const TensorInput& input = group().inputs[others_[i]];
      sparse_.emplace_back(
          rules[i], base.rows(), base.columns(),
          [&](std::int64_t begin, std::int64_t end, std::span<double> out) {
            read_difference(input, base, begin, end, out);
          },
          [&](const std::function<void(std::int64_t, std::int64_t)>& body) {
            for_row_blocks(group().inputs, body);
          },
          group().seed, fmt::format("{}\n{}", group().name, i));
    }
  }

 protected:
  void rows(std::int64_t begin, std::int64_t end, std::span<double> out) const override {
    const auto count = static_cast<std::size_t>((end - begin) * columns());
    const std::span<double> deltas = scratch<0>(count * others_.size());
    for (std::size_t i = 0; i < others_.size(); ++i) {
      const std::span<double> delta = deltas.subspan(i * count, count);
      read_difference(group().inputs[others_[i]], group().reference(), begin, end, delta);
      sparse_[i].apply(begin, end, delta);
    }
    read_difference(group().reference(), stored(), begin, end, out);
    if (votes_) {
      mix_agreeing(mix_, deltas, out.first(count));
    } else {
      add_all(deltas, out.first(count));
    }
  }

 private:
  void add_all(std::span<const double> deltas, std::span<double> out) const {
    double factor = mix_.lambda;
    double weights = 0;
    for (const double weight : mix_.weights) weights += weight;
    if (mix_.divisor == Divisor::kWeights && std::abs(weights) >= 1e-8) factor /= weights;
    for (std::size_t i = 0; i < others_.size(); ++i) {
      add_scaled(factor * mix_.weights[i], deltas.subspan(i * out.size(), out.size()), out);
    }
  }

  std::vector<std::size_t> others_;
  Mix mix_;
  bool votes_;  ///< Only models that agree take part.
  std::deque<Sparsifier> sparse_;
};

/// Of `normalize`: the models that take part in an element are divided by the sum of their weights.
/// A sum that is 0 but for rounding would blow the element up to any size; exactly 0 divides by 1,
/// as mergekit does. `votes`: any of the models may be those that take part.
void require_divisors(const std::string& tensor, const std::vector<double>& weights, bool votes) {
  constexpr std::size_t kMostSubsets = 16;  // Models; of more, the sum of all alone is looked at.
  constexpr double kNearZero = 1e-6;
  const std::size_t all = (std::size_t{1} << std::min(weights.size(), kMostSubsets)) - 1;
  const bool each = votes && weights.size() <= kMostSubsets;
  for (std::size_t subset = each ? 1 : all; subset <= all; ++subset) {
    double sum = 0;
    double size = 0;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      if (each && (subset >> i & 1) == 0) continue;
      sum += weights[i];
      size += std::abs(weights[i]);
    }
    if (sum == 0 || std::abs(sum) >= kNearZero * size) continue;
    throw ConfigError(
        "tensor '{}': the weights {} cancel (sum {:.1e}), and normalize divides by their sum; "
        "choose other weights, or set normalize: false",
        tensor, fmt::join(weights, ", "), sum);
  }
}

class TaskMethod final : public Method {
 public:
  explicit TaskMethod(const TaskRule& rule) : rule_(rule) {
    using Scope = ParameterSpec::Scope;
    parameters_.reserve(8);
    parameters_.push_back({"weight", Scope::kNonBase});
    parameters_.push_back({"lambda", Scope::kShared, false, 1});
    if (!rule.peft) {
      parameters_.push_back({"normalize", Scope::kShared, true, rule.normalize ? 1.0 : 0.0});
      parameters_.push_back(
          {"rescale", Scope::kShared, true, rule.rescale == Rescale::kL1 ? 1.0 : 0.0});
      // mergekit's saving of memory; it has no bearing on the numbers.
      parameters_.push_back({"int8_mask", Scope::kShared, true, 0});
    }
    // mergekit takes a density where it has no use for one (task_arithmetic), and so do its files.
    parameters_.push_back({"density", Scope::kNonBase, false, 1});
    if (rule.sparsity == Sparsity::kOutliers) {
      parameters_.push_back({"gamma", Scope::kNonBase, false, 0.01});
    }
    if (rule.sparsity == Sparsity::kRankedRandom) {
      parameters_.push_back({"epsilon", Scope::kNonBase, false, 0.15});
    }
  }

  [[nodiscard]] std::string_view name() const noexcept override { return rule_.name; }
  [[nodiscard]] std::span<const ParameterSpec> parameters() const noexcept override {
    return parameters_;
  }
  [[nodiscard]] InputRule rule() const noexcept override {
    return {InputRule::Base::kRequired, 1, SIZE_MAX, 0, SIZE_MAX};
  }
  [[nodiscard]] bool draws() const noexcept override {
    return rule_.sparsity == Sparsity::kRandom || rule_.sparsity == Sparsity::kRankedRandom;
  }

  [[nodiscard]] std::unique_ptr<const RowDeltas> deltas(TensorGroup group) const override {
    if (group.all_alike()) return nullptr;
    Mix mix;
    mix.equal_votes = rule_.consensus == Consensus::kPlainSum;
    mix.lambda = group.shared.at("lambda");
    if (rule_.peft) {
      mix.divisor = rule_.consensus == Consensus::kNone ? Divisor::kNone : Divisor::kCount;
    } else {
      mix.divisor = group.shared.at("normalize") != 0 ? Divisor::kWeights : Divisor::kNone;
    }
    std::vector<SparsifyRule> rules;
    for (const std::size_t i : group.others()) {
      mix.weights.push_back(group.own[i].at("weight"));
      rules.push_back(sparsify_rule(group, group.own[i]));
    }
    if (mix.divisor == Divisor::kWeights) {
      require_divisors(group.name, mix.weights, rule_.consensus != Consensus::kNone);
    }
    return std::make_unique<TaskDeltas>(std::move(group), std::move(mix),
                                        rule_.consensus != Consensus::kNone, rules);
  }

 private:
  [[nodiscard]] SparsifyRule sparsify_rule(const TensorGroup& group,
                                           const ParameterValues& own) const {
    SparsifyRule rule{rule_.sparsity, rule_.rescale, !rule_.peft, own.at("density"), 0, 0};
    const auto number = [&](const char* name) {
      const auto found = own.find(name);
      return found == own.end() ? 0.0 : found->second;
    };
    rule.gamma = number("gamma");
    rule.epsilon = number("epsilon");
    if (!rule_.peft) {
      rule.rescale = group.shared.at("rescale") != 0 ? Rescale::kL1 : Rescale::kNone;
    }
    if (rule.density < 0 || rule.gamma < 0 || rule.gamma > 1) {
      throw ConfigError("tensor '{}': density {} and gamma {} are shares between 0 and 1",
                        group.name, rule.density, rule.gamma);
    }
    if (rule.kind == Sparsity::kRankedRandom && rule.density < 1 && rule.density > 0 &&
        (rule.density + rule.epsilon >= 1 || rule.density - rule.epsilon <= 0)) {
      throw ConfigError(
          "tensor '{}': density {} -+ epsilon {} leaves the range of a probability, 0 to 1 "
          "(choose a smaller epsilon)",
          group.name, rule.density, rule.epsilon);
    }
    return rule;
  }

  TaskRule rule_;
  std::vector<ParameterSpec> parameters_;
};

}  // namespace

std::span<const Method* const> task_vector_methods() {
  static const std::deque<TaskMethod> methods(std::begin(kRules), std::end(kRules));
  static const std::vector<const Method*> list = [] {
    std::vector<const Method*> pointers;
    for (const TaskMethod& method : methods) pointers.push_back(&method);
    return pointers;
  }();
  return list;
}

}  // namespace weft::merge
