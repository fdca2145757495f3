#include "train/job.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <ctime>
#include <deque>
#include <map>
#include <utility>

#include "checkpoint/digest_store.h"
#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/parallel.h"
#include "core/ranks.h"
#include "core/version.h"
#include "model/runtime.h"

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
  provenance.base_storage = main_storage(prepared.base->checkpoint);
  provenance.compute_dtype = prepared.compute == model::Compute::kBF16 ? "BF16" : "F32";
  provenance.base_quantization = model::name_of(prepared.config.base_quantization);
  provenance.tokenizer = prepared.base->tokenizer.digest();
  if (prepared.chat_template) provenance.chat_template = prepared.chat_template->digest();
  nlohmann::json data = nlohmann::json::object();
  for (const auto& [place, files] : prepared.data.files.items()) {
    for (const auto& file : files) data[place].push_back(file.at("sha256").get<std::string>());
  }
  provenance.more = {
      {"program", fmt::format("weft {}", core::kVersion)},
      {"data", data},
      {"kernels", model::kernel_names(prepared.device)},
      {"config", core::sha256(schema::dump_config(prepared.config, schema::Dump::kFull))}};
  return provenance;
}

/// How the gradients of an update's rows are added (train/gradient_sum.h).
constexpr const char* kSumOfRows = "sum of rows";

Fingerprint fingerprint_of(const Prepared& prepared, const lora::Provenance& provenance) {
  Fingerprint all = flatten(prepared.config);
  all["program"] = core::kVersion;
  all["kernels"] = model::kernel_names(prepared.device);
  if (prepared.chat_template && prepared.chat_template->prints_date()) {
    all[kTemplateDate] = prepared.chat_template->date();
  }
  all["dtype"] = provenance.compute_dtype;  // what `auto` meant
  all["threads"] = std::to_string(core::thread_count());
  all[kSumOfRows] = "binary tree";
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
          {"kernels", model::kernel_names(prepared.device)},
          {"base",
           {{"path", prepared.config.base_model.string()},
            {"weights", provenance.base_weights},
            {"storage", provenance.base_storage},
            {"compute", provenance.compute_dtype},
            {"quantization", provenance.base_quantization}}},
          {"tokenizer", provenance.tokenizer},
          {"chat_template", provenance.chat_template},
          {"date", prepared.config.date},
          {"data", prepared.data.files},
          {"config", provenance.more.at("config")}};
}

nlohmann::ordered_json preflight_json(const Prepared& prepared) {
  nlohmann::ordered_json json;
  json["training"] = data::to_json(prepared.data.preflight);
  if (prepared.data.validation_preflight) {
    json["validation"] = data::to_json(*prepared.data.validation_preflight);
  }
  if (const auto& held = prepared.data.held_out) {
    json["held_out"] = {{"examples", held->examples}, {"tokens", held->tokens}};
  }
  json["updates"] = prepared.total_updates;
  for (const MemoryPart& part : prepared.plan.parts) json["memory"][part.what] = part.bytes;
  json["first_epoch"] = {{"example_tokens", prepared.first_epoch.example_tokens},
                         {"computed_tokens", prepared.first_epoch.computed_tokens}};
  json["row_tokens"] = prepared.plan.row_tokens;
  json["recomputed_layers"] = prepared.plan.recomputed_layers;
  return json;
}

/// Ingredients that a checkpoint of an earlier version does not name.
constexpr const char* kLaterIngredients[] = {"program", "kernels", kTemplateDate,
                                             "adapter.target_parameters"};

/// "[a, b]" in order of its items: PEFT keeps target modules as a set, in any order.
std::string in_order(const std::string& list) {
  if (!list.starts_with('[') || !list.ends_with(']')) return list;
  std::vector<std::string> items;
  for (std::size_t begin = 1; begin < list.size();) {
    const std::size_t end = std::min(list.find(", ", begin), list.size() - 1);
    items.push_back(list.substr(begin, end - begin));
    begin = end + 2;
  }
  std::ranges::sort(items);
  return fmt::format("[{}]", fmt::join(items, ", "));
}

/// How to compute with the kernels of then.
std::string kernels_hint(const std::string& then, const std::string& now) {
  if (then == now) return "";
  return model::has_kernels(then)
             ? fmt::format(
                   "to compute as it did, write WEFT_KERNELS={} before the command; otherwise ",
                   then)
             : fmt::format("this processor has no kernels '{}', with which the run began; ", then);
}

