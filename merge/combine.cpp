#include "merge/combine.h"

#include <algorithm>
#include <chrono>

#include "core/error.h"
#include "merge/beside.h"
#include "merge/certificate.h"
#include "merge/combine_plan.h"
#include "merge/model_folder.h"
#include "merge/resume.h"

namespace weft::merge {
namespace {

namespace fs = std::filesystem;
using checkpoint::Checkpoint;
using checkpoint::Storage;

/// The narrowest type that holds the numbers of both.
core::DType common(core::DType a, core::DType b) { return a == b ? a : core::DType::kF32; }

core::DType own_dtype(Storage storage) {
  return storage == Storage::kF16    ? core::DType::kF16
         : storage == Storage::kBF16 ? core::DType::kBF16
                                     : core::DType::kF32;
}

core::DType common_dtype(const TensorGroup& group) {
  core::DType dtype = own_dtype(group.inputs.front().info->storage);
  for (const TensorInput& input : group.inputs)
    dtype = common(dtype, own_dtype(input.info->storage));
  return dtype;
}

/// A group with the adapters' updates loaded, and what the method makes of it.
std::unique_ptr<const RowDeltas> evaluate(const Method& method, const GroupPlan& plan) {
  TensorGroup group = plan.group;
  for (std::size_t i = 0; i < group.inputs.size(); ++i) {
    group.inputs[i] = plan.models[i]->input(*group.inputs[i].info);
  }
  return method.deltas(std::move(group));
}

std::vector<OutputTensor> outputs_of(const CombinePlan& plan, const Method& method,
                                     std::optional<core::DType> dtype, Rounding rounding,
                                     std::uint64_t seed) {
  std::vector<OutputTensor> outputs;
  for (const GroupPlan& tensor : plan.tensors) {
    const TensorInput& reference = tensor.group.reference();
    OutputTensor output{tensor.group.name,
                        reference.model,
                        reference.info,
                        dtype.value_or(common_dtype(tensor.group)),
                        [&method, &tensor] { return evaluate(method, tensor); },
                        {},
                        rounding,
                        seed};
    for (const TensorInput& input : tensor.group.inputs) {
      output.reads.emplace_back(input.model, input.info);
    }
    outputs.push_back(std::move(output));
  }
  return outputs;
}

/// The words of a tokenizer.json and their ids.
nlohmann::json vocabulary(const Checkpoint& model) {
  for (const fs::path& file : model.side_files()) {
    if (file.filename() != "tokenizer.json") continue;
    const auto json = nlohmann::json::parse(core::read_text(file), nullptr, false);
    if (json.is_discarded()) throw InputError("'{}' is no JSON", file.string());
    nlohmann::json words = {{"vocab", json.value("/model/vocab"_json_pointer, nlohmann::json())},
                            {"added", nlohmann::json::array()}};
    for (const auto& token : json.value("added_tokens", nlohmann::json::array())) {
      words["added"].push_back({token.value("content", ""), token.value("id", -1)});
    }
    return words;
  }
  throw InputError(
      "'{}' has no tokenizer.json, so its tokens cannot be compared with the base's "
      "(tokenizer: base)",
      model.path().string());
}

void require_same_tokens(const Checkpoint& donor, const OpenModels& models) {
  const nlohmann::json words = vocabulary(donor);
  for (const OpenModel& model : models.all()) {
    if (model.checkpoint.get() == &donor || vocabulary(*model.checkpoint) == words) continue;
    throw InputError(
        "'{}' does not have the tokens of the base '{}'; weft does not permute "
        "embeddings",
        model.reference.text(), donor.path().string());
  }
}

/// The model that configuration and tokenizer come from: the base, or the first.
const OpenModel& donor_of(const Recipe& recipe, const OpenModels& models) {
  if (recipe.base) {
    const auto found = std::ranges::find(models.all(), *recipe.base, &OpenModel::reference);
    if (found != models.all().end()) return *found;
  }
  return models.all().front();
}

/// Layers may have been left out or repeated: their number, and lists with an entry for each.
void set_layers(nlohmann::json& config, const CombinePlan& plan, const Checkpoint& donor) {
  const auto before = static_cast<std::size_t>(layer_count(donor));
  for (const char* key : {"num_hidden_layers", "n_layer", "num_layers"}) {
    if (config.contains(key)) config[key] = plan.layers.size();
  }
  const auto types = config.find("layer_types");
  if (types == config.end() || !types->is_array() || types->size() != before) return;
  nlohmann::json list = nlohmann::json::array();
  for (std::size_t i = 0; i < plan.layers.size(); ++i) {
    const nlohmann::json& own = plan.layer_models[i]->checkpoint->config();
    const auto index = static_cast<std::size_t>(plan.layers[i]);
    const bool known = own.contains("layer_types") && index < own.at("layer_types").size();
    list.push_back(known ? own.at("layer_types").at(index)
                         : types->at(std::min(index, before - 1)));
  }
  *types = std::move(list);
}

nlohmann::json output_config(const CombinePlan& plan, const Checkpoint& donor,
                             const core::Log& log) {
  nlohmann::json config = donor.config();
  set_layers(config, plan, donor);
  if (!plan.tied && config.value("tie_word_embeddings", false)) {
    config["tie_word_embeddings"] = false;
    core::tell(log, core::Level::kInfo,
               "some of the models have an output head of their own: the merged one does too "
               "(tie_word_embeddings: false)");
  }
  return config;
}

Rounding rounding_of(const CombineRequest& request) {
  return request.rounding.value_or(request.recipe.rounding);
}

MergeReport describe(const CombineRequest& request, const OpenModels& models,
                     const OpenModel& donor, const core::Log& log) {
  MergeReport report;
  report.model = donor.reference.model;
  report.method = request.recipe.method->name();
  report.recipe = request.recipe.text;
  report.rounding = rounding_of(request);
  if (request.recipe.method->draws() || report.rounding == Rounding::kStochastic) {
    report.seed = request.seed;
  }
  std::map<const Checkpoint*, std::string> digests;
  for (const OpenModel& model : models.all()) {
    std::string& digest = digests[model.checkpoint.get()];
    if (digest.empty()) digest = model.checkpoint->weights_digest();
    report.models.push_back({model.reference.text(), digest, storage_text(*model.checkpoint),
                             request.recipe.base == model.reference});
    if (model.file) {
      report.adapters.push_back(check_adapter(model.adapter.front(), *model.checkpoint, digest,
                                              request.allow_other_base, log));
    }
  }
  report.base_digest = digests.at(donor.checkpoint.get());
  report.base_storage = storage_text(*donor.checkpoint);
  return report;
}

/// All that the bytes of the output depend on.
ResumeKey key_of(const CombineRequest& request, const OpenModels& models) {
  ResumeKey key{fmt::format("seed {}, rounding {}\n{}\n", request.seed,
                            name_of(rounding_of(request)), request.recipe.text)};
  for (const OpenModel& model : models.all()) {
    key.add(*model.checkpoint);
    if (model.file) key.parameters += model.file->digest() + "\n";
  }
  return key;
}

std::string digest_of(const std::vector<MergeReport::Model>& models) {
  std::string digests;
  for (const MergeReport::Model& model : models) digests += model.digest;
  return digests;
}

}  // namespace

MergeReport combine_models(const CombineRequest& request, const FoldControl& control,
                           const core::Log& log) {
  const auto start = std::chrono::steady_clock::now();
  const Recipe& recipe = request.recipe;
  std::vector<fs::path> paths;
  for (const RecipeSlice& slice : recipe.slices) {
    for (const RecipeSource& source : slice.sources) {
      paths.push_back(source.model.model);
      if (!source.model.adapter.empty()) paths.push_back(source.model.adapter);
    }
  }
  refuse_to_replace_input(request.out, paths);
  core::require_writable(request.out, core::OutputKind::kFolder, request.overwrite);
  const OpenModels models(recipe, log);
  for (const OpenModel& model : models.all()) refuse_quantised_config(*model.checkpoint);
  const OpenModel& donor = donor_of(recipe, models);
  if (recipe.base_tokenizer) require_same_tokens(*donor.checkpoint, models);
  const CombinePlan plan = plan_combine(recipe, models, request.seed);
  const auto dtype = request.dtype ? request.dtype : recipe.dtype;
  const Rounding rounding = rounding_of(request);
  const std::vector<OutputTensor> outputs =
      outputs_of(plan, *recipe.method, dtype, rounding, request.seed);
  std::vector<checkpoint::TensorPlan> tensors;
  std::map<core::DType, std::int64_t> numbers;
  MergeReport totals;
  for (const OutputTensor& output : outputs) {
    tensors.push_back({output.name, std::string(core::name_of(output.dtype)), output.info->shape});
    totals.bytes += tensors.back().bytes();
    numbers[output.dtype] += output.info->elements();
  }
  const auto shards = checkpoint::plan_shards(std::move(tensors), request.max_shard_bytes);
  const auto embedded = embedded_files(*donor.checkpoint);
  core::AtomicDirectory folder(request.out, request.overwrite);
  Resume resume(
      request.out, folder.path(), shards, [&] { return key_of(request, models); }, log);
  require_space(folder.path(), resume.missing());

  MergeReport report;
  Written written;
  run_beside(
      control,
      [&] {
        report = describe(request, models, donor, log);
        resume.set_digest(digest_of(report.models));
      },
      [&](const FoldControl& watched) {
        written = resume.write(
            [&](std::span<const checkpoint::Shard> part, const FoldControl& of_part) {
              return write_tensors(outputs, part, folder.path(), of_part);
            },
            watched);
      });
  resume.finish();
  report.dtype =
      std::ranges::max_element(numbers, {}, [](const auto& item) { return item.second; })->first;
  report.folded = std::move(written.folded);
  report.outputs = std::move(written.files);
  report.tensors = outputs.size();
  report.files = shards.size();
  report.bytes = totals.bytes;
  core::write_text(folder.path() / "config.json",
                   config_text(output_config(plan, *donor.checkpoint, log), report.dtype, false));
  write_side_files(*donor.checkpoint, embedded, folder.path());
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  write_certificate(report, folder.path());
  folder.commit();
  tell_about_loss(report, log);
  return report;
}

}  // namespace weft::merge
