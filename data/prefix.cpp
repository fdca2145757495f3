#include "data/prefix.h"

#include <algorithm>
#include <numeric>

namespace weft::data {
namespace {

/// Builds the nodes from examples in the order of their tokens, in which those that begin alike are
/// neighbours.
class Forest {
 public:
  explicit Forest(std::span<const Prefix> examples) : examples_(examples), order_(examples.size()) {
    std::iota(order_.begin(), order_.end(), 0U);
    std::stable_sort(order_.begin(), order_.end(), [&](std::uint32_t a, std::uint32_t b) {
      return std::ranges::lexicographical_compare(examples_[a].tokens, examples_[b].tokens);
    });
    for (std::size_t i = 0; i + 1 < order_.size(); ++i) {
      common_.push_back(shared_tokens(examples_[order_[i]], examples_[order_[i + 1]]));
    }
  }

  std::vector<PrefixNode> make() {
    split(0, order_.size(), 0, -1);
    return std::move(nodes_);
  }

 private:
  /// Examples [first, last) of the order, which all hold the tokens before `depth`, as children of
  /// `parent`.
  void split(std::size_t first, std::size_t last, std::int64_t depth, std::int32_t parent) {
    while (first < last) {
      // The run of neighbours that go on alike.
      std::size_t end = first + 1;
      while (end < last && common_[end - 1] > depth) ++end;
      const auto index = static_cast<std::int32_t>(nodes_.size());
      if (end == first + 1) {
        const auto length = static_cast<std::int64_t>(examples_[order_[first]].tokens.size());
        nodes_.push_back({depth, length, parent, {order_[first]}});
      } else {
        const auto run = std::span(common_).subspan(first, end - 1 - first);
        const std::int64_t shared = *std::ranges::min_element(run);
        nodes_.push_back({depth,
                          shared,
                          parent,
                          {order_.begin() + static_cast<std::ptrdiff_t>(first),
                           order_.begin() + static_cast<std::ptrdiff_t>(end)}});
        split(first, end, shared, index);
      }
      first = end;
    }
  }

  std::span<const Prefix> examples_;
  std::vector<std::uint32_t> order_;
  std::vector<std::int64_t> common_;  // of each with its successor
  std::vector<PrefixNode> nodes_;
};

}  // namespace

Prefix prefix_of(const ExampleView& example) {
  const auto size = static_cast<std::int64_t>(example.tokens.size());
  // Position t predicts token t + 1; the first token is predicted by none.
  const auto begin = example.supervised.begin() + std::min<std::int64_t>(1, size);
  const auto learned = std::find_if(begin, example.supervised.end(), [](auto s) { return s != 0; });
  const std::int64_t first_learned = learned - example.supervised.begin();
  return {example.tokens, std::max<std::int64_t>(0, std::min(first_learned, size) - 1)};
}

std::int64_t shared_tokens(const Prefix& a, const Prefix& b) {
  const auto most = static_cast<std::size_t>(std::min(a.shareable, b.shareable));
  const auto both = std::ranges::mismatch(a.tokens.first(most), b.tokens.first(most));
  return (both.in1 - a.tokens.begin()) / kSharedStep * kSharedStep;
}

std::vector<PrefixNode> prefix_forest(std::span<const Prefix> examples) {
  return Forest(examples).make();
}

}  // namespace weft::data
