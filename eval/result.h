#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "eval/chrf.h"

namespace weft::eval {

/// What was scored as a whole: the unit that the bootstrap draws.
struct Item {
  std::int64_t tokens = 0;  ///< Predicted tokens.
  std::int64_t bytes = 0;   ///< UTF-8 bytes of the text that they stand for.
  double loss = 0;          ///< Sum of -ln p over the tokens, in nats.
};

/// A generated answer and what it should have been.
struct Generation {
  std::string prompt{};  ///< As the user wrote it: the last turn before the answer.
  std::string reference{};
  std::string output{};
  ChrfStatistics chrf{};
  ChrfStatistics chrf_plus_plus{};
};

enum class SuiteKind : std::uint8_t { kText, kInstruction };
enum class Unit : std::uint8_t { kDocument, kWindow, kExample };

/// What one stage did on one suite.
struct SuiteResult {
  std::string name{};
  SuiteKind kind = SuiteKind::kText;
  Unit unit = Unit::kDocument;
  std::vector<Item> items{};
  std::vector<Generation> generations{};
};

/// One state of a model on its way to users: "base", "base+adapter", "merged", or as named.
struct StageResult {
  std::string name{};
  std::filesystem::path model{};
  std::vector<std::filesystem::path> adapters{};
  double seconds = 0;
  std::vector<SuiteResult> suites{};
};

/// How answers were generated: greedily, with these limits.
struct Decoding {
  std::int64_t max_tokens = 0;
  double repetition_penalty = 1;
};

/// Everything that was measured; the suites of all stages hold the same items in the same order.
struct Evaluation {
  std::int64_t sequence_len = 0;
  std::string dtype{};  ///< "float32" or "bfloat16"
  std::optional<Decoding> decoding{};
  std::vector<StageResult> stages{};
};

}  // namespace weft::eval
