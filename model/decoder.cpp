#include "model/decoder.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/square.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/tensor.h>
#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <utility>

#include "core/error.h"
#include "core/suggest.h"
#include "model/generate.h"
#include "model/kernels/kernel_math.h"
#include "model/kernels/sets.h"
#include "model/read_weights.h"
#include "model/weights.h"

namespace weft::model {
namespace {

/// Calls kernels directly: no autograd bookkeeping. Tensors stay ordinary ones for the caller.
using Guard = at::AutoDispatchBelowADInplaceOrView;

at::ScalarType type_of(Compute compute) {
  return compute == Compute::kBF16 ? at::kBFloat16 : at::kFloat;
}

void check_id(const char* what, std::int32_t id, std::size_t place, std::int64_t vocabulary) {
  if (id < 0 || id >= vocabulary) {
    throw InputError(
        "{} {} at position {} is outside the model's vocabulary of {}: is this the model's own "
        "tokenizer?",
        what, id, place, vocabulary);
  }
}

void check_tokens(std::span<const std::int32_t> tokens, std::int64_t vocabulary) {
  for (std::size_t i = 0; i < tokens.size(); ++i) check_id("token id", tokens[i], i, vocabulary);
}

void check_row(const data::Row& row, std::int64_t vocabulary) {
  const std::size_t length = row.tokens.size();
  if (row.positions.size() != length || row.targets.size() != length) {
    throw InputError("a row has {} tokens, {} positions and {} targets, expected as many of each",
                     length, row.positions.size(), row.targets.size());
  }
  check_tokens(row.tokens, vocabulary);
  for (std::size_t i = 0; i < length; ++i) {
    if (row.targets[i] != data::kNoTarget) check_id("target id", row.targets[i], i, vocabulary);
  }
  std::int32_t covered = 0;
  for (std::size_t i = 0; i < row.segments.size(); ++i) {
    const data::Segment& segment = row.segments[i];
    if (segment.parent < data::kNoParent || segment.parent >= static_cast<std::int32_t>(i)) {
      throw InputError("a row's segment {} continues segment {}, which is not before it", i,
                       segment.parent);
    }
    if (segment.begin != covered || segment.end <= segment.begin) {
      throw InputError(
          "a row's segment [{}, {}) does not continue the one before, which ends at {}",
          segment.begin, segment.end, covered);
    }
    covered = segment.end;
  }
  if (static_cast<std::size_t>(covered) != length) {
    throw InputError("a row's segments end at {}, expected {} tokens", covered, length);
  }
}

/// The supervised positions of a row and what they have to predict.
struct Supervised {
  std::vector<std::int64_t> positions;
  std::vector<std::int32_t> targets;
  explicit Supervised(const data::Row& row) {
    for (std::size_t i = 0; i < row.targets.size(); ++i) {
      if (row.targets[i] == data::kNoTarget) continue;
      positions.push_back(static_cast<std::int64_t>(i));
      targets.push_back(row.targets[i]);
    }
  }
};

void copy_numbers(const std::vector<float>& values, const at::Tensor& into) {
  const at::Tensor on_host = at::tensor(at::ArrayRef<float>(values), at::kFloat);
  into.copy_(on_host.view(into.sizes()));
}

std::vector<float> as_vector(const at::Tensor& tensor) {
  const at::Tensor values = tensor.cpu().contiguous();
  const float* data = values.const_data_ptr<float>();
  return {data, data + values.numel()};
}

/// A row of tokens without targets, as one segment.
data::Row plain_row(std::span<const std::int32_t> tokens) {
  data::Row row;
  row.tokens.assign(tokens.begin(), tokens.end());
  row.positions.resize(tokens.size());
  std::iota(row.positions.begin(), row.positions.end(), 0);
  row.segments.push_back({.end = static_cast<std::int32_t>(tokens.size())});
  return row;
}

}  // namespace

Compute best_compute() {
  return kernel::prefers_bfloat16(kernel::chosen_set()) ? Compute::kBF16 : Compute::kF32;
}

Compute best_compute(const ComputeDevice& device) {
  if (!device.is_gpu()) return best_compute();
  return device.capability >= 80 ? Compute::kBF16 : Compute::kF32;
}

struct Decoder::State {
  Spec spec;
  at::ScalarType type = at::kFloat;
  Weights weights;
  std::vector<AdapterParameter> parameters;
  Trainables trainables;

