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

/// One tensor of the output, or one matrix of a stack of experts, and where its numbers come from:
/// a tensor of the base (`info`), bytes that are already as wanted (`stored`), or numbers made here
/// (`made`).
struct GgufTensorJob {
  checkpoint::GgufTensorPlan plan;  ///< Of a stack, the shape of the one matrix.
  const checkpoint::TensorInfo* info = nullptr;
  std::span<const std::byte> stored;
  std::vector<float> made;
  /// For each row of the file (element of a vector) the output of the model that it is; empty:
  /// every `step`-th from `first` on. In groups of neighbours (checkpoint::GgufPlaces).
  std::vector<std::int64_t> rows{};
  std::int64_t first = 0;
  std::int64_t step = 1;
  std::int64_t group = 1;
  bool transposed = false;  ///< The model has [in, out], the file [out, in].
  float shift = 0;          ///< Added to the numbers.

  bool unit_rows = false;  ///< Each row is divided by its length.
  /// Not 0: the output has a stack of as many matrices, whose jobs follow each other.
  std::int64_t experts = 0;
  std::int64_t expert = 0;  ///< Which of them this is.
  std::int64_t matrix = 0;  ///< Which matrix of `info`, where that is a stack too.

  /// Whether the file has numbers of `info` as they lie there, one row after the other.
  [[nodiscard]] bool as_stored() const noexcept {
    return rows.empty() && step == 1 && !transposed && shift == 0 && !unit_rows;
  }
  /// The output of the model (of the matrix) that a row of the file is.
  [[nodiscard]] std::int64_t output(std::int64_t row) const {
    return rows.empty() ? first + step * row : rows[static_cast<std::size_t>(row)];
  }
  /// What the type asks for; plan.storage differs where the rows are no whole number of its blocks.
  checkpoint::Storage wanted = checkpoint::Storage::kF32;
  std::vector<merge::FoldPlan::Use> uses;  ///< Updates that are added; empty: none.
  /// Of each input column, for the quantiser; empty: none. Points into the importance matrix.
  std::span<const float> importance;
};

/// Every tensor of the output, in llama.cpp's order: outside the layers first, then layer by layer.
/// A tensor that the base has in MXFP4 and that nothing changes (of a stack: none of its matrices)
/// stays so, whatever `type` is.
/// `importance`, where not null, outlives the jobs.
/// Errors as of merge::plan_fold; InputError, naming the tensor, for one the family does not have,
/// and for importance of another width.
[[nodiscard]] std::vector<GgufTensorJob> plan_tensors(const OpenInputs& inputs,
                                                      const FileType& type,
                                                      const Importance* importance = nullptr);

/// The tensors of the output: each stack once.
[[nodiscard]] std::vector<checkpoint::GgufTensorPlan> tensors_of(
    std::span<const GgufTensorJob> jobs);

/// The update of a job's tensor, or of its matrix of a stack; nothing when no adapter changes it.
[[nodiscard]] std::optional<merge::Update> update_of(
    const OpenInputs& inputs, const GgufTensorJob& job,
    merge::Update::Layout layout = merge::Update::Layout::kOutIn);

/// The base's numbers of outputs [begin, end) of a job's matrix: rows of [out, in], however the
/// model stores it. Thread-safe.
void read_outputs(const checkpoint::Checkpoint& base, const GgufTensorJob& job, std::int64_t begin,
                  std::int64_t end, std::span<float> out);

/// Calls `emit` with the tensor's bytes, piece by piece and in order.
/// NumericError naming the tensor when a number leaves the range of its storage.
void write_tensor(const OpenInputs& inputs, const GgufTensorJob& job,
                  const std::function<void(std::span<const std::byte>)>& emit);

}  // namespace weft::exporting
