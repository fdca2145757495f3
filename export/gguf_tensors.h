#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf_writer.h"
#include "export/file_type.h"
#include "export/importance.h"
#include "export/inputs.h"
#include "merge/fold.h"
#include "merge/update.h"

// From tensors of a model, with adapters folded in, to the tensors of a GGUF file.

namespace weft::exporting {

/// One tensor of the output, and where its numbers come from: a tensor of the base (`info`), bytes
/// that are already as wanted (`stored`), or numbers made here (`made`).
struct GgufTensorJob {
  checkpoint::GgufTensorPlan plan;
  const checkpoint::TensorInfo* info = nullptr;
  std::span<const std::byte> stored;
  std::vector<float> made;
  /// For each row of the file (element of a vector) the output of the model that it is; empty: the
  /// same, in order. In groups of neighbours (checkpoint::GgufPlaces).
  std::vector<std::int64_t> rows{};
  std::int64_t group = 1;
  bool transposed = false;  ///< The model has [in, out], the file [out, in].
  float shift = 0;          ///< Added to the numbers.

  bool unit_rows = false;  ///< Each row is divided by its length.

  /// Whether the file has the numbers of `info` as they lie there.
  [[nodiscard]] bool as_stored() const noexcept {
    return rows.empty() && !transposed && shift == 0 && !unit_rows;
  }
  /// What the type asks for; plan.storage differs where the rows are no whole number of its blocks.
  checkpoint::Storage wanted = checkpoint::Storage::kF32;
  std::vector<merge::FoldPlan::Use> uses;  ///< Updates that are added; empty: none.
  /// Of each input column, for the quantiser; empty: none. Points into the importance matrix.
  std::span<const float> importance;
};

/// Every tensor of the output, in llama.cpp's order: outside the layers first, then layer by layer.
/// `importance`, where not null, outlives the jobs.
/// Errors as of merge::plan_fold; InputError, naming the tensor, for one the family does not have,
/// and for importance of another width.
[[nodiscard]] std::vector<GgufTensorJob> plan_tensors(const OpenInputs& inputs,
                                                      const FileType& type,
                                                      const Importance* importance = nullptr);

/// The update of a job's tensor; nothing when no adapter changes it.
[[nodiscard]] std::optional<merge::Update> update_of(
    const OpenInputs& inputs, const GgufTensorJob& job,
    merge::Update::Layout layout = merge::Update::Layout::kOutIn);

/// Calls `emit` with the tensor's bytes, piece by piece and in order.
/// NumericError naming the tensor when a number leaves the range of its storage.
void write_tensor(const OpenInputs& inputs, const GgufTensorJob& job,
                  const std::function<void(std::span<const std::byte>)>& emit);

}  // namespace weft::exporting
