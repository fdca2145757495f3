#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

namespace weft::model {

/// How far one distribution over the next token is from another, and what each says of the token
/// that follows.
struct Divergence {
  double kl = 0;              ///< KL(p || q) = sum p (ln p - ln q), nats; 0 where they are equal.
  double loss = 0;            ///< -ln q(target)
  double reference_loss = 0;  ///< -ln p(target)
  bool same_top = false;      ///< Both have their largest logit at the same token (the lowest id).
};

/// Row by row: p = softmax(reference), q = softmax(logits), both fp32 [S, V]; targets [S]. Sums are
/// in double. The formulas of llama.cpp's tools/perplexity (kl_divergence), without its rounding of
/// p to 16 bits. Uses LibTorch's threads; a row has the same bits whatever the others are.
[[nodiscard]] std::vector<Divergence> divergence(const at::Tensor& reference,
                                                 const at::Tensor& logits,
                                                 std::span<const std::int32_t> targets);

}  // namespace weft::model
