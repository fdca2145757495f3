#pragma once

#include <cstdint>

#include "data/example_table.h"

namespace weft::data {

/// Examples that are learned and those that are kept aside, each in the order of the table.
struct HeldOut {
  ExampleTable learned;
  ExampleTable kept;
};

/// Keeps about `share` (between 0 and 1) of the examples aside. Which ones depends on the seed and
/// on each example's tokens alone: examples that repeat fall on one side, and another file moves
/// none. The share is of different examples, so that few of them, or many that repeat, miss it.
[[nodiscard]] HeldOut hold_out(const ExampleTable& examples, double share, std::uint64_t seed);

/// How many of `tested` have the tokens of one of `learned`.
[[nodiscard]] std::int64_t count_learned(const ExampleTable& tested, const ExampleTable& learned);

}  // namespace weft::data
