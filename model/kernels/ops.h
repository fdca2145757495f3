#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "data/row.h"
#include "model/kernels/attention.h"
#include "model/spec.h"

// The operations of a decoder between its matrix products, each with an explicit forward and
// backward. All take and give contiguous tensors of one element type (float, BFloat16, or double in
// tests); arithmetic and statistics are fp32 (double for double). A function whose name ends in _
// writes to its first argument. Rounding to BFloat16 happens where transformers' modules round, so
// that a model in bf16 gives the numbers it was checked with.
// Linear layers are in model/linear.h, norms in model/norm.h, activations in model/activation.h,
// attention in model/kernels/attention.h, the head in model/head.h.
namespace weft::model {

/// Rows `indices` of a matrix [N, D]: [T, D].
[[nodiscard]] at::Tensor gather(const at::Tensor& rows, std::span<const std::int64_t> indices);

/// Row indices[i] of a new matrix [count, D] is row i of `rows`; all others are zero.
[[nodiscard]] at::Tensor scatter(const at::Tensor& rows, std::span<const std::int64_t> indices,
                                 std::int64_t count);

/// x * scale; in bf16 rounded once.
[[nodiscard]] at::Tensor scaled(const at::Tensor& x, double scale);
/// x_ += scale * y; scale * y is rounded to the element type before it is added, as transformers'
/// modules round.
void add_(const at::Tensor& x, const at::Tensor& y, double scale = 1);
/// A copy.
[[nodiscard]] at::Tensor copied(const at::Tensor& x);
/// Zeros of this shape and type.
[[nodiscard]] at::Tensor zeros(at::IntArrayRef shape, const at::TensorOptions& options);

/// Cosine and sine per token and plane, fp32 [T, dim / 2], the kind's factor included. For
/// BFloat16 they are rounded to it, as transformers does.
struct RotaryTable {
  at::Tensor cos;
  at::Tensor sin;
  bool interleaved = false;  ///< Rope::interleaved
};

/// Angles of `positions`. Some kinds depend on the length: that of each segment, so that a packed
/// example has the numbers it has alone. `max_positions`: Spec::max_positions.
[[nodiscard]] RotaryTable rotary_table(const Rope& rope, std::int64_t max_positions,
                                       std::span<const std::int32_t> positions,
                                       std::span<const data::Segment> segments,
                                       at::ScalarType type);

/// Frequencies [dim / 2] fp32 of a sequence of `length`, and the factor of cos and sin.
struct RotaryFrequencies {
  at::Tensor frequencies;
  double factor = 1;
};
[[nodiscard]] RotaryFrequencies rotary_frequencies(const Rope& rope, std::int64_t max_positions,
                                                   std::int64_t length);

/// Turns q and k of qkv_ [T, (heads + 2 kv_heads) head_dim] in place: (x1, x2) of a plane becomes
/// (x1 cos - x2 sin, x2 cos + x1 sin), planes pairing element i with i + dim / 2, or 2i with 2i
/// + 1.
void rotate_(const at::Tensor& qkv, const AttentionShape& shape, const RotaryTable& table);

/// Its backward: turns the gradients of q and k back, in place.
void rotate_back_(const at::Tensor& gradient, const AttentionShape& shape,
                  const RotaryTable& table);

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
