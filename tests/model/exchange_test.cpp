#include "model/exchange.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"
#include "tests/support/thread_exchange.h"
#include "tests/support/thread_ranks.h"

namespace weft::model {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// Every rank sends two tensors and one of no numbers to each other, and gets theirs.
void check_exchange(TensorExchange& exchange) {
  const auto sent = [](int from, int to) { return at::arange(3.0F) + (100 * from + 10 * to); };
  std::vector<TensorExchange::Outgoing> outgoing;
  std::vector<TensorExchange::Incoming> incoming;
  for (int other = 0; other < exchange.size(); ++other) {
    if (other == exchange.rank()) continue;
    const at::Tensor own = sent(exchange.rank(), other);
    const at::Tensor room = at::full({3}, -1.0F);
    for (const auto& [begin, count] : {std::pair(0, 2), std::pair(2, 0), std::pair(2, 1)}) {
      outgoing.push_back({other, own.narrow(0, begin, count)});
      incoming.push_back({other, room.narrow(0, begin, count)});
    }
  }
  exchange.exchange(outgoing, incoming);
  for (std::size_t i = 0; i < incoming.size(); i += 3) {
    const at::Tensor wanted = sent(incoming[i].from, exchange.rank());
    EXPECT_TRUE(incoming[i].values.equal(wanted.narrow(0, 0, 2)));
    EXPECT_TRUE(incoming[i + 2].values.equal(wanted.narrow(0, 2, 1)));
  }
}

TEST(TensorExchange, BringsTensorsOfAllRanksInOrder) {
  for (const int size : {1, 2, 3, 7}) {
    tests::ThreadRanks ranks(size);
    tests::ThreadExchange devices(size);
    ranks.run([&](core::Communicator& one) {
      HostExchange host(one);
      check_exchange(host);
      check_exchange(*devices.of_rank(one.rank()));
    });
  }
}

/// What ranks were told, one after another, and the names of the exchanges that they got.
struct Begun {
  std::vector<std::string> names;
  std::vector<std::string> lines;
};

/// Begins an exchange in three ranks, each with its own way.
Begun begin(const std::function<DirectWay(int rank, tests::ThreadExchange&)>& way_of) {
  constexpr int kRanks = 3;
  tests::ThreadRanks ranks(kRanks);
  tests::ThreadExchange devices(kRanks);
  Begun begun{std::vector<std::string>(kRanks), std::vector<std::string>(kRanks)};
  ranks.run([&](core::Communicator& one) {
    const auto r = static_cast<std::size_t>(one.rank());
    const core::Log log = [&](core::Level level, std::string_view line) {
      EXPECT_EQ(level, core::Level::kInfo);
      EXPECT_EQ(begun.lines[r], "");
      begun.lines[r] = line;
    };
    const auto exchange = begin_exchange(one, way_of(one.rank(), devices), at::kCPU, log);
    begun.names[r] = exchange->name();
    check_exchange(*exchange);
  });
  return begun;
}

DirectWay good_way(int rank, tests::ThreadExchange& devices) {
  return {.make_name =
              [rank] {
                EXPECT_EQ(rank, 0) << "the first rank names the group";
                return std::string("a\0b", 3);
              },
          .join =
              [rank, &devices](const std::string& name) {
                EXPECT_EQ(name, std::string("a\0b", 3));
                return devices.of_rank(rank);
              }};
}

TEST(TensorExchange, IsDirectWhereAllRanksCanBeginIt) {
  const Begun begun = begin(good_way);
  EXPECT_THAT(begun.names, ElementsAre("threads", "threads", "threads"));
  EXPECT_EQ(begun.lines[0], "gradients travel over threads");
}

TEST(TensorExchange, IsOverTheHostWhereTheFirstRankCannotNameAGroup) {
  const Begun begun = begin([](int rank, tests::ThreadExchange& devices) {
    DirectWay way = good_way(rank, devices);
    way.make_name = []() -> std::string { throw IoError("no network\nand more"); };
    return way;
  });
  EXPECT_THAT(begun.names, ElementsAre("the host", "the host", "the host"));
  EXPECT_EQ(begun.lines[0], "gradients travel over the host, with the same numbers: no network");
}

TEST(TensorExchange, IsOverTheHostInAllWhereOneRankCannotJoin) {
  const Begun begun = begin([](int rank, tests::ThreadExchange& devices) {
    DirectWay way = good_way(rank, devices);
    if (rank == 1) {
      way.join = [](const std::string&) -> std::unique_ptr<TensorExchange> {
        throw std::runtime_error("no peer");  // as LibTorch throws, and not weft
      };
    }
    return way;
  });
  EXPECT_THAT(begun.names, ElementsAre("the host", "the host", "the host"));
  EXPECT_THAT(begun.lines[0], AllOf(HasSubstr("over the host"), HasSubstr("rank 1: no peer")));
}

/// Carries everything but what rank 2 gets.
class Deaf final : public TensorExchange {
 public:
  explicit Deaf(std::unique_ptr<TensorExchange> way) : way_(std::move(way)) {}
  [[nodiscard]] int rank() const override { return way_->rank(); }
  [[nodiscard]] int size() const override { return way_->size(); }
  [[nodiscard]] std::string name() const override { return "deaf"; }
  void exchange(std::span<const Outgoing> outgoing, std::span<const Incoming> incoming) override {
    way_->exchange(outgoing, incoming);
    if (rank() != 2) return;
    for (const Incoming& one : incoming) one.values.zero_();
  }

 private:
  std::unique_ptr<TensorExchange> way_;
};

TEST(TensorExchange, IsOverTheHostInAllWhereAFirstNumberDoesNotArrive) {
  const Begun begun = begin([](int rank, tests::ThreadExchange& devices) {
    DirectWay way = good_way(rank, devices);
    way.join = [rank, &devices](const std::string&) {
      return std::make_unique<Deaf>(devices.of_rank(rank));
    };
    return way;
  });
  EXPECT_THAT(begun.names, ElementsAre("the host", "the host", "the host"));
  EXPECT_THAT(begun.lines[0], HasSubstr("rank 2: a first number from rank 0 arrived as 0"));
}

TEST(TensorExchange, OfProcessorsIsOverTheHostWithoutAWord) {
  tests::ThreadRanks ranks(2);
  ranks.run([](core::Communicator& one) {
    const core::Log log = [](core::Level, std::string_view line) { ADD_FAILURE() << line; };
    const auto exchange = open_exchange(one, {}, log);
    EXPECT_EQ(exchange->name(), "the host");
    check_exchange(*exchange);
  });
}

}  // namespace
}  // namespace weft::model
