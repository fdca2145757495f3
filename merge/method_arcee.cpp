#include <algorithm>
#include <array>
#include <cmath>

#include "merge/method_rows.h"
#include "merge/methods.h"
#include "merge/select.h"

// arcee_fusion (mergekit/merge_methods/arcee_fusion.py): the elements of d = x - b that matter
// most. With p and q the softmax of a row of x and of b, each number of them raised by 1e-8, the
// importance of an element is |d| KL(p || q), KL that of its row. Taken are the elements whose
// importance is at least median + 1.5 (third quartile - first quartile), the quartiles being
// elements of the whole tensor in order. mergekit takes them of a million elements drawn at random
// where there are more; here they are exact.

namespace weft::merge {
namespace {

constexpr double kRaised = 1e-8;

/// In place: the softmax of the vector, each number raised.
void softmax(std::span<double> vector) {
  const double largest = std::ranges::max(vector);
  double sum = 0;
  for (double& value : vector) sum += value = std::exp(value - largest);
  for (double& value : vector) value = value / sum + kRaised;
}

double divergence(std::span<const double> p, std::span<const double> q) {
  double sum = 0;
  for (std::size_t i = 0; i < p.size(); ++i) sum += p[i] * std::log(p[i] / q[i]);
  return std::max(sum, 0.0);  // Below 0 it is what rounding leaves of 0.
}

class ArceeDeltas final : public GroupDeltas {
 public:
  ArceeDeltas(TensorGroup tensors, std::size_t other)
      : GroupDeltas(std::move(tensors)),
        other_(other),
        divergences_(static_cast<std::size_t>(group().reference().rows())) {
    measure();
    find_threshold();
  }

 protected:
  void rows(std::int64_t begin, std::int64_t end, std::span<double> out) const override {
    const auto count = static_cast<std::size_t>((end - begin) * columns());
    const std::span<double> delta = scratch<0>(count);
    read_difference(group().inputs[other_], group().reference(), begin, end, delta);
    read_difference(group().reference(), stored(), begin, end, out);
    for (std::size_t i = 0; i < count; ++i) {
      out[i] += importance(begin, i, delta[i]) >= threshold_ ? delta[i] : 0.0;
    }
  }

 private:
  /// Of element `place` of the rows from `begin` on, as the float that is ranked.
  [[nodiscard]] double importance(std::int64_t begin, std::size_t place, double delta) const {
    const std::size_t row = static_cast<std::size_t>(begin) + place / width();
    return static_cast<float>(std::abs(delta) * divergences_[row]);
  }

  [[nodiscard]] std::size_t width() const { return static_cast<std::size_t>(columns()); }

  void measure() {
    for_row_blocks(group().inputs, [&](std::int64_t begin, std::int64_t end) {
      const auto count = static_cast<std::size_t>((end - begin) * columns());
      const std::span<double> theirs = scratch<0>(count);
      const std::span<double> base = scratch<1>(count);
      group().inputs[other_].read(begin, end, theirs);
      group().reference().read(begin, end, base);
      for (std::size_t i = 0; i < count / width(); ++i) {
        const std::span<double> p = theirs.subspan(i * width(), width());
        const std::span<double> q = base.subspan(i * width(), width());
        softmax(p);
        softmax(q);
        divergences_[static_cast<std::size_t>(begin) + i] = divergence(p, q);
      }
    });
  }

  void find_threshold() {
    Ranking ranking(
        group().reference().rows(), columns(),
        [&](std::int64_t begin, std::int64_t end, std::span<std::uint32_t> out) {
          const auto count = static_cast<std::size_t>((end - begin) * columns());
          const std::span<double> delta = scratch<0>(count);
          read_difference(group().inputs[other_], group().reference(), begin, end, delta);
          for (std::size_t i = 0; i < count; ++i) {
            out[i] = magnitude_key(importance(begin, i, delta[i]));
          }
        },
        [&](const std::function<void(std::int64_t, std::int64_t)>& body) {
          for_row_blocks(group().inputs, body);
        });
    const std::int64_t count = group().reference().rows() * columns();
    std::array<double, 3> quartiles{};
    for (std::int64_t i = 0; i < 3; ++i) {
      // The element of place (i + 1) / 4 (count - 1) from below is the last of the others and it.
      const std::int64_t place = (i + 1) * (count - 1) / 4;
      quartiles[static_cast<std::size_t>(i)] =
          static_cast<double>(std::bit_cast<float>(ranking.top(count - place).threshold));
    }
    threshold_ = quartiles[1] + 1.5 * (quartiles[2] - quartiles[0]);
  }

  std::size_t other_;
  std::vector<double> divergences_;  ///< Of each row.
  double threshold_ = 0;
};

class ArceeFusion final : public Method {
 public:
  [[nodiscard]] std::string_view name() const noexcept override { return "arcee_fusion"; }
  [[nodiscard]] std::span<const ParameterSpec> parameters() const noexcept override { return {}; }
  [[nodiscard]] InputRule rule() const noexcept override {
    return {InputRule::Base::kRequired, 2, 2, 1, 1};
  }
  [[nodiscard]] std::unique_ptr<const RowDeltas> deltas(TensorGroup group) const override {
    if (group.all_alike()) return nullptr;
    const std::size_t other = group.others().front();
    return std::make_unique<ArceeDeltas>(std::move(group), other);
  }
};

}  // namespace

const Method& arcee_fusion_method() {
  static const ArceeFusion method;
  return method;
}

}  // namespace weft::merge
