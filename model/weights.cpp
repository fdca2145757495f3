#include "model/weights.h"

#include <ATen/ops/empty.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <set>
#include <span>

#include "core/error.h"
#include "core/number.h"
#include "core/parallel.h"
#include "core/stop.h"

namespace weft::model {
namespace {

class Builder {
 public:
  Builder(const Spec& spec, at::ScalarType type, BaseFormat format, const FillTensor& fill)
      : spec_(spec),
        type_(type),
        options_(at::TensorOptions().dtype(type)),
        format_(format),
        fill_(fill) {}

  at::Tensor tensor(const std::string& name, std::vector<std::int64_t> shape) const {
    at::Tensor result = at::empty(shape, options_);
    fill_(name, result);
    return result;
  }

  /// Modules that read the same input, one under the other.
  Linear linear(std::int64_t layer, std::vector<std::pair<const char*, std::int64_t>> modules,
                std::int64_t in, bool bias) {
    std::int64_t out = 0;
    std::vector<LinearPart> parts;
    for (const auto& [module, rows] : modules) {
      parts.push_back({names::layer(layer, module), next_module_++, out, rows});
      out += rows;
    }
    at::Tensor biases = bias ? at::empty({out}, options_) : at::Tensor();
    for (const LinearPart& part : parts)
      if (bias) fill_(part.path + ".bias", biases.narrow(0, part.first, part.rows));
    if (format_ != BaseFormat::kDense) return quantised(in, biases, std::move(parts));
    at::Tensor weight = at::empty({out, in}, options_);
    for (const LinearPart& part : parts)
      fill_(part.path + ".weight", weight.narrow(0, part.first, part.rows));
    return {weight, biases, std::move(parts)};
  }

  /// From the fp32 numbers of one module at a time.
  Linear quantised(std::int64_t in, const at::Tensor& biases, std::vector<LinearPart> parts) {
    std::vector<QuantisedMatrix> matrices;
    for (const LinearPart& part : parts) {
      const at::Tensor values = at::empty({part.rows, in}, at::TensorOptions().dtype(at::kFloat));
      fill_(part.path + ".weight", values);
      matrices.emplace_back(
          format_,
          std::span(values.const_data_ptr<float>(), static_cast<std::size_t>(values.numel())),
          part.rows, in);
    }
    return {std::move(matrices), biases, std::move(parts), type_};
  }

  Layer layer(std::int64_t i) {
    const Spec& s = spec_;
    Layer layer;
    layer.input_norm = tensor(names::layer(i, names::kInputNorm) + ".weight", {s.hidden});
    layer.qkv =
        linear(i, {{names::kQ, s.q_width()}, {names::kK, s.kv_width()}, {names::kV, s.kv_width()}},
               s.hidden, s.qkv_bias);
    layer.o = linear(i, {{names::kO, s.hidden}}, s.q_width(), s.o_bias);
    layer.mlp_norm = tensor(names::layer(i, names::kMlpNorm) + ".weight", {s.hidden});
    layer.gate_up = linear(i, {{names::kGate, s.intermediate}, {names::kUp, s.intermediate}},
                           s.hidden, s.mlp_bias);
    layer.down = linear(i, {{names::kDown, s.hidden}}, s.intermediate, s.mlp_bias);
    layer.shape = {.heads = s.heads,
                   .kv_heads = s.kv_heads,
                   .head_dim = s.head_dim,
                   .window = s.windows[static_cast<std::size_t>(i)]};
    return layer;
  }

 private:
  const Spec& spec_;
  at::ScalarType type_;
  at::TensorOptions options_;
  BaseFormat format_;
  const FillTensor& fill_;
  std::uint32_t next_module_ = 0;  // counts as linear_modules() does
};

bool is_buffer(std::string_view name) { return name.ends_with(".rotary_emb.inv_freq"); }

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
  if (spec.tied_head)
    known.insert(std::string(names::kHead) + ".weight");  // a copy of the embedding
  for (const checkpoint::TensorInfo& tensor : checkpoint.tensors()) {
    if (known.contains(tensor.name) || is_buffer(tensor.name)) continue;
    throw InputError(
        "{}: tensor '{}' has no place in {} as config.json describes it; the model would be "
        "computed "
        "without it",
        tensor.file.string(), tensor.name, spec.architecture);
  }
}

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
               const at::Tensor& into) {
  TORCH_INTERNAL_ASSERT(into.is_contiguous());
  const std::int64_t width = tensor.row_elements();
  const std::int64_t block =
      std::max<std::int64_t>(1, (std::int64_t{1} << 20) / std::max<std::int64_t>(1, width));
  const bool to_bf16 = into.scalar_type() == at::kBFloat16;
  core::parallel_for(tensor.rows(), block, [&](std::int64_t first, std::int64_t last) {
    std::vector<float> buffer;
    for (std::int64_t row = first; row < last; row += block) {
      const std::int64_t end = std::min(row + block, last);
      const auto count = static_cast<std::size_t>((end - row) * width);
      if (!to_bf16) {
        const std::span<float> out(into.mutable_data_ptr<float>() + row * width, count);
        checkpoint.read_rows(tensor, row, end, out);
        require_finite(out, tensor, row);
        continue;
      }
      buffer.resize(count);
      checkpoint.read_rows(tensor, row, end, buffer);
      require_finite(buffer, tensor, row);
      c10::BFloat16* out = into.mutable_data_ptr<c10::BFloat16>() + row * width;
      for (std::size_t i = 0; i < count; ++i) out[i].x = core::float_to_bf16(buffer[i]);
    }
  });
  checkpoint.release(tensor);
}

}  // namespace

Weights make_weights(const Spec& spec, at::ScalarType type, BaseFormat format,
                     const FillTensor& fill) {
  Builder builder(spec, type, format, fill);
  Weights weights;
  weights.embedding =
      builder.tensor(std::string(names::kEmbedding) + ".weight", {spec.vocabulary, spec.hidden});
  for (std::int64_t i = 0; i < spec.layers; ++i) weights.layers.push_back(builder.layer(i));
  weights.final_norm = builder.tensor(std::string(names::kFinalNorm) + ".weight", {spec.hidden});
  weights.head = Head(spec.tied_head ? weights.embedding
                                     : builder.tensor(std::string(names::kHead) + ".weight",
                                                      {spec.vocabulary, spec.hidden}));
  return weights;
}

FillTensor checkpoint_filler(const checkpoint::Checkpoint& checkpoint, const Spec& spec) {
  check_tensors(checkpoint, spec);
  return [&checkpoint](const std::string& name, const at::Tensor& into) {
    core::leave_if_stopped("loading the model");
    read_into(checkpoint, *checkpoint.find(name), into);
  };
}

}  // namespace weft::model