/// Refuses a checkpoint that is of another run.
void require_same_run(const RunFolder& folder, Fingerprint then, Fingerprint now,
                      const text::Tokenizer& tokenizer, std::int64_t update, const core::Log& log) {
  for (const char* key : kLaterIngredients) {
    if (!then.contains(key) && now.contains(key)) then[key] = now.at(key);
  }
  // Version 0.1 wrote 10% as 1e+01%.
  if (const auto warmup = then.find("warmup");
      warmup != then.end() &&
      schema::parse_share(warmup->second) == schema::parse_share(now.at("warmup"))) {
    warmup->second = now.at("warmup");
  }
  if (const auto recorded = then.find("tokenizer");
      recorded != then.end() && tokenizer.matches(recorded->second)) {
    recorded->second = tokenizer.digest();  // format 1 recorded another digest of it
  }
  for (const char* key :
       {"adapter.target_modules", "adapter.exclude_modules", "adapter.target_parameters"}) {
    for (Fingerprint* one : {&then, &now}) {
      if (const auto found = one->find(key); found != one->end())
        found->second = in_order(found->second);
    }
  }
  // What a run of an earlier state names says less than what is named today.
  if (then["kernels"].find(' ') != std::string::npos) {
    core::tell(
        log, core::Level::kWarning,
        fmt::format("the run began with kernels of an earlier version ({}): from here on its "
                    "numbers differ in the last digits",
                    then.at("kernels")));
    then["kernels"] = now.at("kernels");
  }
  if (!then.contains(kSumOfRows)) {
    core::tell(log, core::Level::kWarning,
               "the run began with an earlier version, which added the gradients of an update's "
               "rows in another order: with three rows or more in an update, its numbers differ "
               "in the last digits from here on");
    then[kSumOfRows] = now.at(kSumOfRows);
  }
  const std::string changed = difference(then, now, resumable_keys());
  if (!changed.empty()) {
    throw InputError(
        "{} cannot be resumed, because it would be another run: {}; {}undo the change, or "
        "start anew with --force or another output_dir",
        folder.path().string(), changed, kernels_hint(then.at("kernels"), now.at("kernels")));
  }
  const std::string noted =
      difference(then, now,
                 {"output_dir", "date", "save", "log_every", "memory_limit",
                  "gradient_checkpointing", "preflight", "token_cache", "evaluate"});
  if (!noted.empty()) {
    core::tell(
        log, core::Level::kWarning,
        fmt::format("from here on the run differs from one that was never interrupted: {}", noted));
  }
  core::tell(log, core::Level::kInfo, fmt::format("resuming after update {}", update));
}

/// Refuses ranks that would not compute the same.
void require_alike(core::Communicator& ranks, const Fingerprint& own) {
  if (ranks.size() == 1) return;
  const nlohmann::json all = own;
  const auto first = nlohmann::json::parse(broadcast(ranks, all.dump(), 0)).get<Fingerprint>();
  together(ranks, [&] {
    const std::string differs = difference(first, own, {});
    if (differs.empty()) return;
    throw InputError("all ranks have to run the same, but here it is another than in the first: {}",
                     differs);
  });
}

/// Once through the validation data; nothing where there is none.
std::optional<data::RowStream> validation_rows(const Prepared& prepared) {
  if (prepared.data.validation.empty()) return std::nullopt;
  data::RowStreamOptions options = prepared.updates().rows;
  options.shuffle = false;
  options.epochs = 1;
  return data::RowStream(prepared.data.validation, options);
}

/// What a job was found to be before anything is loaded or written.
struct Entry {
  lora::Provenance provenance;
  Fingerprint fingerprint;
};

Entry enter(const Job& job, const std::string& weights, const core::Log& log) {
  Entry entry;
  entry.provenance = provenance_of(job.prepared, weights);
  entry.fingerprint = fingerprint_of(job.prepared, entry.provenance);
  if (job.suites != nullptr) {
    for (const auto& [suite, digest] : job.suites->digests())
      entry.fingerprint[fmt::format("the contents of suite {}", suite)] = digest;
  }
  if (const auto& state = job.prepared.resumed) {
    require_same_run(job.folder, state->fingerprint, entry.fingerprint,
                     job.prepared.base->tokenizer, state->update, log);
  }
  return entry;
}

/// A job with its adapter, ready to go on update by update.
class Run {
 public:
  Run(const Job& job, Entry entry, model::Decoder& decoder, core::Communicator& ranks,
      model::TensorExchange& exchange, const std::atomic<bool>& interrupted, const core::Log& log)
      : job_(job),
        ranks_(ranks),
        exchange_(exchange),
        entry_(std::move(entry)),
        decoder_(decoder),
        validation_(validation_rows(job.prepared)),
        updates_(std::move(job.prepared.stream.value())) {
    decoder_.attach(job.prepared.initial, model::Decoder::Use::kTraining);
    job.prepared.initial.factors = {};  // The decoder has its own.
    trainer_.emplace(TrainerParts{.config = job.prepared.config,
                                  .decoder = decoder,
                                  .updates = updates_,
                                  .validation = validation_,
                                  .row_tokens = job.prepared.plan.row_tokens,
                                  .recomputed_layers = job.prepared.plan.recomputed_layers,
                                  .folder = job.folder,
                                  .adapter = {.config = job.prepared.initial.config,
                                              .factors = {},
                                              .provenance = entry_.provenance},
                                  .fingerprint = entry_.fingerprint,
                                  .observer = job.observer,
                                  .ranks = ranks,
                                  .exchange = exchange,
                                  .suites = job.suites,
                                  .interrupted = interrupted,
                                  .log = log},
                     job.prepared.resumed);
    job_.prepared.resumed.reset();  // The trainer has taken it over.
    decoder_.exchange(aside_);
  }

