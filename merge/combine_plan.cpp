#include "merge/combine_plan.h"

#include <algorithm>
#include <charconv>
#include <set>

#include "checkpoint/printable.h"
#include "core/error.h"
#include "merge/adapter_deltas.h"

namespace weft::merge {
namespace {

using checkpoint::Checkpoint;
using checkpoint::TensorInfo;
using Range = std::pair<std::int64_t, std::int64_t>;

/// The embedding comes before the layers; final norms and the head come after them.
bool before_layers(std::string_view name) {
  if (checkpoint::is_head_name(name)) return false;
  return name.find("embed") != std::string_view::npos ||
         name.find("wte") != std::string_view::npos || name.find("wpe") != std::string_view::npos;
}

std::string with_layer(const std::string& name, std::int64_t index) {
  const auto layer = layer_of(name);
  if (!layer) return name;
  return name.substr(0, layer->begin) + fmt::format("{}", index) +
         name.substr(layer->begin + layer->length);
}

void check_count(const RecipeSlice& slice, const Method& method,
                 const std::optional<std::size_t>& base) {
  const InputRule rule = method.rule();
  const std::size_t count = slice.sources.size();
  const std::size_t others = count - (base ? 1 : 0);
  if (rule.base == InputRule::Base::kRequired && !base) {
    throw ConfigError("method {} starts from a base: give base_model{}", method.name(),
                      slice.sources.front().layers ? ", and list it in each slice's sources" : "");
  }
  if (count < rule.least || count > rule.most) {
    throw ConfigError("method {} takes {} {}, the recipe has {}{}", method.name(),
                      rule.least == rule.most ? "exactly"
                      : count < rule.least    ? "at least"
                                              : "at most",
                      count < rule.least ? rule.least : rule.most, count,
                      base ? " with the base" : "");
  }
  if (others < rule.least_others || others > rule.most_others) {
    throw ConfigError("method {} takes {} {} models besides the base, the recipe has {}",
                      method.name(), rule.least_others == rule.most_others ? "exactly" : "at least",
                      rule.least_others, others);
  }
}

class Planner {
 public:
  Planner(const Recipe& recipe, const OpenModels& models, std::uint64_t seed)
      : recipe_(recipe), models_(models), seed_(seed) {}

  CombinePlan run() {
    for (const RecipeSlice& slice : recipe_.slices) {
      slices_.push_back(resolve(slice));
    }
    plan_.tied = true;
    add_outside(slices_.front(), true);
    for (const Slice& slice : slices_) {
      for (std::int64_t i = 0; i < slice.length; ++i) add_layer(slice, i);
    }
    add_outside(slices_.back(), false);
    std::ranges::sort(plan_.tensors, {}, [](const GroupPlan& plan) { return plan.group.name; });
    return std::move(plan_);
  }

 private:
  /// A slice with its models found and its layers counted.
  struct Slice {
    const RecipeSlice* recipe = nullptr;
    std::vector<const OpenModel*> models;
    std::vector<std::int64_t> first;  ///< Layer of each model.
    std::int64_t length = 0;
    std::optional<std::size_t> base;

    [[nodiscard]] std::size_t reference() const { return base.value_or(0); }
  };

  [[nodiscard]] Slice resolve(const RecipeSlice& recipe) const {
    Slice slice;
    slice.recipe = &recipe;
    const auto& wanted = recipe.base ? recipe.base : recipe_.base;
    std::set<std::string> seen;
    for (const RecipeSource& source : recipe.sources) {
      const OpenModel& model = models_.at(source.model);
      if (!seen.insert(source.model.text()).second) {
        throw ConfigError("model '{}' is listed twice in one merge", source.model.text());
      }
      const std::int64_t layers = layer_count(*model.checkpoint);
      const Range range = source.layers.value_or(Range{0, layers});
      if (range.second > layers) {
        throw InputError("layer_range [{}, {}) goes beyond the {} layers of '{}'", range.first,
                         range.second, layers, source.model.text());
      }
      if (slice.models.empty()) slice.length = range.second - range.first;
      if (slice.length != range.second - range.first) {
        throw InputError(
            "'{}' gives {} layers where '{}' gives {}; models of one slice need as "
            "many",
            source.model.text(), range.second - range.first, recipe.sources.front().model.text(),
            slice.length);
      }
      const bool counts = recipe_.method->rule().base != InputRule::Base::kIgnored;
      if (wanted && counts && source.model == *wanted) slice.base = slice.models.size();
      slice.models.push_back(&model);
      slice.first.push_back(range.first);
    }
    check_count(recipe, *recipe_.method, slice.base);
    return slice;
  }