  template <typename Body>
  void for_linears(const Body& body) {
    for (Layer& layer : weights.layers) {
      for (Linear* linear : layer.linears()) body(*linear);
      for (const std::vector<Linear*>& stack : layer.stacks()) {
        for (Linear* linear : stack) body(*linear);
      }
    }
  }

  /// What a pair of factors can be attached to: part of one linear layer, or the matrices of all
  /// experts.
  struct Place {
    lora::Module module;
    std::vector<Linear*> linears{};
    std::size_t part = 0;
    lora::TargetKind kind = lora::TargetKind::kLinear;

    [[nodiscard]] std::int64_t matrices() const { return std::ssize(linears); }
  };
  using Places = std::map<std::string, Place, std::less<>>;
  [[nodiscard]] Places places() {
    Places result;
    const std::vector<lora::Module> modules = model::linear_modules(spec);
    const std::vector<lora::Stack> stacks = expert_stacks(spec);
    auto module = modules.begin();
    auto stack = stacks.begin();
    for (Layer& layer : weights.layers) {
      for (Linear* linear : layer.linears()) {
        for (std::size_t part = 0; part < linear->parts().size(); ++part, ++module)
          result.emplace(module->path, Place{*module, {linear}, part});
      }
      for (std::vector<Linear*>& linears : layer.stacks()) {
        result.emplace(stack->module.path,
                       Place{stack->module, std::move(linears), 0, lora::TargetKind::kExperts});
        ++stack;
      }
    }
    return result;
  }

  /// Where a target's factors belong. InputError where the model has no such place.
  [[nodiscard]] static const Place& place_of(const Places& places, const lora::Target& target,
                                             const Spec& spec) {
    const std::string& path = target.module.path;
    const auto found = places.find(path);
    if (found == places.end() || found->second.kind != target.kind) {
      std::vector<std::string> paths;
      for (const auto& [known, place] : places) {
        if (place.kind == target.kind) paths.push_back(known);
      }
      const std::string meant = core::nearest(path, paths);
      throw InputError(
          "the adapter has factors for '{}', which is no {} of this {}{}", path,
          target.kind == lora::TargetKind::kExperts ? "stack of experts" : "linear layer",
          spec.architecture, meant.empty() ? "" : fmt::format(" (nearest: '{}')", meant));
    }
    if (found->second.matrices() == target.experts) return found->second;
    throw InputError(
        "the adapter's factors for '{}' are of {} experts, and the model has {}: was it trained on "
        "another base?",
        path, target.experts, found->second.matrices());
  }

  /// The factors of a target, or their gradients.
  struct Room {
    at::Tensor a, b;
  };
  /// Where the factors of targets lie in a list of numbers.
  struct Range {
    std::int64_t begin_a = 0, begin_b = 0;
  };
  struct Ranges {
    std::vector<Range> of_targets;
    std::int64_t size = 0;
  };
  [[nodiscard]] static Ranges ranges_of(const Places& places, std::span<const lora::Target> targets,
                                        const Spec& spec) {
    constexpr std::int64_t kAlignment = 16;  // numbers: a line of a processor's cache
    Ranges ranges;
    const auto take = [&](std::int64_t count) {
      const std::int64_t begin = ranges.size;
      ranges.size += (count + kAlignment - 1) / kAlignment * kAlignment;
      return begin;
    };
    for (const lora::Target& target : targets) {
      const lora::Module& module = place_of(places, target, spec).module;
      const std::int64_t begin_a = take(target.ranks() * module.in);
      ranges.of_targets.push_back({begin_a, take(module.out * target.ranks())});
    }
    return ranges;
  }
  static Room room_in(const at::Tensor& list, const Range& range, const Place& place,
                      std::int64_t ranks) {
    const lora::Module& module = place.module;
    return {list.narrow(0, range.begin_a, ranks * module.in).view({ranks, module.in}),
            list.narrow(0, range.begin_b, module.out * ranks).view({module.out, ranks})};
  }
  /// Of one matrix of a place: A holds the experts one after the other, B has them fastest
  /// (lora::TargetKind::kExperts).
  static at::Tensor own_a(const at::Tensor& a, std::int64_t expert, std::int64_t rank) {
    return a.defined() ? a.narrow(0, expert * rank, rank) : a;
  }
  static at::Tensor own_b(const at::Tensor& b, std::int64_t expert, std::int64_t rank) {
    return b.defined() ? b.view({b.size(0), rank, -1}).select(2, expert) : b;
  }

