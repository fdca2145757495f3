#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "eval/run/score.h"
#include "merge/verification.h"
#include "model/decoder.h"
#include "text/tokenizer.h"

namespace weft::eval {

/// Tokens that the model reads at once when two models are compared.
inline constexpr std::int64_t kVerificationWindow = 512;

/// A text cut into disjoint windows of kVerificationWindow tokens, each predicted from its own
/// beginning; of a long text so many windows, spread evenly, that at most `max_tokens` are
/// compared. InputError when the tokenizer has neither BOS nor EOS, or the text has no token.
[[nodiscard]] std::vector<Pass> verification_passes(const std::vector<std::string>& documents,
                                                    const text::Tokenizer& tokenizer,
                                                    std::int64_t max_tokens);

/// The first place at which two tokenizers give different ids for these documents, for people;
/// empty where they agree on all.
[[nodiscard]] std::string first_other_ids(const std::vector<std::string>& documents,
                                          const text::Tokenizer& base,
                                          const text::Tokenizer& written);

/// What a model predicts at every token of a text, kept to compare others with it: D numbers a
/// token and its head, from which the logits are computed again.
class ReferencePredictions {
 public:
  /// Told after each window; throws to stop.
  using Done = std::function<void()>;

  ReferencePredictions(model::Decoder& decoder, std::vector<Pass> passes, const Done& done);

  /// Computes the same windows with another model. Text, compute and limit are left to the caller.
  /// InputError when its vocabulary has another size.
  [[nodiscard]] merge::Verification compare(model::Decoder& other, const Done& done) const;

 private:
  model::Head head_;
  std::int64_t vocabulary_ = 0;
  std::vector<Pass> passes_;
  std::vector<at::Tensor> states_;  ///< Of each window [T, D].
};

}  // namespace weft::eval
