#include "merge/select.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "core/parallel.h"

namespace weft::merge {
namespace {

/// The places of the k largest, equals by place, by sorting.
std::vector<std::int64_t> sorted_top(const std::vector<std::uint32_t>& keys, std::int64_t k) {
  std::vector<std::int64_t> places(keys.size());
  std::iota(places.begin(), places.end(), 0);
  std::ranges::stable_sort(places, std::greater(),
                           [&](std::int64_t i) { return keys[static_cast<std::size_t>(i)]; });
  places.resize(static_cast<std::size_t>(k));
  std::ranges::sort(places);
  return places;
}

std::vector<std::int64_t> selected(const std::vector<std::uint32_t>& keys, std::int64_t columns,
                                   std::int64_t k) {
  const auto rows = static_cast<std::int64_t>(keys.size()) / columns;
  Ranking ranking(
      rows, columns,
      [&](std::int64_t begin, std::int64_t end, std::span<std::uint32_t> out) {
        std::copy(keys.begin() + begin * columns, keys.begin() + end * columns, out.begin());
      },
      [&](const std::function<void(std::int64_t, std::int64_t)>& body) {
        core::parallel_for(rows, 1, body);
      });
  EXPECT_EQ(ranking.nonzero(),
            static_cast<std::int64_t>(keys.size()) - std::ranges::count(keys, 0U));
  const TopSet top = ranking.top(k);
  std::vector<std::int64_t> places;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (top.contains(keys[i], static_cast<std::int64_t>(i)))
      places.push_back(static_cast<std::int64_t>(i));
  }
  return places;
}

TEST(Ranking, IsWhatSortingGivesForEveryNumberAndManyEquals) {
  std::mt19937 random(3);
  std::vector<std::uint32_t> keys(7 * 11);
  for (const std::uint32_t kinds : {1U, 3U, 20U, 0xffffffffU}) {
    for (auto& key : keys)
      key = (static_cast<std::uint32_t>(random()) % kinds) * (kinds < 100 ? 0x00013001U : 1U);
    for (std::int64_t k = 0; k <= 77; ++k)
      EXPECT_EQ(selected(keys, 11, k), sorted_top(keys, k)) << k;
  }
}

TEST(Ranking, CountsWhatStandsAloneInALongGroup) {
  // Few keys share the upper half of the one at the cut, and rows are no whole number of groups.
  std::mt19937 random(4);
  std::vector<std::uint32_t> keys(5 * 333);
  for (auto& key : keys) key = static_cast<std::uint32_t>(random());
  for (std::size_t i = 0; i < keys.size(); i += 97)
    keys[i] = 0x80000000U + static_cast<std::uint32_t>(i % 3);
  for (const std::int64_t k : {1, 400, 820, 825, 830, 835, 840, 845, 850, 1200, 1664}) {
    EXPECT_EQ(selected(keys, 333, k), sorted_top(keys, k)) << k;
  }
}

TEST(RankRow, IsTheStableOrderOfMagnitudes) {
  std::mt19937 random(5);
  std::vector<double> values(1001);
  for (double& value : values) {
    value = (static_cast<double>(random() % 50) - 25) * std::pow(10.0, random() % 30);
  }
  std::vector<std::uint32_t> expected(values.size());
  std::iota(expected.begin(), expected.end(), 0U);
  std::ranges::stable_sort(expected, {}, [&](std::uint32_t j) { return magnitude_key(values[j]); });
  std::vector<std::uint32_t> order;
  rank_row(values, order);
  EXPECT_EQ(order, expected);
}

TEST(MagnitudeKey, HasTheOrderOfMagnitudes) {
  EXPECT_EQ(magnitude_key(0.0), 0U);
  EXPECT_EQ(magnitude_key(-1.5), magnitude_key(1.5));
  EXPECT_LT(magnitude_key(1e-30), magnitude_key(-2e-30));
  EXPECT_LT(magnitude_key(3.0), magnitude_key(-1e20));
}

}  // namespace
}  // namespace weft::merge
