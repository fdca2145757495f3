#include "merge/stream.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <deque>
#include <iterator>
#include <map>
#include <optional>
#include <set>

#include "checkpoint/mxfp4.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/parallel.h"
#include "merge/row_kernels.h"
#include "merge/write_behind.h"

namespace weft::merge {
namespace {

using checkpoint::Checkpoint;
using checkpoint::TensorInfo;

/// Numbers computed and handed to the writing thread at a time: at most 4 MiB.
constexpr std::int64_t kTileElements = std::int64_t{1} << 20;
constexpr std::size_t kCopyBytes = std::size_t{4} << 20;

/// Pages of rows [begin, end) that were read are not needed soon.
void release(const OutputTensor& tensor, std::int64_t begin, std::int64_t end) {
  tensor.source->release(*tensor.info, begin, end);
  for (const auto& [model, info] : tensor.reads) model->release(*info, begin, end);
}

/// F32 has no steps that an update could fall between.
Rounding rounding_of(const OutputTensor& tensor) {
  return tensor.dtype == core::DType::kF32 ? Rounding::kNearest : tensor.rounding;
}

/// The type of plain numbers; empty for blocks and what is no number.
std::optional<core::DType> plain_type(checkpoint::Storage storage) {
  switch (storage) {
    case checkpoint::Storage::kF32: return core::DType::kF32;
    case checkpoint::Storage::kF16: return core::DType::kF16;
    case checkpoint::Storage::kBF16: return core::DType::kBF16;
    default: return std::nullopt;
  }
}

/// Streams one tensor through row tiles.
class TensorWriter {
 public:
  TensorWriter(const OutputTensor& tensor, const RowDeltas* update)
      : tensor_(tensor),
        base_(*tensor.source),
        info_(*tensor.info),
        type_(tensor.dtype),
        update_(update),
        draws_(tensor.seed, tensor.name) {}

  /// Hands each tile to `out`, in order, and returns the sums of all rows.
  RowSums run(WriteBehind& out) {
    const std::int64_t tile = tile_rows();
    RowSums total;
    choose_samples();
    for (std::int64_t begin = 0; begin < info_.rows(); begin += tile) {
      const std::int64_t end = std::min(info_.rows(), begin + tile);
      bytes_ = out.buffer();
      compute(begin, end);
      hand_on(total, out);
      release(tensor_, begin, end);
    }
    return total;
  }

  /// What an engine computes this tensor from; nothing where it cannot.
  [[nodiscard]] std::vector<RowDeltas::Pairs> pairs_for_engine() const {
    const bool fits = update_ != nullptr && rounding_of(tensor_) == Rounding::kNearest &&
                      plain_type(info_.storage) && !base_.raw(info_).empty();
    return fits ? update_->pairs() : std::vector<RowDeltas::Pairs>{};
  }

  /// As run(), by an engine, of pairs_for_engine().
  RowSums run_on(lora::FoldEngine& engine, std::span<const RowDeltas::Pairs> pairs,
                 WriteBehind& out) {
    const std::span<const std::byte> raw = base_.raw(info_);
    const std::size_t row_bytes = raw.size() / static_cast<std::size_t>(info_.rows());
    const std::int64_t tile = tile_rows();
    RowSums total;
    choose_samples();
    for (const RowDeltas::Pairs& part : pairs) {
      engine.begin(part.pairs, *plain_type(info_.storage), type_);
      std::deque<std::pair<std::int64_t, std::int64_t>> under_way;
      const auto collect_first = [&] {
        bytes_ = out.buffer();
        collect(engine, under_way.front().first, under_way.front().second);
        under_way.pop_front();
        hand_on(total, out);
      };
      const std::int64_t last = part.first_row + part.pairs.rows;
      for (std::int64_t begin = part.first_row; begin < last; begin += tile) {
        const std::int64_t end = std::min(last, begin + tile);
        engine.submit(begin - part.first_row,
                      raw.subspan(static_cast<std::size_t>(begin) * row_bytes,
                                  static_cast<std::size_t>(end - begin) * row_bytes));
        release(tensor_, begin, end);
        under_way.emplace_back(begin, end);
        if (under_way.size() == lora::FoldEngine::kInFlight) collect_first();
      }
      while (!under_way.empty()) collect_first();
    }
    return total;
  }

  /// What was kept to be compared.
  [[nodiscard]] std::vector<Sample>& samples() noexcept { return samples_; }