  void add_layer(const Slice& slice, std::int64_t index) {
    const auto out = static_cast<std::int64_t>(plan_.layers.size());
    const std::size_t reference = slice.reference();
    const double t =
        slice.length > 1 ? static_cast<double>(index) / static_cast<double>(slice.length - 1) : 1;
    for (const TensorInfo& tensor : slice.models[reference]->checkpoint->tensors()) {
      const auto layer = layer_of(tensor.name);
      if (!layer || layer->index != slice.first[reference] + index) continue;
      add(
          slice, with_layer(tensor.name, out),
          [&](std::size_t i) { return with_layer(tensor.name, slice.first[i] + index); }, t);
    }
    require_same_tensors(slice, index);
    plan_.layer_models.push_back(slice.models[reference]);
    plan_.layers.push_back(slice.first[reference] + index);
  }

  /// Layer `index` of no model of the slice has a tensor that the reference lacks.
  static void require_same_tensors(const Slice& slice, std::int64_t index) {
    const std::size_t reference = slice.reference();
    for (std::size_t i = 0; i < slice.models.size(); ++i) {
      if (i == reference) continue;
      for (const TensorInfo& tensor : slice.models[i]->checkpoint->tensors()) {
        const auto layer = layer_of(tensor.name);
        if (!layer || layer->index != slice.first[i] + index) continue;
        const std::string name = with_layer(tensor.name, slice.first[reference] + index);
        if (slice.models[reference]->checkpoint->find(name) != nullptr) continue;
        throw InputError(
            "'{}' has tensor '{}', '{}' has none ('{}'): these models do not have the "
            "same architecture",
            slice.models[i]->reference.text(), tensor.name,
            slice.models[reference]->reference.text(), name);
      }
    }
  }

  /// Tensors of no layer that come before, or after, the layers.
  void add_outside(const Slice& slice, bool before) {
    std::set<std::string> names;
    for (std::size_t i = 0; i < slice.models.size(); ++i) {
      for (const TensorInfo& tensor : slice.models[i]->checkpoint->tensors()) {
        const bool wanted = i == slice.reference() || checkpoint::is_head_name(tensor.name);
        if (!layer_of(tensor.name) && wanted && before_layers(tensor.name) == before) {
          names.insert(tensor.name);
        }
      }
    }
    for (const std::string& name : names) {
      if (checkpoint::is_head_name(name)) plan_.tied = false;
      add(
          slice, name, [&](std::size_t) { return name; }, 0);
    }
  }

  template <typename NameOf>
  void add(const Slice& slice, const std::string& output, const NameOf& name_of, double t) {
    GroupPlan plan;
    plan.group.name = output;
    plan.group.base = slice.base;
    plan.group.seed = seed_;
    plan.models = slice.models;
    const std::array<const Settings*, 2> scopes{&slice.recipe->parameters, &recipe_.parameters};
    for (const ParameterSpec& spec : recipe_.method->parameters()) {
      if (spec.scope != ParameterSpec::Scope::kShared) continue;
      plan.group.shared.emplace(spec.name, resolve_parameter(spec, scopes, output, t));
    }
    const TensorInfo* reference = nullptr;
    for (std::size_t i = 0; i < slice.models.size(); ++i) {
      const std::string name = name_of(i);
      const TensorInfo* info = slice.models[i]->find(name);
      if (info == nullptr) {
        throw InputError(
            "'{}' has no tensor '{}', which '{}' has: these models do not have the "
            "same architecture",
            slice.models[i]->reference.text(), name,
            slice.models[slice.reference()]->reference.text());
      }
      plan.group.inputs.push_back({slice.models[i]->checkpoint.get(), info});
      plan.group.own.push_back(own_parameters(slice, i, name, t));
      if (i == 0) reference = info;
      check_shape(slice, i, *info, *reference);
    }
    if (reference != nullptr && is_copied_buffer(*reference)) {
      plan.copied = reference->storage_name;
      require_same_bytes(plan);
    }
    plan_.tensors.push_back(std::move(plan));
  }

  /// A mask or counter is not mixed: it is the same in all models.
  static void require_same_bytes(const GroupPlan& plan) {
    const TensorInput& first = plan.group.inputs.front();
    for (const TensorInput& input : plan.group.inputs) {
      if (input.info->storage_name == first.info->storage_name &&
          std::ranges::equal(input.model->raw(*input.info), first.model->raw(*first.info))) {
        continue;
      }
      throw InputError(
          "tensor '{}' is stored as {}, which is not mixed, and differs between models",
          input.info->name, input.info->storage_name);
    }
  }

  [[nodiscard]] ParameterValues own_parameters(const Slice& slice, std::size_t i,
                                               const std::string& name, double t) const {
    using Scope = ParameterSpec::Scope;
    const std::array<const Settings*, 3> scopes{&slice.recipe->sources[i].parameters,
                                                &slice.recipe->parameters, &recipe_.parameters};
    ParameterValues values;
    for (const ParameterSpec& spec : recipe_.method->parameters()) {
      if (spec.scope == Scope::kShared) continue;
      if (spec.scope == Scope::kNonBase && slice.base == i) continue;
      values.emplace(spec.name, resolve_parameter(spec, scopes, name, t));
    }
    return values;
  }

