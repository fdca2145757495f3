#include "model/weights.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <optional>
#include <span>

#include "checkpoint/dequantize.h"
#include "model/kernels/kernel_math.h"
#include "model/kernels/ops.h"
#include "model/meter.h"
#include "model/read_weights.h"

namespace weft::model {
namespace {

/// Allocates and fills; without a filler it allocates only (Meter).
class Builder {
 public:
  Builder(at::ScalarType type, BaseFormat format, const FillTensor& fill,
          const checkpoint::Checkpoint* stored, at::Device device)
      : type_(type),
        options_(at::TensorOptions().dtype(type)),
        format_(stored == nullptr && format == BaseFormat::kStored ? BaseFormat::kDense : format),
        fill_(fill),
        stored_(stored),
        device_(device) {}

  [[nodiscard]] at::TensorOptions activations() const { return options_.device(device_); }

  /// A matrix as kStored keeps it: as blocks, or, where products read it and weave numbers,
  /// woven; else null.
  std::shared_ptr<const QuantisedMatrix> stored_matrix(const std::string& name, std::int64_t rows,
                                                       std::int64_t columns, bool is_factor) const {
    if (auto matrix = stored({{name, 0, rows}}, columns))
      return std::make_shared<const QuantisedMatrix>(std::move(*matrix));
    if (!is_factor || !weaves(columns)) return nullptr;
    return std::make_shared<const QuantisedMatrix>(plain_rows(tensor(name, {rows, columns})));
  }

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
    if (quantises()) return quantised(modules, in, placed(biases), std::move(parts));
    if (weaves(in) ||
        std::ranges::any_of(modules, [&](const LinearSpec& m) { return has_blocks(m); }))
      return stored_parts(modules, in, biases, std::move(parts));
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
  /// Whether matrices are made into kInt8 or kNf4 here.
  [[nodiscard]] bool quantises() const {
    return format_ == BaseFormat::kInt8 || format_ == BaseFormat::kNf4;
  }

  /// Whether kStored weaves matrices of numbers: few rows are multiplied with them faster.
  [[nodiscard]] bool weaves(std::int64_t columns) const {
    return format_ == BaseFormat::kStored && type_ == at::kBFloat16 &&
           columns % kernel::woven_elements(checkpoint::Storage::kBF16) == 0;
  }
  /// Numbers of the type that is computed with, which are taken over.
  [[nodiscard]] QuantisedMatrix plain_rows(const at::Tensor& values) const {
    const auto storage =
        type_ == at::kBFloat16 ? checkpoint::Storage::kBF16 : checkpoint::Storage::kF32;
    return {storage, values.view(at::kByte), values.size(1)};
  }

  /// Rows of a tensor of the checkpoint.
  struct StoredRows {
    std::string name;
    std::int64_t first = 0;
    std::int64_t rows = 0;
  };

  /// The format of the blocks that kStored keeps of a tensor; kOther: none.
  [[nodiscard]] checkpoint::Storage blocks_of(const std::string& name) const {
    if (format_ != BaseFormat::kStored) return checkpoint::Storage::kOther;
    const checkpoint::TensorInfo* const tensor = stored_->find(name);
    return tensor == nullptr ? checkpoint::Storage::kOther : stored_->row_blocks(*tensor);
  }
  [[nodiscard]] bool has_blocks(const LinearSpec& module) const {
    return module.layout != checkpoint::Layout::kTransposed &&
           blocks_of(module.path + ".weight") != checkpoint::Storage::kOther;
  }

  /// One matrix of rows that are stored in blocks of one format; nothing where they are not, or
  /// blocks are not kept. Row i of it is row order[i] of them.
  [[nodiscard]] std::optional<QuantisedMatrix> stored(const std::vector<StoredRows>& pieces,
                                                      std::int64_t columns,
                                                      const at::Tensor& order = {}) const {
    const checkpoint::Storage storage = blocks_of(pieces.front().name);
    std::int64_t rows = 0;
    for (const StoredRows& piece : pieces) {
      if (blocks_of(piece.name) != storage) return std::nullopt;
      rows += piece.rows;
    }
    if (storage == checkpoint::Storage::kOther) return std::nullopt;
    const checkpoint::BlockSize block = checkpoint::block_size(storage);
    at::Tensor all = at::empty({rows, columns / block.elements * block.bytes},
                               at::TensorOptions().dtype(at::kByte));
    if (fill_) {
      std::int64_t first = 0;
      for (const StoredRows& piece : pieces) {
        read_blocks(*stored_, *stored_->find(piece.name), all.narrow(0, first, piece.rows),
                    piece.first);
        first += piece.rows;
      }
      if (order.defined()) all = all.index_select(0, order);
    }
    return QuantisedMatrix(storage, std::move(all), columns);
  }

  /// Modules of which some are stored in blocks; the others' numbers are kept in the type that is
  /// computed with.
  Linear stored_parts(std::span<const LinearSpec> modules, std::int64_t in,
                      const at::Tensor& biases, std::vector<LinearPart> parts) const {
    std::vector<QuantisedMatrix> matrices;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (has_blocks(modules[i])) {
        matrices.push_back(
            *stored({{parts[i].path + ".weight", 0, parts[i].rows}}, in, parts[i].order));
        continue;
      }
      const at::Tensor values = at::empty({parts[i].rows, in}, options_);
      fill_matrix(modules[i], parts[i], values);
      matrices.push_back(plain_rows(values));
    }
    return {std::move(matrices), biases, std::move(parts), activations()};
  }

