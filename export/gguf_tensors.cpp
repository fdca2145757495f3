#include "export/gguf_tensors.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <utility>

#include "checkpoint/dequantize.h"
#include "checkpoint/quantize.h"
#include "checkpoint/stored_rows.h"
#include "core/error.h"
#include "core/parallel.h"
#include "merge/rounding.h"

namespace weft::exporting {
namespace {

using checkpoint::matrix_rows;
using checkpoint::Storage;

/// Numbers read, computed and written at a time: 16 MiB of floats and less of output.
constexpr std::int64_t kTileElements = std::int64_t{4} << 20;
constexpr std::size_t kCopyBytes = std::size_t{16} << 20;

/// Computes and stores tiles of rows of one tensor.
class TensorWriter {
 public:
  TensorWriter(const OpenInputs& inputs, const GgufTensorJob& job)
      : base_(inputs.base),
        job_(job),
        storage_(job.plan.storage),
        width_(job.plan.shape.back()),
        update_(exporting::update_of(inputs, job)) {
    const auto block = checkpoint::block_size(storage_);
    row_bytes_ = static_cast<std::size_t>(width_) / block.elements * block.bytes;
    unit_ = job.rows.empty() ? merge::Update::kRowBlock : job.group;
    if (job.transposed) unit_ = kColumns;
  }

  template <typename Emit>
  void run(const Emit& emit) {
    std::int64_t rows = 1;
    for (std::size_t i = 0; i + 1 < job_.plan.shape.size(); ++i) rows *= job_.plan.shape[i];
    const std::int64_t tile =
        std::max<std::int64_t>(1, kTileElements / std::max<std::int64_t>(1, width_) / unit_) *
        unit_;
    for (std::int64_t begin = 0; begin < rows; begin += tile) {
      const std::int64_t end = std::min(rows, begin + tile);
      bytes_.resize(static_cast<std::size_t>(end - begin) * row_bytes_);
      core::parallel_for((end - begin + unit_ - 1) / unit_, 1,
                         [&](std::int64_t first, std::int64_t last) {
                           Scratch scratch;
                           for (std::int64_t u = first; u < last; ++u) {
                             const std::int64_t at = begin + u * unit_;
                             store_rows(scratch, at, std::min(end, at + unit_), begin);
                           }
                         });
      if (overflow_) complain();
      emit(std::span<const std::byte>(bytes_));
      base_.release(*job_.info);  // An embedding alone can be larger than the memory wanted here.
    }
  }

 private:
  struct Scratch {
    std::vector<float> values;    ///< Rows of the unit, in the model's order.
    std::vector<double> updates;  ///< kRowBlock rows of the update.
  };

  /// Columns of a matrix stored as [in, out] that are read at a time: whole lines of the cache.
  static constexpr std::int64_t kColumns = 32;

  void divide_by_length(std::span<float> values) const {
    for (std::size_t at = 0; at < values.size(); at += static_cast<std::size_t>(width_)) {
      const auto row = values.subspan(at, static_cast<std::size_t>(width_));
      double sum = 0;
      for (const float value : row) sum += static_cast<double>(value) * value;
      const double length = std::max(std::sqrt(sum), 1e-12);
      for (float& value : row) value = static_cast<float>(value / length);
    }
  }

  /// The first output of the model that rows [begin, end) of the file are, and the last but one.
  [[nodiscard]] std::pair<std::int64_t, std::int64_t> outputs(std::int64_t begin,
                                                              std::int64_t end) const {
    if (job_.rows.empty()) return {job_.output(begin), job_.output(end - 1) + 1};
    const std::int64_t first =
        *std::min_element(job_.rows.begin() + begin, job_.rows.begin() + end);
    return {first, first + end - begin};
  }

  [[nodiscard]] std::span<std::byte> room_of(std::int64_t row, std::int64_t tile) {
    return std::span(bytes_).subspan(static_cast<std::size_t>(row - tile) * row_bytes_, row_bytes_);
  }

  void store_rows(Scratch& scratch, std::int64_t begin, std::int64_t end, std::int64_t tile) {
    if (storage_ == Storage::kMXFP4) {
      for (std::int64_t row = begin; row < end; ++row) {
        const std::int64_t output = job_.output(row);
        base_.read_mxfp4_columns(*job_.info, job_.matrix, output, output + 1, room_of(row, tile));
      }
      return;
    }
    const auto [first, last] = outputs(begin, end);
    scratch.values.resize(static_cast<std::size_t>((last - first) * width_));
    read_outputs(base_, job_, first, last, scratch.values);
    if (update_) add_update(scratch, first, last);
    if (job_.unit_rows) divide_by_length(scratch.values);
    if (!checkpoint::fits(storage_, scratch.values)) {
      overflow_ = true;
      return;
    }
    for (std::int64_t row = begin; row < end; ++row) {
      const auto values =
          std::span<const float>(scratch.values)
              .subspan(static_cast<std::size_t>((job_.output(row) - first) * width_),
                       static_cast<std::size_t>(width_));
      checkpoint::quantize_row(storage_, values, job_.importance, room_of(row, tile));
    }
  }

