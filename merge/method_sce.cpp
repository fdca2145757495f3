#include <cmath>

#include "core/error.h"
#include "merge/method_rows.h"
#include "merge/methods.h"
#include "merge/select.h"

// SCE (arXiv 2408.07990): Select the `select_topk` share of elements whose variance over the task
// vectors is largest (of those where it is not 0), Calculate each model's weight from the mean
// square of what it has left, Erase the elements against the majority sign; then the mean of what
// remains by those weights.

namespace weft::merge {
namespace {

class SceDeltas final : public GroupDeltas {
 public:
  SceDeltas(TensorGroup tensors, double share)
      : GroupDeltas(std::move(tensors)), others_(group().others()), all_(share >= 1) {
    if (!all_ && share > 0) select(share);
    weigh();
  }

 protected:
  void rows(std::int64_t begin, std::int64_t end, std::span<double> out) const override {
    const auto count = static_cast<std::size_t>((end - begin) * columns());
    const std::span<const double> deltas = selected(begin, end);
    read_difference(group().reference(), stored(), begin, end, out);
    for (std::size_t j = 0; j < count; ++j) {
      double total = 0;
      for (std::size_t i = 0; i < others_.size(); ++i) total += deltas[i * count + j];
      double sum = 0;
      double weights = 0;
      for (std::size_t i = 0; i < others_.size(); ++i) {
        const double value = deltas[i * count + j];
        if (total >= 0 ? value <= 0 : value >= 0) continue;
        sum += weights_[i] * value;
        weights += weights_[i];
      }
      out[j] += sum / std::max(weights, 1e-6);
    }
  }

 private:
  /// Task vectors of rows [begin, end), one model after the other.
  [[nodiscard]] std::span<double> read(std::int64_t begin, std::int64_t end) const {
    const auto count = static_cast<std::size_t>((end - begin) * columns());
    const std::span<double> deltas = scratch<0>(count * others_.size());
    for (std::size_t i = 0; i < others_.size(); ++i) {
      read_difference(group().inputs[others_[i]], group().reference(), begin, end,
                      deltas.subspan(i * count, count));
    }
    return deltas;
  }

  /// The same with what was not selected set to 0.
  [[nodiscard]] std::span<double> selected(std::int64_t begin, std::int64_t end) const {
    const std::span<double> deltas = read(begin, end);
    if (all_) return deltas;
    const auto count = static_cast<std::size_t>((end - begin) * columns());
    for (std::size_t j = 0; j < count; ++j) {
      const std::int64_t place = begin * columns() + static_cast<std::int64_t>(j);
      if (top_.contains(magnitude_key(variance(deltas, count, j)), place)) continue;
      for (std::size_t i = 0; i < others_.size(); ++i) deltas[i * count + j] = 0;
    }
    return deltas;
  }

  /// Over the models, with their number as the divisor.
  [[nodiscard]] double variance(std::span<const double> deltas, std::size_t count,
                                std::size_t j) const {
    const auto models = static_cast<double>(others_.size());
    double mean = 0;
    for (std::size_t i = 0; i < others_.size(); ++i) mean += deltas[i * count + j] / models;
    double sum = 0;
    for (std::size_t i = 0; i < others_.size(); ++i) {
      const double off = deltas[i * count + j] - mean;
      sum += off * off;
    }
    return sum / models;
  }

  void select(double share) {
    const std::int64_t rows = group().reference().rows();
    std::vector<std::int64_t> nonzero(static_cast<std::size_t>(rows));
    const auto width = static_cast<std::size_t>(columns());
    const RowKeys keys = [&](std::int64_t begin, std::int64_t end, std::span<std::uint32_t> out) {
      const std::span<const double> deltas = read(begin, end);
      for (std::size_t j = 0; j < out.size(); ++j) {
        out[j] = magnitude_key(variance(deltas, out.size(), j));
      }
    };
    const RowLoop loop = [&](const std::function<void(std::int64_t, std::int64_t)>& body) {
      for_row_blocks(group().inputs, body);
    };
    loop([&](std::int64_t begin, std::int64_t end) {
      std::vector<std::uint32_t> part(static_cast<std::size_t>(end - begin) * width);
      keys(begin, end, part);
      for (std::size_t j = 0; j < part.size(); ++j) {
        nonzero[static_cast<std::size_t>(begin) + j / width] += part[j] != 0 ? 1 : 0;
      }
    });
    std::int64_t candidates = 0;
    for (const std::int64_t row : nonzero) candidates += row;
    const auto wanted = static_cast<std::int64_t>(static_cast<double>(candidates) * share);
    top_ = select_top(rows, columns(), wanted, keys, loop);
  }

  void weigh() {
    const std::size_t models = others_.size();
    const auto width = static_cast<std::size_t>(columns());
    std::vector<double> squares(static_cast<std::size_t>(group().reference().rows()) * models);
    for_row_blocks(group().inputs, [&](std::int64_t begin, std::int64_t end) {
      const std::span<const double> deltas = selected(begin, end);
      const std::size_t count = static_cast<std::size_t>(end - begin) * width;
      for (std::size_t i = 0; i < models; ++i) {
        for (std::size_t j = 0; j < count; ++j) {
          const double value = deltas[i * count + j];
          squares[(static_cast<std::size_t>(begin) + j / width) * models + i] += value * value;
        }
      }
    });
    weights_.assign(models, 0);
    for (std::size_t at = 0; at < squares.size(); ++at) weights_[at % models] += squares[at];
    double sum = 0;
    for (double& weight : weights_) {
      weight /=
          static_cast<double>(std::max<std::int64_t>(1, group().reference().info->elements()));
      sum += weight;
    }
    for (double& weight : weights_) {
      weight = std::abs(sum) < 1e-6 ? 1 / static_cast<double>(models) : weight / sum;
    }
  }

  std::vector<std::size_t> others_;
  bool all_;
  TopSet top_;
  std::vector<double> weights_;
};

class Sce final : public Method {
 public:
  [[nodiscard]] std::string_view name() const noexcept override { return "sce"; }
  [[nodiscard]] std::span<const ParameterSpec> parameters() const noexcept override {
    using Scope = ParameterSpec::Scope;
    static constexpr ParameterSpec kParameters[] = {{"int8_mask", Scope::kShared, true, 0},
                                                    {"select_topk", Scope::kShared, false, 1}};
    return kParameters;
  }
  [[nodiscard]] InputRule rule() const noexcept override {
    return {InputRule::Base::kRequired, 1, SIZE_MAX, 0, SIZE_MAX};
  }
  [[nodiscard]] std::unique_ptr<const RowDeltas> deltas(TensorGroup group) const override {
    if (group.all_alike()) return nullptr;
    const double share = group.shared.at("select_topk");
    return std::make_unique<SceDeltas>(std::move(group), share);
  }
};

}  // namespace

const Method& sce_method() {
  static const Sce method;
  return method;
}

}  // namespace weft::merge
