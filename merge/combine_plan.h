#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/roles.h"
#include "merge/combine.h"
#include "merge/fold.h"

namespace weft::merge {

/// A model of a recipe, opened. Checkpoints that several models share are opened once.
struct OpenModel {
  ModelReference reference;
  std::shared_ptr<const checkpoint::Checkpoint> checkpoint;
  std::optional<lora::PeftFile> file;  ///< The adapter, where there is one.
  std::vector<WeightedAdapter> adapter;
  std::map<std::string, Change> changes;
  std::vector<UsedKey> without_effect;
  checkpoint::Roles roles;

  /// The tensor with the adapter's update; null when the checkpoint lacks it. A tied head is the
  /// embedding, and a head is found under the name that another model gives its own.
  [[nodiscard]] const checkpoint::TensorInfo* find(const std::string& name) const;
  /// What is read of an adapter is appended to `used`.
  [[nodiscard]] TensorInput input(const checkpoint::TensorInfo& info,
                                  std::vector<UsedKey>& used) const;
};

/// The models of a recipe, in order of first mention. Errors of Checkpoint::open, PeftFile::open.
class OpenModels {
 public:
  OpenModels(const Recipe& recipe, const core::Log& log);
  [[nodiscard]] const OpenModel& at(const ModelReference& reference) const;
  [[nodiscard]] const std::deque<OpenModel>& all() const noexcept { return models_; }

 private:
  void open(const ModelReference& reference, const core::Log& log);
  std::deque<OpenModel> models_;
};

/// What becomes of one tensor. The adapters' updates are loaded when its turn comes (`adapted`).
struct GroupPlan {
  TensorGroup group;
  std::vector<const OpenModel*> models;  ///< Of group.inputs.
  std::string copied{};                  ///< As of OutputTensor: all inputs hold the same bytes.
};

struct CombinePlan {
  std::vector<GroupPlan> tensors;
  std::vector<const OpenModel*> layer_models;  ///< The reference of each output layer, and
  std::vector<std::int64_t> layers;            ///< which of its layers it is.
  bool tied = false;                           ///< The output has no head of its own.
};

/// Number of layers that the model's tensors name.
[[nodiscard]] std::int64_t layer_count(const checkpoint::Checkpoint& model);

/// "model.layers.7.mlp" -> 7 with its place in the name; nothing for tensors of no layer.
struct LayerName {
  std::size_t begin = 0;  ///< Of the digits.
  std::size_t length = 0;
  std::int64_t index = 0;
};
[[nodiscard]] std::optional<LayerName> layer_of(std::string_view tensor);

[[nodiscard]] CombinePlan plan_combine(const Recipe& recipe, const OpenModels& models,
                                       std::uint64_t seed);

}  // namespace weft::merge
