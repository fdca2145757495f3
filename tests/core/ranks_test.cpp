#include "core/ranks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "core/error.h"
#include "tests/support/thread_ranks.h"

namespace weft::core {
namespace {

TEST(Ranks, AFailureInOneIsAFailureInAll) {
  tests::ThreadRanks ranks(3);
  ranks.run([](Communicator& one) {
    try {
      together(one, [&] {
        if (one.rank() == 1) throw InputError("no such file");
      });
      ADD_FAILURE() << "rank " << one.rank() << " went on";
    } catch (const Error& error) {
      EXPECT_EQ(error.exit_code(), ExitCode::kBadInput);
      EXPECT_STREQ(error.what(), one.rank() == 1 ? "no such file" : "rank 1: no such file");
    }
    // And all can still talk.
    EXPECT_EQ(broadcast(one, one.rank() == 2 ? "so be it" : "", 2), "so be it");
    EXPECT_TRUE(any(one, one.rank() == 2));
    EXPECT_FALSE(any(one, false));
    require_same(one, 12345, "a number");
    EXPECT_THROW(require_same(one, 1000 + 2 * static_cast<std::uint64_t>(one.rank()), "it"),
                 InputError);
  });
}

/// The ranks that a dealer names for items of these costs.
std::vector<int> dealt(const Communicator& communicator, const std::vector<std::int64_t>& costs) {
  Dealer dealer(communicator);
  std::vector<int> ranks;
  for (const std::int64_t cost : costs) ranks.push_back(dealer.deal(cost));
  return ranks;
}

TEST(Dealer, GivesEachItemToTheRankWithTheLeastToDo) {
  const std::vector<std::int64_t> costs{9, 2, 2, 2, 2, 2, 4, 1};
  EXPECT_EQ(dealt(SingleProcess(), costs), std::vector<int>(costs.size(), 0));
  tests::ThreadRanks ranks(3);
  ranks.run([&](Communicator& one) {
    EXPECT_EQ(dealt(one, costs), (std::vector<int>{0, 1, 2, 1, 2, 1, 2, 1}));
  });
}

TEST(Ranks, ItemsThatWereDealtAreInTheirPlacesEverywhere) {
  const std::vector<int> rank_of{2, 0, 0, 2, 2, 0, 2};  // and nothing of rank 1
  tests::ThreadRanks ranks(3);
  ranks.run([&](Communicator& one) {
    std::vector<double> numbers(rank_of.size(), -1);
    std::vector<std::string> texts(rank_of.size());
    for (std::size_t i = 0; i < rank_of.size(); ++i) {
      if (rank_of[i] != one.rank()) continue;
      numbers[i] = 1.5 * static_cast<double>(i);
      texts[i] = std::string(i, 'x') + std::string(1, '\0') + "\xff";
    }
    texts[1] = "";
    gather_dealt(one, std::span(numbers), rank_of);
    gather_texts(one, texts, rank_of);
    for (std::size_t i = 0; i < rank_of.size(); ++i) {
      EXPECT_EQ(numbers[i], 1.5 * static_cast<double>(i));
      EXPECT_EQ(texts[i], i == 1 ? "" : std::string(i, 'x') + std::string(1, '\0') + "\xff");
    }
  });
}

TEST(Ranks, AreCountedByWhatTheyHaveInCommon) {
  tests::ThreadRanks ranks(5);
  ranks.run([](Communicator& one) {
    EXPECT_EQ(count_alike(one, one.rank() % 2 == 0 ? 7 : 8), one.rank() % 2 == 0 ? 3 : 2);
    EXPECT_EQ(ranks_on_this_machine(one), 5);
  });
  SingleProcess alone;
  EXPECT_EQ(ranks_on_this_machine(alone), 1);
}

}  // namespace
}  // namespace weft::core
