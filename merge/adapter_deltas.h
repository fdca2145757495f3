#pragma once

#include <memory>
#include <span>

#include "merge/changes.h"
#include "merge/row_deltas.h"

namespace weft::merge {

/// What adapters add to one tensor: the weighted sum of what each would make of it, minus the
/// tensor. With W the numbers of change.source, per adapter
/// - factors:      scale B A (Update), transposed for embeddings and layers stored [in, out];
/// - with DoRA:    m / |W + scale B A| (W + scale B A) - W, norms over the input of each output
///                 (arXiv 2402.09353; PEFT's DoraLinearLayer), in double;
/// - bias of B:    scale b;
/// - rows, whole tensors: T - W; exactly T where nothing else changes the row and the weight is 1.
///
/// The tensors that are read for it are appended to `used` as they are (null: nobody asks); their
/// `tensor` is empty.
///
/// `change.uses` is not empty. What `change` and `adapters` point to must outlive the result.
[[nodiscard]] std::unique_ptr<const RowDeltas> make_deltas(
    const checkpoint::Checkpoint& base, std::span<const WeightedAdapter> adapters,
    const Change& change, std::vector<UsedKey>* used = nullptr);

}  // namespace weft::merge
