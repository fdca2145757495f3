#include "data/pairs.h"

#include <algorithm>
#include <array>
#include <clocale>
#include <cwctype>
#include <map>
#include <unordered_map>
#include <unordered_set>

#include "core/error.h"
#include "core/utf8.h"
#include "data/random.h"

namespace weft::data {
namespace {

/// Character classes of Unicode, independent of the user's locale.
class UnicodeLocale {
 public:
  UnicodeLocale() : locale_(::newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr)) {}
  ~UnicodeLocale() {
    if (locale_ != nullptr) ::freelocale(locale_);
  }
  UnicodeLocale(const UnicodeLocale&) = delete;
  UnicodeLocale& operator=(const UnicodeLocale&) = delete;

  [[nodiscard]] bool is_letter(char32_t c) const {
    // Combining marks belong to their letter; glibc counts most of them as alphanumeric.
    return locale_ == nullptr ? c > 0x7f : ::iswalnum_l(static_cast<wint_t>(c), locale_) != 0;
  }
  [[nodiscard]] char32_t lower(char32_t c) const {
    if (locale_ == nullptr) return c;
    return static_cast<char32_t>(::towlower_l(static_cast<wint_t>(c), locale_));
  }

 private:
  locale_t locale_;
};

std::uint64_t hash_of(std::u32string_view gram) {
  std::uint64_t hash = 0xcbf29ce484222325ULL;  // FNV-1a, 64 bits
  for (const char32_t c : gram) hash = (hash ^ c) * 0x100000001b3ULL;
  return Random(hash).next();
}

/// Hashes of the 5-grams of a comparison form, sorted, each once; a shorter text is one gram.
std::vector<std::uint64_t> grams(std::string_view form) {
  constexpr std::size_t kGram = 5;
  const std::u32string letters = core::decode_utf8(form);
  std::vector<std::uint64_t> hashes;
  if (letters.size() <= kGram) {
    hashes.push_back(hash_of(letters));
  } else {
    for (std::size_t i = 0; i + kGram <= letters.size(); ++i) {
      hashes.push_back(hash_of(std::u32string_view(letters).substr(i, kGram)));
    }
  }
  std::ranges::sort(hashes);
  hashes.erase(std::unique(hashes.begin(), hashes.end()), hashes.end());
  return hashes;
}

double jaccard(const std::vector<std::uint64_t>& a, const std::vector<std::uint64_t>& b) {
  std::size_t common = 0;
  for (auto i = a.begin(), j = b.begin(); i != a.end() && j != b.end();) {
    if (*i == *j) {
      ++common;
      ++i;
      ++j;
    } else if (*i < *j) {
      ++i;
    } else {
      ++j;
    }
  }
  return static_cast<double>(common) / static_cast<double>(a.size() + b.size() - common);
}

/// Finds earlier pairs that are nearly the same: MinHash signatures in bands point at candidates
/// (Broder 1997), whose similarity is then computed exactly. 16 bands of 4 find a pair of
/// similarity 0.8 with probability 0.9998.
class NearDuplicates {
 public:
  explicit NearDuplicates(double threshold) : threshold_(threshold) {}

  /// True if an earlier call had nearly the same text; otherwise remembers this one.
  bool seen(std::string_view form) {
    std::vector<std::uint64_t> mine = grams(form);
    const auto keys = band_keys(mine);
    for (std::size_t band = 0; band < kBands; ++band) {
      const auto found = buckets_[band].find(keys[band]);
      if (found == buckets_[band].end()) continue;
      for (const std::size_t other : found->second) {
        if (jaccard(mine, known_[other]) >= threshold_) return true;
      }
    }
    for (std::size_t band = 0; band < kBands; ++band) {
      buckets_[band][keys[band]].push_back(known_.size());
    }
    known_.push_back(std::move(mine));
    return false;
  }

 private:
  static constexpr std::size_t kBands = 16;
  static constexpr std::size_t kRows = 4;

  static std::array<std::uint64_t, kBands> band_keys(const std::vector<std::uint64_t>& hashes) {
    std::array<std::uint64_t, kBands> keys{};
    for (std::size_t band = 0; band < kBands; ++band) {
      for (std::size_t row = 0; row < kRows; ++row) {
        const std::uint64_t salt = mix_seed(band, row);
        std::uint64_t smallest = ~std::uint64_t{0};
        for (const std::uint64_t hash : hashes) {
          smallest = std::min<std::uint64_t>(smallest, (hash ^ salt) * 0x9e3779b97f4a7c15ULL);
        }
        keys[band] = Random(keys[band] ^ smallest).next();
      }
    }
    return keys;
  }

