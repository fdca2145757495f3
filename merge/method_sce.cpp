#include <cmath>

#include "core/error.h"
#include "merge/method_rows.h"
#include "merge/methods.h"
#include "merge/row_kernels.h"
#include "merge/select.h"

// SCE (arXiv 2408.07990): Select the `select_topk` share of elements whose variance over the task
// vectors is largest (of those where it is not 0), Calculate each model's weight from the mean
// square of what it has left, Erase the elements against the majority sign; then the mean of what
// remains by those weights.

namespace weft::merge {
namespace {

/// Numbers whose key is not in the set become 0; the first has place `place`.
void keep_top(const TopSet& top, std::span<const std::uint32_t> keys, std::int64_t place,
              std::span<double> values) {
  // The set takes keys from its threshold on up to its last place, and only larger ones after it.
  const auto cut = static_cast<std::size_t>(
      std::clamp<std::int64_t>(top.last + 1 - place, 0, static_cast<std::int64_t>(keys.size())));
  const std::uint64_t before = top.lowest_key(place);
  const std::uint64_t after = top.lowest_key(top.last + 1);
  for (std::size_t j = 0; j < cut; ++j) values[j] = keys[j] >= before ? values[j] : 0.0;
  for (std::size_t j = cut; j < keys.size(); ++j) values[j] = keys[j] >= after ? values[j] : 0.0;
}

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
    mean_agreeing(weights_, deltas, out.first(count));
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
    thread_local std::vector<std::uint32_t> keys;
    keys.resize(count);
    variance_keys(deltas, keys);
    for (std::size_t i = 0; i < others_.size(); ++i) {
      keep_top(top_, keys, begin * columns(), deltas.subspan(i * count, count));
    }
    return deltas;
  }

  void select(double share) {
    Ranking ranking(
        group().reference().rows(), columns(),
        [&](std::int64_t begin, std::int64_t end, std::span<std::uint32_t> out) {
          variance_keys(read(begin, end), out);
        },
        [&](const std::function<void(std::int64_t, std::int64_t)>& body) {
          for_row_blocks(group().inputs, body);
        });
    top_ = ranking.top(static_cast<std::int64_t>(static_cast<double>(ranking.nonzero()) * share));
  }

  void weigh() {
    const std::size_t models = others_.size();
    const auto rows = static_cast<std::size_t>(group().reference().rows());
    std::vector<double> squares(rows * models);  // [models, rows]
    for_row_blocks(group().inputs, [&](std::int64_t begin, std::int64_t end) {
      const std::span<const double> deltas = selected(begin, end);
      const auto here = static_cast<std::size_t>(end - begin);
      const std::size_t count = here * static_cast<std::size_t>(columns());
      for (std::size_t i = 0; i < models; ++i) {
        add_squares(deltas.subspan(i * count, count),
                    std::span(squares).subspan(i * rows + static_cast<std::size_t>(begin), here));
      }
    });
    for (std::size_t i = 0; i < models; ++i) {
      weights_.push_back(sum_in_order(std::span(squares).subspan(i * rows, rows)));
    }
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
