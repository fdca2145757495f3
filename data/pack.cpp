#include "data/pack.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "core/error.h"
#include "core/hash.h"
#include "core/parallel.h"
#include "data/random.h"

namespace weft::data {
namespace {

constexpr std::int64_t kRowsBetweenReleases = 64;

/// What is packed as one: an example, or several that share their beginning. `size` counts tokens
/// beyond what all of the enclosing piece begins with.
struct Piece {
  std::int64_t size = 0;
  std::int64_t example_tokens = 0;
  std::vector<std::uint32_t> examples;
};

void append(Piece& to, Piece&& piece) {
  to.size += piece.size;
  to.example_tokens += piece.example_tokens;
  to.examples.insert(to.examples.end(), piece.examples.begin(), piece.examples.end());
}

/// Best-fit decreasing: largest first, each to the bin where the least room would be left. A bin
/// holds `capacity` tokens of examples with at most `most_tokens`; its pieces are in their first
/// order.
std::vector<Piece> best_fit(std::vector<Piece> pieces, std::int64_t capacity,
                            std::int64_t most_tokens) {
  std::vector<std::size_t> by_size(pieces.size());
  std::iota(by_size.begin(), by_size.end(), 0U);
  std::ranges::stable_sort(by_size, std::ranges::greater(),
                           [&](std::size_t i) { return pieces[i].size; });
  struct Bin {
    std::int64_t example_tokens = 0;
    std::vector<std::size_t> pieces;
  };
  std::vector<Bin> bins;
  std::multimap<std::int64_t, std::size_t> room;  // Room left -> bin.
  for (const std::size_t piece : by_size) {
    const std::int64_t size = pieces[piece].size;
    const std::int64_t example_tokens = pieces[piece].example_tokens;
    const auto best = std::find_if(room.lower_bound(size), room.end(), [&](const auto& entry) {
      return bins[entry.second].example_tokens + example_tokens <= most_tokens;
    });
    std::size_t bin = bins.size();
    std::int64_t left = capacity;
    if (best != room.end()) {
      bin = best->second;
      left = best->first;
      room.erase(best);
    } else {
      bins.emplace_back();
    }
    bins[bin].example_tokens += example_tokens;
    bins[bin].pieces.push_back(piece);
    if (left > size) room.emplace(left - size, bin);
  }
  std::vector<Piece> result;
  for (Bin& bin : bins) {
    std::ranges::sort(bin.pieces);
    Piece& whole = result.emplace_back();
    for (const std::size_t piece : bin.pieces) append(whole, std::move(pieces[piece]));
  }
  return result;
}

/// The children of `parent` in the forest as pieces: a node with its whole tree where that fits,
/// otherwise bins of it that each begin with its tokens.
std::vector<Piece> pieces_below(std::span<const PrefixNode> forest, std::int32_t parent,
                                std::span<const std::vector<std::int32_t>> children,
                                std::span<const Prefix> examples, std::int64_t capacity,
                                std::int64_t most_tokens) {
  std::vector<Piece> pieces;
  for (const std::int32_t child : children[static_cast<std::size_t>(parent + 1)]) {
    const PrefixNode& node = forest[static_cast<std::size_t>(child)];
    const std::int64_t own = node.end - node.begin;
    if (children[static_cast<std::size_t>(child + 1)].empty()) {
      const std::uint32_t example = node.members.front();
      pieces.push_back({own, std::ssize(examples[example].tokens), {example}});
      continue;
    }
    const std::int64_t inside = capacity - own;
    auto parts = pieces_below(forest, child, children, examples, inside, most_tokens);
    for (Piece& bin : best_fit(std::move(parts), inside, most_tokens)) {
      bin.size += own;
      pieces.push_back(std::move(bin));
    }
  }
  return pieces;
}

/// Rows of the examples at the places in `order`, each row in the order of `order`.
std::vector<PlannedRow> pack_window(std::span<const std::uint32_t> order,
                                    std::span<const Prefix> all, const RowStreamOptions& options) {
  std::vector<Prefix> examples;
  for (const std::uint32_t place : order) examples.push_back(all[place]);
  std::vector<Piece> pieces;
  if (options.share_prefixes) {
    const std::vector<PrefixNode> forest = prefix_forest(examples);
    std::vector<std::vector<std::int32_t>> children(forest.size() + 1);
    for (std::size_t i = 0; i < forest.size(); ++i) {
      children[static_cast<std::size_t>(forest[i].parent + 1)].push_back(
          static_cast<std::int32_t>(i));
    }
    pieces =
        pieces_below(forest, -1, children, examples, options.sequence_len, options.most_tokens);
  } else {
    for (std::uint32_t i = 0; i < examples.size(); ++i) {
      const std::int64_t length = std::ssize(examples[i].tokens);
      pieces.push_back({length, length, {i}});
    }
  }
  std::vector<PlannedRow> rows;
  for (Piece& bin : best_fit(std::move(pieces), options.sequence_len, options.most_tokens)) {
    std::ranges::sort(bin.examples);
    for (std::uint32_t& place : bin.examples) place = order[place];
    rows.push_back({std::move(bin.examples), bin.size, bin.example_tokens});
  }
  return rows;
}

/// Tokens of a row of these examples, whose common beginnings are there once.
std::int64_t shared_row_tokens(std::span<const std::uint32_t> row, std::span<const Prefix> all) {
  std::vector<Prefix> examples;
  for (const std::uint32_t index : row) examples.push_back(all[index]);
  std::int64_t tokens = 0;
  for (const PrefixNode& node : prefix_forest(examples)) tokens += node.end - node.begin;
  return tokens;
}

/// Rows in the order of the examples: the next example begins a new row where it does not fit.
std::vector<PlannedRow> pack_in_order(std::span<const Prefix> all,
                                      const RowStreamOptions& options) {
  std::vector<PlannedRow> rows;
  for (std::uint32_t index = 0; index < all.size(); ++index) {
    const std::int64_t length = std::ssize(all[index].tokens);
    if (!rows.empty() && rows.back().example_tokens + length <= options.most_tokens) {
      PlannedRow& row = rows.back();
      row.examples.push_back(index);
      // The forest is looked at only where the row is full without it.
      const std::int64_t plain = row.example_tokens + length;
      const bool fits =
          plain <= options.sequence_len ||
          (options.share_prefixes && shared_row_tokens(row.examples, all) <= options.sequence_len);
      if (fits) {
        row.tokens = row.example_tokens = plain;
        continue;
      }
      row.examples.pop_back();
    }
    rows.push_back({{index}, length, length});
  }
  if (options.share_prefixes) {
    for (PlannedRow& row : rows) row.tokens = shared_row_tokens(row.examples, all);
  }
  return rows;
}

std::string fingerprint(const ExampleTable& examples, const RowStreamOptions& options) {
  core::Sha256 hash;
  for (std::size_t i = 0; i < examples.size(); ++i) {
    const ExampleView example = examples[i];
    const auto size = static_cast<std::uint64_t>(example.tokens.size());
    hash.update(std::as_bytes(std::span(&size, 1)));
    hash.update(std::as_bytes(example.tokens));
    hash.update(std::as_bytes(example.supervised));
  }
  if (options.packing && !options.shuffle) hash.update(std::string_view("in order"));
  hash.update(fmt::format("len {} packing {} share {} most {} shuffle {} seed {} window {}",
                          options.sequence_len, options.packing, options.share_prefixes,
                          options.most_tokens, options.shuffle, options.seed, options.window));
  return hash.finish().substr(0, 32);
}

}  // namespace

Row make_row(std::span<const Example* const> examples, bool share_prefixes) {
  std::vector<ExampleView> views;
  for (const Example* example : examples) views.emplace_back(*example);
  return make_row(views, share_prefixes);
}

Row make_row(std::span<const ExampleView> examples, bool share_prefixes) {
  std::vector<PrefixNode> nodes;
  if (share_prefixes && examples.size() > 1) {
    std::vector<Prefix> prefixes;
    for (const ExampleView& example : examples) prefixes.push_back(prefix_of(example));
    nodes = prefix_forest(prefixes);
  } else {
    for (std::uint32_t i = 0; i < examples.size(); ++i) {
      nodes.push_back({0, std::ssize(examples[i].tokens), -1, {i}});
    }
  }
  Row row;
  for (const ExampleView& example : examples) row.example_tokens += std::ssize(example.tokens);
  for (const PrefixNode& node : nodes) {
    const ExampleView& example = examples[node.members.front()];
    const auto begin = static_cast<std::int32_t>(row.tokens.size());
    for (std::int64_t t = node.begin; t < node.end; ++t) {
      const auto at = static_cast<std::size_t>(t);
      row.tokens.push_back(example.tokens[at]);
      row.positions.push_back(static_cast<std::int32_t>(t));
      const bool learned = at + 1 < example.tokens.size() && example.supervised[at + 1] != 0;
      row.targets.push_back(learned ? example.tokens[at + 1] : kNoTarget);
    }
    row.segments.push_back({begin, static_cast<std::int32_t>(row.tokens.size()), node.parent});
  }
  return row;
}

std::vector<Prefix> prefixes_of(const ExampleTable& examples) {
  std::vector<Prefix> prefixes;
  prefixes.reserve(examples.size());
  for (std::size_t i = 0; i < examples.size(); ++i) prefixes.push_back(prefix_of(examples[i]));
  return prefixes;
}

std::vector<PlannedRow> plan_epoch(std::span<const Prefix> examples,
                                   const RowStreamOptions& options, std::int64_t epoch) {
  for (std::size_t i = 0; i < examples.size(); ++i) {
    const std::int64_t length = std::ssize(examples[i].tokens);
    if (length < 1 || length > options.sequence_len) {
      throw InputError("example {} has {} tokens, rows hold 1 to {}", i, length,
                       options.sequence_len);
    }
  }
  std::vector<std::uint32_t> order(examples.size());
  std::iota(order.begin(), order.end(), 0U);
  Random random(mix_seed(options.seed, static_cast<std::uint64_t>(epoch)));
  if (options.shuffle) random.shuffle(order);

  std::vector<PlannedRow> plan;
  if (!options.packing) {
    for (const std::uint32_t index : order) {
      const std::int64_t length = std::ssize(examples[index].tokens);
      plan.push_back({{index}, length, length});
    }
    return plan;
  }
  if (!options.shuffle) return pack_in_order(examples, options);
  const auto window = static_cast<std::size_t>(std::max<std::int64_t>(options.window, 1));
  std::vector<std::vector<PlannedRow>> windows((order.size() + window - 1) / window);
  core::parallel_for(std::ssize(windows), 1, [&](std::int64_t first, std::int64_t last) {
    for (auto w = static_cast<std::size_t>(first); w < static_cast<std::size_t>(last); ++w) {
      const std::size_t count = std::min(window, order.size() - w * window);
      windows[w] = pack_window(std::span(order).subspan(w * window, count), examples, options);
    }
  });
  for (std::vector<PlannedRow>& rows : windows) {
    // Packing put long examples first; what is learned early should not depend on length.
    random.shuffle(rows);
    std::move(rows.begin(), rows.end(), std::back_inserter(plan));
  }
  return plan;
}

RowStream::RowStream(ExampleTable examples, RowStreamOptions options)
    : RowStream(examples, std::make_shared<const std::vector<Prefix>>(prefixes_of(examples)),
                std::move(options)) {}

RowStream::RowStream(ExampleTable examples, std::shared_ptr<const std::vector<Prefix>> prefixes,
                     RowStreamOptions options)
    : examples_(std::move(examples)),
      options_(std::move(options)),
      prefixes_(std::move(prefixes)),
      fingerprint_(fingerprint(examples_, options_)) {
  if (examples_.empty()) throw InputError("there are no examples to make rows of");
  prepare();
}

void RowStream::prepare() {
  if (planned_ == epoch_) return;
  plan_ = {};
  plan_ = plan_epoch(*prefixes_, options_, epoch_);
  planned_ = epoch_;
  examples_.release();  // Of a row only its examples are looked at.
}

std::optional<Row> RowStream::next() {
  if (options_.epochs && epoch_ >= *options_.epochs) return std::nullopt;
  prepare();
  last_ = plan_[static_cast<std::size_t>(position_)].examples;
  std::vector<ExampleView> parts;
  for (const std::uint32_t index : last_) parts.push_back(examples_[index]);
  if (++position_ == static_cast<std::int64_t>(plan_.size())) {
    position_ = 0;
    ++epoch_;
  }
  Row row = make_row(parts, options_.packing && options_.share_prefixes);
  // Examples lie anywhere in a mapped file, and a look at one brings in the pages around it.
  if (position_ % kRowsBetweenReleases == 0) examples_.release();
  return row;
}

std::int64_t RowStream::rows_in_epoch() const {
  if (planned_ == epoch_) return static_cast<std::int64_t>(plan_.size());
  return static_cast<std::int64_t>(plan_epoch(*prefixes_, options_, epoch_).size());
}

double RowStream::epochs_done() const {
  return static_cast<double>(epoch_) +
         static_cast<double>(position_) / static_cast<double>(rows_in_epoch());
}

nlohmann::json RowStream::state() const {
  return {{"epoch", epoch_}, {"position", position_}, {"fingerprint", fingerprint_}};
}

void RowStream::restore(const nlohmann::json& state) {
  const auto number = [&](const char* key) {
    const auto found = state.find(key);
    if (found == state.end() || !found->is_number_integer() || found->get<std::int64_t>() < 0) {
      throw InputError("the saved data position has no valid '{}'", key);
    }
    return found->get<std::int64_t>();
  };
  if (!state.is_object() || state.value("fingerprint", nlohmann::json()) != fingerprint_) {
    throw InputError(
        "the data, its tokens, sequence_len, packing or seed are not those of the run "
        "to resume; restore them, or start a new run");
  }
  const std::int64_t epoch = number("epoch");
  const std::int64_t position = number("position");
  auto plan = plan_epoch(*prefixes_, options_, epoch);
  if (position >= static_cast<std::int64_t>(plan.size())) {
    throw InputError("the saved data position {} is beyond the {} rows of epoch {}", position,
                     plan.size(), epoch);
  }
  plan_ = std::move(plan);
  planned_ = epoch_ = epoch;
  position_ = position;
  last_.clear();
}

}  // namespace weft::data
