#include "merge/sparsify.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace weft::merge {
namespace {

/// mergekit's guard: below it a norm is no ground for a factor.
constexpr double kLeastNorm = 1e-7;

std::int64_t share_of(double share, std::int64_t count) {
  return static_cast<std::int64_t>(share * static_cast<double>(count));
}

double magnitude_sum(std::span<const double> values) {
  double sum = 0;
  for (const double value : values) sum += std::abs(value);
  return sum;
}

}  // namespace

Sparsifier::Sparsifier(const SparsifyRule& rule, std::int64_t rows, std::int64_t columns,
                       RowReader read, const RowLoop& loop, std::uint64_t seed,
                       const std::string& stream)
    : rule_(rule), rows_(rows), columns_(columns) {
  if (rule_.density >= 1) rule_.kind = Sparsity::kNone;
  if (rule_.kind == Sparsity::kNone) return;
  if (rule_.density <= 0) {  // Nothing stays: an empty top set says so.
    rule_.kind = Sparsity::kMagnitude;
    return;
  }
  if (rule_.kind == Sparsity::kRandom || rule_.kind == Sparsity::kRankedRandom) {
    random_.emplace(seed, stream);
  } else {
    select(read, loop);
  }
  if (rule_.rescale == Rescale::kDensity) factor_ = 1 / rule_.density;
  if (rule_.rescale == Rescale::kL1) measure(read, loop);
}

void Sparsifier::select(const RowReader& read, const RowLoop& loop) {
  const std::int64_t count = rows_ * columns_;
  std::int64_t stay = share_of(rule_.density, count);
  std::int64_t top = 0;
  if (rule_.kind == Sparsity::kOutliers) {
    // Where density and gamma are more than the whole, it is gamma that gives way.
    const std::int64_t bottom =
        std::max<std::int64_t>(0, count - stay - share_of(rule_.gamma, count));
    top = count - bottom - stay;
  } else if (rule_.at_least_one) {
    stay = std::max<std::int64_t>(1, stay);
  }
  const RowKeys keys = [&](std::int64_t begin, std::int64_t end, std::span<std::uint32_t> out) {
    thread_local std::vector<double> values;
    values.resize(static_cast<std::size_t>((end - begin) * columns_));
    read(begin, end, values);
    std::ranges::transform(values, out.begin(), magnitude_key);
  };
  kept_ = select_top(rows_, columns_, top + stay, keys, loop);
  if (top > 0) dropped_ = select_top(rows_, columns_, top, keys, loop);
}

void Sparsifier::measure(const RowReader& read, const RowLoop& loop) {
  std::vector<double> before(static_cast<std::size_t>(rows_));
  std::vector<double> after(static_cast<std::size_t>(rows_));
  const auto width = static_cast<std::size_t>(columns_);
  loop([&](std::int64_t begin, std::int64_t end) {
    thread_local std::vector<double> values;
    values.resize(static_cast<std::size_t>(end - begin) * width);
    read(begin, end, values);
    const auto row = [&](std::int64_t i) {
      return std::span(values).subspan(static_cast<std::size_t>(i - begin) * width, width);
    };
    for (std::int64_t i = begin; i < end; ++i)
      before[static_cast<std::size_t>(i)] = magnitude_sum(row(i));
    drop(begin, end, values);
    for (std::int64_t i = begin; i < end; ++i)
      after[static_cast<std::size_t>(i)] = magnitude_sum(row(i));
  });
  const double all = std::accumulate(before.begin(), before.end(), 0.0);
  const double left = std::accumulate(after.begin(), after.end(), 0.0);
  if (all >= kLeastNorm && left >= kLeastNorm) factor_ = all / left;
}

void Sparsifier::apply(std::int64_t begin, std::int64_t end, std::span<double> values) const {
  drop(begin, end, values);
  const double factor = factor_;
  if (factor == 1) return;
  for (double& value : values) value *= factor;
}

void Sparsifier::drop(std::int64_t begin, std::int64_t end, std::span<double> values) const {
  if (rule_.kind == Sparsity::kNone) return;
  if (rule_.kind == Sparsity::kRandom) {
    drop_by_chance(begin, values);
    return;
  }
  const auto width = static_cast<std::size_t>(columns_);
  if (rule_.kind == Sparsity::kRankedRandom) {
    for (std::int64_t row = begin; row < end; ++row) {
      drop_by_rank(row, values.subspan(static_cast<std::size_t>(row - begin) * width, width));
    }
    return;
  }
  const TopSet kept = kept_;
  const TopSet dropped = dropped_;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint32_t key = magnitude_key(values[i]);
    const std::int64_t place = begin * columns_ + static_cast<std::int64_t>(i);
    const bool stays = kept.contains(key, place) & !dropped.contains(key, place);
    values[i] = stays ? values[i] : 0.0;  // A choice of values, not a branch: it is unpredictable.
  }
}

void Sparsifier::drop_by_chance(std::int64_t begin, std::span<double> values) const {
  thread_local std::vector<float> draws;
  draws.resize(values.size());
  random_->fill(static_cast<std::uint64_t>(begin * columns_), draws);
  const double density = rule_.density;
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<double>(draws[i]) < density ? values[i] : 0.0;
  }
}

void Sparsifier::drop_by_rank(std::int64_t row, std::span<double> values) const {
  // Key and place in one integer: sorted, they rank the row; equals rank by place.
  thread_local std::vector<std::uint64_t> order;
  order.resize(values.size());
  for (std::size_t j = 0; j < values.size(); ++j) {
    order[j] = std::uint64_t{magnitude_key(values[j])} << 32 | j;
  }
  std::ranges::sort(order);
  thread_local std::vector<float> draws;
  draws.resize(values.size());
  random_->fill(static_cast<std::uint64_t>(row * columns_), draws);
  const double last = std::max<double>(1, static_cast<double>(values.size()) - 1);
  for (std::size_t rank = 0; rank < order.size(); ++rank) {
    const auto j = static_cast<std::size_t>(order[rank] & 0xffffffffU);
    const double probability =
        rule_.density - rule_.epsilon + static_cast<double>(rank) / last * 2 * rule_.epsilon;
    if (static_cast<double>(draws[j]) >= probability) values[j] = 0;
  }
}

}  // namespace weft::merge
