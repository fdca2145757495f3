#include "merge/combine.h"

#include <algorithm>
#include <chrono>
#include <set>

#include "checkpoint/digest_store.h"
#include "checkpoint/json_file.h"
#include "checkpoint/roles.h"
#include "core/error.h"
#include "core/output_claim.h"
#include "merge/beside.h"
#include "merge/certificate.h"
#include "merge/combine_plan.h"
#include "merge/model_folder.h"
#include "merge/resume.h"
#include "text/template_file.h"

namespace weft::merge {
namespace {

namespace fs = std::filesystem;
using checkpoint::Checkpoint;

/// The narrowest type that holds the numbers of both.
core::DType common(core::DType a, core::DType b) { return a == b ? a : core::DType::kF32; }

core::DType common_dtype(const TensorGroup& group) {
  core::DType dtype = own_dtype(group.inputs.front().info->storage);
  for (const TensorInput& input : group.inputs)
    dtype = common(dtype, own_dtype(input.info->storage));
  return dtype;
}

/// A group with the adapters' updates loaded, and what the method makes of it.
std::unique_ptr<const RowDeltas> evaluate(const Method& method, const GroupPlan& plan,
                                          std::vector<UsedKey>& used) {
  TensorGroup group = plan.group;
  for (std::size_t i = 0; i < group.inputs.size(); ++i) {
    group.inputs[i] = plan.models[i]->input(*group.inputs[i].info, used);
  }
  return method.deltas(std::move(group));
}

std::vector<OutputTensor> outputs_of(const CombinePlan& plan, const Method& method,
                                     std::optional<core::DType> dtype, Rounding rounding,
                                     std::uint64_t seed) {
  std::vector<OutputTensor> outputs;
  for (const GroupPlan& tensor : plan.tensors) {
    const TensorInput& reference = tensor.group.reference();
    OutputTensor output{
        tensor.group.name,
        reference.model,
        reference.info,
        dtype.value_or(common_dtype(tensor.group)),
        [&method, &tensor](std::vector<UsedKey>& used) { return evaluate(method, tensor, used); },
        {},
        rounding,
        seed,
        tensor.copied};
    if (!tensor.copied.empty()) output.change = nullptr;
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
      "'{}' has no tokenizer.json, so its tokens cannot be compared with those of the other models "
      "(tokenizer_source)",
      model.path().string());
}

void require_same_tokens(const Checkpoint& donor, const OpenModels& models) {
  const nlohmann::json words = vocabulary(donor);
  for (const OpenModel& model : models.all()) {
    if (model.checkpoint.get() == &donor || vocabulary(*model.checkpoint) == words) continue;
    throw InputError(
        "'{}' does not have the tokens of '{}'; weft does not permute embeddings, so that "
        "tokenizer_source works only where the tokenizers are identical",
        model.reference.text(), donor.path().string());
  }
}

/// What a tokenizer is made of, and not the model.
bool is_tokenizer_file(const fs::path& path) {
  const std::string name = path.filename();
  return name.starts_with("tokenizer") || name.starts_with("vocab") || name == "merges.txt" ||
         name == "special_tokens_map.json" || name == "added_tokens.json" ||
         name.starts_with("chat_template") || name.ends_with(".model") || name == "tekken.json";
}

/// The files of the tokenizer that a recipe names take the place of the donor's.
void write_tokenizer_of(const Checkpoint& source, const fs::path& folder) {
  for (const fs::path& file : source.side_files()) {
    if (!is_tokenizer_file(file) || file.parent_path() != source.path()) continue;
    core::write_text(folder / file.filename(), core::read_text(file));
  }
}

/// The template that most of the models have, the first of as many; empty where none has any.
std::string most_common_template(const OpenModels& models) {
  std::vector<std::pair<std::string, std::size_t>> counts;
  for (const OpenModel& model : models.all()) {
    const std::string text = text::find_template(model.checkpoint->path()).value_or("");
    if (text.empty()) continue;
    const auto known = std::ranges::find(counts, text, [](const auto& item) { return item.first; });
    if (known == counts.end()) {
      counts.emplace_back(text, 1);
    } else {
      known->second += 1;
    }
  }
  const auto most =
      std::ranges::max_element(counts, {}, [](const auto& item) { return item.second; });
  return most == counts.end() ? "" : most->first;
}

/// Writes the recipe's template where every reader looks first.
void write_chat_template(const Recipe& recipe, const OpenModels& models, const fs::path& folder,
                         const core::Log& log) {
  if (!recipe.chat_template) return;
  const std::string text =
      *recipe.chat_template == "auto" ? most_common_template(models) : *recipe.chat_template;
  if (text.empty()) {
    core::tell(log, core::Level::kWarning,
               "chat_template: auto finds no template in any of the models; none is written");
    return;
  }
  core::write_text(folder / "chat_template.jinja", text);
}

/// Checks what the recipe says of the tokenizer; the model whose files are written in the end, or
/// null for the donor.
const Checkpoint* tokenizer_source(const Recipe& recipe, const OpenModel& donor,
                                   const OpenModels& models) {
  const checkpoint::TensorInfo* const embedding = donor.roles.embedding;
  if (recipe.pad_to_multiple_of > 1 &&
      (embedding == nullptr || embedding->rows() % recipe.pad_to_multiple_of != 0)) {
    throw InputError(
        "tokenizer.pad_to_multiple_of: {}: the embedding has {} rows, which is no multiple, and "
        "weft adds none",
        recipe.pad_to_multiple_of, embedding == nullptr ? 0 : embedding->rows());
  }
  if (!recipe.same_tokens) return nullptr;
  require_same_tokens(*donor.checkpoint, models);
  if (!recipe.tokenizer_from) return nullptr;
  const auto found = std::ranges::find_if(models.all(), [&](const OpenModel& model) {
    return model.reference.model == recipe.tokenizer_from->model;
  });
  if (found == models.all().end()) {
    throw ConfigError("tokenizer source '{}' is none of the recipe's models",
                      recipe.tokenizer_from->text());
  }
  return found->checkpoint.get();
}

/// The model that configuration and tokenizer come from: the base, or the first.
const OpenModel& donor_of(const Recipe& recipe, const OpenModels& models) {
  if (recipe.base) {
    const auto found = std::ranges::find(models.all(), *recipe.base, &OpenModel::reference);
    if (found != models.all().end()) return *found;
  }
  return models.all().front();
}

/// The part of a configuration that describes the layers: models of several parts have one for the
/// text.
template <typename Json>
Json& layers_config(Json& config) {
  const auto text = config.find("text_config");
  return text != config.end() && text->is_object() ? *text : config;
}

/// Layers may have been left out or repeated: their number, and lists with an entry for each.
void set_layers(nlohmann::json& whole, const CombinePlan& plan, const Checkpoint& donor) {
  const auto before = static_cast<std::size_t>(layer_count(donor));
  nlohmann::json& config = layers_config(whole);
  for (const char* key : {"num_hidden_layers", "n_layer", "num_layers"}) {
    if (config.contains(key)) config[key] = plan.layers.size();
  }
  const auto types = config.find("layer_types");
  if (types == config.end() || !types->is_array() || types->size() != before) return;
  nlohmann::json list = nlohmann::json::array();
  for (std::size_t i = 0; i < plan.layers.size(); ++i) {
    const nlohmann::json& own = layers_config(plan.layer_models[i]->checkpoint->config());
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
  // Said also where the key is missing: a family may tie by default.
  if (!plan.tied && checkpoint::ties_head(config, donor.path().string())) {
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
  struct Known {
    std::string digest;
    bool kept = false;
  };
  std::map<const Checkpoint*, Known> digests;
  for (const OpenModel& model : models.all()) {
    Known& known = digests[model.checkpoint.get()];
    if (known.digest.empty()) {
      known.digest = checkpoint::known_weights_digest(*model.checkpoint, &known.kept);
    }
    report.models.push_back({model.reference.text(), known.digest, storage_text(*model.checkpoint),
                             request.recipe.base == model.reference, known.kept});
    if (model.file) {
      report.adapters.push_back(check_adapter(model.adapter.front(), *model.checkpoint,
                                              known.digest, request.allow_other_base, log));
    }
  }
  report.base_digest = digests.at(donor.checkpoint.get()).digest;
  report.base_digest_kept = digests.at(donor.checkpoint.get()).kept;
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
  std::vector<fs::path> paths{request.recipe_file};
  for (const RecipeSlice& slice : recipe.slices) {
    for (const RecipeSource& source : slice.sources) {
      paths.push_back(source.model.model);
      if (!source.model.adapter.empty()) paths.push_back(source.model.adapter);
    }
  }
  core::claim_output({request.out, core::OutputKind::kFolder}, paths, request.overwrite);
  const OpenModels models(recipe, log);
  for (const OpenModel& model : models.all()) refuse_quantised_config(*model.checkpoint);
  const OpenModel& donor = donor_of(recipe, models);
  for (const std::string& idle : recipe.idle) core::tell(log, core::Level::kWarning, idle);
  const Checkpoint* const tokens = tokenizer_source(recipe, donor, models);
  const CombinePlan plan = plan_combine(recipe, models, request.seed);
  const auto dtype = request.dtype ? request.dtype : recipe.dtype;
  const Rounding rounding = rounding_of(request);
  const std::vector<OutputTensor> outputs =
      outputs_of(plan, *recipe.method, dtype, rounding, request.seed);
  std::vector<checkpoint::TensorPlan> tensors;
  std::map<core::DType, std::int64_t> numbers;
  MergeReport totals;
  for (const OutputTensor& output : outputs) {
    tensors.push_back(
        {output.name,
         output.copied.empty() ? std::string(core::name_of(output.dtype)) : output.copied,
         output.info->shape});
    totals.bytes += tensors.back().bytes();
    if (output.copied.empty()) numbers[output.dtype] += output.info->elements();
  }
  const auto shards = checkpoint::plan_shards(std::move(tensors), request.max_shard_bytes);
  const auto embedded = embedded_files(*donor.checkpoint);
  core::AtomicDirectory folder(request.out, request.overwrite);
  Resume resume(
      request.out, folder.path(), shards, [&] { return key_of(request, models); }, log);
  require_space(folder.path(), resume.missing());

  MergeReport report;
  Written written;
  const auto stream = [&] {
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
  };
  resume.guard(folder, stream);
  resume.finish();
  report.dtype =
      std::ranges::max_element(numbers, {}, [](const auto& item) { return item.second; })->first;
  report.folded = std::move(written.folded);
  report.outputs = std::move(written.files);
  if (control.engine != nullptr) report.device = control.engine->description();
  report.tensors = outputs.size();
  report.files = shards.size();
  report.bytes = totals.bytes;
  core::write_text(folder.path() / "config.json",
                   config_text(output_config(plan, *donor.checkpoint, log), report.dtype, false));
  write_side_files(*donor.checkpoint, embedded, folder.path());
  if (tokens != nullptr) write_tokenizer_of(*tokens, folder.path());
  write_chat_template(recipe, models, folder.path(), log);
  std::vector<std::string> names;
  std::set<std::pair<std::string, std::string>> read;  // Of each adapter, with its model.
  std::vector<UsedKey> without_effect;
  for (const GroupPlan& tensor : plan.tensors) {
    names.push_back(tensor.group.name);
    for (std::size_t i = 0; i < tensor.models.size(); ++i) {
      read.emplace(tensor.models[i]->reference.adapter.string(), tensor.group.inputs[i].info->name);
    }
  }
  for (const OpenModel& model : models.all()) {
    without_effect.insert(without_effect.end(), model.without_effect.begin(),
                          model.without_effect.end());
  }
  check_written(folder.path(), names, false, written.samples);
  account_for_keys(report, without_effect,
                   [&](const std::string& adapter, const std::string& tensor) {
                     return !read.contains({adapter, tensor});
                   });
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  write_certificate(report, folder.path());
  folder.commit();
  tell_about_loss(report, log);
  return report;
}

}  // namespace weft::merge
