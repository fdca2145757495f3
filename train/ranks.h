#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "train/communicator.h"

namespace weft::train {

/// What ranks do together, on top of Communicator. All of it is nothing for one process.

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

/// Throws InputError in all ranks where `value` is not the same in all; `what` names it: "the
/// adapter's factors".
void require_same(Communicator& communicator, std::uint64_t value, std::string_view what);

}  // namespace weft::train
