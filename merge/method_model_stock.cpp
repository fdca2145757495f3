#include <cmath>

#include "merge/method_rows.h"
#include "merge/methods.h"

// Model Stock (arXiv 2403.19522): with the mean cosine c of the angles between k task vectors,
// t = k c / (1 + (k - 1) c), M = t * mean(x_i) + (1 - t) * base. The angles are those of the whole
// tensor, or of each row (`filter_wise`). Where the denominator vanishes, the base stays.

namespace weft::merge {
namespace {

class StockDeltas final : public GroupDeltas {
 public:
  StockDeltas(TensorGroup tensors, bool by_row)
      : GroupDeltas(std::move(tensors)), others_(group().others()), by_row_(by_row) {
    measure();
  }

 protected:
  /// t * mean(d_i), on top of what the base is more than its stored numbers.
  void rows(std::int64_t begin, std::int64_t end, std::span<double> out) const override {
    const auto width = static_cast<std::size_t>(columns());
    const auto count = static_cast<std::size_t>(end - begin) * width;
    const std::span<double> delta = scratch<0>(count);
    read_difference(group().reference(), stored(), begin, end, out);
    for (const std::size_t input : others_) {
      read_difference(group().inputs[input], group().reference(), begin, end, delta);
      for (std::size_t i = 0; i < count; ++i) {
        const std::size_t at = by_row_ ? static_cast<std::size_t>(begin) + i / width : 0;
        out[i] += shares_[at] * delta[i];
      }
    }
  }

 private:
  /// Scalar products of all pairs of task vectors, row by row.
  void measure() {
    const auto width = static_cast<std::size_t>(columns());
    const std::size_t models = others_.size();
    const auto count = static_cast<std::size_t>(group().reference().rows());
    std::vector<double> products(count * models * models);
    for_row_blocks(group().inputs, [&](std::int64_t begin, std::int64_t end) {
      const auto rows = static_cast<std::size_t>(end - begin);
      const std::span<double> deltas = scratch<0>(models * rows * width);
      for (std::size_t i = 0; i < models; ++i) {
        read_difference(group().inputs[others_[i]], group().reference(), begin, end,
                        deltas.subspan(i * rows * width, rows * width));
      }
      for (std::size_t row = 0; row < rows; ++row) {
        double* sums = products.data() + (static_cast<std::size_t>(begin) + row) * models * models;
        for (std::size_t i = 0; i < models; ++i) {
          for (std::size_t k = i; k < models; ++k) {
            const double* x = deltas.data() + (i * rows + row) * width;
            const double* y = deltas.data() + (k * rows + row) * width;
            for (std::size_t j = 0; j < width; ++j) sums[i * models + k] += x[j] * y[j];
          }
        }
      }
    });
    if (!by_row_) {
      for (std::size_t i = models * models; i < products.size(); ++i) {
        products[i % (models * models)] += products[i];
      }
      products.resize(models * models);
    }
    for (std::size_t at = 0; at < products.size(); at += models * models) {
      shares_.push_back(share(std::span(products).subspan(at, models * models)));
    }
  }

  /// t / k.
  [[nodiscard]] double share(std::span<const double> products) const {
    const std::size_t models = others_.size();
    double sum = 0;
    double pairs = 0;
    for (std::size_t i = 0; i < models; ++i) {
      for (std::size_t k = i + 1; k < models; ++k) {
        const double norms =
            std::sqrt(products[i * models + i]) * std::sqrt(products[k * models + k]);
        sum += std::clamp(products[i * models + k] / std::max(norms, 1e-6), -1.0, 1.0);
        pairs += 1;
      }
    }
    const double cosine = sum / pairs;
    const double denominator = 1 + static_cast<double>(models - 1) * cosine;
    return std::abs(denominator) < 1e-6 ? 0 : cosine / denominator;
  }

  std::vector<std::size_t> others_;
  bool by_row_;
  std::vector<double> shares_;
};

class ModelStock final : public Method {
 public:
  [[nodiscard]] std::string_view name() const noexcept override { return "model_stock"; }
  [[nodiscard]] std::span<const ParameterSpec> parameters() const noexcept override {
    static constexpr ParameterSpec kParameters[] = {
        {"filter_wise", ParameterSpec::Scope::kShared, true, 0}};
    return kParameters;
  }
  [[nodiscard]] InputRule rule() const noexcept override {
    return {InputRule::Base::kRequired, 3, SIZE_MAX, 0, SIZE_MAX};
  }
  [[nodiscard]] std::unique_ptr<const RowDeltas> deltas(TensorGroup group) const override {
    if (group.all_alike()) return nullptr;
    const bool by_row = group.shared.at("filter_wise") != 0;
    return std::make_unique<StockDeltas>(std::move(group), by_row);
  }
};

}  // namespace

const Method& model_stock_method() {
  static const ModelStock method;
  return method;
}

}  // namespace weft::merge
