#include "train/gradient_sum.h"

#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <bit>
#include <utility>

namespace weft::train {

std::vector<RowNode> nodes_of(std::int64_t begin, std::int64_t end) {
  std::vector<RowNode> nodes;
  for (std::int64_t row = begin; row < end; ++row) {
    RowNode node{0, row};
    for (; !nodes.empty() && nodes.back().is_left_of(node); nodes.pop_back()) node = node.parent();
    nodes.push_back(node);
  }
  return nodes;
}

int sums_held(std::int64_t rows) {
  return rows > 1 ? static_cast<int>(std::bit_width(static_cast<std::uint64_t>(rows))) - 1 : 0;
}

std::vector<std::int64_t> balanced_cut(std::span<const std::int64_t> costs, int ranks) {
  std::vector<std::int64_t> before{0};  // the cost of all rows before each
  for (const std::int64_t cost : costs) before.push_back(before.back() + cost);
  std::vector<std::int64_t> cut{0};
  for (int rank = 1; rank < ranks; ++rank) {
    const std::int64_t wanted = before.back() * rank / ranks;
    auto place = std::ranges::lower_bound(before, wanted);
    if (place != before.begin() && wanted - *(place - 1) < *place - wanted) --place;
    cut.push_back(std::max<std::int64_t>(cut.back(), place - before.begin()));
  }
  cut.push_back(std::ssize(costs));
  return cut;
}

double gradients_held(std::int64_t rows, int ranks) {
  if (ranks == 1) return sums_held(rows);
  const std::vector<std::int64_t> costs(static_cast<std::size_t>(rows), 1);
  const std::vector<std::int64_t> cut = balanced_cut(costs, ranks);
  std::size_t own = 0;
  std::size_t all = 0;
  for (std::size_t r = 0; r + 1 < cut.size(); ++r) {
    const std::size_t nodes = nodes_of(cut[r], cut[r + 1]).size();
    own = std::max(own, nodes);
    all += nodes;
  }
  return static_cast<double>(own) + static_cast<double>(all) / ranks;
}

GradientSum::GradientSum(at::Tensor gradients, std::int64_t first_row)
    : gradients_(std::move(gradients)), next_row_(first_row) {}

void GradientSum::begin_row() {
  if (!holds_) return;
  sums_.push_back({held_, gradients_.clone()});
  holds_ = false;
}

void GradientSum::end_row() {
  held_ = {0, next_row_++};
  holds_ = true;
  while (!sums_.empty() && sums_.back().node.is_left_of(held_)) {
    held_ = held_.parent();
    add_last();
  }
}

void GradientSum::add_last() {
  gradients_.add_(sums_.back().values);
  sums_.pop_back();
}

void GradientSum::finish(model::TensorExchange& exchange, std::span<const std::int64_t> cut) {
  if (exchange.size() > 1) {
    share(exchange, cut);
  } else {
    while (!sums_.empty()) add_last();
  }
  holds_ = false;
}

// Every rank finishes the tree for a slice of the numbers: it gets that slice of all sums, adds
// them as one process would, and gives the result to all.
void GradientSum::share(model::TensorExchange& exchange, std::span<const std::int64_t> cut) {
  begin_row();
  const std::int64_t size = gradients_.numel();
  const int ranks = exchange.size();
  const int own = exchange.rank();
  const auto slice_of = [&](const at::Tensor& values, int rank) {
    const std::int64_t begin = rank * size / ranks;
    return values.narrow(0, begin, (rank + 1) * size / ranks - begin);
  };
  std::vector<model::TensorExchange::Outgoing> outgoing;
  std::vector<model::TensorExchange::Incoming> incoming;
  std::vector<Sum> parts;  // this rank's slice of all sums, in the order of their rows
  for (int r = 0; r < ranks; ++r) {
    const auto place = static_cast<std::size_t>(r);
    if (r == own) {
      for (const Sum& sum : sums_) parts.push_back({sum.node, slice_of(sum.values, own)});
      continue;
    }
    for (const Sum& sum : sums_) outgoing.push_back({r, slice_of(sum.values, r)});
    for (const RowNode& node : nodes_of(cut[place], cut[place + 1])) {
      parts.push_back({node, at::empty_like(slice_of(gradients_, own))});
      incoming.push_back({r, parts.back().values});
    }
  }
  exchange.exchange(outgoing, incoming);
  outgoing.clear();
  incoming.clear();
  std::vector<Sum> tree;
  for (Sum& one : parts) {
    for (; !tree.empty() && tree.back().node.is_left_of(one.node); tree.pop_back())
      one = {one.node.parent(), tree.back().values.add_(one.values)};
    tree.push_back(std::move(one));
  }
  for (; tree.size() > 1; tree.pop_back()) tree[tree.size() - 2].values.add_(tree.back().values);
  slice_of(gradients_, own).copy_(tree.front().values);
  sums_.clear();
  for (int r = 0; r < ranks; ++r) {
    if (r == own) continue;
    outgoing.push_back({r, slice_of(gradients_, own)});
    incoming.push_back({r, slice_of(gradients_, r)});
  }
  exchange.exchange(outgoing, incoming);
}

}  // namespace weft::train
