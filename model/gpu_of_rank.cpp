#include "model/gpu_of_rank.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
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

[[noreturn]] void refuse_few(std::span<const RankGpus> ranks,
                             const std::vector<std::size_t>& here) {
  std::set<std::uint64_t> gpus;
  for (const std::size_t r : here) gpus.insert(ranks[r].gpus.begin(), ranks[r].gpus.end());
  throw ConfigError(
      "device cuda: {} ranks run on {}, which has {} GPU{} for them, and each needs one of its "
      "own; "
      "start {} there, or take device cpu",
      here.size(), name_of(ranks, here), gpus.size(), gpus.size() == 1 ? "" : "s",
      gpus.empty() ? 1 : gpus.size());
}

}  // namespace

std::vector<int> gpus_of_ranks(std::span<const RankGpus> ranks, std::optional<int> asked) {
  std::vector<int> chosen(ranks.size(), asked.value_or(0));
  std::set<std::uint64_t> machines;
  for (const RankGpus& one : ranks) {
    if (!machines.insert(one.machine).second) continue;
    const std::vector<std::size_t> here = neighbours(ranks, one.machine);
    std::set<std::uint64_t> taken;
    for (const std::size_t r : here) {
      const std::vector<std::uint64_t>& gpus = ranks[r].gpus;
      if (!asked) {
        const auto first =
            std::ranges::find_if(gpus, [&](std::uint64_t gpu) { return taken.insert(gpu).second; });
        if (first == gpus.end()) refuse_few(ranks, here);
        chosen[r] = static_cast<int>(first - gpus.begin());
      } else if (static_cast<std::size_t>(*asked) < gpus.size() &&
                 !taken.insert(gpus[static_cast<std::size_t>(*asked)]).second) {
        throw ConfigError(
            "device cuda:{}: {} ranks run on {} and would share that GPU; write device cuda, which "
            "gives each a GPU of its own, or start one rank there",
            *asked, here.size(), name_of(ranks, here));
      }
    }
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
