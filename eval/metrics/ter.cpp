#include "eval/metrics/ter.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <optional>
#include <tuple>

#include "core/error.h"

namespace weft::eval {
namespace {

// sacrebleu's lib_ter.py, whose choices follow Tercom.
constexpr std::int64_t kMaxShiftSize = 10;
constexpr std::int64_t kMaxShiftDistance = 50;
constexpr std::int64_t kBeamWidth = 25;
constexpr std::int64_t kMaxCandidates = 1000;
constexpr std::int64_t kInfinity = std::int64_t{1} << 60;

/// What turns the hypothesis into the reference, one word at a time.
enum class Edit : std::uint8_t { kNone, kKeep, kReplace, kInsert, kDelete };

using Ids = std::vector<std::uint32_t>;

/// Edit distance to one reference within a beam around the diagonal. Hypotheses of one length come
/// one after another and begin alike: rows of the common beginning are kept.
class BeamDistance {
 public:
  BeamDistance(const Ids& reference, std::size_t hypothesis_size)
      : reference_(reference),
        width_(reference.size() + 1),
        cells_((hypothesis_size + 1) * width_) {
    for (std::size_t j = 0; j < width_; ++j)
      cells_[j] = {static_cast<std::int64_t>(j), Edit::kInsert};
  }

  std::int64_t operator()(const Ids& words) {
    std::size_t same = 0;
    while (same < last_.size() && words[same] == last_[same]) ++same;
    for (std::size_t i = same + 1; i <= words.size(); ++i) fill_row(words, i);
    last_ = words;
    return cells_[words.size() * width_ + width_ - 1].cost;
  }

  /// The edits of the hypothesis computed last, first to last.
  [[nodiscard]] std::vector<Edit> edits() const {
    std::vector<Edit> edits;
    std::size_t i = last_.size(), j = width_ - 1;
    while (i > 0 || j > 0) {
      const Edit edit = cells_[i * width_ + j].edit;
      if (edit == Edit::kNone) throw NumericError("TER: the beam does not reach the end");
      edits.push_back(edit);
      if (edit != Edit::kInsert) --i;
      if (edit != Edit::kDelete) --j;
    }
    std::ranges::reverse(edits);
    return edits;
  }

 private:
  struct Cell {
    std::int64_t cost = kInfinity;
    Edit edit = Edit::kNone;
  };

  void fill_row(const Ids& words, std::size_t i) {
    Cell* const row = cells_.data() + i * width_;
    const Cell* const above = row - width_;
    std::fill_n(row, width_, Cell{});
    const double ratio = static_cast<double>(reference_.size()) / static_cast<double>(words.size());
    // Lengths may differ so much that rows would not overlap.
    const std::int64_t beam =
        static_cast<double>(kBeamWidth) < ratio / 2
            ? static_cast<std::int64_t>(std::ceil(ratio / 2 + static_cast<double>(kBeamWidth)))
            : kBeamWidth;
    const auto diagonal = static_cast<std::int64_t>(std::floor(static_cast<double>(i) * ratio));
    const auto begin = static_cast<std::size_t>(std::max<std::int64_t>(0, diagonal - beam));
    const std::size_t end =
        i == words.size() ? width_ : std::min(width_, static_cast<std::size_t>(diagonal + beam));
    for (std::size_t j = begin; j < end; ++j) {
      if (j == 0) {
        row[0] = {above[0].cost + 1, Edit::kDelete};
        continue;
      }
      const bool equal = words[i - 1] == reference_[j - 1];
      // The order decides between equals.
      const Cell ways[] = {
          {above[j - 1].cost + (equal ? 0 : 1), equal ? Edit::kKeep : Edit::kReplace},
          {above[j].cost + 1, Edit::kDelete},
          {row[j - 1].cost + 1, Edit::kInsert}};
      for (const Cell& way : ways) {
        if (way.cost < row[j].cost) row[j] = way;
      }
    }
  }

  const Ids& reference_;
  std::size_t width_;
  std::vector<Cell> cells_;  ///< [words + 1, width_]
  Ids last_;
};

/// For each word of the reference the word of the hypothesis it stands for, or follows (-1: none),
/// and which words of either are wrong.
struct Alignment {
  std::vector<std::int64_t> place;
  std::vector<bool> wrong_reference, wrong_hypothesis;

