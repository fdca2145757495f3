#include "model/weights.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <optional>
#include <set>
#include <span>

#include "core/error.h"
#include "core/number.h"
#include "core/parallel.h"
#include "core/stop.h"
#include "model/meter.h"

namespace weft::model {
namespace {

/// Allocates and fills; without a filler it allocates only (Meter).
class Builder {
 public:
  Builder(at::ScalarType type, BaseFormat format, const FillTensor& fill, at::Device device)
      : type_(type),
        options_(at::TensorOptions().dtype(type)),
        format_(format),
        fill_(fill),
        device_(device) {}

  at::Tensor tensor(const std::string& name, at::IntArrayRef shape) const {
    at::Tensor result = at::empty(shape, options_);
    fill(name, result);
    return placed(result);
  }

  std::optional<Norm> norm(const std::optional<NormSpec>& spec) const {
    if (!spec) return std::nullopt;
    // Stored [heads, width] where each head has a norm of its own.
    const std::int64_t heads = spec->weights / spec->width;
    const at::Tensor weight = at::empty({heads, spec->width}, options_);
    if (spec->path.empty()) {
      weight.fill_(spec->plus_one ? 0 : 1);
    } else {
      fill(spec->path + ".weight", heads > 1 ? weight : weight.squeeze(0));
    }
    at::Tensor bias = spec->bias ? tensor(spec->path + ".bias", {spec->weights}) : at::Tensor();
    return Norm(*spec, placed(weight), std::move(bias));
  }

  /// Modules that read the same input, one under the other.
  Linear linear(std::span<const LinearSpec> modules, const AttentionSpec* fused = nullptr) {
    std::int64_t out = 0;
    std::vector<LinearPart> parts;
    bool biased = false;
    for (const LinearSpec& module : modules) {
      parts.push_back({module.path, next_module_++, out, module.out, {}});
      if (fused != nullptr) parts.back().order = order_of(module.layout, *fused);
      out += module.out;
      biased = biased || module.bias;
    }
    at::Tensor biases = biased ? zeros({out}, options_) : at::Tensor();
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (modules[i].bias)
        fill_ordered(parts[i], biases.narrow(0, parts[i].first, parts[i].rows), ".bias");
    }
    const std::int64_t in = modules.front().in;
    if (format_ != BaseFormat::kDense)
      return quantised(modules, in, placed(biases), std::move(parts));
    at::Tensor weight = at::empty({out, in}, options_);
    for (std::size_t i = 0; i < parts.size(); ++i)
      fill_matrix(modules[i], parts[i], weight.narrow(0, parts[i].first, parts[i].rows));
    return {placed(weight), placed(biases), placed(std::move(parts))};
  }

  Layer layer(const LayerSpec& spec) {
    Layer layer;
    Attention& a = layer.attention;
    a.entry = {norm(spec.input_norm), linear(spec.qkv, &spec.attention)};
    a.query_norm = norm(spec.query_norm);
    a.key_norm = norm(spec.key_norm);
    a.shape = shape_of(spec.attention);
    a.rotary = spec.attention.rotary;
    a.exit = {linear({&spec.o, 1}), norm(spec.output_norm), spec.residual_scale};
    layer.parallel = spec.parallel;
    if (spec.experts) {
      layer.experts = experts(spec);
      return layer;
    }
    Mlp& mlp = layer.mlp;
    // One norm for both branches is one tensor.
    const bool shared =
        spec.mlp_norm && spec.input_norm && spec.mlp_norm->path == spec.input_norm->path;
    mlp.entry = {shared ? a.entry.norm : norm(spec.mlp_norm), linear(spec.up)};
    mlp.spec = spec.mlp;
    mlp.exit = {linear({&spec.down, 1}), norm(spec.mlp_output_norm), spec.residual_scale};
    return layer;
  }

  Experts experts(const LayerSpec& layer) {
    const ExpertsSpec& spec = *layer.experts;
    Experts result;
    result.norm = norm(layer.mlp_norm);
    result.spec = spec;
    result.scale = layer.residual_scale;
    const std::int64_t hidden = layer.down.out;
    result.router = tensor(spec.router + ".weight", {spec.count, hidden});
    if (spec.router_bias) result.router_bias = tensor(spec.router + ".bias", {spec.count});
    if (spec.shared.width > 0) {
      Experts::Shared& shared = result.shared.emplace();
      shared.mlp = spec.shared;
      shared.up = linear(spec.shared_up);
      shared.down = linear({&spec.shared_down, 1});
      if (spec.shared_gate) shared.gate = linear({&*spec.shared_gate, 1});
    }
    for (std::int64_t e = 0; e < spec.count; ++e) {
      const auto i = static_cast<std::size_t>(e);
      if (spec.stacked) {
        result.experts.push_back(
            {of_stack(spec.up.front(), spec.bias, e), of_stack(spec.down.front(), spec.bias, e)});
      } else {
        result.experts.push_back({of_expert(std::span(spec.up).subspan(2 * i, 2), spec.up_stack),
                                  of_expert({&spec.down[i], 1}, spec.down_stack)});
      }
    }
    return result;
  }

