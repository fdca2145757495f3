#include "merge/sparsify.h"

#include <algorithm>
#include <numeric>

#include "merge/row_kernels.h"

namespace weft::merge {
namespace {

/// mergekit's guard: below it a norm is no ground for a factor.
constexpr double kLeastNorm = 1e-7;

/// Bytes that hold a mark for each element of a row.
std::size_t marks_of(std::int64_t columns) { return (static_cast<std::size_t>(columns) + 7) / 8; }

std::int64_t share_of(double share, std::int64_t count) {
  return static_cast<std::int64_t>(share * static_cast<double>(count));
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
    if (rule_.kind == Sparsity::kRankedRandom) set_chances();
  } else {
    select(read, loop);
  }
  if (rule_.rescale == Rescale::kDensity) factor_ = 1 / rule_.density;
  if (rule_.rescale == Rescale::kL1) measure(read, loop);
}

void Sparsifier::set_chances() {
  const double last = std::max<double>(1, static_cast<double>(columns_) - 1);
  for (std::int64_t rank = 0; rank < columns_; ++rank) {
    chances_.push_back(rule_.density - rule_.epsilon +
                       static_cast<double>(rank) / last * 2 * rule_.epsilon);
  }
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
    magnitude_keys(values, out);
  };
  Ranking ranking(rows_, columns_, keys, loop);
  kept_ = ranking.top(top + stay);
  if (top > 0) dropped_ = ranking.top(top);
}

void Sparsifier::measure(const RowReader& read, const RowLoop& loop) {
  std::vector<double> before(static_cast<std::size_t>(rows_));
  std::vector<double> after(static_cast<std::size_t>(rows_));
  const auto width = static_cast<std::size_t>(columns_);
  const std::size_t bytes = marks_of(columns_);
  std::vector<std::uint8_t> stays;
  if (random_ && rows_ * columns_ <= kRemembered) {
    stays.resize(static_cast<std::size_t>(rows_) * bytes);
  }
  loop([&](std::int64_t begin, std::int64_t end) {
    thread_local std::vector<double> values;
    values.resize(static_cast<std::size_t>(end - begin) * width);
    read(begin, end, values);
    const bool drawn = rule_.kind == Sparsity::kRandom && !stays.empty();
    const auto row = [&](std::int64_t i) {
      return std::span(values).subspan(static_cast<std::size_t>(i - begin) * width, width);
    };
    const auto marks = [&](std::int64_t i) {
      return std::span(stays).subspan(static_cast<std::size_t>(i) * bytes, bytes);
    };
    for (std::int64_t i = begin; i < end && drawn; ++i) {
      const auto at = static_cast<std::size_t>(i);
      random_->below(at * width, rule_.density, width, marks(i));
      const MarkedSums sums = sum_marked(marks(i), row(i));
      before[at] = sums.all;
      after[at] = sums.marked;
    }
    if (drawn) return;
    for (std::int64_t i = begin; i < end; ++i)
      before[static_cast<std::size_t>(i)] = sum_magnitudes(row(i));
    drop(begin, end, values);
    for (std::int64_t i = begin; i < end; ++i) {
      after[static_cast<std::size_t>(i)] = sum_magnitudes(row(i));
      if (!stays.empty()) mark_nonzero(row(i), marks(i));
    }
  });
  stays_ = std::move(stays);
  const double all = std::accumulate(before.begin(), before.end(), 0.0);
  const double left = std::accumulate(after.begin(), after.end(), 0.0);
  if (all >= kLeastNorm && left >= kLeastNorm) factor_ = all / left;
}

void Sparsifier::apply(std::int64_t begin, std::int64_t end, std::span<double> values) const {
  drop(begin, end, values);
  if (factor_ != 1) scale(factor_, values);
}

void Sparsifier::drop(std::int64_t begin, std::int64_t end, std::span<double> values) const {
  if (rule_.kind == Sparsity::kNone) return;
  const auto width = static_cast<std::size_t>(columns_);
  if (!stays_.empty()) {
    const std::size_t bytes = marks_of(columns_);
    for (std::int64_t row = begin; row < end; ++row) {
      keep_marked(std::span(stays_).subspan(static_cast<std::size_t>(row) * bytes, bytes),
                  values.subspan(static_cast<std::size_t>(row - begin) * width, width));
    }
    return;
  }
  if (rule_.kind == Sparsity::kRandom) {
    drop_by_chance(begin, values);
    return;
  }
  if (rule_.kind == Sparsity::kRankedRandom) {
    for (std::int64_t row = begin; row < end; ++row) {
      drop_by_rank(row, values.subspan(static_cast<std::size_t>(row - begin) * width, width));
    }
    return;
  }
  // A top set takes keys from its threshold on up to its last place, and only larger ones after it.
  const std::int64_t first = begin * columns_;
  const std::int64_t past = end * columns_;
  std::int64_t from = first;
  for (const std::int64_t to : cuts(first, past)) {
    keep_between(kept_.lowest_key(from), dropped_.lowest_key(from),
                 values.subspan(static_cast<std::size_t>(from - first),
                                static_cast<std::size_t>(to - from)));
    from = to;
  }
}

std::array<std::int64_t, 3> Sparsifier::cuts(std::int64_t first, std::int64_t past) const {
  const std::int64_t a = std::clamp(kept_.last + 1, first, past);
  const std::int64_t b = std::clamp(dropped_.last + 1, first, past);
  return {std::min(a, b), std::max(a, b), past};
}

void Sparsifier::drop_by_chance(std::int64_t begin, std::span<double> values) const {
  thread_local std::vector<float> draws;
  draws.resize(values.size());
  random_->fill(static_cast<std::uint64_t>(begin * columns_), draws);
  keep_drawn(draws, rule_.density, values);
}

void Sparsifier::drop_by_rank(std::int64_t row, std::span<double> values) const {
  thread_local std::vector<std::uint32_t> order;
  rank_row(values, order);
  thread_local std::vector<float> draws;
  draws.resize(values.size());
  random_->fill(static_cast<std::uint64_t>(row * columns_), draws);
  for (std::size_t rank = 0; rank < order.size(); ++rank) {
    const std::size_t j = order[rank];
    values[j] = static_cast<double>(draws[j]) < chances_[rank] ? values[j] : 0.0;
  }
}

}  // namespace weft::merge
