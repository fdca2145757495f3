#include "model/spec.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/error.h"
#include "model/families/families.h"

namespace weft::model {
namespace {

/// Calls body(norm) for every norm of the spec.
template <typename Model, typename Body>
void for_norms(Model& spec, const Body& body) {
  const auto visit = [&](auto& norm) {
    if (norm) body(*norm);
  };
  visit(spec.embedding.norm);
  for (auto& layer : spec.layers) {
    for (auto* norm : {&layer.input_norm, &layer.query_norm, &layer.key_norm, &layer.output_norm,
                       &layer.mlp_norm, &layer.mlp_output_norm}) {
      visit(*norm);
    }
  }
  visit(spec.final_norm);
}

/// The same for the linear layers that adapters can take.
template <typename Body>
void for_linears(const Spec& spec, const Body& body) {
  for (const LayerSpec& layer : spec.layers) {
    for (const LinearSpec& linear : layer.qkv) body(linear);
    body(layer.o);
    if (layer.experts) {
      const ExpertsSpec& experts = *layer.experts;
      for (const LinearSpec& linear : experts.shared_up) body(linear);
      if (experts.shared.width > 0) body(experts.shared_down);
      if (experts.shared_gate) body(*experts.shared_gate);
      continue;
    }
    for (const LinearSpec& linear : layer.up) body(linear);
    body(layer.down);
  }
}

void add_experts(const ExpertsSpec& experts, std::int64_t hidden,
                 std::vector<WeightShape>& shapes) {
  shapes.push_back({experts.router + ".weight", {experts.count, hidden}});
  if (experts.router_bias) shapes.push_back({experts.router + ".bias", {experts.count}});
  for (const std::vector<LinearSpec>* linears : {&experts.up, &experts.down}) {
    for (const LinearSpec& linear : *linears) {
      if (experts.stacked) {
        const bool turned = linear.layout != checkpoint::Layout::kPlain;
        shapes.push_back({linear.path, turned ? std::vector{experts.count, linear.in, linear.out}
                                              : std::vector{experts.count, linear.out, linear.in}});
        if (experts.bias) shapes.push_back({linear.path + "_bias", {experts.count, linear.out}});
      } else {
        shapes.push_back({linear.path + ".weight", {linear.out, linear.in}});
      }
    }
  }
}

}  // namespace

std::vector<lora::Module> linear_modules(const Spec& spec) {
  std::vector<lora::Module> modules;
  for_linears(spec, [&](const LinearSpec& linear) {
    modules.push_back({.path = linear.path, .in = linear.in, .out = linear.out});
  });
  return modules;
}

std::vector<lora::Stack> expert_stacks(const Spec& spec) {
  std::vector<lora::Stack> stacks;
  for (const LayerSpec& layer : spec.layers) {
    if (!layer.experts) continue;
    const ExpertsSpec& experts = *layer.experts;
    const std::int64_t hidden = spec.hidden;
    const std::int64_t width = experts.mlp.width;
    stacks.push_back({{experts.up_stack, hidden, 2 * width}, experts.count});
    stacks.push_back({{experts.down_stack, width, hidden}, experts.count});
  }
  return stacks;
}

std::vector<WeightShape> weight_shapes(const Spec& spec) {
  std::vector<WeightShape> shapes;
  const auto add = [&](const std::string& module, std::vector<std::int64_t> shape) {
    shapes.push_back({module + ".weight", std::move(shape)});
  };
  add(spec.embedding.path, {spec.vocabulary, spec.hidden});
  if (!spec.embedding.positions.empty())
    add(spec.embedding.positions, {spec.embedding.position_rows, spec.hidden});
  for_norms(spec, [&](const NormSpec& norm) {
    if (norm.path.empty()) return;
    const std::int64_t heads = norm.weights / norm.width;
    add(norm.path, heads > 1 ? std::vector{heads, norm.width} : std::vector{norm.width});
    if (norm.bias) shapes.push_back({norm.path + ".bias", {norm.weights}});
  });
  for_linears(spec, [&](const LinearSpec& linear) {
    const bool turned = linear.layout == checkpoint::Layout::kTransposed;
    add(linear.path,
        turned ? std::vector{linear.in, linear.out} : std::vector{linear.out, linear.in});
    if (linear.bias) shapes.push_back({linear.path + ".bias", {linear.out}});
  });
  for (const LayerSpec& layer : spec.layers) {
    if (layer.experts) add_experts(*layer.experts, spec.hidden, shapes);
    if (!layer.attention.sinks.empty())
      shapes.push_back({layer.attention.sinks, {layer.attention.heads}});
  }
  if (!spec.head.tied) add(spec.head.path, {spec.vocabulary, spec.hidden});
  if (spec.head.bias) shapes.push_back({spec.head.path + ".bias", {spec.vocabulary}});
  return shapes;
}

void round_to_gguf(Spec& spec) {
  for_norms(spec, [](NormSpec& norm) { norm.eps = static_cast<float>(norm.eps); });
  for (Rope& rope : spec.rotaries) rope.theta = static_cast<float>(rope.theta);
}

Spec read_spec(const nlohmann::json& config, const std::string& where) {
  return families::read(config, where, {});
}

Spec read_spec(const checkpoint::Checkpoint& checkpoint) {
  const nlohmann::json& config = checkpoint.config();
  const auto tensors = std::ssize(checkpoint.tensors());
  const auto text = config.find("text_config");
  const nlohmann::json& sizes = text != config.end() && text->is_object() ? *text : config;
  for (const char* key : {"num_hidden_layers", "n_layer", "num_layers"}) {
    const auto layers = sizes.find(key);
    if (layers != sizes.end() && layers->is_number_integer() &&
        layers->get<std::int64_t>() > tensors) {
      throw InputError("{}: {} is {}, and the model has {} tensors in all",
                       checkpoint.path().string(), key, layers->dump(), tensors);
    }
  }
  return families::read(config, checkpoint.path().string(),
                        [&](std::string_view name) { return checkpoint.find(name) != nullptr; });
}

}  // namespace weft::model
