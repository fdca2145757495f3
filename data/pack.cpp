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

/// Best-fit decreasing: longest first, each into the row where the least room would be left.
/// Returns rows of positions in `order`'s elements, each row in the order of `order`.
std::vector<std::vector<std::uint32_t>> pack_window(std::span<const std::uint32_t> order,
                                                    std::span<const std::int64_t> lengths,
                                                    std::int64_t capacity) {
  std::vector<std::uint32_t> by_length(order.size());
  std::iota(by_length.begin(), by_length.end(), 0U);
  std::stable_sort(by_length.begin(), by_length.end(), [&](std::uint32_t a, std::uint32_t b) {
    return lengths[order[a]] > lengths[order[b]];
  });
  std::vector<std::vector<std::uint32_t>> rows;
  std::multimap<std::int64_t, std::size_t> room;  // Room left -> row.
  for (const std::uint32_t place : by_length) {
    const std::int64_t length = lengths[order[place]];
    const auto best = room.lower_bound(length);
    std::size_t row = rows.size();
    std::int64_t left = capacity;
    if (best != room.end()) {
      row = best->second;
      left = best->first;
      room.erase(best);
    } else {
      rows.emplace_back();
    }
    rows[row].push_back(place);
    if (left > length) room.emplace(left - length, row);
  }
  for (std::vector<std::uint32_t>& row : rows) {
    std::sort(row.begin(), row.end());
    for (std::uint32_t& place : row) place = order[place];
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
  hash.update(fmt::format("len {} packing {} shuffle {} seed {} window {}", options.sequence_len,
                          options.packing, options.shuffle, options.seed, options.window));
  return hash.finish().substr(0, 32);
}

}  // namespace

Row make_row(std::span<const Example* const> examples) {
  std::size_t total = 0;
  for (const Example* example : examples) total += example->tokens.size();
  Row row;
  row.tokens.reserve(total);
  row.positions.reserve(total);
  row.targets.reserve(total);
  row.segments.reserve(examples.size());
  for (const Example* example : examples) {
    const std::vector<std::int32_t>& tokens = example->tokens;
    const auto begin = static_cast<std::int32_t>(row.tokens.size());
    row.tokens.insert(row.tokens.end(), tokens.begin(), tokens.end());
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      row.positions.push_back(static_cast<std::int32_t>(t));
      const bool learned = t + 1 < tokens.size() && example->supervised[t + 1] != 0;
      row.targets.push_back(learned ? tokens[t + 1] : kNoTarget);
    }
    row.segments.push_back({begin, static_cast<std::int32_t>(row.tokens.size())});
  }
  return row;
}

std::vector<std::vector<std::uint32_t>> plan_epoch(std::span<const std::int64_t> lengths,
                                                   const RowStreamOptions& options,
                                                   std::int64_t epoch) {
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    if (lengths[i] < 1 || lengths[i] > options.sequence_len) {
      throw InputError("example {} has {} tokens, rows hold 1 to {}", i, lengths[i],
                       options.sequence_len);
    }
  }
  std::vector<std::uint32_t> order(lengths.size());
  std::iota(order.begin(), order.end(), 0U);
  Random random(mix_seed(options.seed, static_cast<std::uint64_t>(epoch)));
  if (options.shuffle) random.shuffle(order);

  std::vector<std::vector<std::uint32_t>> plan;
  if (!options.packing) {
    for (const std::uint32_t index : order) plan.push_back({index});
    return plan;
  }
  const auto window = static_cast<std::size_t>(std::max<std::int64_t>(options.window, 1));
  for (std::size_t begin = 0; begin < order.size(); begin += window) {
    const std::size_t count = std::min(window, order.size() - begin);
    auto rows = pack_window(std::span(order).subspan(begin, count), lengths, options.sequence_len);
    // Packing put long examples first; what is learned early should not depend on length.
    if (options.shuffle) random.shuffle(rows);
    std::move(rows.begin(), rows.end(), std::back_inserter(plan));
  }
  return plan;
}

RowStream::RowStream(std::span<const Example> examples, RowStreamOptions options)
    : examples_(examples), options_(std::move(options)),
      fingerprint_(fingerprint(examples, options_)) {
  if (examples.empty()) throw InputError("there are no examples to make rows of");
  for (const Example& example : examples) {
    lengths_.push_back(static_cast<std::int64_t>(example.tokens.size()));
  }
  prepare();
}

void RowStream::prepare() {
  if (planned_ == epoch_) return;
  plan_ = plan_epoch(lengths_, options_, epoch_);
  planned_ = epoch_;
}

std::optional<Row> RowStream::next() {
  if (options_.epochs && epoch_ >= *options_.epochs) return std::nullopt;
  prepare();
  last_ = plan_[static_cast<std::size_t>(position_)];
  std::vector<const Example*> parts;
  for (const std::uint32_t index : last_) parts.push_back(&examples_[index]);
  if (++position_ == static_cast<std::int64_t>(plan_.size())) {
    position_ = 0;
    ++epoch_;
  }
  return make_row(parts);
}

std::int64_t RowStream::rows_in_epoch() const {
  if (planned_ == epoch_) return static_cast<std::int64_t>(plan_.size());
  return static_cast<std::int64_t>(plan_epoch(lengths_, options_, epoch_).size());
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
    throw InputError("the data, its tokens, sequence_len, packing or seed are not those of the run "
                     "to resume; restore them, or start a new run");
  }
  const std::int64_t epoch = number("epoch");
  const std::int64_t position = number("position");
  auto plan = plan_epoch(lengths_, options_, epoch);
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
