#pragma once

#include <cstddef>
#include <span>

#include "checkpoint/checkpoint.h"

// How floats become stored numbers: the inverse of checkpoint/dequantize.h. Block formats follow
// the reference quantisers of ggml-org/llama.cpp, ggml/src/ggml-quants.c (quantize_row_*_ref, which
// llama-quantize runs when it has no importance matrix): the same operations in the same order, so
// that the bytes are equal (tests/oracles/test_export.py).

namespace weft::checkpoint {

/// Turns whole blocks of floats into `blocks`, which must have exactly the room they need; anything
/// else, or Storage::kMXFP4 and kOther, is a mistake of the caller (std::logic_error). Thread-safe;
/// the bytes do not depend on the processor.
///
/// F16 and BF16 round to nearest, ties to even. Values must be finite, and for F16 and the block
/// formats no larger than 65504 (their scales are F16): see fits().
void quantize(Storage storage, std::span<const float> values, std::span<std::byte> blocks);

/// The same for one row of a matrix, with the importance of each of its columns (as long as the
/// row; empty: none): quantize_row_*_impl of the same file, which llama-quantize runs with
/// --imatrix. Formats that have no such routine there (F32, F16, BF16, Q8_0) do not look at it.
void quantize_row(Storage storage, std::span<const float> row, std::span<const float> importance,
                  std::span<std::byte> blocks);

/// Whether quantize() can store these values: all finite, none beyond the format's range.
[[nodiscard]] bool fits(Storage storage, std::span<const float> values) noexcept;

}  // namespace weft::checkpoint
