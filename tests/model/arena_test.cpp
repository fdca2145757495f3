#include "model/arena.h"

#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

namespace weft::tests {
namespace {

using model::Arena;

constexpr std::size_t kPage = Arena::kGranularity;

TEST(Arena, BlocksDoNotOverlapWhateverTheOrder) {
  Arena arena(std::size_t{64} << 20);
  struct Held {
    unsigned char* block;
    std::size_t bytes;
    unsigned char mark;
  };
  std::vector<Held> held;
  std::mt19937_64 random(7);
  std::uint64_t in_use = 0;
  const auto rounded = [](std::size_t n) { return (n + kPage - 1) / kPage * kPage; };
  for (int step = 0; step < 20'000; ++step) {
    if (held.empty() || random() % 5 < 3) {
      const std::size_t bytes = 1 + random() % (std::size_t{200} << 10);
      auto* const block = static_cast<unsigned char*>(arena.take(bytes));
      if (block == nullptr) {  // full: what is there suffices
        ASSERT_GT(held.size(), 100U);
        continue;
      }
      ASSERT_EQ(reinterpret_cast<std::uintptr_t>(block) % 64, 0U);
      ASSERT_TRUE(arena.owns(block));
      const auto mark = static_cast<unsigned char>(random());
      block[0] = block[bytes / 2] = block[bytes - 1] = mark;
      held.push_back({block, bytes, mark});
      in_use += rounded(bytes);
    } else {
      const std::size_t i = random() % held.size();
      const Held one = held[i];
      ASSERT_EQ(one.block[0], one.mark);
      ASSERT_EQ(one.block[one.bytes / 2], one.mark);
      ASSERT_EQ(one.block[one.bytes - 1], one.mark);
      arena.give(one.block);
      in_use -= rounded(one.bytes);
      held[i] = held.back();
      held.pop_back();
    }
    ASSERT_EQ(arena.usage().now, in_use);
  }
  for (const Held& one : held) arena.give(one.block);
  EXPECT_EQ(arena.usage().now, 0U);
  // Everything has joined again: the whole range is one free piece.
  void* const all = arena.take(std::size_t{64} << 20);
  EXPECT_NE(all, nullptr);
  arena.give(all);
}

TEST(Arena, TakesTheSmallestBlockThatFits) {
  Arena arena(std::size_t{1} << 20);
  void* const large = arena.take(8 * kPage);
  void* const a = arena.take(kPage);
  void* const small = arena.take(2 * kPage);
  void* const b = arena.take(kPage);
  arena.give(large);
  arena.give(small);
  EXPECT_EQ(arena.take(2 * kPage), small);
  EXPECT_EQ(arena.take(3 * kPage), large);
  EXPECT_EQ(arena.usage().touched, 12 * kPage);
  EXPECT_EQ(arena.usage().most, 12 * kPage);
  arena.give(a);
  arena.give(b);
  arena.reset_most();
  EXPECT_EQ(arena.usage().most, 5 * kPage);
}

TEST(Arena, SaysWhenItIsFull) {
  Arena arena(std::size_t{2} << 20);
  void* const half = arena.take(std::size_t{1} << 20);
  EXPECT_EQ(arena.take((std::size_t{1} << 20) + 1), nullptr);
  EXPECT_EQ(arena.take(~std::size_t{0} - 100), nullptr);
  arena.give(half);
  EXPECT_NE(arena.take(std::size_t{2} << 20), nullptr);
}

TEST(Arena, HoldsLargeTensorsOnceInstalled) {
  Arena& arena = model::install_arena();
  const auto before = arena.usage().now;
  {
    const at::Tensor large = at::empty({1 << 20});
    const at::Tensor small = at::empty({16});
    EXPECT_TRUE(arena.owns(large.const_data_ptr()));
    EXPECT_FALSE(arena.owns(small.const_data_ptr()));
    EXPECT_EQ(arena.usage().now - before, std::uint64_t{4} << 20);
  }
  EXPECT_EQ(arena.usage().now, before);
}

}  // namespace
}  // namespace weft::tests