  /// Room for all targets, attached: filled with what `fill` puts there, or not at all.
  void attach(const Places& places, std::span<const lora::Target> targets, bool trained,
              double weight, const std::function<void(std::size_t, const Room&)>& fill) {
    if (trained && !parameters.empty())
      throw std::logic_error("Decoder: an adapter is being trained already");
    const Ranges ranges = ranges_of(places, targets, spec);
    const auto options = at::TensorOptions().dtype(at::kFloat).device(device());
    const at::Tensor values = zeros({ranges.size}, options);
    const at::Tensor gradients = trained ? zeros({ranges.size}, options) : at::Tensor();
    for (std::size_t i = 0; i < targets.size(); ++i) {
      const Place& place = place_of(places, targets[i], spec);
      const Range& range = ranges.of_targets[i];
      const std::int64_t ranks = place.matrices() * targets[i].rank;
      const Room factors = room_in(values, range, place, ranks);
      if (fill) fill(i, factors);
      attach(place, targets[i], range, factors,
             trained ? room_in(gradients, range, place, ranks) : Room(), weight);
    }
    if (trained) trainables = {values, gradients};
  }

  void attach(const Place& place, const lora::Target& target, const Range& range,
              const Room& factors, const Room& gradients, double weight) {
    if (gradients.a.defined()) {
      parameters.push_back(
          {target, factors.a, factors.b, gradients.a, gradients.b, range.begin_a, range.begin_b});
      lora::Target& known = parameters.back().target;
      known.module = place.module;
      known.kind = place.kind;
      known.experts = place.matrices();
    }
    for (std::int64_t e = 0; e < place.matrices(); ++e) {
      Linear::Slot slot;
      slot.part = place.part;
      slot.scale = target.scale * weight;
      slot.a = own_a(factors.a, e, target.rank);
      slot.b = own_b(factors.b, e, target.rank);
      slot.grad_a = own_a(gradients.a, e, target.rank);
      slot.grad_b = own_b(gradients.b, e, target.rank);
      place.linears[static_cast<std::size_t>(e)]->attach(std::move(slot));
    }
  }

  [[nodiscard]] RowContext context(const data::Row& row, const Dropout& dropout = {}) const {
    RowContext result{Visibility(row.segments, row.positions), {}, dropout};
    for (const Rope& rope : spec.rotaries) {
      RotaryTable& table = result.tables.emplace_back(
          rotary_table(rope, spec.max_positions, row.positions, row.segments, type));
      table.cos = table.cos.to(device());
      table.sin = table.sin.to(device());
    }
    return result;
  }

  [[nodiscard]] at::Device device() const { return weights.activations.device(); }

  /// What the first layer reads.
  [[nodiscard]] at::Tensor embed(const data::Row& row) const {
    const std::vector<std::int64_t> tokens(row.tokens.begin(), row.tokens.end());
    at::Tensor x = weights.embed(tokens, type);
    if (spec.embedding.scale != 1) x = scaled(x, embedding_scale());
    if (weights.positions.defined()) {
      std::vector<std::int64_t> places;
      for (const std::int32_t position : row.positions)
        places.push_back(position + spec.embedding.first_position);
      add_(x, gather(weights.positions, places));
    }
    return weights.embedding_norm ? weights.embedding_norm->forward(x) : x;
  }

  [[nodiscard]] double embedding_scale() const {
    const double scale = spec.embedding.scale;
    if (!spec.embedding.rounds_scale || type == at::kDouble) return scale;
    return type == at::kBFloat16
               ? static_cast<double>(kernel::rounded<c10::BFloat16>(static_cast<float>(scale)))
               : static_cast<double>(static_cast<float>(scale));
  }

  [[nodiscard]] at::Tensor final_norm(const at::Tensor& x,
                                      Norm::Statistics* statistics = nullptr) const {
    return weights.final_norm ? weights.final_norm->forward(x, statistics) : x;
  }

