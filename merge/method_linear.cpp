#include <cmath>

#include "core/error.h"
#include "merge/method_rows.h"
#include "merge/methods.h"
#include "merge/row_kernels.h"

// linear: sum_i w_i x_i, over sum_i w_i when `normalize` (model soups, arXiv 2203.05482).
// passthrough: one model's tensor, times `scale` when given.

namespace weft::merge {
namespace {

/// Of a sum of weights beside the sum of their sizes: 0 but for rounding.
constexpr double kNearZero = 1e-6;

class LinearDeltas final : public GroupDeltas {
 public:
  LinearDeltas(TensorGroup tensors, std::vector<double> weights)
      : GroupDeltas(std::move(tensors)), weights_(std::move(weights)) {}

 protected:
  /// sum_i w_i x_i - W, W the reference's stored numbers.
  void rows(std::int64_t begin, std::int64_t end, std::span<double> out) const override {
    const auto count = static_cast<std::size_t>((end - begin) * columns());
    const std::span<double> numbers = scratch<0>(count);
    const TensorInput plain = stored();
    double own = -1;  // The weight of W itself.
    std::fill_n(out.begin(), count, 0.0);
    for (std::size_t i = 0; i < weights_.size(); ++i) {
      const TensorInput& input = group().inputs[i];
      if (input.same_numbers(plain) && !input.update) {
        own += weights_[i];
        continue;
      }
      input.read(begin, end, numbers);
      add_scaled(weights_[i], numbers, out.first(count));
    }
    plain.read(begin, end, numbers);
    add_scaled(own, numbers, out.first(count));
  }

 private:
  std::vector<double> weights_;
};

class Linear final : public Method {
 public:
  [[nodiscard]] std::string_view name() const noexcept override { return "linear"; }
  [[nodiscard]] std::span<const ParameterSpec> parameters() const noexcept override {
    using Scope = ParameterSpec::Scope;
    static constexpr ParameterSpec kParameters[] = {{"weight", Scope::kInput},
                                                    {"normalize", Scope::kShared, true, 1}};
    return kParameters;
  }
  [[nodiscard]] InputRule rule() const noexcept override { return {}; }

  [[nodiscard]] std::unique_ptr<const RowDeltas> deltas(TensorGroup group) const override {
    std::vector<double> weights;
    double sum = 0;
    for (const ParameterValues& own : group.own) {
      weights.push_back(own.at("weight"));
      sum += weights.back();
    }
    if (group.shared.at("normalize") != 0) {
      double size = 0;
      for (const double weight : weights) size += std::abs(weight);
      if (std::abs(sum) < kNearZero * size || size == 0) {
        throw ConfigError(
            "tensor '{}': the weights {} sum to {:.1e}, which is 0 but for rounding, so they "
            "cannot "
            "be normalised (set normalize: false if that is meant)",
            group.name, fmt::join(weights, ", "), sum);
      }
      for (double& weight : weights) weight /= sum;
    }
    return std::make_unique<LinearDeltas>(std::move(group), std::move(weights));
  }
};

class Passthrough final : public Method {
 public:
  [[nodiscard]] std::string_view name() const noexcept override { return "passthrough"; }
  [[nodiscard]] std::span<const ParameterSpec> parameters() const noexcept override {
    static constexpr ParameterSpec kParameters[] = {
        {"scale", ParameterSpec::Scope::kInput, false, 1}};
    return kParameters;
  }
  [[nodiscard]] InputRule rule() const noexcept override {
    return {InputRule::Base::kIgnored, 1, 1};
  }

  [[nodiscard]] std::unique_ptr<const RowDeltas> deltas(TensorGroup group) const override {
    const double scale = group.own.front().at("scale");
    if (scale == 1 && !group.inputs.front().update) return nullptr;
    return std::make_unique<LinearDeltas>(std::move(group), std::vector{scale});
  }
};

}  // namespace

const Method& linear_method() {
  static const Linear method;
  return method;
}

const Method& passthrough_method() {
  static const Passthrough method;
  return method;
}

}  // namespace weft::merge
