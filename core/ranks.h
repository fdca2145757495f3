#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/communicator.h"

namespace weft::core {

/// What ranks do together, on top of Communicator. For one process all of it is nothing more than
/// the work itself.

/// Rank r has filled bytes [cut[r], cut[r + 1]) of `all`; afterwards everyone has all of them.
void gather(Communicator& communicator, std::span<std::byte> all,
            std::span<const std::int64_t> cut);

/// The same for items of a plain type.
template <typename Item>
void gather_items(Communicator& communicator, std::span<Item> all,
                  std::span<const std::int64_t> cut) {
  std::vector<std::int64_t> bytes(cut.begin(), cut.end());
  for (std::int64_t& one : bytes) one *= static_cast<std::int64_t>(sizeof(Item));
  gather(communicator, std::as_writable_bytes(all), bytes);
}

/// Says which rank does each item of a list that all ranks go through: the one with the least to do
/// so far, the first of several. A function of the costs alone, so that all ranks say the same.
class Dealer {
 public:
  explicit Dealer(const Communicator& communicator)
      : held_(static_cast<std::size_t>(communicator.size()), 0) {}
  /// The rank of the next item.
  [[nodiscard]] int deal(std::int64_t cost);

 private:
  std::vector<std::int64_t> held_;  ///< Costs of each rank's items.
};

/// Each rank has made the items that `rank_of` says are its own; afterwards everyone has all, each
/// in its place, whoever made it. `rank_of` is as long as `all`, and the same in all ranks.
template <typename Item>
void gather_dealt(Communicator& communicator, std::span<Item> all, std::span<const int> rank_of) {
  if (communicator.size() == 1) return;
  std::vector<std::int64_t> cut{0};
  std::vector<std::size_t> places;  // rank by rank
  for (int r = 0; r < communicator.size(); ++r) {
    for (std::size_t i = 0; i < rank_of.size(); ++i) {
      if (rank_of[i] == r) places.push_back(i);
    }
    cut.push_back(static_cast<std::int64_t>(places.size()));
  }
  std::vector<Item> by_rank(all.size());
  for (std::size_t i = 0; i < places.size(); ++i) by_rank[i] = all[places[i]];
  gather_items(communicator, std::span(by_rank), cut);
  for (std::size_t i = 0; i < places.size(); ++i) all[places[i]] = by_rank[i];
}

/// The same for texts.
void gather_texts(Communicator& communicator, std::span<std::string> all,
                  std::span<const int> rank_of);

/// The text of rank `from`, in every rank.
[[nodiscard]] std::string broadcast(Communicator& communicator, std::string_view text, int from);

/// Whether any rank says so.
[[nodiscard]] bool any(Communicator& communicator, bool here);

/// Does `work` in every rank, and waits for all. Where it throws in some, it throws in all: in
/// those the exception of their own, in the others an Error with the text and the exit status of
/// the first that failed. So nobody waits for a rank that has given up.
void together(Communicator& communicator, const std::function<void()>& work);

/// The same for work that the first rank does alone.
void on_first(Communicator& communicator, const std::function<void()>& work);

/// How many ranks have the value that this one has.
[[nodiscard]] int count_alike(Communicator& communicator, std::uint64_t value);

/// A number of the machine that this process runs on: the same in all ranks there, in containers
/// too, and in no others.
[[nodiscard]] std::uint64_t this_machine();

/// How many ranks run on this machine, this one included.
[[nodiscard]] int ranks_on_this_machine(Communicator& communicator);

/// Throws InputError in all ranks where `value` is not the same in all; `what` names it: "the
/// adapter's factors", and `remedy` says what to do.
void require_same(
    Communicator& communicator, std::uint64_t value, std::string_view what,
    std::string_view remedy = "run the same weft on processors of one kind, with the same files");

}  // namespace weft::core