  double threshold_;
  std::vector<std::vector<std::uint64_t>> known_;
  std::array<std::unordered_map<std::uint64_t, std::vector<std::size_t>>, kBands> buckets_;
};

struct Cleaned {
  const Pair* pair;
  std::string source_form;
  std::string target_form;
};

std::vector<Cleaned> clean(const std::vector<Pair>& pairs, const SplitOptions& options,
                           SplitStatistics& counts) {
  std::vector<Cleaned> kept;
  NearDuplicates duplicates(options.near_duplicate);
  for (const Pair& pair : pairs) {
    ++counts.read;
    Cleaned one{&pair, comparison_form(pair.source), comparison_form(pair.target)};
    const auto source = static_cast<std::int64_t>(core::decode_utf8(one.source_form).size());
    const auto target = static_cast<std::int64_t>(core::decode_utf8(one.target_form).size());
    const double ratio = static_cast<double>(std::max(source, target)) /
                         static_cast<double>(std::max<std::int64_t>(1, std::min(source, target)));
    if (std::min(source, target) < options.shortest) {
      ++counts.empty;
    } else if (std::max(source, target) > options.longest) {
      ++counts.too_long;
    } else if (ratio > options.longest_ratio || one.source_form == one.target_form) {
      ++counts.misaligned;
    } else if (duplicates.seen(one.source_form + " | " + one.target_form)) {
      ++counts.near_duplicates;
    } else {
      kept.push_back(std::move(one));
    }
  }
  return kept;
}

enum class Share : std::uint8_t { kTrain, kValidation, kTest };

/// Draws documents by the seed: for the test, then for validation, until enough pairs are there.
std::map<std::string, Share> draw_documents(const std::vector<Cleaned>& pairs,
                                            const SplitOptions& options) {
  std::map<std::string, std::int64_t> sizes;
  for (const Cleaned& one : pairs) ++sizes[one.pair->document];
  // What has no document may come from any of them, so it can only be trained on.
  sizes.erase("");
  if (sizes.size() < 3) {
    throw InputError(
        "the pairs come from {} documents; holding documents out for test and "
        "validation needs at least 3 (is the document column named?)",
        sizes.size());
  }
  std::vector<std::string> order;
  for (const auto& [document, size] : sizes) order.push_back(document);
  Random random(options.seed);
  random.shuffle(order);
  const auto half = static_cast<std::int64_t>(pairs.size() / 2);
  std::map<std::string, Share> parts;
  std::int64_t held_out = 0;
  std::size_t next = 0;
  const auto fill = [&](Share part, std::int64_t wanted) {
    for (std::int64_t have = 0; have < wanted && next + 1 < order.size(); ++next) {
      const std::int64_t size = sizes[order[next]];
      if (held_out + size > half) continue;
      parts[order[next]] = part;
      have += size;
      held_out += size;
    }
  };
  fill(Share::kTest, options.test_pairs);
  fill(Share::kValidation, options.validation_pairs);
  return parts;
}

/// A sample of at most `wanted`, in order of reading; the rest is counted as unused.
std::vector<Pair> sample(std::vector<const Cleaned*> from, std::int64_t wanted, std::uint64_t seed,
                         std::unordered_set<std::string>& forms, std::int64_t& unused) {
  Random random(seed);
  random.shuffle(from);
  if (static_cast<std::int64_t>(from.size()) > wanted) {
    unused += static_cast<std::int64_t>(from.size()) - wanted;
    from.resize(static_cast<std::size_t>(wanted));
  }
  std::ranges::sort(from, {}, [](const Cleaned* one) { return one->pair->line; });
  std::vector<Pair> result;
  for (const Cleaned* one : from) {
    result.push_back(*one->pair);
    forms.insert(one->source_form);
    forms.insert(one->target_form);
  }
  return result;
}

}  // namespace

std::string comparison_form(std::string_view text) {
  static const UnicodeLocale kUnicode;
  std::string form;
  bool gap = false;
  for (const char32_t c : core::decode_utf8(text)) {
    if (!kUnicode.is_letter(c)) {
      gap = true;
      continue;
    }
    if (gap && !form.empty()) form += ' ';
    gap = false;
    core::append_utf8(form, kUnicode.lower(c));
  }
  return form;
}

double similarity(std::string_view a, std::string_view b) { return jaccard(grams(a), grams(b)); }

Split clean_and_split(const std::vector<Pair>& pairs, const SplitOptions& options) {
  Split split;
  SplitStatistics& counts = split.statistics;
  const std::vector<Cleaned> kept = clean(pairs, options, counts);
  const std::map<std::string, Share> parts = draw_documents(kept, options);
  std::map<Share, std::vector<const Cleaned*>> chosen;
  for (const Cleaned& one : kept) {
    const auto found = parts.find(one.pair->document);
    chosen[found == parts.end() ? Share::kTrain : found->second].push_back(&one);
  }
  std::unordered_set<std::string> held_out;
  split.test = sample(chosen[Share::kTest], options.test_pairs, mix_seed(options.seed, 1), held_out,
                      counts.unused);
  // Validation chooses the best adapter, so it must not know the test either.
  std::erase_if(chosen[Share::kValidation], [&](const Cleaned* one) {
    const bool leak = held_out.contains(one->source_form) || held_out.contains(one->target_form);
    counts.leaks += leak ? 1 : 0;
    return leak;
  });
  split.validation = sample(chosen[Share::kValidation], options.validation_pairs,
                            mix_seed(options.seed, 2), held_out, counts.unused);
  for (const Cleaned* one : chosen[Share::kTrain]) {
    if (held_out.contains(one->source_form) || held_out.contains(one->target_form)) {
      ++counts.leaks;
    } else {
      split.train.push_back(*one->pair);
    }
  }
  counts.train = static_cast<std::int64_t>(split.train.size());
  counts.validation = static_cast<std::int64_t>(split.validation.size());
  counts.test = static_cast<std::int64_t>(split.test.size());
  for (const auto& [document, part] : parts) {
    (part == Share::kTest ? counts.test_documents : counts.validation_documents)
        .push_back(document);
  }
  return split;
}

}  // namespace weft::data
