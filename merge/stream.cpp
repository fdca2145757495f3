#include "merge/stream.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>

#include "core/error.h"
#include "core/parallel.h"
#include "merge/rounding.h"

namespace weft::merge {
namespace {

using checkpoint::Checkpoint;
using checkpoint::TensorInfo;

static_assert(std::endian::native == std::endian::little, "safetensors data are little-endian");

/// Numbers read, computed and written at a time: 16 MiB of floats and as much again of output.
constexpr std::int64_t kTileElements = std::int64_t{4} << 20;
constexpr std::size_t kCopyBytes = std::size_t{16} << 20;

/// Sums over one row; added up in order of rows, so that threads do not change the report.
struct RowSums {
  double base = 0;    ///< sum W^2
  double update = 0;  ///< sum D^2
  double kept = 0;    ///< sum (M - W) D
  double error = 0;   ///< max |M - (W + D)|
  std::int64_t changed = 0;
  bool overflow = false;
};

struct F32 {
  using Bits = std::uint32_t;
  static Bits round(double value) { return round_to_f32(value); }
  static float value(Bits bits) { return std::bit_cast<float>(bits); }
};
struct F16 {
  using Bits = std::uint16_t;
  static Bits round(double value) { return round_to_f16(value); }
  static float value(Bits bits) { return core::f16_to_float(bits); }
};
struct BF16 {
  using Bits = std::uint16_t;
  static Bits round(double value) { return round_to_bf16(value); }
  static float value(Bits bits) { return core::bf16_to_float(bits); }
};

/// M = round(W + D) for one row.
template <typename Type>
RowSums add_row(std::span<const float> base, const double* update, std::byte* out) {
  RowSums sums;
  for (std::size_t j = 0; j < base.size(); ++j) {
    const auto before = static_cast<double>(base[j]);
    const double delta = update[j];
    const double exact = before + delta;
    const typename Type::Bits bits = Type::round(exact);
    const auto after = static_cast<double>(Type::value(bits));
    std::memcpy(out + j * sizeof bits, &bits, sizeof bits);
    sums.base += before * before;
    sums.update += delta * delta;
    sums.kept += (after - before) * delta;
    sums.error = std::max(sums.error, std::abs(after - exact));
    sums.changed += bits != Type::round(before) ? 1 : 0;
    sums.overflow |= !std::isfinite(after) && std::isfinite(before);
  }
  return sums;
}

/// M = round(W) for one row.
template <typename Type>
RowSums convert_row(std::span<const float> base, std::byte* out) {
  RowSums sums;
  for (std::size_t j = 0; j < base.size(); ++j) {
    const typename Type::Bits bits = Type::round(static_cast<double>(base[j]));
    std::memcpy(out + j * sizeof bits, &bits, sizeof bits);
    sums.overflow |= !std::isfinite(Type::value(bits)) && std::isfinite(base[j]);
  }
  return sums;
}

RowSums write_row(core::DType type, std::span<const float> base, const double* update,
                  std::byte* out) {
  if (type == core::DType::kF32) {
    return update != nullptr ? add_row<F32>(base, update, out) : convert_row<F32>(base, out);
  }
  if (type == core::DType::kF16) {
    return update != nullptr ? add_row<F16>(base, update, out) : convert_row<F16>(base, out);
  }
  return update != nullptr ? add_row<BF16>(base, update, out) : convert_row<BF16>(base, out);
}

/// Pages that were read are not needed soon.
void release(const OutputTensor& tensor) {
  tensor.source->release(*tensor.info);
  for (const auto& [model, info] : tensor.reads) model->release(*info);
}

/// Streams one tensor through row tiles.
class TensorWriter {
 public:
  TensorWriter(const OutputTensor& tensor, const RowDeltas* update)
      : tensor_(tensor),
        base_(*tensor.source),
        info_(*tensor.info),
        type_(tensor.dtype),
        update_(update) {}

  /// Calls `emit(bytes)` for each tile, in order, and returns the sums of all rows.
  template <typename Emit>
  RowSums run(const Emit& emit) {
    const std::int64_t width = info_.row_elements();
    const std::int64_t block = RowDeltas::kRowBlock;
    const std::int64_t tile =
        std::max(block, kTileElements / std::max<std::int64_t>(1, width) / block * block);
    RowSums total;
    for (std::int64_t begin = 0; begin < info_.rows(); begin += tile) {
      const std::int64_t end = std::min(info_.rows(), begin + tile);
      compute(begin, end);
      emit(std::span<const std::byte>(bytes_));
      for (const RowSums& row : sums_) add(total, row);
      if (total.overflow) complain();
      release(tensor_);
    }
    return total;
  }

 private:
  static void add(RowSums& total, const RowSums& row) {
    total.base += row.base;
    total.update += row.update;
    total.kept += row.kept;
    total.error = std::max(total.error, row.error);
    total.changed += row.changed;
    total.overflow |= row.overflow;
  }

