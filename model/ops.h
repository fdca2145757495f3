#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "data/row.h"
#include "model/spec.h"

// The operations of a decoder between its matrix products, each with an explicit forward and
// backward. All take and give contiguous tensors of one element type (float, BFloat16, or double in
// tests); arithmetic and statistics are fp32 (double for double). A function whose name ends in _
// writes to its first argument. Rounding to BFloat16 happens where transformers' modules round, so
// that a model in bf16 gives the numbers it was checked with.
// The linear operation is in model/linear.h, attention in model/attention.h, the head in
// model/head.h.
namespace weft::model {

/// Rows of the embedding matrix [V, D] for `tokens`: [T, D].
[[nodiscard]] at::Tensor embed(const at::Tensor& embedding, std::span<const std::int32_t> tokens);

/// y = x / sqrt(mean(x^2) + eps) * weight, row by row (arXiv 1910.07467). x [T, D], weight [D].
/// `inverse_rms`, where not null, receives 1 / sqrt(mean(x^2) + eps): [T] in the arithmetic's type.
[[nodiscard]] at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps,
                                  at::Tensor* inverse_rms = nullptr);

/// dx_ += s w dy - x s^3 mean(w dy x) with s = inverse_rms: the gradient that flows around the norm
/// (the residual's) is already in dx_.
void rms_norm_backward_(const at::Tensor& dx, const at::Tensor& dy, const at::Tensor& x,
                        const at::Tensor& weight, const at::Tensor& inverse_rms);

/// Cosine and sine per token and plane, fp32 [T, head_dim / 2], yarn's factor included. For
/// BFloat16 they are rounded to it, as transformers does.
struct RotaryTable {
  at::Tensor cos;
  at::Tensor sin;
};

/// Angles of `positions`. Dynamic scaling depends on the length: that of each segment, so that a
/// packed example has the numbers it has alone.
[[nodiscard]] RotaryTable rotary_table(const Spec& spec, std::span<const std::int32_t> positions,
                                       std::span<const data::Segment> segments,
                                       at::ScalarType type);

/// Frequencies [head_dim / 2] fp32 of a sequence of `length`, and the factor of cos and sin.
struct RotaryFrequencies {
  at::Tensor frequencies;
  double factor = 1;
};
[[nodiscard]] RotaryFrequencies rotary_frequencies(const Spec& spec, std::int64_t length);

/// Turns q and k of qkv_ [T, (heads + 2 kv_heads) head_dim] in place: (x1, x2) of a plane becomes
/// (x1 cos - x2 sin, x2 cos + x1 sin), planes pairing element i with i + head_dim / 2.
void rotate_(const at::Tensor& qkv, const Spec& spec, const RotaryTable& table);

/// Its backward: turns the gradients of q and k back, in place.
void rotate_back_(const at::Tensor& gradient, const Spec& spec, const RotaryTable& table);

/// silu(gate) * up with gate_up = [gate | up], [T, 2F]: [T, F].
[[nodiscard]] at::Tensor swiglu(const at::Tensor& gate_up);

/// Writes the gradient of gate_up over it: with s = sigmoid(gate),
/// d gate = dy up s (1 + gate (1 - s)), d up = dy gate s.
void swiglu_backward_(const at::Tensor& gate_up, const at::Tensor& dy);

/// Which inputs of an adapter are dropped. Element i of module m under seed s is dropped where word
/// (i mod 64) / 16 of core::philox(counter = 16 (i / 64) + i mod 16, module m; key s) is below
/// p 2^32; the rest is scaled by 1 / (1 - p). Masks are made again rather than kept.
struct Dropout {
  double p = 0;
  std::uint64_t seed = 0;
};

/// x with dropped elements zero and the rest scaled.
[[nodiscard]] at::Tensor dropout(const at::Tensor& x, const Dropout& dropout, std::uint32_t module);

/// dx_ += the mask and scale of dropout() applied to dy.
void dropout_backward_(const at::Tensor& dx, const at::Tensor& dy, const Dropout& dropout,
                       std::uint32_t module);

}  // namespace weft::model