  static void check_shape(const Slice& slice, std::size_t i, const TensorInfo& info,
                          const TensorInfo& reference) {
    if (info.storage == checkpoint::Storage::kOther && !is_copied_buffer(info)) {
      throw InputError("'{}': tensor '{}' is stored as {}, which weft cannot read as numbers",
                       info.file.string(), info.name, info.storage_name);
    }
    if (info.shape == reference.shape) return;
    const bool words = before_layers(info.name) || checkpoint::is_head_name(info.name);
    throw InputError("tensor '{}' has shape {} in '{}' and {} in '{}'{}", info.name,
                     checkpoint::shape_text(reference.shape), slice.models[0]->reference.text(),
                     checkpoint::shape_text(info.shape), slice.models[i]->reference.text(),
                     words ? ": their vocabularies differ" : "");
  }

  const Recipe& recipe_;
  const OpenModels& models_;
  std::uint64_t seed_;
  std::vector<Slice> slices_;
  CombinePlan plan_;
};

}  // namespace

std::optional<LayerName> layer_of(std::string_view tensor) {
  for (std::size_t begin = 0; begin < tensor.size();) {
    const std::size_t end = std::min(tensor.find('.', begin), tensor.size());
    const std::string_view part = tensor.substr(begin, end - begin);
    LayerName layer{begin, part.size(), 0};
    const auto [rest, error] = std::from_chars(part.data(), part.data() + part.size(), layer.index);
    if (begin > 0 && !part.empty() && error == std::errc() && rest == part.data() + part.size()) {
      return layer;
    }
    begin = end + 1;
  }
  return std::nullopt;
}

std::int64_t layer_count(const Checkpoint& model) {
  std::int64_t count = 0;
  for (const TensorInfo& tensor : model.tensors()) {
    if (const auto layer = layer_of(tensor.name)) count = std::max(count, layer->index + 1);
  }
  return count;
}

namespace {

/// Methods change the tensors of a checkpoint; an adapter that needs more is folded first.
void require_same_tensors(const Checkpoint& model, const ModelReference& reference,
                          const Changes& changes) {
  const bool others = std::ranges::any_of(changes.tensors, [&](const auto& item) {
    return item.second.source != &model || model.find(item.first) == nullptr;
  });
  if (!others && !changes.untied) return;
  throw InputError(
      "the adapter '{}' changes the vocabulary, or gives the tied head numbers of its own; fold it "
      "first (weft merge --model --adapter) and combine the result",
      reference.adapter.string());
}

}  // namespace

const TensorInfo* OpenModel::find(const std::string& name) const {
  const TensorInfo* info = checkpoint->find(name);
  if (info != nullptr || !checkpoint::is_head_name(name)) return info;
  return roles.effective_head();
}

TensorInput OpenModel::input(const TensorInfo& info, std::vector<UsedKey>& used) const {
  const auto found = changes.find(info.name);
  if (found == changes.end()) return {checkpoint.get(), &info, nullptr};
  return {checkpoint.get(), &info, make_deltas(*checkpoint, adapter, found->second, &used)};
}

OpenModels::OpenModels(const Recipe& recipe, const core::Log& log) {
  for (const RecipeSlice& slice : recipe.slices) {
    for (const RecipeSource& source : slice.sources) open(source.model, log);
  }
}

void OpenModels::open(const ModelReference& reference, const core::Log& log) {
  for (const OpenModel& model : models_) {
    if (model.reference == reference) return;
  }
  OpenModel opened;
  opened.reference = reference;
  for (const OpenModel& model : models_) {
    if (model.reference.model == reference.model) opened.checkpoint = model.checkpoint;
  }
  if (!opened.checkpoint) {
    opened.checkpoint = std::make_shared<const Checkpoint>(Checkpoint::open(reference.model));
  }
  opened.roles = checkpoint::roles_of(*opened.checkpoint);
  models_.push_back(std::move(opened));
  OpenModel& model = models_.back();  // A deque's elements stay where they are.
  if (reference.adapter.empty()) return;
  model.file = lora::PeftFile::open(reference.adapter, log);
  model.adapter.push_back({&*model.file, 1});
  Changes changes = match_changes(*model.checkpoint, model.adapter);
  require_same_tensors(*model.checkpoint, reference, changes);
  model.changes = std::move(changes.tensors);
  model.without_effect = std::move(changes.without_effect);
}

const OpenModel& OpenModels::at(const ModelReference& reference) const {
  return *std::ranges::find(models_, reference, &OpenModel::reference);
}

CombinePlan plan_combine(const Recipe& recipe, const OpenModels& models, std::uint64_t seed) {
  return Planner(recipe, models, seed).run();
}

}  // namespace weft::merge
