#include "train/update_stream.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "core/error.h"
#include "tests/support/throws.h"

namespace weft::train {
namespace {

/// Examples whose tokens are their own index, so that rows tell what is in them.
std::vector<data::Example> make_examples(const std::vector<std::size_t>& lengths) {
  std::vector<data::Example> examples;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    data::Example example;
    example.tokens.assign(lengths[i], static_cast<std::int32_t>(i));
    example.supervised.assign(lengths[i], 1);
    example.supervised[0] = 0;
    examples.push_back(std::move(example));
  }
  return examples;
}

std::vector<data::Example> many() {
  std::vector<std::size_t> lengths;
  for (std::size_t i = 0; i < 37; ++i) lengths.push_back(3 + (i * 7) % 20);
  return make_examples(lengths);
}

UpdateStreamOptions options(std::int64_t tokens, bool packing) {
  UpdateStreamOptions o;
  o.rows.sequence_len = 32;
  o.rows.packing = packing;
  o.rows.seed = 5;
  o.tokens_per_update = tokens;
  return o;
}

TEST(UpdateStream, HoldsWholeRowsUpToTheLimitInOrder) {
  const auto examples = make_examples({10, 10, 10, 25, 5, 30, 4});
  auto o = options(30, false);
  o.rows.shuffle = false;
  UpdateStream stream(examples, o);
  std::vector<std::uint64_t> tokens;
  while (const auto update = stream.next()) tokens.push_back(update->tokens);
  // 10+10+10, 25+5, 30, 4: the last is what the epoch has left.
  EXPECT_EQ(tokens, (std::vector<std::uint64_t>{30, 30, 30, 4}));
  EXPECT_EQ(stream.total(), 4);
}

TEST(UpdateStream, RowLargerThanTheLimitIsAnUpdateOfItsOwn) {
  const auto examples = make_examples({3, 31, 3});
  auto o = options(8, false);
  o.rows.shuffle = false;
  UpdateStream stream(examples, o);
  std::vector<std::uint64_t> tokens;
  while (const auto update = stream.next()) tokens.push_back(update->tokens);
  EXPECT_EQ(tokens, (std::vector<std::uint64_t>{3, 31, 3}));
}

TEST(UpdateStream, AnUpdateOfSoManyExamplesHasThemWhateverTheirLength) {
  const auto examples = many();
  auto o = options(1, false);
  o.rows_per_update = 8;
  o.num_epochs = 2;
  UpdateStream stream(examples, o);
  std::vector<std::size_t> rows;
  while (const auto update = stream.next()) rows.push_back(update->rows.size());
  EXPECT_EQ(rows, (std::vector<std::size_t>{8, 8, 8, 8, 5, 8, 8, 8, 8, 5}));
  EXPECT_EQ(stream.total(), 10);
}

TEST(UpdateStream, TotalIsKnownBeforehandAndEpochsDoNotMix) {
  const auto examples = many();
  for (const bool packing : {false, true}) {
    auto o = options(70, packing);
    o.num_epochs = 3;
    UpdateStream stream(examples, o);
    std::int64_t updates = 0;
    std::multiset<std::int32_t> seen;
    while (const auto update = stream.next()) {
      ++updates;
      for (const data::Row& row : update->rows) {
        for (const data::Segment segment : row.segments) {
          seen.insert(row.tokens[static_cast<std::size_t>(segment.begin)]);
        }
      }
      if (stream.epoch() == std::floor(stream.epoch())) {
        EXPECT_EQ(seen.size(), examples.size()) << "epoch " << stream.epoch();
        EXPECT_EQ(std::set(seen.begin(), seen.end()).size(), examples.size());
        seen.clear();
      }
    }
    EXPECT_TRUE(seen.empty());
    EXPECT_EQ(updates, stream.total());
    EXPECT_EQ(stream.epoch(), 3.0);
  }
}

TEST(UpdateStream, MaxUpdatesAndPartsOfEpochsLimitTheRun) {
  const auto examples = many();
  auto o = options(70, true);
  const std::int64_t epoch = UpdateStream(examples, o).total();
  o.num_epochs = 0.5;
  EXPECT_EQ(UpdateStream(examples, o).total(), std::llround(0.5 * static_cast<double>(epoch)));
  o.num_epochs.reset();
  o.max_updates = 5 * epoch;
  EXPECT_EQ(UpdateStream(examples, o).total(), 5 * epoch);  // more epochs, as many as it takes
  o.num_epochs = 1;
  EXPECT_EQ(UpdateStream(examples, o).total(), epoch);
}

TEST(UpdateStream, IsPlannedInTheSameTimeHoweverManyTheEpochs) {
  const auto examples = many();
  auto o = options(70, true);
  o.num_epochs = 1e9;  // planned one by one they take hours
  UpdateStream stream(examples, o);
  o.num_epochs = 1000;
  const auto a_thousand = static_cast<double>(UpdateStream(examples, o).total());
  EXPECT_NEAR(static_cast<double>(stream.total()), a_thousand * 1e6, a_thousand * 1e4);
  EXPECT_TRUE(stream.next());
  o.max_updates = 4'000'000'000;
  o.num_epochs.reset();
  EXPECT_EQ(UpdateStream(examples, o).total(), *o.max_updates);
  o.num_epochs = 1e300;
  EXPECT_EQ(UpdateStream(examples, o).total(), *o.max_updates);
  o.max_updates.reset();
  EXPECT_THROWS_WITH(UpdateStream(examples, o), ConfigError, "num_epochs: 1e+300 passes",
                     "set max_updates");
}

TEST(UpdateStream, EpochsThatAreNotPlannedAreTakenForTheMeanOfTheOthers) {
  // One example an update: nothing differs between epochs.
  const auto examples = make_examples({4, 4, 4});
  auto o = options(4, false);
  o.num_epochs = 20'000.5;  // more than are planned
  UpdateStream stream(examples, o);
  EXPECT_EQ(stream.total(), 60'002);
  for (int i = 0; i < 3 * 19'000; ++i) ASSERT_TRUE(stream.next());
  EXPECT_EQ(stream.epoch(), 19'000.0);
  ASSERT_TRUE(stream.next());
  EXPECT_NEAR(stream.epoch(), 19'000.0 + 1.0 / 3, 1e-9);
  EXPECT_LT(UpdateStream(examples, o).epoch(), 1e-9);
}

TEST(UpdateStream, RestoredStreamGivesTheSameUpdates) {
  const auto examples = many();
  for (const bool packing : {false, true}) {
    auto o = options(45, packing);
    o.num_epochs = 2;
    UpdateStream whole(examples, o);
    std::vector<Update> updates;
    std::vector<nlohmann::json> states{whole.state()};
    while (auto update = whole.next()) {
      updates.push_back(std::move(*update));
      states.push_back(whole.state());
    }
    for (std::size_t from = 0; from < updates.size(); ++from) {
      UpdateStream resumed(examples, o);
      resumed.restore(nlohmann::json::parse(states[from].dump()));
      for (std::size_t i = from; i < updates.size(); ++i) {
        const auto update = resumed.next();
        ASSERT_TRUE(update);
        ASSERT_EQ(update->rows.size(), updates[i].rows.size());
        for (std::size_t r = 0; r < update->rows.size(); ++r) {
          EXPECT_EQ(update->rows[r].tokens, updates[i].rows[r].tokens);
        }
      }
      EXPECT_FALSE(resumed.next());
    }
  }
}

TEST(UpdateStream, CountsSupervisedTargets) {
  const auto examples = make_examples({5, 7});
  UpdateStream stream(examples, options(100, true));
  EXPECT_EQ(stream.next()->supervised_tokens, 4U + 6U);
}

}  // namespace
}  // namespace weft::train
