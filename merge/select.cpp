#include "merge/select.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <utility>

#include "core/parallel.h"

namespace weft::merge {
namespace {

constexpr std::size_t kBins = std::size_t{1} << 16;
using Counts = std::vector<std::int64_t>;

/// How many keys are this one.
WEFT_CLONES std::uint32_t count_equal(const std::uint32_t* keys, std::size_t count,
                                      std::uint32_t key) {
  std::uint32_t equal = 0;
  for (std::size_t i = 0; i < count; ++i) equal += keys[i] == key ? 1U : 0U;
  return equal;
}

/// Counts the keys with this upper half by their lower halves. They are few: most groups of
/// keys have none, which vector code finds out.
WEFT_CLONES void count_lower(const std::uint32_t* keys, std::size_t count, std::uint32_t upper,
                             std::int64_t* counts) {
  constexpr std::size_t kGroup = 32;
  for (std::size_t at = 0; at < count; at += kGroup) {
    const std::size_t end = std::min(count, at + kGroup);
    if (end - at == kGroup) {
      std::uint32_t any = 0;
      for (std::size_t i = 0; i < kGroup; ++i) any |= keys[at + i] >> 16 == upper ? 1U : 0U;
      if (any == 0) continue;
    }
    for (std::size_t i = at; i < end; ++i) {
      if (keys[i] >> 16 == upper) ++counts[keys[i] & 0xffffU];
    }
  }
}

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

/// Memory of keys between rankings: new pages for every tensor cost as much as counting its keys.
class KeyPool {
 public:
  static KeyPool& instance() {
    static KeyPool pool;
    return pool;
  }
  std::vector<std::uint32_t> take(std::size_t count) {
    std::vector<std::uint32_t> keys;
    {
      const std::scoped_lock lock(guard_);
      keys = std::move(kept_);
      kept_.clear();
    }
    if (keys.size() < count) {
      keys = {};  // Not copied, and not held beside the new ones.
      keys.resize(count);
    }
    return keys;
  }
  void give(std::vector<std::uint32_t> keys) {
    const std::scoped_lock lock(guard_);
    if (keys.size() > kept_.size()) kept_ = std::move(keys);
  }

 private:
  std::mutex guard_;
  std::vector<std::uint32_t> kept_;
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

}  // namespace

Ranking::Ranking(std::int64_t rows, std::int64_t columns, RowKeys keys, RowLoop loop)
    : rows_(rows), columns_(columns), keys_(std::move(keys)), loop_(std::move(loop)) {
  const bool hold = rows * columns <= kHeldKeys;
  if (hold) held_ = KeyPool::instance().take(static_cast<std::size_t>(rows * columns));
  CounterPool upper;
  std::atomic<std::int64_t> zeros{0};
  loop_([&](std::int64_t begin, std::int64_t end) {
    thread_local std::vector<std::uint32_t> buffer;
    buffer.resize(hold ? 0 : static_cast<std::size_t>((end - begin) * columns_));
    const std::span<std::uint32_t> part = hold ? held(begin, end) : std::span(buffer);
    keys_(begin, end, part);
    zeros += count_equal(part.data(), part.size(), 0);
    upper.use([&](Counts& counts) {
      for (const std::uint32_t key : part) ++counts[key >> 16];
    });
  });
  zeros_ = zeros;
  upper_ = upper.total();
}

Ranking::~Ranking() { KeyPool::instance().give(std::move(held_)); }

std::span<std::uint32_t> Ranking::held(std::int64_t begin, std::int64_t end) {
  return std::span(held_).subspan(static_cast<std::size_t>(begin * columns_),
                                  static_cast<std::size_t>((end - begin) * columns_));
}

void Ranking::each(const Visit& visit) {
  const auto give = [&](std::int64_t begin, std::int64_t end) {
    if (!held_.empty()) {
      visit(begin, held(begin, end));
      return;
    }
    thread_local std::vector<std::uint32_t> buffer;
    buffer.resize(static_cast<std::size_t>((end - begin) * columns_));
    keys_(begin, end, buffer);
    visit(begin, buffer);
  };
  if (held_.empty()) {
    loop_(give);  // It knows how the rows are read best.
  } else {
    core::parallel_for(rows_, 64, give);
  }
}

TopSet Ranking::top(std::int64_t k) {
  const std::int64_t count = rows_ * columns_;
  if (k <= 0 || count == 0) return {};
  if (k >= count) return {0, count - 1};
  const Cut high = cut_at(upper_, k);
  CounterPool lower;
  each([&](std::int64_t, std::span<const std::uint32_t> part) {
    lower.use(
        [&](Counts& counts) { count_lower(part.data(), part.size(), high.bin, counts.data()); });
  });
  const Cut low = cut_at(lower.total(), high.wanted);
  const std::uint32_t threshold = high.bin << 16 | low.bin;
  if (low.wanted == low.present) return {threshold, count - 1};
  return {threshold, place_of(threshold, low.wanted)};
}

/// The place of the wanted-th element with this key.
std::int64_t Ranking::place_of(std::uint32_t key, std::int64_t wanted) {
  const auto width = static_cast<std::size_t>(columns_);
  std::vector<std::int64_t> equal(static_cast<std::size_t>(rows_), 0);
  each([&](std::int64_t begin, std::span<const std::uint32_t> part) {
    for (std::size_t i = 0; i < part.size(); i += width) {
      equal[static_cast<std::size_t>(begin) + i / width] = count_equal(part.data() + i, width, key);
    }
  });
  std::int64_t row = 0;
  while (wanted > equal[static_cast<std::size_t>(row)]) {
    wanted -= equal[static_cast<std::size_t>(row)];
    ++row;
  }
  std::vector<std::uint32_t> last(width);
  keys_(row, row + 1, last);
  auto found = last.begin();
  for (;; ++found) {
    found = std::find(found, last.end(), key);
    if (--wanted == 0) return row * columns_ + (found - last.begin());
  }
}

void rank_row(std::span<const double> values, std::vector<std::uint32_t>& order) {
  constexpr std::uint32_t kDigits = 4;  // Of a byte each, sorted from the lowest on.
  thread_local std::vector<std::uint64_t> from;
  thread_local std::vector<std::uint64_t> to;
  from.resize(values.size());
  to.resize(values.size());
  order.resize(values.size());
  std::uint32_t counts[kDigits][256] = {};
  for (std::size_t j = 0; j < values.size(); ++j) {
    const std::uint32_t key = magnitude_key(values[j]);
    from[j] = std::uint64_t{key} << 32 | j;
    for (std::uint32_t digit = 0; digit < kDigits; ++digit) {
      ++counts[digit][key >> (8 * digit) & 0xffU];
    }
  }
  for (std::uint32_t digit = 0; digit < kDigits; ++digit) {
    std::uint32_t next = 0;
    for (std::uint32_t& count : counts[digit]) next += std::exchange(count, next);
    for (const std::uint64_t element : from) {
      to[counts[digit][element >> (32 + 8 * digit) & 0xffU]++] = element;
    }
    std::swap(from, to);
  }
  for (std::size_t j = 0; j < values.size(); ++j) {
    order[j] = static_cast<std::uint32_t>(from[j]);
  }
}

}  // namespace weft::merge
