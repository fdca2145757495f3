#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "merge/method_rows.h"
#include "merge/methods.h"
#include "merge/row_kernels.h"

// Means on a sphere. The tensors are vectors x_i; all that is computed lies in their span, so that
// one pass for the products x_i.x_j gives the coefficients c_i of the result sum_i c_i x_i.
//
// multislerp: with u_i = x_i / (|x_i| + eps) and m the direction of sum_i w_i u_i, the tangents
// u_i - (u_i.m) m are averaged with the weights and put back by the exponential map; the length is
// sum_i w_i |x_i|. With a base the x_i are task vectors, and the result is added to it.
//
// karcher (arXiv 2603.04972): the Karcher mean of the directions, by the same step until it is
// shorter than tol or max_iter were made; the length is the mean of the lengths.

namespace weft::merge {
namespace {

using Vector = std::vector<double>;

/// The products x_i.x_j, [n, n].
struct Gram {
  std::size_t n = 0;
  Vector values;

  [[nodiscard]] double at(std::size_t i, std::size_t j) const { return values[i * n + j]; }
  /// (sum_i a_i x_i).(sum_j b_j x_j)
  [[nodiscard]] double product(const Vector& a, const Vector& b) const {
    double sum = 0;
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t j = 0; j < n; ++j) sum += a[i] * b[j] * at(i, j);
    }
    return sum;
  }
  [[nodiscard]] double norm(const Vector& a) const {
    return std::sqrt(std::max(0.0, product(a, a)));
  }
};

/// base + sum_i c_i x_i, as a change of what the reference stores.
class SpanDeltas final : public GroupDeltas {
 public:
  SpanDeltas(TensorGroup tensors, std::vector<std::size_t> vectors, bool from_base)
      : GroupDeltas(std::move(tensors)), vectors_(std::move(vectors)), from_base_(from_base) {}

  [[nodiscard]] Gram gram() const {
    const std::size_t n = vectors_.size();
    const auto rows_of = static_cast<std::size_t>(group().reference().rows());
    std::vector<Vector> by_row(n * n, Vector(rows_of));
    for_row_blocks(group().inputs, [&](std::int64_t begin, std::int64_t end) {
      const auto width = static_cast<std::size_t>(columns());
      const std::size_t count = static_cast<std::size_t>(end - begin) * width;
      const std::span<const double> rows = read(begin, end);
      for (std::size_t row = 0; row < count; row += width) {
        const std::size_t place = static_cast<std::size_t>(begin) + row / width;
        for (std::size_t i = 0; i < n; ++i) {
          for (std::size_t j = i; j < n; ++j) {
            by_row[i * n + j][place] =
                products(rows.subspan(i * count + row, width), rows.subspan(j * count + row, width))
                    .ab;
          }
        }
      }
    });
    Gram gram{n, Vector(n * n)};
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t j = i; j < n; ++j) {
        gram.values[i * n + j] = gram.values[j * n + i] = sum_in_order(by_row[i * n + j]);
      }
    }
    return gram;
  }
  void set(Vector coefficients) { coefficients_ = std::move(coefficients); }

 protected:
  void rows(std::int64_t begin, std::int64_t end, std::span<double> out) const override {
    const auto count = static_cast<std::size_t>((end - begin) * columns());
    const std::span<const double> rows = read(begin, end);
    if (from_base_) {
      read_difference(group().reference(), stored(), begin, end, out);
    } else {
      stored().read(begin, end, out);
      for (std::size_t i = 0; i < count; ++i) out[i] = -out[i];
    }
    for (std::size_t i = 0; i < vectors_.size(); ++i) {
      add_scaled(coefficients_[i], rows.subspan(i * count, count), out.first(count));
    }
  }

 private:
  [[nodiscard]] std::span<const double> read(std::int64_t begin, std::int64_t end) const {
    const auto count = static_cast<std::size_t>((end - begin) * columns());
    const std::span<double> rows = scratch<0>(count * vectors_.size());
    for (std::size_t i = 0; i < vectors_.size(); ++i) {
      const std::span<double> part = rows.subspan(i * count, count);
      if (from_base_) {
        read_difference(group().inputs[vectors_[i]], group().reference(), begin, end, part);
      } else {
        group().inputs[vectors_[i]].read(begin, end, part);
      }
    }
    return rows;
  }

  std::vector<std::size_t> vectors_;
  bool from_base_;
  Vector coefficients_;
};

Vector scaled(Vector vector, double factor) {
  for (double& value : vector) value *= factor;
  return vector;
}

void add_to(Vector& sum, double factor, const Vector& other) {
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += factor * other[i];
}

/// u_i as coefficients: x_i over its length and `eps`.
std::vector<Vector> directions(const Gram& gram, double eps) {
  std::vector<Vector> units(gram.n, Vector(gram.n));
  for (std::size_t i = 0; i < gram.n; ++i) {
    const double length = std::sqrt(gram.at(i, i)) + eps;
    units[i][i] = length > 0 ? 1 / length : 0;
  }
  return units;
}

