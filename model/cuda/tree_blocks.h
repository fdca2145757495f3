#pragma once

#include <cstdint>
#include <vector>

#include "model/cuda/tree_attention.h"
#include "model/visibility.h"

namespace weft::cuda {

/// A row's trees of segments as the attention kernels read them.
struct TreeBlocks {
  /// `window`: as AttentionShape::window; what lies beyond it is left out of the ranges as far as
  /// whole blocks allow.
  TreeBlocks(const model::Visibility& visible, std::int64_t window);

  std::vector<std::int32_t> positions;  ///< [tokens], in the sequence as if it stood alone
  std::vector<TokenBlock> queries;      ///< Their ranges: the keys they see
  std::vector<TokenRange> keys_seen;
  std::vector<TokenBlock> keys;  ///< Their ranges: the queries that see them
  std::vector<TokenRange> queries_seeing;
};

}  // namespace weft::cuda
