#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

namespace weft::model {

/// How the next token is chosen. The neutral values switch a step off.
struct Sampling {
  double temperature = 0;         ///< 0: the largest logit (the lowest id among equals)
  std::int64_t top_k = 0;         ///< keep the k largest; 0: all
  double top_p = 1;               ///< keep the smallest set whose probability reaches p
  double min_p = 0;               ///< keep what has at least p times the largest probability
  double repetition_penalty = 1;  ///< logits of tokens seen: divided if positive, else multiplied
  std::uint64_t seed = 0;
};

/// Chooses tokens with the steps, formulas and order of transformers' logits processors: repetition
/// penalty, temperature, top-k, top-p, min-p. The same seed and logits give the same tokens.
class Sampler {
 public:
  /// ConfigError for a value out of its range.
  explicit Sampler(const Sampling& sampling);

  /// `logits` [V] fp32; `seen` are the prompt's and answer's tokens so far.
  [[nodiscard]] std::int32_t next(const at::Tensor& logits, std::span<const std::int32_t> seen);

  /// The tokens that may be chosen and their probabilities, largest first.
  struct Candidate {
    std::int32_t id = 0;
    float logit = 0;
    float probability = 0;
  };
  [[nodiscard]] std::vector<Candidate> candidates(const at::Tensor& logits,
                                                  std::span<const std::int32_t> seen) const;

 private:
  /// The id of the largest logit, without a list of candidates.
  [[nodiscard]] std::int32_t greedy(const at::Tensor& logits,
                                    std::span<const std::int32_t> seen) const;

  Sampling sampling_;
  std::uint64_t step_ = 0;
};

}  // namespace weft::model
