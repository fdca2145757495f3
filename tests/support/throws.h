#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

/// Expects `statement` to throw `Type` with every given substring in its message:
/// EXPECT_THROWS_WITH(read(file), weft::InputError, "model.norm.weight", "truncated");
#define EXPECT_THROWS_WITH(statement, Type, ...)                                     \
  do {                                                                               \
    try {                                                                            \
      statement;                                                                     \
      ADD_FAILURE() << "expected " #Type " from " #statement ", nothing was thrown"; \
    } catch (const Type& error) {                                                    \
      for (const char* part : {__VA_ARGS__}) {                                       \
        EXPECT_THAT(error.what(), ::testing::HasSubstr(part));                       \
      }                                                                              \
    }                                                                                \
  } while (false)
