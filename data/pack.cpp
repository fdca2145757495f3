#include "data/pack.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "core/error.h"
#include "core/hash.h"
#include "data/random.h"

namespace weft::data {
namespace {

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

std::string fingerprint(std::span<const Example> examples, const RowStreamOptions& options) {
  core::Sha256 hash;
  for (const Example& example : examples) {
    const auto size = static_cast<std::uint64_t>(example.tokens.size());
    hash.update(std::as_bytes(std::span(&size, 1)));
    hash.update(std::as_bytes(std::span(example.tokens)));
    hash.update(std::as_bytes(std::span(example.supervised)));
  }
  hash.update(fmt::format("len {} packing {} share {} most {} shuffle {} seed {} window {}",
                          options.sequence_len, options.packing, options.share_prefixes,
                          options.most_tokens, options.shuffle, options.seed, options.window));
  return hash.finish().substr(0, 32);
}

}  // namespace

Row make_row(std::span<const Example* const> examples, bool share_prefixes) {
  std::vector<PrefixNode> nodes;
  if (share_prefixes && examples.size() > 1) {
    std::vector<Prefix> prefixes;
    for (const Example* example : examples) prefixes.push_back(prefix_of(*example));
    nodes = prefix_forest(prefixes);
  } else {
    for (std::uint32_t i = 0; i < examples.size(); ++i) {
      nodes.push_back({0, std::ssize(examples[i]->tokens), -1, {i}});
    }
  }
  Row row;
  for (const Example* example : examples) row.example_tokens += std::ssize(example->tokens);
  for (const PrefixNode& node : nodes) {
    const Example& example = *examples[node.members.front()];
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

std::vector<Prefix> prefixes_of(std::span<const Example> examples) {
  std::vector<Prefix> prefixes;
  prefixes.reserve(examples.size());
  for (const Example& example : examples) prefixes.push_back(prefix_of(example));
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
  const auto window = static_cast<std::size_t>(std::max<std::int64_t>(options.window, 1));
  for (std::size_t begin = 0; begin < order.size(); begin += window) {
    const std::size_t count = std::min(window, order.size() - begin);
    auto rows = pack_window(std::span(order).subspan(begin, count), examples, options);
    // Packing put long examples first; what is learned early should not depend on length.
    if (options.shuffle) random.shuffle(rows);
    std::move(rows.begin(), rows.end(), std::back_inserter(plan));
  }
  return plan;
}

RowStream::RowStream(std::span<const Example> examples, RowStreamOptions options)
    : examples_(examples),
      options_(std::move(options)),
      fingerprint_(fingerprint(examples, options_)) {
  if (examples.empty()) throw InputError("there are no examples to make rows of");
  prefixes_ = prefixes_of(examples);
  prepare();
}

void RowStream::prepare() {
  if (planned_ == epoch_) return;
  plan_ = plan_epoch(prefixes_, options_, epoch_);
  planned_ = epoch_;
}

std::optional<Row> RowStream::next() {
  if (options_.epochs && epoch_ >= *options_.epochs) return std::nullopt;
  prepare();
  last_ = plan_[static_cast<std::size_t>(position_)].examples;
  std::vector<const Example*> parts;
  for (const std::uint32_t index : last_) parts.push_back(&examples_[index]);
  if (++position_ == static_cast<std::int64_t>(plan_.size())) {
    position_ = 0;
    ++epoch_;
  }
  return make_row(parts, options_.packing && options_.share_prefixes);
}

std::int64_t RowStream::rows_in_epoch() const {
  if (planned_ == epoch_) return static_cast<std::int64_t>(plan_.size());
  return static_cast<std::int64_t>(plan_epoch(prefixes_, options_, epoch_).size());
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
  auto plan = plan_epoch(prefixes_, options_, epoch);
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