  /// W + D, rounded so that storing it rounds once in all: to odd before F16 and BF16.
  void add_update(Scratch& scratch, std::int64_t begin, std::int64_t end) const {
    constexpr std::int64_t kBlock = merge::Update::kRowBlock;
    const std::int64_t stride = update_->stride();
    const bool halves = storage_ == Storage::kF16 || storage_ == Storage::kBF16;
    scratch.updates.resize(static_cast<std::size_t>(kBlock * stride));
    for (std::int64_t row = begin; row < end; row += kBlock) {
      update_->compute(row, scratch.updates);
      for (std::int64_t i = 0; i < std::min(kBlock, end - row); ++i) {
        float* const values = scratch.values.data() + (row + i - begin) * width_;
        const double* const update = scratch.updates.data() + i * stride;
        for (std::int64_t j = 0; j < width_; ++j) {
          const double exact = static_cast<double>(values[j]) + update[j];
          values[j] = halves ? merge::round_to_odd(exact) : static_cast<float>(exact);
        }
      }
    }
  }

  [[noreturn]] void complain() const {
    throw NumericError(
        "tensor '{}' holds numbers that are not finite or beyond the range of {}; are the model, "
        "the adapter and its weight right?",
        job_.info->name, checkpoint::name_of(storage_));
  }

  const checkpoint::Checkpoint& base_;
  const GgufTensorJob& job_;
  Storage storage_;
  std::int64_t width_;
  std::optional<merge::Update> update_;
  std::size_t row_bytes_ = 0;
  std::int64_t unit_ = 1;
  std::vector<std::byte> bytes_;
  std::atomic<bool> overflow_ = false;
};

/// A bias or a norm: one row, whose elements are moved or shifted.
std::vector<float> arranged_vector(const checkpoint::Checkpoint& base, const GgufTensorJob& job) {
  std::vector<float> values(static_cast<std::size_t>(job.info->row_elements()));
  base.read_rows(*job.info, job.matrix, job.matrix + 1, values);
  std::vector<float> out(static_cast<std::size_t>(job.plan.shape.front()));
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::int64_t from = job.output(static_cast<std::int64_t>(i));
    out[i] = values[static_cast<std::size_t>(from)] + job.shift;
  }
  return out;
}

}  // namespace

std::optional<merge::Update> update_of(const OpenInputs& inputs, const GgufTensorJob& job,
                                       merge::Update::Layout layout) {
  if (job.uses.empty()) return std::nullopt;
  std::vector<merge::Term> terms;
  for (const merge::Use& use : job.uses) {
    const merge::WeightedAdapter& adapter = inputs.adapters[use.adapter];
    const lora::Target& target = adapter.file->targets()[use.target];
    lora::Factors factors;
    if (use.part == merge::Use::Part::kExpert) {
      factors = adapter.file->load_expert(use.target, use.expert, use.first_row, job.info->rows());
    } else if (target.kind == lora::TargetKind::kExperts) {
      factors = adapter.file->load_expert(use.target, job.matrix, 0, target.module.out);
    } else {
      factors = adapter.file->load(use.target);
    }
    terms.push_back({std::move(factors), adapter.weight});
  }
  return merge::Update(std::move(terms), layout);
}

void read_outputs(const checkpoint::Checkpoint& base, const GgufTensorJob& job, std::int64_t begin,
                  std::int64_t end, std::span<float> out) {
  if (job.transposed) {
    base.read_columns(*job.info, job.matrix, begin, end, out);
    return;
  }
  const std::int64_t above = job.matrix * matrix_rows(*job.info);
  base.read_rows(*job.info, above + begin, above + end, out);
}

void write_tensor(const OpenInputs& inputs, const GgufTensorJob& job,
                  const std::function<void(std::span<const std::byte>)>& emit) {
  if (!job.stored.empty()) {
    for (std::size_t at = 0; at < job.stored.size(); at += kCopyBytes) {
      emit(job.stored.subspan(at, std::min(kCopyBytes, job.stored.size() - at)));
      if (job.info != nullptr) inputs.base.release(*job.info);
    }
  } else if (job.info == nullptr) {
    emit(std::as_bytes(std::span(job.made)));
  } else if (job.plan.shape.size() == 1) {
    const std::vector<float> values = arranged_vector(inputs.base, job);
    emit(std::as_bytes(std::span(values)));
  } else {
    TensorWriter(inputs, job).run(emit);
  }
}

}  // namespace weft::exporting
