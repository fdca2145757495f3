#include <algorithm>
#include <cmath>

#include "merge/method_rows.h"
#include "merge/methods.h"

// nearswap: towards the other model where it is near. With d = x - b and w = t / |d|, cut to [0, 1]
// (|d| at least 1e-6): b + w d.
//
// ram (arXiv 2601.13572): elements of task vectors larger than epsilon. One that a single model
// changes is taken whole, one that several change as their mean.
// ramplus_tl: the first kind times 1 + r rho, rho the model's shared elements over its own ones of
// this tensor, at most alpha.

namespace weft::merge {
namespace {

constexpr double kNearest = 1e-6;

class NearswapDeltas final : public GroupDeltas {
 public:
  NearswapDeltas(TensorGroup tensors, std::size_t other, double t)
      : GroupDeltas(std::move(tensors)), other_(other), t_(t) {}

 protected:
  void rows(std::int64_t begin, std::int64_t end, std::span<double> out) const override {
    const auto count = static_cast<std::size_t>((end - begin) * columns());
    const std::span<double> delta = scratch<0>(count);
    read_difference(group().inputs[other_], group().reference(), begin, end, delta);
    read_difference(group().reference(), stored(), begin, end, out);
    for (std::size_t i = 0; i < count; ++i) {
      out[i] += std::clamp(t_ / std::max(std::abs(delta[i]), kNearest), 0.0, 1.0) * delta[i];
    }
  }

 private:
  std::size_t other_;
  double t_;
};

class Nearswap final : public Method {
 public:
  [[nodiscard]] std::string_view name() const noexcept override { return "nearswap"; }
  [[nodiscard]] std::span<const ParameterSpec> parameters() const noexcept override {
    static constexpr ParameterSpec kParameters[] = {{"t", ParameterSpec::Scope::kShared}};
    return kParameters;
  }
  [[nodiscard]] InputRule rule() const noexcept override {
    return {InputRule::Base::kRequired, 2, 2, 1, 1};
  }
  [[nodiscard]] std::unique_ptr<const RowDeltas> deltas(TensorGroup group) const override {
    if (group.all_alike()) return nullptr;
    const std::size_t other = group.others().front();
    const double t = group.shared.at("t");
    return std::make_unique<NearswapDeltas>(std::move(group), other, t);
  }
};

class RamDeltas final : public GroupDeltas {
 public:
  RamDeltas(TensorGroup tensors, double epsilon)
      : GroupDeltas(std::move(tensors)),
        others_(group().others()),
        epsilon_(epsilon),
        own_(others_.size(), 1.0) {}

  /// Weighs what only one model changes, by how much it shares of what it changes.
  void reinforce(double r, double alpha) {
    const auto rows_of = static_cast<std::size_t>(group().reference().rows());
    std::vector<std::vector<double>> shared(others_.size(), std::vector<double>(rows_of));
    std::vector<std::vector<double>> alone(others_.size(), std::vector<double>(rows_of));
    for_row_blocks(group().inputs, [&](std::int64_t begin, std::int64_t end) {
      const std::span<const double> deltas = read(begin, end);
      const auto width = static_cast<std::size_t>(columns());
      const std::size_t count = static_cast<std::size_t>(end - begin) * width;
      for (std::size_t j = 0; j < count; ++j) {
        const std::size_t changing = changed_by(deltas, count, j);
        for (std::size_t i = 0; i < others_.size(); ++i) {
          if (std::abs(deltas[i * count + j]) <= epsilon_) continue;
          auto& sums = changing > 1 ? shared[i] : alone[i];
          sums[static_cast<std::size_t>(begin) + j / width] += 1;
        }
      }
    });
    for (std::size_t i = 0; i < others_.size(); ++i) {
      const double rho = sum_in_order(shared[i]) / std::max(sum_in_order(alone[i]), epsilon_);
      own_[i] = 1 + r * std::clamp(rho, 0.0, alpha);
    }
  }

 protected:
  void rows(std::int64_t begin, std::int64_t end, std::span<double> out) const override {
    const std::span<const double> deltas = read(begin, end);
    const auto count = static_cast<std::size_t>((end - begin) * columns());
    read_difference(group().reference(), stored(), begin, end, out);
    for (std::size_t j = 0; j < count; ++j) {
      const std::size_t changing = changed_by(deltas, count, j);
      for (std::size_t i = 0; i < others_.size(); ++i) {
        const double value = deltas[i * count + j];
        if (std::abs(value) <= epsilon_) continue;
        out[j] += changing == 1 ? own_[i] * value : value / static_cast<double>(changing);
      }
    }
  }

 private:
  [[nodiscard]] std::span<const double> read(std::int64_t begin, std::int64_t end) const {
    const auto count = static_cast<std::size_t>((end - begin) * columns());
    const std::span<double> deltas = scratch<0>(count * others_.size());
    for (std::size_t i = 0; i < others_.size(); ++i) {
      read_difference(group().inputs[others_[i]], group().reference(), begin, end,
                      deltas.subspan(i * count, count));
    }
    return deltas;
  }
  [[nodiscard]] std::size_t changed_by(std::span<const double> deltas, std::size_t count,
                                       std::size_t j) const {
    std::size_t changing = 0;
    for (std::size_t i = 0; i < others_.size(); ++i) {
      changing += std::abs(deltas[i * count + j]) > epsilon_ ? 1 : 0;
    }
    return changing;
  }

  std::vector<std::size_t> others_;
  double epsilon_;
  std::vector<double> own_;
};

class Ram final : public Method {
 public:
  explicit Ram(bool plus) : plus_(plus) {}

  [[nodiscard]] std::string_view name() const noexcept override {
    return plus_ ? "ramplus_tl" : "ram";
  }
  [[nodiscard]] std::span<const ParameterSpec> parameters() const noexcept override {
    using Scope = ParameterSpec::Scope;
    static constexpr ParameterSpec kParameters[] = {{"epsilon", Scope::kShared, false, 1e-5},
                                                    {"r", Scope::kShared, false, 0.1},
                                                    {"alpha", Scope::kShared, false, 0.2}};
    return std::span(kParameters).first(plus_ ? 3 : 1);
  }
  [[nodiscard]] InputRule rule() const noexcept override {
    return {InputRule::Base::kRequired, 1, SIZE_MAX, 0, SIZE_MAX};
  }
  [[nodiscard]] std::unique_ptr<const RowDeltas> deltas(TensorGroup group) const override {
    if (group.all_alike()) return nullptr;
    const ParameterValues shared = group.shared;
    auto result = std::make_unique<RamDeltas>(std::move(group), shared.at("epsilon"));
    if (plus_) result->reinforce(shared.at("r"), shared.at("alpha"));
    return result;
  }

 private:
  bool plus_;
};

}  // namespace

const Method& nearswap_method() {
  static const Nearswap method;
  return method;
}

const Method& ram_method() {
  static const Ram method(false);
  return method;
}

const Method& ramplus_method() {
  static const Ram method(true);
  return method;
}

}  // namespace weft::merge
