#include "train/gradient_sum.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "core/parallel.h"
#include "core/ranks.h"

namespace weft::train {
namespace {

constexpr std::int64_t kValueGrain = 1 << 16;

/// left += right
void add(std::span<float> left, std::span<const float> right) {
  core::parallel_for(std::ssize(left), kValueGrain, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i)
      left[i] += right[i];
  });
}

}  // namespace

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

void GradientSum::finish(core::Communicator& communicator, std::span<const std::int64_t> cut) {
  if (communicator.size() > 1) {
    share(communicator, cut);
  } else {
    while (!sums_.empty()) add_last();
  }
  holds_ = false;
}

// Every rank finishes the tree for a slice of the numbers: it gets that slice of all sums, adds
// them as one process would, and gives the result to all. Between processes numbers go by the host.
void GradientSum::share(core::Communicator& communicator, std::span<const std::int64_t> cut) {
  begin_row();
  const std::int64_t size = gradients_.numel();
  const auto ranks = static_cast<std::size_t>(communicator.size());
  const auto own = static_cast<std::size_t>(communicator.rank());
  for (Sum& sum : sums_) sum.values = sum.values.cpu();
  std::vector<std::int64_t> slices;
  for (std::size_t r = 0; r <= ranks; ++r)
    slices.push_back(static_cast<std::int64_t>(r) * size / static_cast<std::int64_t>(ranks));
  const auto slice_of = [&](const at::Tensor& values, std::size_t rank) {
    return std::span(values.mutable_data_ptr<float>() + slices[rank],
                     static_cast<std::size_t>(slices[rank + 1] - slices[rank]));
  };
  std::vector<core::Communicator::Outgoing> outgoing;
  for (std::size_t r = 0; r < ranks; ++r) {
    if (r == own) continue;
    for (const Sum& sum : sums_)
      outgoing.push_back({static_cast<int>(r), std::as_bytes(slice_of(sum.values, r))});
  }
  // This rank's slice of all sums, in the order of their rows.
  struct Part {
    RowNode node;
    std::vector<float> values;
  };
  std::vector<Part> parts;
  for (std::size_t r = 0; r < ranks; ++r) {
    for (const RowNode& node : nodes_of(cut[r], cut[r + 1])) {
      parts.push_back(
          {node, std::vector<float>(static_cast<std::size_t>(slices[own + 1] - slices[own]))});
      if (r != own) continue;
      const auto sum = std::ranges::find(sums_, node, &Sum::node);
      std::ranges::copy(slice_of(sum->values, own), parts.back().values.begin());
    }
  }
  std::vector<core::Communicator::Incoming> incoming;
  auto part = parts.begin();
  for (std::size_t r = 0; r < ranks; ++r) {
    for (std::size_t n = nodes_of(cut[r], cut[r + 1]).size(); n > 0; --n, ++part) {
      if (r == own) continue;
      incoming.push_back({static_cast<int>(r), std::as_writable_bytes(std::span(part->values))});
    }
  }
  communicator.exchange(outgoing, incoming);
  const at::Tensor whole = sums_.empty() ? at::empty({size}, at::kFloat) : sums_.front().values;
  sums_.clear();
  std::vector<Part> tree;
  for (Part& one : parts) {
    for (; !tree.empty() && tree.back().node.is_left_of(one.node); tree.pop_back()) {
      add(tree.back().values, one.values);
      one = {one.node.parent(), std::move(tree.back().values)};
    }
    tree.push_back(std::move(one));
  }
  for (; tree.size() > 1; tree.pop_back()) add(tree[tree.size() - 2].values, tree.back().values);
  std::ranges::copy(tree.front().values, slice_of(whole, own).begin());
  gather_items(communicator,
               std::span(whole.mutable_data_ptr<float>(), static_cast<std::size_t>(size)), slices);
  gradients_.copy_(whole);
}

}  // namespace weft::train