  /// Nothing speaks against the run any more: from here on its folder is written.
  void begin() {
    on_first(ranks_, [&] { begin_folder(); });
    trainer_->begin();
  }

  void begin_folder() {
    const RunFolder& folder = job_.folder;
    job_.folder.begin();
    Checkpoints(folder.checkpoints()).remove_leftovers();
    core::write_text(folder.config(),
                     schema::dump_config(job_.prepared.config, schema::Dump::kFull));
    core::write_text(folder.preflight(), text_of(preflight_json(job_.prepared)));
    nlohmann::ordered_json provenance = provenance_json(job_.prepared, entry_.provenance);
    if (ranks_.size() > 1)
      provenance["ranks"] = {{"number", ranks_.size()}, {"gradients_over", exchange_.name()}};
    core::write_text(folder.provenance(), text_of(provenance));
    folder.note(fmt::format("weft {}: {} updates from {}", core::kVersion, updates_.total(),
                            updates_.given()));
    if (ranks_.size() > 1) {
      folder.note(
          fmt::format("{} ranks; gradients travel over {}", ranks_.size(), exchange_.name()));
    }
  }

  /// An update; false when the run has ended, in whatever way.
  bool advance(const core::Log& log) {
    decoder_.exchange(aside_);
    bool goes_on = false;
    try {
      goes_on = trainer_->advance();
      if (!goes_on)
        job_.folder.note(fmt::format("ended after update {}", result().outcome.updates));
    } catch (const std::exception& problem) {
      failure_ = std::current_exception();
      constexpr const char* kLeft = "the run ended early; checkpoints and adapter are as they were";
      job_.folder.note(fmt::format("warning: {}", kLeft));
      job_.folder.note(problem.what());
      const std::string& name = job_.prepared.name;
      if (name.empty()) {
        core::tell(log, core::Level::kWarning, kLeft);
      } else {
        core::tell(log, core::Level::kWarning,
                   fmt::format("{}: {}: {}", name, kLeft, problem.what()));
      }
    }
    decoder_.exchange(aside_);
    return goes_on;
  }

  [[nodiscard]] Result result() const { return {trainer_->outcome(), failure_}; }

 private:
  /// Paths of the file system need not be UTF-8.
  static std::string text_of(const nlohmann::ordered_json& json) {
    return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  }

  Job job_;
  core::Communicator& ranks_;
  model::TensorExchange& exchange_;
  Entry entry_;
  model::Decoder& decoder_;
  model::Attached aside_;  ///< The adapter, while others have their turn.
  std::optional<data::RowStream> validation_;
  UpdateStream updates_;
  std::optional<Trainer> trainer_;
  std::exception_ptr failure_;
};

}  // namespace

std::vector<Result> train(const std::vector<Job>& jobs, const std::atomic<bool>& interrupted,
                          const core::Log& log) {
  core::SingleProcess alone;
  return train(jobs, alone, interrupted, log);
}

std::vector<Result> train(const std::vector<Job>& jobs, core::Communicator& ranks,
                          const std::atomic<bool>& interrupted, const core::Log& log) {
  const Prepared& first = jobs.front().prepared;
  std::vector<Entry> entries;
  together(ranks, [&] {
    const std::string weights = checkpoint::known_weights_digest(first.base->checkpoint);
    for (const Job& job : jobs) entries.push_back(enter(job, weights, log));
  });
  for (const Entry& entry : entries) require_alike(ranks, entry.fingerprint);

  const auto exchange = model::open_exchange(ranks, first.device, log);
  std::optional<model::Decoder> decoder;
  std::deque<Run> runs;
  together(ranks, [&] {
    decoder.emplace(model::Decoder::load(first.base->checkpoint, first.compute,
                                         first.config.base_quantization, first.device.device));
    for (std::size_t i = 0; i < jobs.size(); ++i)
      runs.emplace_back(jobs[i], std::move(entries[i]), *decoder, ranks, *exchange, interrupted,
                        log);
  });
  if (any(ranks, interrupted.load())) {
    throw Interrupted("interrupted before the first update; nothing was changed");
  }
  for (Run& run : runs) run.begin();
  std::vector<Run*> going;
  for (Run& run : runs) going.push_back(&run);
  while (!going.empty()) {
    std::erase_if(going, [&](Run* run) { return !run->advance(log); });
  }
  std::vector<Result> results;
  for (const Run& run : runs) results.push_back(run.result());
  return results;
}

}  // namespace weft::train