 private:
  [[nodiscard]] std::int64_t tile_rows() const {
    const std::int64_t width = std::max<std::int64_t>(1, info_.row_elements());
    const std::int64_t step = std::max(RowDeltas::kRowBlock, checkpoint::row_group(info_));
    return std::max(step, kTileElements / width / step * step);
  }

  /// Adds up the tile's rows, and gives its bytes to `out`.
  void hand_on(RowSums& total, WriteBehind& out) {
    for (const RowSums& row : sums_) add(total, row);
    if (total.overflow) complain();
    out.put(std::move(bytes_));
  }

  /// Room for the bytes and sums of a tile's rows.
  void make_room(std::int64_t rows) {
    bytes_.resize(static_cast<std::size_t>(rows * info_.row_elements()) *
                  static_cast<std::size_t>(core::size_of(type_)));
    sums_.assign(static_cast<std::size_t>(rows), {});
  }

  /// The tile of rows [begin, end) from an engine. Rows that it leaves to the processor are
  /// computed here; so are those of the samples, which must be the same.
  void collect(lora::FoldEngine& engine, std::int64_t begin, std::int64_t end) {
    make_room(end - begin);
    std::vector<lora::FoldedRow> rows(static_cast<std::size_t>(end - begin));
    engine.collect(bytes_, rows);
    for (std::int64_t row = begin; row < end; ++row) {
      const lora::FoldedRow& found = rows[static_cast<std::size_t>(row - begin)];
      sums_[static_cast<std::size_t>(row - begin)] = {found.base,  found.update,  found.kept,
                                                      found.error, found.changed, false};
      if (found.odd != 0) {
        compute_block(begin, row, row + 1);
      } else if (std::ranges::find(samples_, row, &Sample::row) != samples_.end()) {
        compute_again(engine, begin, row);
      }
    }
  }

  /// A row of an engine's tile by the processor.
  void compute_again(const lora::FoldEngine& engine, std::int64_t begin, std::int64_t row) {
    const auto place = static_cast<std::size_t>(row - begin);
    const std::size_t row_bytes = bytes_.size() / sums_.size();
    const auto own = bytes_.begin() +
                     static_cast<std::ptrdiff_t>(place) * static_cast<std::ptrdiff_t>(row_bytes);
    const std::vector<std::byte> theirs(own, own + static_cast<std::ptrdiff_t>(row_bytes));
    const RowSums their_sums = sums_[place];
    compute_block(begin, row, row + 1);
    if (std::equal(theirs.begin(), theirs.end(), own) && their_sums == sums_[place]) return;
    throw IoError(
        "'{}', row {}: {} computed other numbers than the processor; nothing was written (--device "
        "cpu merges without it)",
        tensor_.name, row, engine.description());
  }

  void choose_samples() {
    const std::int64_t rows = info_.rows();
    for (const std::int64_t row : std::set{std::int64_t{0}, rows / 2, rows - 1}) {
      if (row < 0 || row >= rows) continue;
      samples_.push_back({tensor_.name, row, type_, rounding_of(tensor_), {}});
    }
  }

  /// Keeps W + D of a row that was chosen. A row is computed by one thread, so that no two write
  /// one sample.
  void keep(std::int64_t row, std::span<const float> base, std::span<const double> delta) {
    const auto found = std::ranges::find(samples_, row, &Sample::row);
    if (found == samples_.end()) return;
    const std::int64_t width = info_.row_elements();
    found->values.resize(static_cast<std::size_t>(Sample::count_of(width)));
    for (std::size_t i = 0; i < found->values.size(); ++i) {
      const auto at =
          static_cast<std::size_t>(Sample::column_of(static_cast<std::int64_t>(i), width));
      const double exact = static_cast<double>(base[at]) + (delta.empty() ? 0.0 : delta[at]);
      found->values[i] = static_cast<float>(exact);
    }
  }

  static void add(RowSums& total, const RowSums& row) {
    total.base += row.base;
    total.update += row.update;
    total.kept += row.kept;
    total.error = std::max(total.error, row.error);
    total.changed += row.changed;
    total.overflow |= row.overflow;
  }