Vector multislerp(const Gram& gram, const Vector& weights, double eps, const std::string& tensor) {
  const std::vector<Vector> units = directions(gram, eps);
  Vector mean(gram.n);
  for (std::size_t i = 0; i < gram.n; ++i) add_to(mean, weights[i], units[i]);
  const double length = gram.norm(mean);
  if (length < eps) {
    if (gram.n == 2) return weights;  // A straight line, as mergekit.
    throw ConfigError(
        "tensor '{}': the weighted directions of the models cancel, so that multislerp has no "
        "mean; "
        "choose other weights",
        tensor);
  }
  mean = scaled(std::move(mean), 1 / length);
  Vector tangent(gram.n);
  double size = 0;
  for (std::size_t i = 0; i < gram.n; ++i) {
    add_to(tangent, weights[i], units[i]);
    add_to(tangent, -weights[i] * gram.product(units[i], mean), mean);
    size += weights[i] * std::sqrt(gram.at(i, i));
  }
  const double angle = gram.norm(tangent) + eps;
  Vector result = scaled(mean, size * std::cos(angle));
  add_to(result, size * std::sin(angle) / angle, tangent);
  return result;
}

Vector karcher(const Gram& gram, std::int64_t steps, double tol) {
  const double share = 1.0 / static_cast<double>(gram.n);
  std::vector<std::size_t> valid;
  double size = 0;
  for (std::size_t i = 0; i < gram.n; ++i) {
    const double length = std::sqrt(gram.at(i, i));
    if (length > tol) valid.push_back(i);
    size += share * length;
  }
  if (valid.empty()) return Vector(gram.n);
  const double weight = 1.0 / static_cast<double>(valid.size());
  const std::vector<Vector> units = directions(gram, 0);
  Vector mean(gram.n);
  for (const std::size_t i : valid) add_to(mean, weight, units[i]);
  const double length = gram.norm(mean);
  mean = length < tol ? units[valid.front()] : scaled(std::move(mean), 1 / length);
  for (std::int64_t step = 0; step < steps; ++step) {
    Vector tangent(gram.n);
    for (const std::size_t i : valid) {
      const double cosine = std::clamp(gram.product(mean, units[i]), -1.0, 1.0);
      const double angle = std::acos(cosine);
      if (angle < tol) continue;
      add_to(tangent, weight * angle / std::sin(angle), units[i]);
      add_to(tangent, -weight * angle / std::sin(angle) * cosine, mean);
    }
    const double move = gram.norm(tangent);
    if (move < tol) break;
    mean = scaled(std::move(mean), std::cos(move));
    add_to(mean, std::sin(move) / move, tangent);
    const double unit = gram.norm(mean);
    if (unit > tol) mean = scaled(std::move(mean), 1 / unit);
  }
  return scaled(std::move(mean), size);
}

class Multislerp final : public Method {
 public:
  [[nodiscard]] std::string_view name() const noexcept override { return "multislerp"; }
  [[nodiscard]] std::span<const ParameterSpec> parameters() const noexcept override {
    using Scope = ParameterSpec::Scope;
    static constexpr ParameterSpec kParameters[] = {{"weight", Scope::kNonBase},
                                                    {"normalize_weights", Scope::kShared, true, 1},
                                                    {"eps", Scope::kShared, false, 1e-8}};
    return kParameters;
  }
  [[nodiscard]] InputRule rule() const noexcept override {
    return {InputRule::Base::kOptional, 1, SIZE_MAX, 1, SIZE_MAX};
  }
  [[nodiscard]] std::unique_ptr<const RowDeltas> deltas(TensorGroup group) const override {
    if (group.all_alike()) return nullptr;
    const std::vector<std::size_t> others = group.others();
    Vector weights;
    double sum = 0;
    double size = 0;
    for (const std::size_t i : others) {
      weights.push_back(group.own[i].at("weight"));
      sum += weights.back();
      size += std::abs(weights.back());
    }
    if (group.shared.at("normalize_weights") != 0) {
      if (std::abs(sum) <= 1e-6 * size) {
        throw ConfigError("tensor '{}': the weights {} sum to 0 and cannot be normalised",
                          group.name, fmt::join(weights, ", "));
      }
      weights = scaled(std::move(weights), 1 / sum);
    }
    const double eps = group.shared.at("eps");
    const std::string name = group.name;
    const bool from_base = group.base.has_value() && others.size() > 1;
    auto result = std::make_unique<SpanDeltas>(std::move(group), others, from_base);
    // One model is taken as it is.
    result->set(others.size() == 1 ? Vector{1} : multislerp(result->gram(), weights, eps, name));
    return result;
  }
};

class Karcher final : public Method {
 public:
  [[nodiscard]] std::string_view name() const noexcept override { return "karcher"; }
  [[nodiscard]] std::span<const ParameterSpec> parameters() const noexcept override {
    using Scope = ParameterSpec::Scope;
    static constexpr ParameterSpec kParameters[] = {{"max_iter", Scope::kShared, false, 10},
                                                    {"tol", Scope::kShared, false, 1e-5}};
    return kParameters;
  }
  [[nodiscard]] InputRule rule() const noexcept override { return {}; }
  [[nodiscard]] std::unique_ptr<const RowDeltas> deltas(TensorGroup group) const override {
    if (group.all_alike()) return nullptr;
    std::vector<std::size_t> all(group.inputs.size());
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = i;
    const double steps = group.shared.at("max_iter");
    const double tol = group.shared.at("tol");
    if (steps < 0 || steps != std::floor(steps) || steps > 1e6) {
      throw ConfigError("tensor '{}': max_iter {} is no whole number", group.name, steps);
    }
    auto result = std::make_unique<SpanDeltas>(std::move(group), all, false);
    result->set(all.size() == 1 ? Vector{1}
                                : karcher(result->gram(), static_cast<std::int64_t>(steps), tol));
    return result;
  }
};

}  // namespace

const Method& multislerp_method() {
  static const Multislerp method;
  return method;
}

const Method& karcher_method() {
  static const Karcher method;
  return method;
}

}  // namespace weft::merge