  /// Learned positions end somewhere.
  void check_positions(std::span<const std::int32_t> positions) const {
    if (!weights.positions.defined()) return;
    const std::int64_t most = spec.embedding.position_rows - spec.embedding.first_position;
    for (const std::int32_t position : positions) {
      if (position < most) continue;
      throw InputError(
          "position {} is beyond the {} that this {} has learned; shorten the text or set a "
          "smaller sequence_len",
          position, most, spec.architecture);
    }
  }

  /// Hidden states [T, D] before the final norm.
  [[nodiscard]] at::Tensor forward(const data::Row& row, const RowContext& context) const {
    at::Tensor x = embed(row);
    for (const Layer& layer : weights.layers) x = layer.forward(x, context, nullptr);
    return x;
  }

  /// The layers that a backward goes through: [lowest, kept) have states with their input alone,
  /// those from `kept` on whole ones.
  struct Trained {
    std::size_t lowest = 0;
    std::size_t kept = 0;
  };
  [[nodiscard]] at::Tensor forward(const data::Row& row, const RowContext& context, Trained trained,
                                   std::vector<LayerState>& states) const {
    at::Tensor x = embed(row);
    for (std::size_t i = 0; i < weights.layers.size(); ++i) {
      if (i >= trained.lowest && i < trained.kept) states[i].x() = x;
      x = weights.layers[i].forward(x, context, i >= trained.kept ? &states[i] : nullptr);
    }
    return x;
  }

  /// Losses of the supervised positions of hidden states x [T, D], and the gradient of x where
  /// `gradient_scale` is given.
  [[nodiscard]] at::Tensor head(const at::Tensor& x, const Supervised& supervised,
                                std::span<double> losses, std::optional<double> gradient_scale) {
    const at::Tensor last = gather(x, supervised.positions);
    Norm::Statistics statistics;
    const at::Tensor h = final_norm(last, &statistics);
    at::Tensor d_h;
    weights.head.cross_entropy(h, supervised.targets, losses, gradient_scale.value_or(0),
                               gradient_scale ? &d_h : nullptr);
    if (!gradient_scale) return {};
    if (!weights.final_norm) return scatter(d_h, supervised.positions, x.size(0));
    const at::Tensor d_last = zeros(last.sizes(), last.options());
    weights.final_norm->backward_(d_last, d_h, last, statistics);
    return scatter(d_last, supervised.positions, x.size(0));
  }