 private:
  /// Matrix `e` of a stack, which is [count, out, in], or [count, in, out].
  Linear of_stack(const LinearSpec& spec, bool biased, std::int64_t e) {
    const auto type = format_ == BaseFormat::kDense ? type_ : at::kFloat;
    const auto options = at::TensorOptions().dtype(type);
    const at::Tensor matrix = at::empty({spec.out, spec.in}, options);
    const at::Tensor bias = biased ? at::empty({spec.out}, options_) : at::Tensor();
    if (fill_) {
      const bool turned = spec.layout != checkpoint::Layout::kPlain;
      const at::Tensor stored = turned ? at::empty({spec.in, spec.out}, options) : matrix;
      fill(spec.path, stored, e * stored.size(0));
      if (turned) matrix.copy_(outputs_in_order(stored.t(), spec.layout));
      if (biased) {
        const at::Tensor all = at::empty_like(bias);
        fill(spec.path + "_bias", all.unsqueeze(0), e);
        bias.copy_(outputs_in_order(all, spec.layout));
      }
    }
    return of_matrix(matrix, bias, {spec.path, 0, 0, spec.out, order_of_stack(spec)});
  }

  /// Matrices that are stored one by one and that adapters know as one of a stack.
  Linear of_expert(std::span<const LinearSpec> matrices, const std::string& stack) const {
    std::int64_t out = 0;
    for (const LinearSpec& one : matrices) out += one.out;
    const auto type = format_ == BaseFormat::kDense ? type_ : at::kFloat;
    const at::Tensor all = at::empty({out, matrices.front().in}, at::TensorOptions().dtype(type));
    std::int64_t first = 0;
    for (const LinearSpec& one : matrices) {
      fill(one.path + ".weight", all.narrow(0, first, one.out));
      first += one.out;
    }
    return of_matrix(all, {}, {stack, 0, 0, out, {}});
  }

  /// A matrix of fp32 where it is to be quantised.
  Linear of_matrix(const at::Tensor& matrix, const at::Tensor& bias, LinearPart part) const {
    std::vector<LinearPart> parts = placed(std::vector<LinearPart>{std::move(part)});
    if (format_ == BaseFormat::kDense) return {placed(matrix), placed(bias), std::move(parts)};
    std::vector<QuantisedMatrix> matrices;
    if (fill_) {
      matrices.emplace_back(
          format_,
          std::span(matrix.const_data_ptr<float>(), static_cast<std::size_t>(matrix.numel())),
          matrix.size(0), matrix.size(1));
    } else {
      matrices.emplace_back(format_, matrix.size(0), matrix.size(1));
    }
    matrices.back().move_to(device_);
    return {std::move(matrices), placed(bias), std::move(parts), activations()};
  }

  /// One tensor for all experts of the model.
  at::Tensor order_of_stack(const LinearSpec& spec) {
    if (spec.layout != checkpoint::Layout::kAlternating) return {};
    if (!alternating_.defined() || alternating_.size(0) != spec.out)
      alternating_ =
          outputs_in_order(at::arange(spec.out, at::TensorOptions().dtype(at::kLong)), spec.layout);
    return alternating_;
  }

  /// Outputs that stand by turns, gate and up, one after the other.
  static at::Tensor outputs_in_order(const at::Tensor& rows, checkpoint::Layout layout) {
    if (layout != checkpoint::Layout::kAlternating) return rows;
    return at::cat({rows.slice(0, 0, rows.size(0), 2), rows.slice(0, 1, rows.size(0), 2)}, 0);
  }

  [[nodiscard]] at::TensorOptions activations() const { return options_.device(device_); }

  /// Where it is computed with.
  [[nodiscard]] at::Tensor placed(const at::Tensor& tensor) const {
    return tensor.defined() ? tensor.to(device_) : tensor;
  }
  [[nodiscard]] std::vector<LinearPart> placed(std::vector<LinearPart> parts) const {
    for (LinearPart& part : parts) part.order = placed(part.order);
    return parts;
  }

  void fill(const std::string& name, const at::Tensor& into, std::int64_t first_row = 0) const {
    if (fill_) fill_(name, into, first_row);
  }

  static at::Tensor order_of(checkpoint::Layout layout, const AttentionSpec& a) {
    const std::vector<std::int64_t> order =
        checkpoint::stored_row_order(layout, a.heads, a.kv_heads, a.head_dim);
    const bool same = std::ranges::is_sorted(order);  // of whole heads, each once
    return same ? at::Tensor() : at::tensor(order, at::TensorOptions().dtype(at::kLong));
  }

