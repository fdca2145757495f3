#include "core/ranks.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <exception>
#include <fstream>
#include <functional>
#include <numeric>
#include <optional>

#include "core/error.h"

namespace weft::core {
namespace {

/// What went wrong in one rank, for the others.
struct Failure {
  std::exception_ptr exception;
  std::string text;
  ExitCode code = ExitCode::kFailed;
};

std::optional<Failure> failure_of(const std::function<void()>& work) {
  try {
    work();
    return std::nullopt;
  } catch (const Error& error) {
    return Failure{std::current_exception(), error.what(), error.exit_code()};
  } catch (const std::exception& error) {
    return Failure{std::current_exception(), error.what()};
  }
}

/// The kernel that runs now, which no other machine has: containers of one machine share its
/// memory, whatever they call it.
std::string machine_name() {
  std::ifstream stream("/proc/sys/kernel/random/boot_id");
  std::string name;
  if (stream >> name) return name;
  std::array<char, 256> host{};
  return ::gethostname(host.data(), host.size() - 1) == 0 ? host.data() : "";
}

}  // namespace

void gather(Communicator& communicator, std::span<std::byte> all,
            std::span<const std::int64_t> cut) {
  if (communicator.size() == 1) return;
  const auto of_rank = [&](int rank) {
    const auto r = static_cast<std::size_t>(rank);
    return all.subspan(static_cast<std::size_t>(cut[r]),
                       static_cast<std::size_t>(cut[r + 1] - cut[r]));
  };
  std::vector<Communicator::Outgoing> outgoing;
  std::vector<Communicator::Incoming> incoming;
  for (int other = 0; other < communicator.size(); ++other) {
    if (other == communicator.rank()) continue;
    outgoing.push_back({other, of_rank(communicator.rank())});
    incoming.push_back({other, of_rank(other)});
  }
  communicator.exchange(outgoing, incoming);
}

int Dealer::deal(std::int64_t cost) {
  const auto least = std::ranges::min_element(held_);
  *least += cost;
  return static_cast<int>(least - held_.begin());
}

void gather_texts(Communicator& communicator, std::span<std::string> all,
                  std::span<const int> rank_of) {
  if (communicator.size() == 1) return;
  std::vector<std::int64_t> lengths(all.size());
  for (std::size_t i = 0; i < all.size(); ++i) lengths[i] = std::ssize(all[i]);
  gather_dealt(communicator, std::span(lengths), rank_of);
  std::vector<std::int64_t> cut{0};
  std::string joined;  // rank by rank
  for (int r = 0; r < communicator.size(); ++r) {
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (rank_of[i] != r) continue;
      all[i].resize(static_cast<std::size_t>(lengths[i]));
      joined += all[i];
    }
    cut.push_back(std::ssize(joined));
  }
  gather(communicator, std::as_writable_bytes(std::span(joined.data(), joined.size())), cut);
  std::size_t at = 0;
  for (int r = 0; r < communicator.size(); ++r) {
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (rank_of[i] != r) continue;
      all[i] = joined.substr(at, all[i].size());
      at += all[i].size();
    }
  }
}

std::string broadcast(Communicator& communicator, std::string_view text, int from) {
  if (communicator.size() == 1) return std::string(text);
  const bool is_from = communicator.rank() == from;
  const std::int64_t length =
      communicator.largest(is_from ? static_cast<std::int64_t>(text.size()) : 0);
  std::string result = is_from ? std::string(text) : std::string();
  result.resize(static_cast<std::size_t>(length));
  std::vector<std::int64_t> cut(static_cast<std::size_t>(communicator.size()) + 1, 0);
  for (std::size_t r = static_cast<std::size_t>(from) + 1; r < cut.size(); ++r) cut[r] = length;
  gather(communicator, std::as_writable_bytes(std::span(result.data(), result.size())), cut);
  return result;
}

bool any(Communicator& communicator, bool here) { return communicator.largest(here ? 1 : 0) > 0; }

void together(Communicator& communicator, const std::function<void()>& work) {
  if (communicator.size() == 1) {
    work();
    return;
  }
  const std::optional<Failure> own = failure_of(work);
  const int ranks = communicator.size();
  const auto first = communicator.largest(own ? ranks - communicator.rank() : 0);
  if (first == 0) return;
  const int from = ranks - static_cast<int>(first);
  const std::string text = broadcast(communicator, own ? own->text : "", from);
  const bool is_from = communicator.rank() == from;
  const auto code = communicator.largest(is_from ? static_cast<int>(own->code) : 0);
  if (own) std::rethrow_exception(own->exception);
  throw Error(from == 0 ? text : fmt::format("rank {}: {}", from, text),
              static_cast<ExitCode>(code));
}

void on_first(Communicator& communicator, const std::function<void()>& work) {
  together(communicator, [&] {
    if (communicator.is_first()) work();
  });
}

int count_alike(Communicator& communicator, std::uint64_t value) {
  const auto ranks = static_cast<std::size_t>(communicator.size());
  std::vector<std::uint64_t> all(ranks);
  std::vector<std::int64_t> cut(ranks + 1);
  std::iota(cut.begin(), cut.end(), 0);
  all[static_cast<std::size_t>(communicator.rank())] = value;
  gather_items(communicator, std::span(all), cut);
  return static_cast<int>(std::ranges::count(all, value));
}

std::uint64_t this_machine() { return std::hash<std::string>()(machine_name()); }

int ranks_on_this_machine(Communicator& communicator) {
  return count_alike(communicator, this_machine());
}

void require_same(Communicator& communicator, std::uint64_t value, std::string_view what,
                  std::string_view remedy) {
  if (communicator.size() == 1) return;
  const auto number = static_cast<std::int64_t>(value >> 1);
  const std::int64_t most = communicator.largest(number);
  const std::int64_t least = -communicator.largest(-number);
  if (most == least) return;
  throw InputError("the ranks do not agree on {}; {}", what, remedy);
}

}  // namespace weft::core