  [[nodiscard]] std::vector<double> losses(const data::Row& row) {
    check_row(row, spec.vocabulary);
    check_positions(row.positions);
    const Supervised supervised(row);
    std::vector<double> result(supervised.targets.size());
    if (result.empty()) return result;
    (void)head(forward(row, context(row)), supervised, result, std::nullopt);
    return result;
  }
};

Decoder::Decoder(std::unique_ptr<State> state) : state_(std::move(state)) {}
Decoder::Decoder(Decoder&&) noexcept = default;
Decoder& Decoder::operator=(Decoder&&) noexcept = default;
Decoder::~Decoder() = default;

Decoder Decoder::load(const checkpoint::Checkpoint& checkpoint, Compute compute, BaseFormat format,
                      at::Device device) {
  const Guard guard;
  auto state = std::make_unique<State>();
  state->spec = read_spec(checkpoint);
  state->type = type_of(compute);
  state->weights =
      make_weights(state->spec, state->type, format, checkpoint_filler(checkpoint, state->spec),
                   format == BaseFormat::kStored ? &checkpoint : nullptr, device);
  return Decoder(std::move(state));
}

Decoder Decoder::from_weights(const Spec& spec, const std::map<std::string, at::Tensor>& weights,
                              at::ScalarType type, BaseFormat format, at::Device device) {
  const Guard guard;
  auto state = std::make_unique<State>();
  state->spec = spec;
  state->type = type;
  state->weights = make_weights(
      spec, type, format,
      [&](const std::string& name, const at::Tensor& into, std::int64_t first_row) {
        const auto found = weights.find(name);
        if (found == weights.end()) throw InputError("tensor '{}' is missing", name);
        if (found->second.dim() == 3) {  // one of a stack of matrices
          into.copy_(found->second.select(0, first_row / into.size(0)));
          return;
        }
        if (name.ends_with("_bias")) {  // one of a stack of biases
          into.copy_(found->second.narrow(0, first_row, into.size(0)));
          return;
        }
        if (found->second.sizes() != into.sizes())
          throw InputError("tensor '{}' has another shape than the spec says", name);
        into.copy_(found->second);
      },
      nullptr, device);
  return Decoder(std::move(state));
}

Decoder Decoder::unfilled(const Spec& spec, Compute compute, BaseFormat format,
                          const checkpoint::Checkpoint* stored) {
  const Guard guard;
  auto state = std::make_unique<State>();
  state->spec = spec;
  state->type = type_of(compute);
  state->weights = make_weights(spec, state->type, format, {}, stored);
  return Decoder(std::move(state));
}

Decoder Decoder::filled(const Spec& spec, Compute compute, const FillTensor& fill,
                        at::Device device) {
  const Guard guard;
  auto state = std::make_unique<State>();
  state->spec = spec;
  state->type = type_of(compute);
  state->weights = make_weights(spec, state->type, BaseFormat::kDense, fill, nullptr, device);
  return Decoder(std::move(state));
}

at::Device Decoder::device() const { return state_->device(); }
const Spec& Decoder::spec() const { return state_->spec; }
Compute Decoder::compute() const {
  return state_->type == at::kBFloat16 ? Compute::kBF16 : Compute::kF32;
}
std::vector<lora::Module> Decoder::linear_modules() const {
  return model::linear_modules(state_->spec);
}

void Decoder::attach(const lora::Adapter& adapter, Use use, double weight) {
  const Guard guard;
  const auto places = state_->places();
  for (const lora::Factors& factors : adapter.factors) {
    const lora::Target& target = factors.target;
    const State::Place& place = State::place_of(places, target, state_->spec);
    const auto ranks = static_cast<std::size_t>(target.ranks());
    const std::size_t a = ranks * static_cast<std::size_t>(place.module.in);
    const std::size_t b = ranks * static_cast<std::size_t>(place.module.out);
    if (ranks == 0 || factors.a.size() != a || factors.b.size() != b) {
      throw InputError(
          "the adapter's factors for '{}' have {} and {} elements, rank {} on a layer of {} inputs "
          "and {} "
          "outputs needs {} and {}: was it trained on another base?",
          target.module.path, factors.a.size(), factors.b.size(), target.rank, place.module.in,
          place.module.out, a, b);
    }
  }
  std::vector<lora::Target> targets;
  for (const lora::Factors& factors : adapter.factors) targets.push_back(factors.target);
  state_->attach(places, targets, use == Use::kTraining, weight,
                 [&](std::size_t i, const State::Room& room) {
                   copy_numbers(adapter.factors[i].a, room.a);
                   copy_numbers(adapter.factors[i].b, room.b);
                 });
}

void Decoder::attach_room(std::span<const lora::Target> targets, bool trained) {
  const Guard guard;
  state_->attach(state_->places(), targets, trained, 1, {});
}

void Decoder::detach_all() {
  state_->parameters.clear();
  state_->trainables = {};
  state_->for_linears([](Linear& linear) { linear.detach_all(); });
}

struct Attached::State {
  std::vector<AdapterParameter> parameters;
  Trainables trainables;
  std::vector<Linear::Adapters> linears;  // In the order of the model; empty: nothing was attached
};
Attached::Attached() : state_(std::make_unique<State>()) {}
Attached::Attached(Attached&&) noexcept = default;
Attached& Attached::operator=(Attached&&) noexcept = default;
Attached::~Attached() = default;

void Decoder::exchange(Attached& other) {
  std::swap(state_->parameters, other.state_->parameters);
  std::swap(state_->trainables, other.state_->trainables);
  std::vector<Linear::Adapters>& linears = other.state_->linears;
  std::size_t count = 0;
  state_->for_linears([&](Linear&) { ++count; });
  linears.resize(count);
  auto next = linears.begin();
  state_->for_linears([&](Linear& linear) { linear.exchange(*next++); });
}

std::vector<AdapterParameter>& Decoder::parameters() { return state_->parameters; }
const Trainables& Decoder::trainables() const { return state_->trainables; }

void Decoder::refresh() {
  const Guard guard;
  state_->for_linears([](Linear& linear) { linear.refresh(); });
}

void Decoder::zero_gradients() {
  const Guard guard;
  if (state_->trainables.gradients.defined()) state_->trainables.gradients.zero_();
}

std::vector<lora::Factors> Decoder::factors() const {
  const Guard guard;
  std::vector<lora::Factors> result;
  for (const AdapterParameter& p : state_->parameters)
    result.push_back({p.target, as_vector(p.a), as_vector(p.b)});
  std::ranges::sort(result, {}, [](const lora::Factors& f) { return f.target.module.path; });
  return result;
}

LossSum Decoder::train(const data::Row& row, const TrainPass& pass) {
  const Guard guard;
  State& s = *state_;
  check_row(row, s.spec.vocabulary);
  s.check_positions(row.positions);
  const Supervised supervised(row);
  if (supervised.targets.empty()) return {};
  const std::vector<Layer>& layers = s.weights.layers;
  State::Trained trained;
  trained.lowest =
      static_cast<std::size_t>(std::ranges::find_if(layers, &Layer::trains) - layers.begin());
  trained.kept = trained.lowest + std::min(static_cast<std::size_t>(pass.recomputed_layers),
                                           layers.size() - trained.lowest);
  const RowContext context = s.context(row, {.p = pass.dropout, .seed = pass.dropout_seed});
  std::vector<LayerState> states(layers.size());
  at::Tensor x = s.forward(row, context, trained, states);
  const bool any = trained.lowest < layers.size();
  std::vector<double> losses(supervised.targets.size());
  const at::Tensor d =
      s.head(x, supervised, losses, any ? std::optional(pass.gradient_scale) : std::nullopt);
  x.reset();
  for (std::size_t i = layers.size(); i-- > trained.lowest;) {
    if (i < trained.kept) states[i] = layers[i].recompute(states[i].x(), context);
    layers[i].backward(d, context, states[i], i == trained.lowest);
    states[i] = {};
  }
  return {std::accumulate(losses.begin(), losses.end(), 0.0),
          static_cast<std::int64_t>(losses.size())};
}

LossSum Decoder::loss(const data::Row& row) {
  const Guard guard;
  const std::vector<double> losses = state_->losses(row);
  return {std::accumulate(losses.begin(), losses.end(), 0.0),
          static_cast<std::int64_t>(losses.size())};
}

std::vector<float> Decoder::token_losses(const data::Row& row) {
  const Guard guard;
  const std::vector<double> losses = state_->losses(row);
  return {losses.begin(), losses.end()};
}

at::Tensor Decoder::supervised_states(const data::Row& row) {
  const Guard guard;
  const State& s = *state_;
  check_row(row, s.spec.vocabulary);
  s.check_positions(row.positions);
  const Supervised supervised(row);
  if (supervised.positions.empty()) return at::empty({0, s.spec.hidden}, s.weights.activations);
  return s.final_norm(gather(s.forward(row, s.context(row)), supervised.positions));
}

Head Decoder::head() const { return state_->weights.head; }

at::Tensor Decoder::logits(std::span<const std::int32_t> tokens) {
  const Guard guard;
  const State& s = *state_;
  check_tokens(tokens, s.spec.vocabulary);
  const data::Row row = plain_row(tokens);
  s.check_positions(row.positions);
  const at::Tensor x = tokens.empty() ? at::empty({0, s.spec.hidden}, s.weights.activations)
                                      : s.forward(row, s.context(row));
  return s.weights.head.logits(s.final_norm(x)).cpu();
}

void Decoder::add_input_squares(std::span<const std::int32_t> tokens, InputSquares& squares) {
  const Guard guard;
  const State& s = *state_;
  check_tokens(tokens, s.spec.vocabulary);
  if (squares.empty()) {
    for (const lora::Module& module : linear_modules())
      squares.emplace_back(static_cast<std::size_t>(module.in));
  }
  std::size_t next = 0;
  const auto add = [&](const Linear& linear, const at::Tensor& input) {
    const at::Tensor sums =
        at::sum(at::square(input.to(at::kFloat)), {0}, false, at::kDouble).cpu();
    for (std::size_t part = 0; part < linear.parts().size(); ++part) {
      std::vector<double>& of = squares.at(next++);
      for (std::size_t j = 0; j < of.size(); ++j) of[j] += sums.const_data_ptr<double>()[j];
    }
  };
  const data::Row row = plain_row(tokens);
  s.check_positions(row.positions);
  const RowContext context = s.context(row);
  at::Tensor x = s.embed(row);
  for (const Layer& layer : s.weights.layers) {
    LayerState state;
    x = layer.forward(x, context, &state);
    layer.for_inputs(state, add);
  }
}

at::Tensor Decoder::next_logits(std::span<const std::int32_t> tokens, KvCache& cache) {
  KvCache* const only = &cache;
  return next_logits(std::span(&tokens, 1), std::span(&only, 1)).squeeze(0);
}

at::Tensor Decoder::next_logits(std::span<const std::span<const std::int32_t>> sequences,
                                std::span<KvCache* const> caches) {
  const Guard guard;
  const State& s = *state_;
  if (sequences.empty() || sequences.size() != caches.size())
    throw InputError("{} sequences for {} caches", sequences.size(), caches.size());
  data::Row row;
  std::vector<CachedRows> rows;
  std::vector<std::int64_t> last;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    check_tokens(sequences[i], s.spec.vocabulary);
    if (sequences[i].empty()) throw InputError("no tokens to go on from");
    const auto begin = static_cast<std::int32_t>(row.tokens.size());
    const auto past = static_cast<std::int32_t>(caches[i]->length);
    row.tokens.insert(row.tokens.end(), sequences[i].begin(), sequences[i].end());
    const auto end = static_cast<std::int32_t>(row.tokens.size());
    for (std::int32_t t = begin; t < end; ++t) row.positions.push_back(past + t - begin);
    row.segments.push_back({.begin = begin, .end = end});
    rows.push_back({.begin = begin, .end = end, .past = past});
    last.push_back(end - 1);
  }
  s.check_positions(row.positions);
  for (std::size_t i = 0; i < caches.size(); ++i)
    reserve(*caches[i], s.spec, s.weights.activations, rows[i].end - rows[i].begin);
  const RowContext context = s.context(row);
  at::Tensor x = s.embed(row);
  for (std::size_t layer = 0; layer < s.weights.layers.size(); ++layer) {
    for (std::size_t i = 0; i < caches.size(); ++i) rows[i].cache = &caches[i]->layers[layer];
    x = s.weights.layers[layer].forward_cached(x, context, rows);
  }
  for (std::size_t i = 0; i < caches.size(); ++i) caches[i]->length += rows[i].end - rows[i].begin;
  return s.weights.head.logits(s.final_norm(gather(x, last))).cpu();
}

