#include <cmath>

#include "core/error.h"
#include "merge/method_rows.h"
#include "merge/methods.h"
#include "merge/row_kernels.h"

// slerp: on the arc between two models, the whole tensor as one vector. With cos = a.b / |a||b|
// and angle = acos(cos): sin((1-t) angle)/sin(angle) a + sin(t angle)/sin(angle) b; a straight line
// beyond |cos| = 0.9995 (mergekit). a is the base.
//
// nuslerp: the same between two models or, with a base, between two task vectors; t is the second
// weight over the sum of both. The vectors are the whole tensor (nuslerp_flatten), each row, or
// each column (nuslerp_row_wise, as mergekit calls it).

namespace weft::merge {
namespace {

constexpr double kLinearAbove = 0.9995;

struct Coefficients {
  double a = 0;
  double b = 0;
};

Coefficients slerp_coefficients(const Products& sums, double t) {
  const auto length = [](double squared) {
    const double norm = std::sqrt(squared);
    return norm > 1e-8 ? norm : 1.0;
  };
  const double cosine = std::clamp(sums.ab / (length(sums.aa) * length(sums.bb)), -1.0, 1.0);
  if (std::abs(cosine) > kLinearAbove) return {1 - t, t};
  const double angle = std::acos(cosine);
  return {std::sin((1 - t) * angle) / std::sin(angle), std::sin(t * angle) / std::sin(angle)};
}

Coefficients nuslerp_coefficients(const Products& sums, double t) {
  const auto length = [](double squared) { return std::max(std::sqrt(squared), 1e-7); };
  const double cosine = std::clamp(sums.ab / (length(sums.aa) * length(sums.bb)), -1.0, 1.0);
  if (1 - cosine * cosine <= 1e-16) return {1 - t, t};
  const double angle = std::acos(cosine);
  return {std::sin((1 - t) * angle) / std::sin(angle), std::sin(t * angle) / std::sin(angle)};
}

/// Which numbers form one vector.
enum class Along { kTensor, kRow, kColumn };

/// a + change, where change = ca * x + cb * y - (what the reference stores); x and y are inputs, or
/// their differences from the base.
class ArcDeltas final : public GroupDeltas {
 public:
  using Rule = Coefficients (*)(const Products&, double);

  ArcDeltas(TensorGroup tensors, std::size_t first, std::size_t second, bool from_base, double t,
            Along along, Rule rule)
      : GroupDeltas(std::move(tensors)),
        first_(first),
        second_(second),
        from_base_(from_base),
        along_(along) {
    for (const Products& sums : measure()) coefficients_.push_back(rule(sums, t));
  }

 protected:
  void rows(std::int64_t begin, std::int64_t end, std::span<double> out) const override {
    const auto width = static_cast<std::size_t>(columns());
    const auto count = static_cast<std::size_t>(end - begin) * width;
    const std::span<double> x = scratch<0>(count);
    const std::span<double> y = scratch<1>(count);
    vector_rows(first_, begin, end, x);
    vector_rows(second_, begin, end, y);
    offset(begin, end, out);
    if (along_ == Along::kColumn) {
      for (std::size_t i = 0; i < count; ++i) {
        out[i] += coefficients_[i % width].a * x[i] + coefficients_[i % width].b * y[i];
      }
      return;
    }
    for (std::size_t i = 0; i < count; i += width) {
      const std::size_t row = static_cast<std::size_t>(begin) + i / width;
      const Coefficients& arc = coefficients_[along_ == Along::kTensor ? 0 : row];
      add_scaled(arc.a, arc.b, x.subspan(i, width), y.subspan(i, width), out.subspan(i, width));
    }
  }

 private:
  void vector_rows(std::size_t input, std::int64_t begin, std::int64_t end,
                   std::span<double> out) const {
    if (from_base_) {
      read_difference(group().inputs[input], group().reference(), begin, end, out);
    } else {
      group().inputs[input].read(begin, end, out);
    }
  }

  /// What is there before the two vectors come: the base less what it stores, or minus that.
  void offset(std::int64_t begin, std::int64_t end, std::span<double> out) const {
    if (from_base_) {
      read_difference(group().reference(), stored(), begin, end, out);
      return;
    }
    const auto count = static_cast<std::size_t>((end - begin) * columns());
    stored().read(begin, end, out);
    for (std::size_t i = 0; i < count; ++i) out[i] = -out[i];
  }