  void compute(std::int64_t begin, std::int64_t end) {
    const std::int64_t width = std::max<std::int64_t>(1, info_.row_elements());
    const std::int64_t block = RowDeltas::kRowBlock;
    make_room(end - begin);
    read_groups(begin, end);
    const std::int64_t blocks = (end - begin + block - 1) / block;
    const std::int64_t grain = std::max<std::int64_t>(1, (std::int64_t{1} << 16) / (block * width));
    core::parallel_for(blocks, grain, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t at = first; at < last; ++at) {
        compute_block(begin, begin + at * block, std::min(end, begin + (at + 1) * block));
      }
    });
  }

  /// Reads the tile's rows into `groups_` where a block of them is less than what is best read
  /// together.
  void read_groups(std::int64_t begin, std::int64_t end) {
    const std::int64_t group = checkpoint::row_group(info_);
    if (group <= RowDeltas::kRowBlock) return;
    const std::int64_t width = info_.row_elements();
    groups_.resize(static_cast<std::size_t>((end - begin) * width));
    core::parallel_for((end - begin + group - 1) / group, 1,
                       [&](std::int64_t first, std::int64_t last) {
                         const std::int64_t from = begin + first * group;
                         const std::int64_t to = std::min(end, begin + last * group);
                         base_.read_rows(info_, from, to, rows_in_groups(begin, from, to));
                       });
  }

  /// Rows [from, end) of the tile that starts at `begin`, in `groups_`.
  std::span<float> rows_in_groups(std::int64_t begin, std::int64_t from, std::int64_t end) {
    const std::int64_t width = info_.row_elements();
    return std::span(groups_).subspan(static_cast<std::size_t>((from - begin) * width),
                                      static_cast<std::size_t>((end - from) * width));
  }

  /// Rows [from, end), at most a block, of the tile that starts at `begin`.
  void compute_block(std::int64_t begin, std::int64_t from, std::int64_t end) {
    thread_local std::vector<float> buffer;
    thread_local std::vector<double> deltas;
    const auto width = static_cast<std::size_t>(info_.row_elements());
    const auto row_bytes = width * static_cast<std::size_t>(core::size_of(type_));
    std::span<float> base;
    if (groups_.empty()) {
      buffer.resize(static_cast<std::size_t>(end - from) * width);
      base = buffer;
      base_.read_rows(info_, from, end, base);
    } else {
      base = rows_in_groups(begin, from, end);
    }
    if (update_ != nullptr) {
      deltas.resize(static_cast<std::size_t>(RowDeltas::kRowBlock * update_->stride()));
      update_->compute(from, deltas);
    }
    for (std::int64_t row = from; row < end; ++row) {
      const auto at = static_cast<std::size_t>(row - from);
      std::span<const double> delta;
      if (update_ != nullptr) {
        delta = std::span(deltas).subspan(at * static_cast<std::size_t>(update_->stride()), width);
      }
      const auto place = static_cast<std::size_t>(row - begin);
      const std::span<float> own = base.subspan(at * width, width);
      sums_[place] = round(row, own, delta, bytes_.data() + place * row_bytes);
      if (update_ != nullptr && update_->exact(row, own)) {
        (void)round_row(type_, own, {}, bytes_.data() + place * row_bytes);
        delta = {};
      }
      keep(row, own, delta);
    }
  }

