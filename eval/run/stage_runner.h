#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/communicator.h"
#include "eval/run/reference_states.h"
#include "eval/run/score.h"
#include "eval/run/stages.h"
#include "eval/run/suites.h"

namespace weft::eval {

/// Whether a suite is compared token by token, and how.
enum class Compared : std::uint8_t { kNot, kReference, kWithReference };

/// One suite in one stage: what is to be done, and what was done before.
struct SuiteWork {
  const SuiteInput* input = nullptr;
  Compared compared = Compared::kNot;
  std::string key{};  ///< part_key()
  std::optional<SuiteResult> finished{};
  /// Of the reference stage, where it is finished: later stages need its states in memory.
  bool states_needed = false;
};

struct StageWork {
  StageResult stage;  ///< Without its suites until it has run.
  bool other_tokenizer = false;
  std::vector<SuiteInput> own_inputs{};  ///< Where the tokenizer is another one.
  std::vector<SuiteWork> suites{};

  /// Whether no model is needed.
  [[nodiscard]] bool is_finished() const;
};

/// Runs the suites of one stage after another on models that the caller holds.
class StageRunner {
 public:
  /// The references must outlive it.
  StageRunner(const EvalConfig& config, const Hooks& hooks) : config_(config), hooks_(hooks) {}

  /// Measures what is still to be measured; `decoder` may be null where nothing is.
  void run(StageWork& work, const text::Tokenizer& tokenizer, model::Decoder* decoder);

 private:
  void check_stop() const;
  void report(std::string_view suite, std::string_view what, std::int64_t done,
              std::size_t total) const;
  template <typename ItemOf>
  std::vector<PassLoss> losses(const SuiteInput& input, const std::vector<Pass>& passes,
                               Compared compared, const ItemOf& item_of, model::Decoder& decoder,
                               SuiteResult& suite);
  void text_suite(const SuiteInput& input, Compared compared, model::Decoder& decoder,
                  SuiteResult& suite);
  void instruction_suite(const SuiteWork& part, const text::Tokenizer& tokenizer,
                         model::Decoder& decoder, SuiteResult& suite);
  void choice_suite(const SuiteInput& input, Compared compared, model::Decoder& decoder,
                    SuiteResult& suite);
  void answer(const std::vector<Question>& questions, const text::Tokenizer& tokenizer,
              model::Decoder& decoder, SuiteResult& suite);

  [[nodiscard]] core::Communicator& ranks() { return hooks_.ranks ? *hooks_.ranks : alone_; }

  const EvalConfig& config_;
  const Hooks& hooks_;
  core::SingleProcess alone_;
  std::string stage_;
  std::map<std::string, ReferenceStates> references_;  ///< By suite.
};

}  // namespace weft::eval
