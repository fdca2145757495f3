#include "merge/auto_dtype.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>

#include "core/parallel.h"
#include "merge/adapter_deltas.h"
#include "merge/row_kernels.h"

namespace weft::merge {
namespace {

using checkpoint::Checkpoint;
using checkpoint::TensorInfo;

constexpr std::int64_t kSampledBlocks = 32;
/// Half of F16's largest, so that the sum fits unless the update is as large as the weights.
constexpr float kLargestInF16 = 32752;
constexpr std::int64_t kScanElements = std::int64_t{1} << 18;

double share(const RowSums& sums) { return sums.update > 0 ? sums.kept / sums.update : 1; }

void add(RowSums& total, const RowSums& row) {
  total.update += row.update;
  total.kept += row.kept;
}

/// Blocks of rows at equal distances.
RetainedShare measure(const Checkpoint& base, std::span<const WeightedAdapter> adapters,
                      const FoldPlan::Tensor& tensor) {
  const TensorInfo& info = *tensor.info;
  const auto deltas = make_deltas(base, adapters, {tensor.source, tensor.info, tensor.uses});
  const auto width = static_cast<std::size_t>(info.row_elements());
  const std::int64_t blocks = (info.rows() + RowDeltas::kRowBlock - 1) / RowDeltas::kRowBlock;
  const std::int64_t sampled = std::min(blocks, kSampledBlocks);
  std::vector<double> update(static_cast<std::size_t>(RowDeltas::kRowBlock * deltas->stride()));
  std::vector<float> row(width);
  std::vector<std::byte> bytes(width * sizeof(float));
  RowSums own;
  RowSums half;
  for (std::int64_t i = 0; i < sampled; ++i) {
    const std::int64_t begin = i * blocks / sampled * RowDeltas::kRowBlock;
    deltas->compute(begin, update);
    for (std::int64_t at = begin; at < std::min(info.rows(), begin + RowDeltas::kRowBlock); ++at) {
      tensor.source->read_rows(info, at, at + 1, row);
      const auto delta = std::span<const double>(update).subspan(
          static_cast<std::size_t>((at - begin) * deltas->stride()), width);
      add(own, round_row(tensor.dtype, row, delta, bytes.data()));
      add(half, round_row(core::DType::kF16, row, delta, bytes.data()));
    }
  }
  tensor.source->release(info);
  return {tensor.name, share(own), share(half)};
}

/// Below it F16 has fewer digits than elsewhere, and from 2^-25 on none.
constexpr float kSmallestNormalF16 = 0x1p-14F;
/// What F16 may lose of a tensor for such numbers, root mean square relative to the tensor's: no
/// more than it loses of any tensor by its rounding.
constexpr double kLossInF16 = 1e-3;

/// What writing one tensor as F16 would do to its numbers.
struct HalfLoss {
  std::atomic<bool> overflow{false};
  std::mutex guard;
  double error = 0;  ///< Squared, of numbers below kSmallestNormalF16.
  double size = 0;   ///< Squared, of all.
};

void scan(const FoldPlan::Tensor& tensor, HalfLoss& loss) {
  const TensorInfo& info = *tensor.info;
  const std::int64_t width = std::max<std::int64_t>(1, info.row_elements());
  const std::int64_t grain = std::max<std::int64_t>(1, kScanElements / width);
  core::parallel_for(info.rows(), grain, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> values;
    for (std::int64_t at = begin; at < end && !loss.overflow; at += grain) {
      const std::int64_t last = std::min(end, at + grain);
      values.resize(static_cast<std::size_t>((last - at) * info.row_elements()));
      tensor.source->read_rows(info, at, last, values);
      tensor.source->release(info, at, last);
      double error = 0;
      double size = 0;
      for (const float value : values) {
        const float magnitude = std::abs(value);
        if (magnitude > kLargestInF16) loss.overflow = true;
        size += static_cast<double>(value) * static_cast<double>(value);
        if (magnitude >= kSmallestNormalF16 || magnitude == 0) continue;
        const double lost = static_cast<double>(core::f16_to_float(core::float_to_f16(value))) -
                            static_cast<double>(value);
        error += lost * lost;
      }
      const std::scoped_lock hold(loss.guard);
      loss.error += error;
      loss.size += size;
    }
  });
}

/// Why the numbers that are written, changed or not, do not fit F16; empty where they do.
std::string loss_in_f16(const FoldPlan& plan) {
  for (const FoldPlan::Tensor& tensor : plan.tensors) {
    if (!tensor.copied.empty()) continue;
    HalfLoss loss;
    scan(tensor, loss);
    if (loss.overflow) {
      return fmt::format("'{}' of the base has numbers near or beyond F16's largest", tensor.name);
    }
    if (tensor.info->storage == checkpoint::Storage::kF16) continue;  // It is that already.
    if (loss.error > kLossInF16 * kLossInF16 * loss.size) {
      return fmt::format(
          "F16 would take {:.1f} % of '{}' of the base, whose numbers are too small "
          "for it",
          100 * std::sqrt(loss.error / loss.size), tensor.name);
    }
  }
  return "";
}

const RetainedShare* worst(const TypeChoice& choice) {
  const auto least = std::ranges::min_element(choice.tensors, {}, &RetainedShare::as_planned);
  return least == choice.tensors.end() ? nullptr : &*least;
}

}  // namespace

std::size_t TypeChoice::below() const {
  return static_cast<std::size_t>(std::ranges::count_if(
      tensors, [](const RetainedShare& tensor) { return tensor.as_planned < kRetainedEnough; }));
}

TypeChoice choose_dtype(const Checkpoint& base, std::span<const WeightedAdapter> adapters,
                        const FoldPlan& plan) {
  TypeChoice choice;
  for (const FoldPlan::Tensor& tensor : plan.tensors) {
    if (!tensor.uses.empty()) choice.tensors.push_back(measure(base, adapters, tensor));
  }
  if (choice.below() == 0) return choice;
  choice.dtype = core::DType::kF32;
  const bool enough = std::ranges::all_of(
      choice.tensors, [](const RetainedShare& tensor) { return tensor.f16 >= kRetainedEnough; });
  if (!enough) return choice;
  choice.f16_loses = loss_in_f16(plan);
  if (choice.f16_loses.empty()) choice.dtype = core::DType::kF16;
  return choice;
}

std::string text_of(const TypeChoice& choice, const FoldPlan& plan, Rounding rounding) {
  const RetainedShare* least = worst(choice);
  if (least == nullptr) return "nothing is changed: the type stays";
  std::string found =
      fmt::format("rounding to {} would leave {:.1f} % of the update of '{}'",
                  core::name_of(plan.model_dtype), 100 * least->as_planned, least->name);
  if (!choice.dtype) return found + ", and no less of any other: the type stays";
  found += fmt::format(", and less than {:.0f} % of {} of {} tensors", 100 * kRetainedEnough,
                       choice.below(), choice.tensors.size());
  if (rounding != Rounding::kNearest) {
    return fmt::format("{}: the type stays, with {} rounding of these", found, name_of(rounding));
  }
  if (*choice.dtype == core::DType::kF16) return found + ": F16, which keeps it, is written";
  return found + (choice.f16_loses.empty() ? "" : ", and " + choice.f16_loses) + ": F32 is written";
}

}  // namespace weft::merge