  /// Rows of `part` in the order that is computed with.
  void fill_ordered(const LinearPart& part, const at::Tensor& into, const char* suffix) const {
    if (!fill_ || !part.order.defined()) return fill(part.path + suffix, into);
    const at::Tensor stored = at::empty_like(into);
    fill(part.path + suffix, stored);
    into.copy_(stored.index_select(0, part.order));
  }

  void fill_matrix(const LinearSpec& module, const LinearPart& part, const at::Tensor& into) const {
    if (!fill_ || module.layout != checkpoint::Layout::kTransposed)
      return fill_ordered(part, into, ".weight");
    const at::Tensor stored = at::empty({module.in, module.out}, into.options());
    fill(part.path + ".weight", stored);
    into.copy_(stored.t());
  }

  /// From the fp32 numbers of one module at a time.
  Linear quantised(std::span<const LinearSpec> modules, std::int64_t in, const at::Tensor& biases,
                   std::vector<LinearPart> parts) {
    std::vector<QuantisedMatrix> matrices;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (!fill_) {
        matrices.emplace_back(format_, parts[i].rows, in);
        continue;
      }
      const at::Tensor values =
          at::empty({parts[i].rows, in}, at::TensorOptions().dtype(at::kFloat));
      fill_matrix(modules[i], parts[i], values);
      matrices.emplace_back(
          format_,
          std::span(values.const_data_ptr<float>(), static_cast<std::size_t>(values.numel())),
          parts[i].rows, in);
      matrices.back().move_to(device_);
    }
    return {std::move(matrices), biases, placed(std::move(parts)), activations()};
  }

  AttentionShape shape_of(const AttentionSpec& a) const {
    AttentionShape shape{.heads = a.heads,
                         .kv_heads = a.kv_heads,
                         .head_dim = a.head_dim,
                         .window = a.window,
                         .score = {.scale = a.scale, .soft_cap = a.soft_cap}};
    if (a.alibi) shape.score.slopes = alibi_slopes(a.heads);
    shape.score.slopes_in_bf16 = a.alibi_in_bf16;
    if (!a.sinks.empty() && fill_) {
      const at::Tensor sinks = at::empty({a.heads}, at::TensorOptions().dtype(at::kFloat));
      fill(a.sinks, sinks);
      shape.score.sinks.assign(sinks.const_data_ptr<float>(),
                               sinks.const_data_ptr<float>() + a.heads);
    }
    return shape;
  }

  at::ScalarType type_;
  at::TensorOptions options_;
  BaseFormat format_;
  const FillTensor& fill_;
  at::Device device_;
  at::Tensor alternating_;
  std::uint32_t next_module_ = 0;  // counts as linear_modules() does
};

/// Divides each row by its length, as torch.nn.functional.normalize does.
void normalise_rows(const at::Tensor& matrix) {
  if (Meter::running()) return;
  constexpr std::int64_t kRows = 4096;  // at a time: no wide copy of the whole
  for (std::int64_t row = 0; row < matrix.size(0); row += kRows) {
    const at::Tensor part = matrix.narrow(0, row, std::min(kRows, matrix.size(0) - row));
    const at::Tensor wide = part.to(at::promote_types(part.scalar_type(), at::kFloat));
    part.copy_(wide / wide.norm(2, 1, true).clamp_min(1e-12));
  }
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

}  // namespace

Weights make_weights(const Spec& spec, at::ScalarType type, BaseFormat format,
                     const FillTensor& fill, at::Device device) {
  Builder builder(type, format, fill, device);
  Weights weights;
  weights.embedding =
      builder.tensor(spec.embedding.path + ".weight", {spec.vocabulary, spec.hidden});
  if (!spec.embedding.positions.empty()) {
    weights.positions = builder.tensor(spec.embedding.positions + ".weight",
                                       {spec.embedding.position_rows, spec.hidden});
  }
  weights.embedding_norm = builder.norm(spec.embedding.norm);
  for (const LayerSpec& layer : spec.layers) weights.layers.push_back(builder.layer(layer));
  weights.final_norm = builder.norm(spec.final_norm);
  at::Tensor head = weights.embedding;
  if (!spec.head.tied)
    head = builder.tensor(spec.head.path + ".weight", {spec.vocabulary, spec.hidden});
  if (spec.head.normalised) {
    if (spec.head.tied) head = copied(head);
    normalise_rows(head);
  }
  at::Tensor bias =
      spec.head.bias ? builder.tensor(spec.head.path + ".bias", {spec.vocabulary}) : at::Tensor();
  weights.head = Head(std::move(head), std::move(bias), spec.head.scale, spec.head.soft_cap);
  return weights;
}

FillTensor checkpoint_filler(const checkpoint::Checkpoint& checkpoint, const Spec& spec) {
  check_tensors(checkpoint, spec);
  return [&checkpoint](const std::string& name, const at::Tensor& into, std::int64_t first_row) {
    core::leave_if_stopped("loading the model");
    read_into(checkpoint, *checkpoint.find(name), into, first_row);
  };
}

}  // namespace weft::model