  void compute(std::int64_t begin, std::int64_t end) {
    const std::int64_t width = info_.row_elements();
    const std::int64_t block = RowDeltas::kRowBlock;
    const auto rows = static_cast<std::size_t>(end - begin);
    floats_.resize(rows * static_cast<std::size_t>(width));
    bytes_.resize(floats_.size() * static_cast<std::size_t>(core::size_of(type_)));
    sums_.assign(rows, {});
    const std::int64_t blocks = (end - begin + block - 1) / block;
    const std::int64_t grain = std::max<std::int64_t>(
        1, (std::int64_t{1} << 16) / (block * std::max<std::int64_t>(1, width)));
    core::parallel_for(blocks, grain, [&](std::int64_t first, std::int64_t last) {
      compute_blocks(begin, std::min(end, begin + last * block), begin + first * block);
    });
  }

  /// Rows [from, end) of the tile that starts at `begin`.
  void compute_blocks(std::int64_t begin, std::int64_t end, std::int64_t from) {
    const auto width = static_cast<std::size_t>(info_.row_elements());
    const auto row_bytes = width * static_cast<std::size_t>(core::size_of(type_));
    const auto at = [&](std::int64_t row) { return static_cast<std::size_t>(row - begin); };
    base_.read_rows(
        info_, from, end,
        std::span(floats_).subspan(at(from) * width, at(end) * width - at(from) * width));
    std::vector<double> deltas;
    if (update_ != nullptr) {
      deltas.resize(static_cast<std::size_t>(RowDeltas::kRowBlock * update_->stride()));
    }
    for (std::int64_t first = from; first < end; first += RowDeltas::kRowBlock) {
      if (update_ != nullptr) update_->compute(first, deltas);
      for (std::int64_t row = first; row < std::min(end, first + RowDeltas::kRowBlock); ++row) {
        const double* delta =
            update_ != nullptr ? deltas.data() + (row - first) * update_->stride() : nullptr;
        sums_[at(row)] = write_row(type_, std::span(floats_).subspan(at(row) * width, width), delta,
                                   bytes_.data() + at(row) * row_bytes);
      }
    }
  }

  [[noreturn]] void complain() const {
    if (type_ == core::DType::kF16) {
      throw NumericError(
          "tensor '{}' has numbers beyond 65504, the largest of F16; write it as bf16 "
          "or f32 (--dtype)",
          tensor_.name);
    }
    throw NumericError("tensor '{}' leaves the range of {}; are the adapter and its weight right?",
                       tensor_.name, core::name_of(type_));
  }

  const OutputTensor& tensor_;
  const Checkpoint& base_;
  const TensorInfo& info_;
  core::DType type_;
  const RowDeltas* update_;
  std::vector<float> floats_;
  std::vector<std::byte> bytes_;
  std::vector<RowSums> sums_;
};

FoldedTensor summary(const OutputTensor& tensor, const RowDeltas& update, const RowSums& sums) {
  FoldedTensor folded;
  folded.name = tensor.name;
  folded.rank = update.rank();
  folded.base_norm = std::sqrt(sums.base);
  folded.update_norm = std::sqrt(sums.update);
  folded.largest_error = sums.error;
  folded.changed = static_cast<double>(sums.changed) /
                   static_cast<double>(std::max<std::int64_t>(1, tensor.info->elements()));
  folded.retained = sums.update > 0 ? sums.kept / sums.update : 1;
  return folded;
}

/// A tensor that nothing changes: its bytes when they are what is wanted, else its numbers.
template <typename Emit>
void pass(const OutputTensor& tensor, const Emit& emit) {
  const std::span<const std::byte> raw = tensor.source->raw(*tensor.info);
  if (raw.empty() || tensor.info->storage_name != core::name_of(tensor.dtype)) {
    TensorWriter(tensor, nullptr).run(emit);
    return;
  }
  for (std::size_t at = 0; at < raw.size(); at += kCopyBytes) {
    emit(raw.subspan(at, std::min(kCopyBytes, raw.size() - at)));
  }
}

}  // namespace

std::vector<FoldedTensor> write_tensors(std::span<const OutputTensor> tensors,
                                        std::span<const checkpoint::Shard> shards,
                                        const std::filesystem::path& folder,
                                        const FoldControl& control) {
  std::map<std::string_view, const OutputTensor*> by_name;
  FoldProgress progress;
  for (const OutputTensor& tensor : tensors) by_name.emplace(tensor.name, &tensor);
  for (const checkpoint::Shard& shard : shards) {
    for (const checkpoint::TensorPlan& plan : shard.tensors) progress.total += plan.bytes();
  }
  std::vector<FoldedTensor> folded;
  for (const checkpoint::Shard& shard : shards) {
    checkpoint::SafetensorsWriter writer(folder / shard.file, shard.tensors);
    const auto emit = [&](std::span<const std::byte> bytes) {
      if (control.stop != nullptr && control.stop->load()) {
        throw Interrupted("stopped; nothing was written");
      }
      writer.write(bytes);
      progress.done += bytes.size();
      if (control.progress) control.progress(progress);
    };
    for (const checkpoint::TensorPlan& plan : writer.order()) {
      const OutputTensor& tensor = *by_name.at(plan.name);
      const std::unique_ptr<const RowDeltas> change = tensor.change ? tensor.change() : nullptr;
      if (change) {
        folded.push_back(summary(tensor, *change, TensorWriter(tensor, change.get()).run(emit)));
      } else {
        pass(tensor, emit);
      }
      release(tensor);
    }
    writer.finish();
  }
  checkpoint::write_shard_index(folder, shards);
  std::ranges::sort(folded, {}, &FoldedTensor::name);
  return folded;
}

}  // namespace weft::merge
