#include "model/read_weights.h"

#include <c10/util/BFloat16.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <set>
#include <span>
#include <vector>

#include "checkpoint/dequantize.h"
#include "core/error.h"
#include "core/number.h"
#include "core/parallel.h"
#include "core/stop.h"

namespace weft::model {
namespace {

/// A weight that is no number spoils every result, and a rounded base hides it.
void require_finite(std::span<const float> values, const checkpoint::TensorInfo& tensor,
                    std::int64_t first_row) {
  // Exponents of all ones are infinity and NaN: a loop that the compiler makes vectors of.
  constexpr std::uint32_t kExponent = 0x7f800000U;
  bool finite = true;
  for (const float value : values) {
    finite &= (std::bit_cast<std::uint32_t>(value) & kExponent) != kExponent;
  }
  if (finite) return;
  const auto at = std::ranges::find_if(values, [](float v) { return !std::isfinite(v); });
  const std::int64_t place = at - values.begin();
  const std::int64_t width = tensor.row_elements();
  throw InputError(
      "{}: tensor '{}' holds {} in row {}, column {}: the model is damaged; nothing that is "
      "computed "
      "with it would mean anything",
      tensor.file.string(), tensor.name, *at, first_row + place / width, place % width);
}

/// Reads in blocks of rows on several threads, so that no fp32 copy of a large matrix exists.
void read_into(const checkpoint::Checkpoint& checkpoint, const checkpoint::TensorInfo& tensor,
               const at::Tensor& into, std::int64_t first_row) {
  TORCH_INTERNAL_ASSERT(into.is_contiguous());
  const std::int64_t width = tensor.row_elements();
  const std::int64_t block =
      std::max<std::int64_t>(1, (std::int64_t{1} << 20) / std::max<std::int64_t>(1, width));
  const bool to_bf16 = into.scalar_type() == at::kBFloat16;
  core::parallel_for(into.numel() / width, block, [&](std::int64_t first, std::int64_t last) {
    std::vector<float> buffer;
    for (std::int64_t row = first; row < last; row += block) {
      const std::int64_t end = std::min(row + block, last);
      const auto count = static_cast<std::size_t>((end - row) * width);
      if (!to_bf16) {
        const std::span<float> out(into.mutable_data_ptr<float>() + row * width, count);
        checkpoint.read_rows(tensor, first_row + row, first_row + end, out);
        require_finite(out, tensor, first_row + row);
        continue;
      }
      buffer.resize(count);
      checkpoint.read_rows(tensor, first_row + row, first_row + end, buffer);
      require_finite(buffer, tensor, first_row + row);
      c10::BFloat16* out = into.mutable_data_ptr<c10::BFloat16>() + row * width;
      for (std::size_t i = 0; i < count; ++i) out[i].x = core::float_to_bf16(buffer[i]);
    }
  });
  checkpoint.release(tensor, first_row, first_row + into.numel() / width);
}

void check_tensors(const checkpoint::Checkpoint& checkpoint, const Spec& spec) {
  std::set<std::string> known;
  for (const WeightShape& want : weight_shapes(spec)) {
    known.insert(want.name);
    const checkpoint::TensorInfo* found = checkpoint.find(want.name);
    if (found == nullptr) {
      throw InputError("{}: tensor '{}' is missing, {} needs it with shape [{}]",
                       checkpoint.path().string(), want.name, spec.architecture,
                       fmt::join(want.shape, ", "));
    }
    if (found->shape != want.shape) {
      throw InputError("{}: tensor '{}' has shape [{}], config.json says [{}]",
                       found->file.string(), want.name, fmt::join(found->shape, ", "),
                       fmt::join(want.shape, ", "));
    }
  }
  if (spec.head.tied) known.insert(spec.head.path + ".weight");  // a copy of the embedding
  for (const checkpoint::TensorInfo& tensor : checkpoint.tensors()) {
    const auto begins = [&](const std::string& part) { return tensor.name.starts_with(part); };
    if (known.contains(tensor.name) || checkpoint::is_buffer(tensor) ||
        std::ranges::any_of(spec.other_parts, begins))
      continue;
    throw InputError(
        "{}: tensor '{}' has no place in {} as config.json describes it; the model would be "
        "computed "
        "without it",
        tensor.file.string(), tensor.name, spec.architecture);
  }
}

}  // namespace

void read_blocks(const checkpoint::Checkpoint& checkpoint, const checkpoint::TensorInfo& tensor,
                 const at::Tensor& into, std::int64_t first_row) {
  core::leave_if_stopped("loading the model");
  TORCH_INTERNAL_ASSERT(into.is_contiguous());
  const std::int64_t width = tensor.row_elements();
  const std::int64_t block =
      std::max<std::int64_t>(1, (std::int64_t{1} << 20) / std::max<std::int64_t>(1, width));
  auto* const bytes = reinterpret_cast<std::byte*>(into.mutable_data_ptr<std::uint8_t>());
  const auto row_bytes = static_cast<std::size_t>(into.size(1));
  core::parallel_for(into.size(0), block, [&](std::int64_t first, std::int64_t last) {
    std::vector<float> values;
    for (std::int64_t row = first; row < last; row += block) {
      const std::int64_t end = std::min(row + block, last);
      const std::span<std::byte> out(bytes + static_cast<std::size_t>(row) * row_bytes,
                                     static_cast<std::size_t>(end - row) * row_bytes);
      checkpoint.read_blocks(tensor, first_row + row, first_row + end, out);
      values.resize(static_cast<std::size_t>((end - row) * width));
      checkpoint::dequantize(checkpoint.row_blocks(tensor), out, values);
      require_finite(values, tensor, first_row + row);
    }
  });
  checkpoint.release(tensor, first_row, first_row + into.size(0));
}

FillTensor checkpoint_filler(const checkpoint::Checkpoint& checkpoint, const Spec& spec) {
  check_tensors(checkpoint, spec);
  return [&checkpoint](const std::string& name, const at::Tensor& into, std::int64_t first_row) {
    core::leave_if_stopped("loading the model");
    read_into(checkpoint, *checkpoint.find(name), into, first_row);
  };
}

}  // namespace weft::model