  /// Matrix `e` of a stack, which is [count, out, in], or [count, in, out].
  Linear of_stack(const LinearSpec& spec, bool biased, std::int64_t e) {
    const bool turned = spec.layout != checkpoint::Layout::kPlain;
    if (!turned && !biased) {
      if (auto matrix = stored({{spec.path, e * spec.out, spec.out}}, spec.in))
        return of_stored(std::move(*matrix), {spec.path, 0, 0, spec.out, {}});
    }
    const auto options = at::TensorOptions().dtype(quantises() ? at::kFloat : type_);
    const at::Tensor matrix = at::empty({spec.out, spec.in}, options);
    const at::Tensor bias = biased ? at::empty({spec.out}, options_) : at::Tensor();
    if (fill_) {
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
    std::vector<StoredRows> pieces;
    for (const LinearSpec& one : matrices) {
      pieces.push_back({one.path + ".weight", 0, one.out});
      out += one.out;
    }
    const std::int64_t in = matrices.front().in;
    if (auto matrix = stored(pieces, in))
      return of_stored(std::move(*matrix), {stack, 0, 0, out, {}});
    const auto type = quantises() ? at::kFloat : type_;
    const at::Tensor all = at::empty({out, in}, at::TensorOptions().dtype(type));
    std::int64_t first = 0;
    for (const LinearSpec& one : matrices) {
      fill(one.path + ".weight", all.narrow(0, first, one.out));
      first += one.out;
    }
    return of_matrix(all, {}, {stack, 0, 0, out, {}});
  }

  [[nodiscard]] Linear of_stored(QuantisedMatrix matrix, LinearPart part) const {
    std::vector<QuantisedMatrix> matrices;
    matrices.push_back(std::move(matrix));
    std::vector<LinearPart> parts{std::move(part)};
    return {std::move(matrices), {}, std::move(parts), activations()};
  }

  /// A matrix of fp32 where it is to be quantised.
  Linear of_matrix(const at::Tensor& matrix, const at::Tensor& bias, LinearPart part) const {
    std::vector<LinearPart> parts = placed(std::vector<LinearPart>{std::move(part)});
    if (!quantises() && !weaves(matrix.size(1)))
      return {placed(matrix), placed(bias), std::move(parts)};
    std::vector<QuantisedMatrix> matrices;
    if (!quantises()) {
      matrices.push_back(plain_rows(matrix));
    } else if (fill_) {
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
  const checkpoint::Checkpoint* stored_;  // not null in kStored
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

}  // namespace

at::Tensor Weights::embed(std::span<const std::int64_t> indices, at::ScalarType type) const {
  if (stored_embedding == nullptr) return gather(embedding, indices);
  const QuantisedMatrix& matrix = *stored_embedding;
  at::Tensor result =
      at::empty({std::ssize(indices), matrix.columns()}, at::TensorOptions().dtype(type));
  kernel::for_type(type, [&]<typename T>(T) {
    T* const to = kernel::mutable_data<T>(result);
    kernel::parallel_for(std::ssize(indices), kernel::grain(matrix.columns()),
                         [&](std::int64_t begin, std::int64_t end) {
                           for (std::int64_t i = begin; i < end; ++i) {
                             matrix.read(
                                 {indices[static_cast<std::size_t>(i)], 1, 0, matrix.columns()},
                                 to + i * matrix.columns(), matrix.columns());
                           }
                         });
  });
  return result;
}

Weights make_weights(const Spec& spec, at::ScalarType type, BaseFormat format,
                     const FillTensor& fill, const checkpoint::Checkpoint* stored,
                     at::Device device) {
  Builder builder(type, format, fill, stored, device);
  Weights weights;
  weights.activations = builder.activations();
  const auto matrix = [&](const std::string& path, bool is_factor) {
    return builder.stored_matrix(path + ".weight", spec.vocabulary, spec.hidden, is_factor);
  };
  const auto dense = [&](const std::string& path) {
    return builder.tensor(path + ".weight", {spec.vocabulary, spec.hidden});
  };
  const HeadSpec& head = spec.head;
  // A head whose rows are made to have length 1 needs numbers, and so does the embedding it is.
  if (!head.normalised || !head.tied)
    weights.stored_embedding = matrix(spec.embedding.path, head.tied);
  if (weights.stored_embedding == nullptr) weights.embedding = dense(spec.embedding.path);
  if (!spec.embedding.positions.empty()) {
    weights.positions = builder.tensor(spec.embedding.positions + ".weight",
                                       {spec.embedding.position_rows, spec.hidden});
  }
  weights.embedding_norm = builder.norm(spec.embedding.norm);
  for (const LayerSpec& layer : spec.layers) weights.layers.push_back(builder.layer(layer));
  weights.final_norm = builder.norm(spec.final_norm);
  std::shared_ptr<const QuantisedMatrix> stored_head = weights.stored_embedding;
  if (!head.tied) stored_head = head.normalised ? nullptr : matrix(head.path, true);
  at::Tensor values;
  if (stored_head == nullptr) values = head.tied ? weights.embedding : dense(head.path);
  if (head.normalised) {
    if (head.tied) values = copied(values);
    normalise_rows(values);
  }
  at::Tensor bias =
      head.bias ? builder.tensor(head.path + ".bias", {spec.vocabulary}) : at::Tensor();
  weights.head =
      stored_head != nullptr
          ? Head(std::move(stored_head), type, std::move(bias), head.scale, head.soft_cap)
          : Head(std::move(values), std::move(bias), head.scale, head.soft_cap);
  return weights;
}

}  // namespace weft::model
