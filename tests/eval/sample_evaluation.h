#pragma once

#include <limits>
#include <string>

#include "eval/ledger/ledger.h"
#include "eval/metrics/answer.h"

namespace weft::tests {

/// Two stages on a text, an instruction and a choice suite, with numbers that depend on `seed`.
inline eval::SuiteResult sample_text(int seed) {
  eval::SuiteResult suite{.name = "corpus", .digest = "text-items"};
  suite.labels = {.language = "nah",
                  .must_keep = true,
                  .sources = {0, 0, 1, 1, 2, 2},
                  .source_names = {"a", "\xC4\x93", "c"}};
  for (int i = 0; i < 6; ++i) {
    suite.items.push_back({.tokens = 7 + i, .bytes = 20 + i, .loss = 30.1 / (1 + (i + seed) % 5)});
    if (seed == 0) continue;
    suite.distances.push_back({.item = static_cast<std::uint32_t>(i),
                               .kl = 0.1F / static_cast<float>(1 + i),
                               .loss = 1.7F,
                               .reference_loss = 1.5F,
                               .same_top = i % 2 == 0});
  }
  return suite;
}

inline eval::SuiteResult sample_answers(int seed) {
  eval::SuiteResult suite{.name = "pairs",
                          .kind = eval::SuiteKind::kInstruction,
                          .unit = eval::Unit::kExample,
                          .digest = "pairs-items"};
  for (int i = 0; i < 4; ++i)
    suite.items.push_back({.tokens = 3, .bytes = 9, .loss = 2.5 + (i * 7 + seed) % 3});
  suite.generations = {eval::compare_answer("agua?", "atl", seed == 0 ? "alt" : "atl"),
                       eval::compare_answer("ma\xC3\xADz?", "c\xC4\x93ntli", "not \xFF UTF-8\n")};
  return suite;
}

inline eval::SuiteResult sample_choices(int seed) {
  eval::SuiteResult suite{.name = "quiz",
                          .kind = eval::SuiteKind::kChoice,
                          .unit = eval::Unit::kQuestion,
                          .digest = "quiz-items"};
  for (int i = 0; i < 5; ++i) {
    suite.items.push_back({.tokens = 4, .bytes = 8, .loss = 5.25 + i});
    suite.choices.push_back({.answer = (i + seed) % 2,
                             .log_p = {-3.5 - i, -4.25},
                             .log_p_alone = {-5.0, -std::numeric_limits<double>::infinity()},
                             .characters = {3, 4},
                             .bytes = {4, 4}});
    if (seed != 0) suite.choices.back().flipped = i == 3;
  }
  return suite;
}

inline eval::Recorded sample_evaluation(int seed = 0) {
  eval::Recorded recorded;
  recorded.circumstances = {.recorded_at = "2026-11-23T10:00:00Z",
                            .name = "nahuatl",
                            .run = "/runs/nahuatl",
                            .program = "weft 1",
                            .machine = "a processor",
                            .threads = 2,
                            .kernels = "avx2",
                            .seconds = 12.5};
  recorded.evaluation = {.sequence_len = 512,
                         .dtype = "float32",
                         .decoding = eval::Decoding{64, 1.1},
                         .reference = "base"};
  for (int i = 0; i < 2; ++i) {
    eval::StageResult stage{.name = i == 0 ? "base" : "q8", .model = "/models/tiny"};
    stage.quantise = i == 0 ? "" : "q8_0";
    stage.seconds = 1.25;
    stage.model_digest = "digest-of-model";
    if (i == 1) {
      stage.adapters = {"/runs/nahuatl/adapter"};
      stage.adapter_digests = {"digest-of-adapter"};
    }
    stage.suites = {sample_text(seed + i), sample_answers(seed + i), sample_choices(seed + i)};
    recorded.evaluation.stages.push_back(std::move(stage));
  }
  recorded.bootstrap = {.resamples = 100, .seed = 7, .confidence = 0.9, .permutations = 100};
  recorded.gates = {{.text = "loss.base <= 3", .passed = true, .left = 2, .limit = 3, .bound = 2.5},
                    {.text = "kl.q8 <= 0", .passed = false, .left = 0.5, .limit = 0}};
  return recorded;
}

inline std::int64_t record(eval::Ledger& ledger, const eval::Recorded& recorded,
                           const std::optional<std::string>& tag = {},
                           std::span<const std::string> parts = {}) {
  return ledger.record(recorded, eval::analyse(recorded.evaluation, recorded.bootstrap), tag,
                       parts);
}

}  // namespace weft::tests