  /// The products of every row, and what they add up to along the chosen direction.
  [[nodiscard]] std::vector<Products> measure() const {
    const auto width = static_cast<std::size_t>(columns());
    const auto count = static_cast<std::size_t>(group().reference().rows());
    if (along_ == Along::kColumn) return measure_columns();
    std::vector<Products> by_row(count);
    for_row_blocks(group().inputs, [&](std::int64_t begin, std::int64_t end) {
      const auto size = static_cast<std::size_t>(end - begin) * width;
      const std::span<double> x = scratch<0>(size);
      const std::span<double> y = scratch<1>(size);
      vector_rows(first_, begin, end, x);
      vector_rows(second_, begin, end, y);
      for (std::size_t i = 0; i < size; i += width) {
        by_row[static_cast<std::size_t>(begin) + i / width] =
            products(x.subspan(i, width), y.subspan(i, width));
      }
    });
    if (along_ == Along::kRow) return by_row;
    Products total;
    for (const Products& row : by_row) {
      total.aa += row.aa;
      total.bb += row.bb;
      total.ab += row.ab;
    }
    return {total};
  }

  /// Columns gather over rows, which are therefore taken in order.
  [[nodiscard]] std::vector<Products> measure_columns() const {
    const auto width = static_cast<std::size_t>(columns());
    std::vector<Products> sums(width);
    std::vector<double> x(width);
    std::vector<double> y(width);
    for (std::int64_t row = 0; row < group().reference().rows(); ++row) {
      vector_rows(first_, row, row + 1, x);
      vector_rows(second_, row, row + 1, y);
      for (std::size_t j = 0; j < width; ++j) {
        sums[j].aa += x[j] * x[j];
        sums[j].bb += y[j] * y[j];
        sums[j].ab += x[j] * y[j];
      }
    }
    return sums;
  }

  std::size_t first_;
  std::size_t second_;
  bool from_base_;
  Along along_;
  std::vector<Coefficients> coefficients_;
};

class Slerp final : public Method {
 public:
  [[nodiscard]] std::string_view name() const noexcept override { return "slerp"; }
  [[nodiscard]] std::span<const ParameterSpec> parameters() const noexcept override {
    static constexpr ParameterSpec kParameters[] = {{"t"}};
    return kParameters;
  }
  [[nodiscard]] InputRule rule() const noexcept override {
    return {InputRule::Base::kRequired, 2, 2};
  }
  [[nodiscard]] std::unique_ptr<const RowDeltas> deltas(TensorGroup group) const override {
    const std::size_t base = *group.base;
    const double t = group.shared.at("t");
    return std::make_unique<ArcDeltas>(std::move(group), base, 1 - base, false, t, Along::kTensor,
                                       slerp_coefficients);
  }
};

class NuSlerp final : public Method {
 public:
  [[nodiscard]] std::string_view name() const noexcept override { return "nuslerp"; }
  [[nodiscard]] std::span<const ParameterSpec> parameters() const noexcept override {
    using Scope = ParameterSpec::Scope;
    static constexpr ParameterSpec kParameters[] = {{"weight", Scope::kNonBase},
                                                    {"nuslerp_row_wise", Scope::kShared, true, 0},
                                                    {"nuslerp_flatten", Scope::kShared, true, 1}};
    return kParameters;
  }
  [[nodiscard]] InputRule rule() const noexcept override {
    return {InputRule::Base::kOptional, 2, 3, 2, 2};
  }
  [[nodiscard]] std::unique_ptr<const RowDeltas> deltas(TensorGroup group) const override {
    const std::vector<std::size_t> others = group.others();
    const double sum = group.own[others[0]].at("weight") + group.own[others[1]].at("weight");
    const double t = std::abs(sum) < 1e-6 ? 0.5 : group.own[others[1]].at("weight") / sum;
    const bool vector = group.reference().info->shape.size() < 2;
    const Along along = group.shared.at("nuslerp_flatten") != 0 || vector ? Along::kTensor
                        : group.shared.at("nuslerp_row_wise") != 0        ? Along::kColumn
                                                                          : Along::kRow;
    const bool from_base = group.base.has_value();
    return std::make_unique<ArcDeltas>(std::move(group), others[0], others[1], from_base, t, along,
                                       nuslerp_coefficients);
  }
};

}  // namespace

const Method& slerp_method() {
  static const Slerp method;
  return method;
}

const Method& nuslerp_method() {
  static const NuSlerp method;
  return method;
}

}  // namespace weft::merge
