#include "merge/select.h"

#include <algorithm>
#include <mutex>
#include <vector>

namespace weft::merge {
namespace {

constexpr std::size_t kBins = std::size_t{1} << 16;
using Counts = std::vector<std::int64_t>;

/// Keys by rows: computed once and held, or computed whenever they are asked for.
class Keys {
 public:
  Keys(std::int64_t rows, std::int64_t columns, const RowKeys& keys, const RowLoop& loop)
      : columns_(columns), keys_(keys), loop_(loop) {
    if (rows * columns > kHeldKeys) return;
    held_.resize(static_cast<std::size_t>(rows * columns));
    loop_([&](std::int64_t begin, std::int64_t end) { keys_(begin, end, part(begin, end)); });
  }

  /// Calls visit(begin, keys) for the rows from `begin` on, in parallel.
  void each(const std::function<void(std::int64_t, std::span<const std::uint32_t>)>& visit) {
    loop_([&](std::int64_t begin, std::int64_t end) {
      if (!held_.empty()) {
        visit(begin, part(begin, end));
        return;
      }
      thread_local std::vector<std::uint32_t> buffer;
      buffer.resize(static_cast<std::size_t>((end - begin) * columns_));
      keys_(begin, end, buffer);
      visit(begin, buffer);
    });
  }

 private:
  std::span<std::uint32_t> part(std::int64_t begin, std::int64_t end) {
    return std::span(held_).subspan(static_cast<std::size_t>(begin * columns_),
                                    static_cast<std::size_t>((end - begin) * columns_));
  }

  std::int64_t columns_;
  const RowKeys& keys_;
  const RowLoop& loop_;
  std::vector<std::uint32_t> held_;
};

/// Counters that threads fill without getting in each other's way: a set is taken, used for one
/// block, and put back, so that there are as many as threads at work.
class CounterPool {
 public:
  void use(const std::function<void(Counts&)>& work) {
    Counts counts;
    {
      const std::scoped_lock lock(guard_);
      if (!free_.empty()) {
        counts = std::move(free_.back());
        free_.pop_back();
      }
    }
    if (counts.empty()) counts.assign(kBins, 0);
    work(counts);
    const std::scoped_lock lock(guard_);
    free_.push_back(std::move(counts));
  }

  [[nodiscard]] Counts total() const {
    Counts sum(kBins, 0);
    for (const Counts& counts : free_) {
      for (std::size_t i = 0; i < kBins; ++i) sum[i] += counts[i];
    }
    return sum;
  }

 private:
  std::mutex guard_;
  std::vector<Counts> free_;
};

/// The bin that holds element number k from above (k >= 1), and how many of it are wanted.
struct Cut {
  std::uint32_t bin = 0;
  std::int64_t wanted = 0;
  std::int64_t present = 0;
};

Cut cut_at(const Counts& counts, std::int64_t k) {
  for (std::size_t bin = kBins; bin-- > 0;) {
    if (counts[bin] >= k) return {static_cast<std::uint32_t>(bin), k, counts[bin]};
    k -= counts[bin];
  }
  return {};
}

/// The place of the wanted-th element with this key.
std::int64_t place_of(Keys& keys, std::int64_t rows, std::int64_t columns, std::uint32_t key,
                      std::int64_t wanted) {
  std::vector<std::int64_t> equal(static_cast<std::size_t>(rows), 0);
  keys.each([&](std::int64_t begin, std::span<const std::uint32_t> part) {
    for (std::size_t i = 0; i < part.size(); i += static_cast<std::size_t>(columns)) {
      const auto row = part.subspan(i, static_cast<std::size_t>(columns));
      equal[static_cast<std::size_t>(begin) + i / static_cast<std::size_t>(columns)] =
          std::ranges::count(row, key);
    }
  });
  std::int64_t row = 0;
  while (wanted > equal[static_cast<std::size_t>(row)]) {
    wanted -= equal[static_cast<std::size_t>(row)];
    ++row;
  }
  std::int64_t place = -1;
  keys.each([&](std::int64_t begin, std::span<const std::uint32_t> part) {
    const std::int64_t count = static_cast<std::int64_t>(part.size()) / columns;
    if (row < begin || row >= begin + count) return;
    std::int64_t seen = 0;
    for (std::int64_t j = 0; j < columns; ++j) {
      if (part[static_cast<std::size_t>((row - begin) * columns + j)] != key) continue;
      if (++seen == wanted) place = row * columns + j;
    }
  });
  return place;
}

}  // namespace

TopSet select_top(std::int64_t rows, std::int64_t columns, std::int64_t k, const RowKeys& row_keys,
                  const RowLoop& loop) {
  const std::int64_t count = rows * columns;
  if (k <= 0 || count == 0) return {};
  if (k >= count) return {0, count - 1};
  Keys keys(rows, columns, row_keys, loop);
  CounterPool upper;
  keys.each([&](std::int64_t, std::span<const std::uint32_t> part) {
    upper.use([&](Counts& counts) {
      for (const std::uint32_t key : part) ++counts[key >> 16];
    });
  });
  const Cut high = cut_at(upper.total(), k);
  CounterPool lower;
  keys.each([&](std::int64_t, std::span<const std::uint32_t> part) {
    lower.use([&](Counts& counts) {
      for (const std::uint32_t key : part) {
        if (key >> 16 == high.bin) ++counts[key & 0xffffU];
      }
    });
  });
  const Cut low = cut_at(lower.total(), high.wanted);
  const std::uint32_t threshold = high.bin << 16 | low.bin;
  if (low.wanted == low.present) return {threshold, count - 1};
  return {threshold, place_of(keys, rows, columns, threshold, low.wanted)};
}

}  // namespace weft::merge
