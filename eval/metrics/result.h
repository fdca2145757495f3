#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "eval/metrics/chrf.h"

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
  std::vector<std::string> more_references{};  ///< Any of them fits as well.
  ChrfStatistics chrf{};
  ChrfStatistics chrf_plus_plus{};
  /// The sums of each of the suite's metrics (SuiteLabels::metrics); empty: not computed yet.
  std::vector<std::vector<double>> scores{};
};

/// What a model made of one multiple-choice question: of each choice its log-probability after the
/// context and on its own, and how long it is (without the delimiter), as lm-eval normalises.
struct ChoiceResult {
  std::int32_t answer = 0;                 ///< The right choice.
  std::vector<double> log_p{};             ///< ln p(delimiter + choice | context)
  std::vector<double> log_p_alone{};       ///< ln p(delimiter + choice)
  std::vector<std::int64_t> characters{};  ///< Code points.
  std::vector<std::int64_t> bytes{};
  std::optional<bool> flipped{};  ///< Another choice than the reference stage's; nothing in it.
};

/// A scored token beside the same token in the reference stage (model/divergence.h).
struct TokenDistance {
  std::uint32_t item = 0;  ///< Whose token it is, in the suite's items.
  float kl = 0;            ///< KL(reference || stage), nats
  float loss = 0;          ///< -ln p of the token in this stage
  float reference_loss = 0;
  bool same_top = false;
};

enum class SuiteKind : std::uint8_t { kText, kInstruction, kChoice };
enum class Unit : std::uint8_t { kDocument, kWindow, kExample, kQuestion };
/// "text", "instruction" or "choice", as JSON and the ledger have it.
[[nodiscard]] const char* word(SuiteKind kind);
/// "document", "window", "example" or "question"
[[nodiscard]] const char* word(Unit unit);

/// What a suite is about, the same in every stage.
struct SuiteLabels {
  std::string language{};  ///< As the user named it; may be empty.
  bool must_keep = false;  ///< It measures forgetting.
  /// The source document of each item, as a place in source_names; empty: every item is its own.
  std::vector<std::uint32_t> sources{};
  std::vector<std::string> source_names{};
  std::vector<std::string>
      metrics{};               ///< Of answers (eval/metrics/answer_metric.h); empty: the default.
  std::size_t references = 1;  ///< Of each answer.
};

/// What one stage did on one suite.
struct SuiteResult {
  std::string name{};
  SuiteKind kind = SuiteKind::kText;
  Unit unit = Unit::kDocument;
  std::vector<Item> items{};
  std::vector<Generation> generations{};
  SuiteLabels labels{};
  std::vector<ChoiceResult> choices{};     ///< Of kChoice: one per item.
  std::vector<TokenDistance> distances{};  ///< To the reference stage; empty in it.
  /// Whether the items are tokens of another tokenizer than the first stage's: only bits per byte
  /// can be compared.
  bool other_tokenizer = false;
  /// Of what was scored, to the token (eval/run/suite_digest.h); empty: not computed.
  std::string digest{};
  /// Of what was asked and how it was answered; empty: nothing was, or not computed.
  std::string asked_digest{};
};

/// One state of a model on its way to users: "base", "base+adapter", "merged", or as named.
struct StageResult {
  std::string name{};
  std::filesystem::path model{};
  std::vector<std::filesystem::path> adapters{};
  std::string quantise{};  ///< The type whose rounding was simulated: "q4_k_m"; empty: none.
  double seconds = 0;
  std::vector<SuiteResult> suites{};
  std::string
      model_digest{};  ///< Of its files (eval/ledger/content_digest.h); empty: not computed.
  std::vector<std::string> adapter_digests{};  ///< As many as `adapters`, or none.
};

/// How answers were generated: greedily, with these limits.
struct Decoding {
  std::int64_t max_tokens = 0;
  double repetition_penalty = 1;
  std::vector<std::string> stop{};  ///< Texts before which an answer ends.
};

/// Everything that was measured; the suites of all stages hold the same items in the same order.
struct Evaluation {
  std::int64_t sequence_len = 0;
  std::string dtype{};  ///< "float32" or "bfloat16"
  std::optional<Decoding> decoding{};
  std::string reference{};  ///< The stage that flips and distributions are compared with.
  std::vector<StageResult> stages{};
};

}  // namespace weft::eval
