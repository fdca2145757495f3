#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "core/number.h"
#include "lora/fold_engine.h"
#include "merge/changes.h"
#include "merge/dither.h"
#include "merge/row_deltas.h"

namespace weft::merge {

/// How one folded tensor changed. W: the base's numbers, D: the exact update, M: what was written.
struct FoldedTensor {
  std::string name;
  std::int64_t rank = 0;     ///< Sum of the ranks of the adapters that change it.
  double base_norm = 0;      ///< Frobenius norm of W.
  double update_norm = 0;    ///< Frobenius norm of D.
  double largest_error = 0;  ///< max |M - (W + D)|: the one rounding.
  double changed = 0;        ///< Share of elements that differ from W rounded to M's type.
  core::DType dtype = core::DType::kF32;   ///< Of M.
  Rounding rounding = Rounding::kNearest;  ///< Of W + D to M.
  double retained = 1;  ///< <M - W, D> / <D, D>: the part of the update that rounding leaves.
  std::vector<UsedKey> keys{};  ///< Tensors of adapters that D was made of.
  std::string device{};         ///< FoldControl::engine's, where it computed M; else empty.
};

/// A file of the output.
struct WrittenFile {
  std::string name;
  std::uint64_t bytes = 0;
  std::string sha256;
};

/// Some numbers of a row as they were before rounding, to be held against what is read back.
struct Sample {
  std::string name;  ///< Of the tensor.
  std::int64_t row = 0;
  core::DType dtype = core::DType::kF32;   ///< As written.
  Rounding rounding = Rounding::kNearest;  ///< Likewise.
  std::vector<float> values;               ///< W + D at the columns column_of().

  /// Numbers that are kept of a row of `width`.
  [[nodiscard]] static std::int64_t count_of(std::int64_t width) noexcept {
    return width < 1024 ? width : 1024;
  }
  /// The place in the row of values[i]: they are spread over the whole of it.
  [[nodiscard]] static std::int64_t column_of(std::int64_t i, std::int64_t width) noexcept {
    return i * (width / count_of(width));
  }
};

/// What write_tensors() did.
struct Written {
  std::vector<FoldedTensor> folded;  ///< The changed tensors, in order of name.
  /// Of every tensor that was computed, not copied: of its first, middle and last row.
  std::vector<Sample> samples{};
  std::vector<WrittenFile> files;  ///< The files that hold the weights, in order of the shards.
};

struct FoldProgress {
  std::uint64_t done = 0;  ///< Bytes written.
  std::uint64_t total = 0;
};

/// Who is told how far it is, who may stop it (Interrupted), and what computes in place of the
/// processor.
struct FoldControl {
  std::function<void(FoldProgress)> progress{};
  const std::atomic<bool>* stop = nullptr;
  /// Computes what it can, with the processor's bytes: tensors stored as plain numbers to which
  /// only sums of pairs are added (RowDeltas::pairs()), rounded to nearest. The processor computes
  /// all else, and for every tensor the rows that are kept as samples: IoError where the engine's
  /// are others. Null: nobody.
  lora::FoldEngine* engine = nullptr;
};

/// A tensor of the output: the numbers it starts from, its type, and what is added to it.
struct OutputTensor {
  std::string name;
  const checkpoint::Checkpoint* source = nullptr;
  const checkpoint::TensorInfo* info = nullptr;  ///< Of `source`.
  core::DType dtype = core::DType::kF32;
  /// Called when the tensor's turn comes, and says what it read of adapters; empty: nothing changes
  /// the tensor.
  std::function<std::unique_ptr<const RowDeltas>(std::vector<UsedKey>& used)> change;
  /// What else is read for it, so that its pages can be given back.
  std::vector<std::pair<const checkpoint::Checkpoint*, const checkpoint::TensorInfo*>> reads;
  Rounding rounding = Rounding::kNearest;  ///< Of a changed tensor of 16 bits.
  std::uint64_t seed = 0;                  ///< Of kStochastic; the stream is the tensor's name.
  /// Not empty: a buffer whose bytes are copied, of this type (is_copied_buffer()).
  std::string copied{};
};

/// Masks, counters and such that models save beside their weights: stored as truth values, whole
/// numbers or F64 in safetensors, which no merge computes with.
[[nodiscard]] bool is_copied_buffer(const checkpoint::TensorInfo& tensor);

/// Writes M = round(W + D) for every tensor into the files of `shards`, with the index when there
/// are several: the addition in double, one rounding, to nearest even if nothing else is asked.
/// Unchanged tensors of the same type are copied byte for byte. Streams over tiles of rows; the
/// result does not depend on the number of threads or the processor. NumericError naming the tensor
/// when a number leaves the range of its type. The files' digests are taken on the way.
[[nodiscard]] Written write_tensors(std::span<const OutputTensor> tensors,
                                    std::span<const checkpoint::Shard> shards,
                                    const std::filesystem::path& folder,
                                    const FoldControl& control = {});

}  // namespace weft::merge
