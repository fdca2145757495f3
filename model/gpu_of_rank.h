#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/communicator.h"

namespace weft::model {

/// What one of several ranks sees.
struct RankGpus {
  std::uint64_t machine = 0;  ///< core::this_machine()
  /// The GPUs that it may use, in the order of their numbers: a number for each, the same in every
  /// rank that sees it.
  std::vector<std::uint64_t> gpus;
  bool operator==(const RankGpus&) const = default;
};

/// The number of the GPU of each rank, among those that the rank sees, so that no two ranks of a
/// machine have the same one. Without `asked` ("cuda") each rank takes the first that no earlier
/// rank of its machine has, and an earlier one moves to another that it sees where that is the only
/// way: where all see the same GPUs, that is the rank's number on its machine, and where each sees
/// one of its own, as some clusters arrange it, the number 0. With `asked`
/// ("cuda:N") it is that number in all.
///
/// ConfigError, in one line with what to do, for more ranks on a machine than it has GPUs, and
/// where `asked` is one GPU for several ranks. A number that a rank does not have is left to
/// open_device(), which names it. A function of `ranks` alone, so that all ranks that have the same
/// list say the same.
[[nodiscard]] std::vector<int> gpus_of_ranks(std::span<const RankGpus> ranks,
                                             std::optional<int> asked);

/// What every rank sees, in every rank.
[[nodiscard]] std::vector<RankGpus> gather_gpus(core::Communicator& ranks, const RankGpus& own);

}  // namespace weft::model