  [[nodiscard]] RowSums round(std::int64_t row, std::span<const float> base,
                              std::span<const double> delta, std::byte* out) const {
    if (rounding_of(tensor_) == Rounding::kNearest || delta.empty()) {
      return round_row(type_, base, delta, out);
    }
    const auto first = static_cast<std::uint64_t>(row) * base.size();
    return dither_row(tensor_.rounding, type_, base, delta, draws_, first, out);
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
  lora::RandomStream draws_;
  std::vector<std::byte> bytes_;
  std::vector<RowSums> sums_;
  std::vector<float> groups_;  ///< Of read_groups(), else empty.
  std::vector<Sample> samples_;
};

FoldedTensor summary(const OutputTensor& tensor, const RowDeltas& update, const RowSums& sums,
                     std::vector<UsedKey> used) {
  FoldedTensor folded;
  folded.name = tensor.name;
  folded.rank = update.rank();
  folded.dtype = tensor.dtype;
  folded.rounding = rounding_of(tensor);
  folded.base_norm = std::sqrt(sums.base);
  folded.update_norm = std::sqrt(sums.update);
  folded.largest_error = sums.error;
  folded.changed = static_cast<double>(sums.changed) /
                   static_cast<double>(std::max<std::int64_t>(1, tensor.info->elements()));
  folded.retained = sums.update > 0 ? sums.kept / sums.update : 1;
  folded.keys = std::move(used);
  for (UsedKey& key : folded.keys) key.tensor = tensor.name;
  return folded;
}

/// A tensor that nothing changes: its bytes when they are what is wanted, else its numbers.
void pass(const OutputTensor& tensor, WriteBehind& out, std::vector<Sample>& samples) {
  const std::span<const std::byte> raw = tensor.source->raw(*tensor.info);
  const bool as_it_is = !tensor.copied.empty() && !raw.empty();
  if (tensor.info->elements() == 0 && !tensor.copied.empty()) return;
  if (!as_it_is && (raw.empty() || tensor.info->storage_name != core::name_of(tensor.dtype))) {
    TensorWriter writer(tensor, nullptr);
    [[maybe_unused]] const RowSums sums = writer.run(out);
    std::ranges::move(writer.samples(), std::back_inserter(samples));
    return;
  }
  const std::int64_t rows = tensor.info->rows();
  const std::size_t row_bytes =
      raw.size() / static_cast<std::size_t>(std::max<std::int64_t>(1, rows));
  const auto step = static_cast<std::int64_t>(
      std::max<std::size_t>(1, kCopyBytes / std::max<std::size_t>(1, row_bytes)));
  for (std::int64_t begin = 0; begin < rows; begin += step) {
    const std::int64_t end = std::min(rows, begin + step);
    std::vector<std::byte> bytes = out.buffer();
    const auto part = raw.subspan(static_cast<std::size_t>(begin) * row_bytes,
                                  static_cast<std::size_t>(end - begin) * row_bytes);
    bytes.assign(part.begin(), part.end());
    out.put(std::move(bytes));
    tensor.source->release(*tensor.info, begin, end);
  }
}

}  // namespace

bool is_copied_buffer(const TensorInfo& tensor) {
  static constexpr std::array<std::string_view, 7> kTypes{"BOOL", "U8",  "I8", "I16",
                                                          "I32",  "I64", "F64"};
  return tensor.storage == checkpoint::Storage::kOther &&
         std::ranges::find(kTypes, tensor.storage_name) != kTypes.end();
}

Written write_tensors(std::span<const OutputTensor> tensors,
                      std::span<const checkpoint::Shard> shards,
                      const std::filesystem::path& folder, const FoldControl& control) {
  std::map<std::string_view, const OutputTensor*> by_name;
  FoldProgress progress;
  for (const OutputTensor& tensor : tensors) by_name.emplace(tensor.name, &tensor);
  for (const checkpoint::Shard& shard : shards) {
    for (const checkpoint::TensorPlan& plan : shard.tensors) progress.total += plan.bytes();
  }
  Written written;
  for (const checkpoint::Shard& shard : shards) {
    checkpoint::SafetensorsWriter writer(folder / shard.file, shard.tensors);
    core::Sha256 digest;
    digest.update(writer.header());
    const std::uint64_t before = progress.done;
    WriteBehind out([&](std::span<const std::byte> bytes) {
      if (control.stop != nullptr && control.stop->load()) {
        throw Interrupted("stopped; nothing was written");
      }
      writer.write(bytes);
      digest.update(bytes);
      progress.done += bytes.size();
      if (control.progress) control.progress(progress);
    });
    for (const checkpoint::TensorPlan& plan : writer.order()) {
      const OutputTensor& tensor = *by_name.at(plan.name);
      std::vector<UsedKey> used;
      const std::unique_ptr<const RowDeltas> change = tensor.change ? tensor.change(used) : nullptr;
      if (change) {
        TensorWriter computed(tensor, change.get());
        std::vector<RowDeltas::Pairs> pairs;
        if (control.engine != nullptr) pairs = computed.pairs_for_engine();
        const RowSums sums =
            pairs.empty() ? computed.run(out) : computed.run_on(*control.engine, pairs, out);
        written.folded.push_back(summary(tensor, *change, sums, std::move(used)));
        if (!pairs.empty()) written.folded.back().device = control.engine->description();
        std::ranges::move(computed.samples(), std::back_inserter(written.samples));
      } else {
        pass(tensor, out, written.samples);
      }
    }
    out.finish();
    writer.finish();
    written.files.push_back(
        {shard.file, writer.header().size() + progress.done - before, digest.finish()});
  }
  checkpoint::write_shard_index(folder, shards);
  std::ranges::sort(written.folded, {}, &FoldedTensor::name);
  return written;
}

}  // namespace weft::merge
