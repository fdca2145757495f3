#include "model/gpu_of_rank.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>
#include <set>

#include "core/error.h"
#include "core/ranks.h"

namespace weft::model {
namespace {

/// The ranks of one machine.
std::vector<std::size_t> neighbours(std::span<const RankGpus> ranks, std::uint64_t machine) {
  std::vector<std::size_t> found;
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    if (ranks[r].machine == machine) found.push_back(r);
  }
  return found;
}

/// As the first rank calls it, which speaks for all.
std::string name_of(std::span<const RankGpus> ranks, const std::vector<std::size_t>& here) {
  return ranks[here.front()].machine == ranks.front().machine
             ? "this machine"
             : fmt::format("the machine of rank {}", here.front());
}

/// `left`: a rank for which no GPU is left.
[[noreturn]] void refuse_few(std::span<const RankGpus> ranks, const std::vector<std::size_t>& here,
                             std::size_t left) {
  std::set<std::uint64_t> gpus;
  for (const std::size_t r : here) gpus.insert(ranks[r].gpus.begin(), ranks[r].gpus.end());
  if (gpus.size() >= here.size()) {
    throw ConfigError(
        "device cuda: other ranks on {} need all of the GPUs that rank {} sees ({}), because of "
        "what each is let see; give the ranks another CUDA_VISIBLE_DEVICES, or take device cpu",
        name_of(ranks, here), left, ranks[left].gpus.size());
  }
  throw ConfigError(
      "device cuda: {} ranks run on {}, which has {} GPU{} for them, and each needs one of its "
      "own; "
      "start {} there, or take device cpu",
      here.size(), name_of(ranks, here), gpus.size(), gpus.size() == 1 ? "" : "s",
      gpus.empty() ? 1 : gpus.size());
}

/// A GPU for each rank of one machine: the first that is free, else one whose rank can take another
/// (augmenting paths of a bipartite matching), so that ranks that see different GPUs are refused
/// only where there is no way.
class Matching {
 public:
  explicit Matching(std::span<const RankGpus> ranks) : ranks_(ranks) {}

  /// Whether there is a GPU for the rank too.
  [[nodiscard]] bool add(std::size_t rank) {
    std::set<std::uint64_t> tried;
    return find(rank, tried);
  }
  /// Which of the GPUs that the rank sees is its own.
  [[nodiscard]] int number_of(std::size_t rank) const {
    const std::vector<std::uint64_t>& gpus = ranks_[rank].gpus;
    const auto own = std::ranges::find_if(gpus, [&](std::uint64_t gpu) {
      const auto taken = rank_of_.find(gpu);
      return taken != rank_of_.end() && taken->second == rank;
    });
    return static_cast<int>(own - gpus.begin());
  }

 private:
  bool find(std::size_t rank, std::set<std::uint64_t>& tried) {
    const std::vector<std::uint64_t>& gpus = ranks_[rank].gpus;
    for (const std::uint64_t gpu : gpus) {
      if (rank_of_.try_emplace(gpu, rank).second) return true;
    }
    for (const std::uint64_t gpu : gpus) {
      if (!tried.insert(gpu).second || !find(rank_of_.at(gpu), tried)) continue;
      rank_of_[gpu] = rank;
      return true;
    }
    return false;
  }

  std::span<const RankGpus> ranks_;
  std::map<std::uint64_t, std::size_t> rank_of_;  ///< By GPU.
};

/// Refuses to give one GPU to several ranks.
void refuse_shared(std::span<const RankGpus> ranks, const std::vector<std::size_t>& here,
                   int asked) {
  std::set<std::uint64_t> taken;
  for (const std::size_t r : here) {
    const std::vector<std::uint64_t>& gpus = ranks[r].gpus;
    const auto at = static_cast<std::size_t>(asked);
    if (at >= gpus.size() || taken.insert(gpus[at]).second) continue;
    throw ConfigError(
        "device cuda:{}: {} ranks run on {} and would share that GPU; write device cuda, which "
        "gives each a GPU of its own, or start one rank there",
        asked, here.size(), name_of(ranks, here));
  }
}

}  // namespace

std::vector<int> gpus_of_ranks(std::span<const RankGpus> ranks, std::optional<int> asked) {
  std::vector<int> chosen(ranks.size(), asked.value_or(0));
  std::set<std::uint64_t> machines;
  for (const RankGpus& one : ranks) {
    if (!machines.insert(one.machine).second) continue;
    const std::vector<std::size_t> here = neighbours(ranks, one.machine);
    if (asked) {
      refuse_shared(ranks, here, *asked);
      continue;
    }
    Matching matching(ranks);
    for (const std::size_t r : here) {
      if (!matching.add(r)) refuse_few(ranks, here, r);
    }
    for (const std::size_t r : here) chosen[r] = matching.number_of(r);
  }
  return chosen;
}

std::vector<RankGpus> gather_gpus(core::Communicator& ranks, const RankGpus& own) {
  const auto size = static_cast<std::size_t>(ranks.size());
  std::vector<std::string> texts(size);
  std::string& text = texts[static_cast<std::size_t>(ranks.rank())];
  const auto append = [&](std::uint64_t number) {
    text.append(reinterpret_cast<const char*>(&number), sizeof number);
  };
  append(own.machine);
  for (const std::uint64_t gpu : own.gpus) append(gpu);
  std::vector<int> rank_of(size);
  std::iota(rank_of.begin(), rank_of.end(), 0);
  core::gather_texts(ranks, texts, rank_of);
  std::vector<RankGpus> all(size);
  for (std::size_t r = 0; r < size; ++r) {
    std::vector<std::uint64_t> numbers(texts[r].size() / sizeof(std::uint64_t));
    std::memcpy(numbers.data(), texts[r].data(), numbers.size() * sizeof(std::uint64_t));
    if (!numbers.empty()) all[r] = {numbers.front(), {numbers.begin() + 1, numbers.end()}};
  }
  return all;
}

}  // namespace weft::model