at::Tensor Decoder::step_logits(std::span<const std::int32_t> tokens,
                                std::span<KvCache* const> caches) {
  const Guard guard;
  const State& s = *state_;
  check_tokens(tokens, s.spec.vocabulary);
  if (tokens.empty() || tokens.size() != caches.size())
    throw InputError("{} tokens for {} sequences", tokens.size(), caches.size());
  // A segment each: every token stands at the end of its own sequence.
  data::Row row;
  row.tokens.assign(tokens.begin(), tokens.end());
  row.positions.resize(row.tokens.size());
  for (std::int32_t i = 0; i < static_cast<std::int32_t>(tokens.size()); ++i)
    row.segments.push_back({.begin = i, .end = i + 1});
  for (std::size_t i = 0; i < caches.size(); ++i)
    row.positions[i] = static_cast<std::int32_t>(caches[i]->length);
  s.check_positions(row.positions);
  for (std::size_t i = 0; i < caches.size(); ++i) {
    reserve(*caches[i], s.spec, s.weights.activations, 1);
    ++caches[i]->length;
  }
  const RowContext context = s.context(row);
  at::Tensor x = s.embed(row);
  std::vector<SequenceKeys> sequences(caches.size());
  for (std::size_t i = 0; i < s.weights.layers.size(); ++i) {
    for (std::size_t c = 0; c < caches.size(); ++c) {
      const LayerCache& layer = caches[c]->layers[i];
      sequences[c] = {layer.keys, layer.values, caches[c]->length};
    }
    x = s.weights.layers[i].forward_step(x, context, sequences);
  }
  return s.weights.head.logits(s.final_norm(x)).cpu();
}

}  // namespace weft::model
