#include "train/job.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <map>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/parallel.h"
#include "core/version.h"

namespace weft::train {
namespace {

/// The storage type of most of the base's numbers.
std::string main_storage(const checkpoint::Checkpoint& base) {
  std::map<std::string, std::int64_t> elements;
  for (const checkpoint::TensorInfo& tensor : base.tensors()) {
    elements[tensor.storage_name] += tensor.elements();
  }
  const auto most = std::ranges::max_element(elements, {}, [](const auto& e) { return e.second; });
  return most == elements.end() ? "" : most->first;
}

/// What the adapter carries about its making.
lora::Provenance provenance_of(const Prepared& prepared, const std::string& weights_digest) {
  lora::Provenance provenance;
  provenance.base_weights = weights_digest;
  provenance.base_storage = main_storage(prepared.base);
  provenance.compute_dtype = prepared.compute == model::Compute::kBF16 ? "BF16" : "F32";
  provenance.base_quantization = model::name_of(prepared.config.base_quantization);
  provenance.tokenizer = prepared.tokenizer.digest();
  if (prepared.chat_template) provenance.chat_template = prepared.chat_template->digest();
  nlohmann::json data = nlohmann::json::object();
  for (const auto& [place, files] : prepared.data.files.items()) {
    for (const auto& file : files) data[place].push_back(file.at("sha256").get<std::string>());
  }
  provenance.more = {
      {"program", fmt::format("weft {}", core::kVersion)},
      {"data", data},
      {"config", core::sha256(core::dump_config(prepared.config, core::Dump::kFull))}};
  return provenance;
}

Fingerprint fingerprint_of(const Prepared& prepared, const lora::Provenance& provenance) {
  Fingerprint all = flatten(prepared.config);
  all["dtype"] = provenance.compute_dtype;  // what `auto` meant
  all["threads"] = std::to_string(core::thread_count());
  all["base weights"] = provenance.base_weights;
  all["tokenizer"] = provenance.tokenizer;
  all["chat template"] = provenance.chat_template;
  for (const auto& [place, files] : prepared.data.files.items()) {
    for (std::size_t i = 0; i < files.size(); ++i) {
      all[fmt::format("the contents of {} file {}", place, i)] = files[i].at("sha256");
    }
  }
  return all;
}

nlohmann::ordered_json provenance_json(const Prepared& prepared,
                                       const lora::Provenance& provenance) {
  return {{"program", fmt::format("weft {}", core::kVersion)},
          {"started", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)))},
          {"threads", core::thread_count()},
          {"base",
           {{"path", prepared.config.base_model.string()},
            {"weights", provenance.base_weights},
            {"storage", provenance.base_storage},
            {"compute", provenance.compute_dtype},
            {"quantization", provenance.base_quantization}}},
          {"tokenizer", provenance.tokenizer},
          {"chat_template", provenance.chat_template},
          {"data", prepared.data.files},
          {"config", provenance.more.at("config")}};
}

nlohmann::ordered_json preflight_json(const Prepared& prepared) {
  nlohmann::ordered_json json;
  json["training"] = data::to_json(prepared.data.preflight);
  if (prepared.data.validation_preflight) {
    json["validation"] = data::to_json(*prepared.data.validation_preflight);
  }
  json["updates"] = prepared.total_updates;
  for (const MemoryPart& part : prepared.plan.parts) json["memory"][part.what] = part.bytes;
  json["first_epoch"] = {{"example_tokens", prepared.first_epoch.example_tokens},
                         {"computed_tokens", prepared.first_epoch.computed_tokens}};
  json["row_tokens"] = prepared.plan.row_tokens;
  json["recomputed_layers"] = prepared.plan.recomputed_layers;
  return json;
}

/// The last checkpoint, if the run is to continue and has one; refused when it is of another run.
std::optional<TrainState> find_state(const RunFolder& folder, const Fingerprint& now,
                                     const core::Log& log) {
  if (!folder.continues()) return std::nullopt;
  std::optional<TrainState> state = Checkpoints(folder.checkpoints()).load_last();
  if (!state) {
    core::tell(log, core::Level::kInfo,
               "no checkpoint was written yet: starting from the beginning");
    return state;
  }
  const std::string changed = difference(state->fingerprint, now, resumable_keys());
  if (!changed.empty()) {
    throw InputError(
        "{} cannot be resumed, because it would be another run: {}; undo the change, or "
        "start anew with --force or another output_dir",
        folder.path().string(), changed);
  }
  const std::string noted = difference(
      state->fingerprint, now,
      {"output_dir", "save", "log_every", "memory_limit", "gradient_checkpointing", "preflight"});
  const bool affects_numbers = !difference(state->fingerprint, now, {}).empty() && !noted.empty();
  if (affects_numbers) {
    core::tell(
        log, core::Level::kWarning,
        fmt::format("from here on the run differs from one that was never interrupted: {}", noted));
  }
  core::tell(log, core::Level::kInfo, fmt::format("resuming after update {}", state->update));
  return state;
}

std::vector<data::Row> validation_rows(const Prepared& prepared) {
  std::vector<data::Row> rows;
  if (prepared.data.validation.examples.empty()) return rows;
  data::RowStreamOptions options = prepared.updates().rows;
  options.shuffle = false;
  options.epochs = 1;
  data::RowStream stream(prepared.data.validation.examples, options);
  while (auto row = stream.next()) rows.push_back(std::move(*row));
  return rows;
}

}  // namespace

Outcome train(const Prepared& prepared, RunFolder& folder, Observer& observer,
              const std::atomic<bool>& interrupted, const core::Log& log) {
  const core::Log tell_both = [&](core::Level level, std::string_view line) {
    folder.note(level == core::Level::kWarning ? fmt::format("warning: {}", line)
                                               : std::string(line));
    core::tell(log, level, line);
  };
  const lora::Provenance provenance = provenance_of(prepared, prepared.base.weights_digest());
  const Fingerprint fingerprint = fingerprint_of(prepared, provenance);
  const std::optional<TrainState> state = find_state(folder, fingerprint, log);

  auto decoder =
      model::Decoder::load(prepared.base, prepared.compute, prepared.config.base_quantization);
  decoder.attach(prepared.initial, model::Decoder::Use::kTraining);
  const std::vector<data::Row> validation = validation_rows(prepared);
  UpdateStream updates = prepared.stream.value();

  folder.begin();
  Checkpoints(folder.checkpoints()).remove_leftovers();
  core::write_text(folder.config(), core::dump_config(prepared.config, core::Dump::kFull));
  core::write_text(folder.preflight(), preflight_json(prepared).dump(2) + "\n");
  core::write_text(folder.provenance(), provenance_json(prepared, provenance).dump(2) + "\n");
  folder.note(fmt::format("weft {}: {} updates from {}", core::kVersion, updates.total(),
                          state ? state->update : 0));
  Trainer trainer(
      {.config = prepared.config,
       .decoder = decoder,
       .updates = updates,
       .validation = validation,
       .recomputed_layers = prepared.plan.recomputed_layers,
       .folder = folder,
       .adapter = {.config = prepared.initial.config, .factors = {}, .provenance = provenance},
       .fingerprint = fingerprint,
       .observer = observer,
       .interrupted = interrupted},
      state);
  try {
    Outcome outcome = trainer.run();
    folder.note(fmt::format("ended after update {}", outcome.updates));
    return outcome;
  } catch (const std::exception& problem) {
    tell_both(core::Level::kWarning,
              "the run ended early; checkpoints and adapter are as they were");
    folder.note(problem.what());
    throw;
  }
}

}  // namespace weft::train
