#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "core/log.h"
#include "core/number.h"
#include "merge/changes.h"
#include "merge/stream.h"

namespace weft::merge {

/// What is to be written: every tensor of the base, its type in the output, and what changes it.
struct FoldPlan {
  using Use = merge::Use;
  struct Tensor {
    const checkpoint::TensorInfo* info = nullptr;  ///< What it starts from.
    core::DType dtype = core::DType::kF32;
    std::vector<Use> uses;                           ///< Empty: nothing changes it.
    std::string name;                                ///< In the output.
    const checkpoint::Checkpoint* source = nullptr;  ///< Of `info`: the base, mostly.
    Rounding rounding = Rounding::kNearest;
    /// A buffer that is no weight ("BOOL", "I64"): copied in this type, whatever is asked for.
    std::string copied{};
  };
  std::vector<Tensor> tensors;  ///< In order of name.
  std::vector<checkpoint::Shard> shards;
  std::uint64_t bytes = 0;
  /// What a reader should compute in: the type asked for; when keeping, the one most numbers have.
  core::DType model_dtype = core::DType::kF32;
  std::uint64_t seed = 0;  ///< Of stochastic rounding.
  bool widened = false;    ///< Nothing was asked for, and block formats became F32.
  /// Of match_changes(): whether the head is the embedding, and why it no longer is.
  bool tied = false;
  bool untied = false;
  std::string untied_because;
  std::optional<std::int64_t> vocabulary;  ///< Rows of the embedding, where they changed.
  std::vector<UsedKey> without_effect;     ///< Of match_changes().
};

/// The type in which a tensor of this storage is kept: its own; F32 where it has no float type.
[[nodiscard]] core::DType own_dtype(checkpoint::Storage storage) noexcept;

/// Plans the fold without writing anything. `dtype` empty keeps each tensor's type; a base with any
/// block-quantised tensor is then written as F32 as a whole, which holds its numbers exactly.
///
/// Every tensor of every adapter is used exactly once. InputError, naming the tensor, when the base
/// lacks it or has another shape, when adapter_config.json chooses a layer of the base for which
/// the adapter has no factors (it is then not the adapter's base, or the adapter is incomplete),
/// when a layer has no bias that lora_bias could change, and when a tensor's storage cannot be read
/// as numbers: whole numbers, F64 and truth values that nothing changes are copied.
[[nodiscard]] FoldPlan plan_fold(const checkpoint::Checkpoint& base,
                                 std::span<const WeightedAdapter> adapters,
                                 std::optional<core::DType> dtype, std::uint64_t max_shard_bytes);

/// Writes the planned tensors as safetensors files into `folder`, with the index when there are
/// several: M = round(W + sum_i weight_i * scale_i * B_i A_i), sum and addition in double, one
/// rounding to nearest even. Unchanged tensors of the same type are copied byte for byte.
///
/// Streams over tiles of rows: memory beyond the mapped input is some tens of MiB plus the factors
/// of one module, whatever the size of model and adapters. The result does not depend on the number
/// of threads or the processor.
/// NumericError naming the tensor when a number leaves the range of its type (F16: 65504) or an
/// update is not finite.
[[nodiscard]] Written fold(const checkpoint::Checkpoint& base,
                           std::span<const WeightedAdapter> adapters, const FoldPlan& plan,
                           const std::filesystem::path& folder, const FoldControl& control = {});

}  // namespace weft::merge
