#pragma once

#include <cstdint>
#include <span>

#include "eval/metrics/result.h"

namespace weft::eval {

/// A mean over tokens and its standard error, which takes tokens for independent.
struct TokenMean {
  double value = 0;
  double standard_error = 0;
};

/// What llama-perplexity --kl-divergence prints, by its formulas (llama.cpp, tools/perplexity).
struct DistributionSummary {
  std::int64_t tokens = 0;
  TokenMean perplexity;
  TokenMean reference_perplexity;
  double log_perplexity_correlation = 0;
  TokenMean log_perplexity_ratio;
  TokenMean perplexity_ratio;
  TokenMean kl;
  double kl_max = 0, kl_p999 = 0, kl_p99 = 0, kl_p95 = 0, kl_p90 = 0, kl_median = 0, kl_p10 = 0,
         kl_p5 = 0, kl_p1 = 0, kl_p01 = 0, kl_min = 0;
  TokenMean delta_p;  ///< Of the right token's probability.
  double delta_p_max = 0, delta_p_p999 = 0, delta_p_p99 = 0, delta_p_p95 = 0, delta_p_p90 = 0,
         delta_p_p75 = 0, delta_p_median = 0, delta_p_p25 = 0, delta_p_p10 = 0, delta_p_p5 = 0,
         delta_p_p1 = 0, delta_p_p01 = 0, delta_p_min = 0;
  TokenMean delta_p_rms;
  TokenMean same_top;
};
[[nodiscard]] DistributionSummary summarise(std::span<const TokenDistance> distances);

}  // namespace weft::eval