  explicit Alignment(const std::vector<Edit>& edits) {
    std::int64_t at = -1;
    for (const Edit edit : edits) {
      const bool wrong = edit != Edit::kKeep;
      if (edit != Edit::kInsert) {
        ++at;
        wrong_hypothesis.push_back(wrong);
      }
      if (edit != Edit::kDelete) {
        place.push_back(at);
        wrong_reference.push_back(wrong);
      }
    }
  }
};

bool any(const std::vector<bool>& flags, std::size_t begin, std::size_t count) {
  return std::any_of(flags.begin() + static_cast<std::ptrdiff_t>(begin),
                     flags.begin() + static_cast<std::ptrdiff_t>(begin + count),
                     [](bool flag) { return flag; });
}

/// `length` words from `start` moved before the word at `target` (of the words as they were).
Ids shifted(const Ids& words, std::size_t start, std::size_t length, std::size_t target) {
  Ids result = words;
  const auto at = [&](std::size_t i) { return result.begin() + static_cast<std::ptrdiff_t>(i); };
  if (target < start) {
    std::rotate(at(target), at(start), at(start + length));
  } else if (target > start + length) {
    std::rotate(at(start), at(start + length), at(target));
  } else {
    // Inside itself: it moves to the right by so many words as the target lies behind its start.
    const std::size_t end = std::min(length + target, words.size());
    std::rotate(at(start), at(start + length), at(std::max(end, start + length)));
  }
  return result;
}

/// One search for the shift that saves most edits.
class ShiftSearch {
 public:
  ShiftSearch(const Ids& words, const Ids& reference, BeamDistance& distance,
              std::int64_t& candidates)
      : words_(words),
        reference_(reference),
        distance_(distance),
        candidates_(candidates),
        before_(distance(words)),
        alignment_(distance.edits()) {}

  /// Edits saved, and the words as they are then.
  std::pair<std::int64_t, Ids> best() {
    for (std::size_t h = 0; h < words_.size(); ++h) {
      for (std::size_t r = 0; r < reference_.size(); ++r) {
        const auto apart = static_cast<std::int64_t>(r) - static_cast<std::int64_t>(h);
        if (std::abs(apart) > kMaxShiftDistance) continue;
        for (std::size_t length = 1; length <= kMaxShiftSize && h + length <= words_.size() &&
                                     r + length <= reference_.size() &&
                                     words_[h + length - 1] == reference_[r + length - 1];
             ++length) {
          if (!is_worth_trying(h, r, length)) continue;
          try_targets(h, r, length);
          if (candidates_ >= kMaxCandidates) return result();
        }
      }
    }
    return result();
  }

 private:
  /// More saved, longer, further left, to a place further left.
  using Rank = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t>;

  [[nodiscard]] bool is_worth_trying(std::size_t h, std::size_t r, std::size_t length) const {
    const auto start = static_cast<std::int64_t>(h);
    const bool inside = start <= alignment_.place[r] &&
                        alignment_.place[r] < start + static_cast<std::int64_t>(length);
    return any(alignment_.wrong_hypothesis, h, length) &&
           any(alignment_.wrong_reference, r, length) && !inside;
  }

  void try_targets(std::size_t h, std::size_t r, std::size_t length) {
    std::int64_t tried = -1;
    // Before the reference's word r, then after each of the words that match.
    for (std::size_t i = 0; i <= length; ++i) {
      std::int64_t target = 0;
      if (r + i > 0) target = alignment_.place[r + i - 1] + 1;
      if (target == tried) continue;
      tried = target;
      Ids words = shifted(words_, h, length, static_cast<std::size_t>(target));
      const Rank rank{before_ - distance_(words), static_cast<std::int64_t>(length),
                      -static_cast<std::int64_t>(h), -target};
      ++candidates_;
      if (!best_ || rank > *best_) {
        best_ = rank;
        best_words_ = std::move(words);
      }
    }
  }

  std::pair<std::int64_t, Ids> result() {
    if (!best_) return {0, words_};
    return {std::get<0>(*best_), std::move(best_words_)};
  }

  const Ids& words_;
  const Ids& reference_;
  BeamDistance& distance_;
  std::int64_t& candidates_;
  std::int64_t before_;
  Alignment alignment_;
  std::optional<Rank> best_;
  Ids best_words_;
};

std::int64_t count_edits(Ids words, const Ids& reference) {
  if (reference.empty()) return static_cast<std::int64_t>(words.size());
  BeamDistance distance(reference, words.size());
  std::int64_t shifts = 0, candidates = 0;
  for (;;) {
    auto [saved, next] = ShiftSearch(words, reference, distance, candidates).best();
    if (candidates >= kMaxCandidates || saved <= 0) break;
    ++shifts;
    words = std::move(next);
  }
  return shifts + distance(words);
}

using Numbers = std::map<std::u32string, std::uint32_t>;

Ids numbered(const Words& words, Numbers& numbers) {
  Ids ids;
  for (const std::u32string& word : words) {
    const auto next = static_cast<std::uint32_t>(numbers.size());
    ids.push_back(numbers.try_emplace(word, next).first->second);
  }
  return ids;
}

}  // namespace

std::vector<double> ter_statistics(std::string_view hypothesis,
                                   std::span<const std::string> references,
                                   const TerOptions& options) {
  if (references.empty()) throw InputError("TER: a hypothesis has no reference to compare with");
  Numbers numbers;
  const Ids words = numbered(ter_words(hypothesis, options), numbers);
  std::int64_t best = kInfinity;
  double length = 0;
  for (const std::string& reference : references) {
    const Ids theirs = numbered(ter_words(reference, options), numbers);
    best = std::min(best, count_edits(words, theirs));
    length += static_cast<double>(theirs.size());
  }
  return {static_cast<double>(best), length / static_cast<double>(references.size())};
}

double ter_score(std::span<const double> sums) {
  if (sums[1] > 0) return 100 * sums[0] / sums[1];
  return sums[0] > 0 ? 100 : 0;
}

}  // namespace weft::eval
