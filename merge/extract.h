#pragma once

#include <cstdint>
#include <filesystem>

#include "core/log.h"
#include "merge/adapter_result.h"
#include "merge/low_rank.h"

namespace weft::merge {

struct ExtractRequest {
  std::filesystem::path model;  ///< The fine-tuned checkpoint: Hugging Face directory or GGUF file.
  std::filesystem::path base;   ///< What it was fine-tuned from.
  std::int64_t rank = 16;       ///< At least 1; less where a layer is smaller.
  Svd svd = Svd::kRandomised;
  std::filesystem::path out;
  core::Overwrite overwrite = core::Overwrite::kRefuse;
};

/// Writes the adapter of rank `rank` whose update comes nearest to model - base in every linear
/// layer, as a PEFT folder with merge.json: differences in double of the exact stored numbers,
/// truncated singular value decomposition, the roots of the singular values in either factor.
/// Layers that do not differ get no factors. The base's digest is recorded.
///
/// Tensors that differ and are no linear layer (norms, biases, embeddings, the head) are named in
/// the report: an adapter of linear layers cannot hold them.
/// InputError naming the tensor when the models' layers or shapes differ, and when nothing does.
[[nodiscard]] AdapterReport extract_adapter(const ExtractRequest& request,
                                            const core::Log& log = {});

}  // namespace weft::merge
