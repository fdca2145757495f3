#include "batch/compose.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "batch/matrix.h"
#include "batch/problems.h"
#include "batch/steps.h"
#include "core/cores.h"

namespace weft::batch {
namespace {

namespace fs = std::filesystem;
using schema::ConfigLayer;
using schema::ConfigNode;

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

ConfigNode text_node(const std::string& text) { return ConfigNode::string(text); }

class Composer {
 public:
  Composer(Batch& batch, const Engine& engine, const core::Log& log)
      : batch_(batch), engine_(engine), log_(log) {}

  void compose() {
    read_common();
    const StepPlan common_steps = read_steps(batch_.file.steps, problems_);
    problems_.refuse();
    for (const Described& job : describe_jobs(batch_.file, *engine_.train, problems_)) {
      const bool own = job.steps.kind != ConfigNode::Kind::kNull;
      add(job, own ? read_steps(job.steps, problems_) : common_steps);
    }
    problems_.refuse();
    if (batch_.jobs.empty()) {
      throw ConfigError("{}: there is no job; write a matrix, pairs, or jobs (docs/batch.md)",
                        batch_.record.file);
    }
  }

 private:
  void read_common() {
    if (batch_.file.base) {
      try {
        const auto [text, source] = schema::read_config_file(*batch_.file.base);
        common_.push_back(schema::parse_tree(text, source));
      } catch (const InputError& error) {
        problems_.add(batch_.file.place_of("base"), fmt::format("base: {}", error.what()));
        problems_.refuse();
      }
      refuse(common_.back().tree, "adapters",
             "adapters: a job trains one adapter; write what differs as a matrix");
      // What stands in a configuration of one run is not the folder of many.
      std::erase_if(common_.back().tree.entries,
                    [](const schema::ConfigEntry& entry) { return entry.key == "output_dir"; });
    }
    if (batch_.file.common.kind != ConfigNode::Kind::kNull) add_own(batch_.file.common, common_);
  }

  void refuse(const ConfigNode& tree, const char* key, const std::string& text) {
    for (const schema::ConfigEntry& entry : tree.entries) {
      if (entry.key == key) problems_.add(entry.place, text);
    }
  }

  /// A section of JOBS.yaml as a layer.
  void add_own(const ConfigNode& section, std::vector<ConfigLayer>& layers) {
    if (section.kind != ConfigNode::Kind::kMap) {
      problems_.add(section.place,
                    "expected keys of weft train with values, found " + section.what());
      return;
    }
    refuse(section, "output_dir",
           "output_dir: each job has a folder of its own in that of the batch; leave it out");
    refuse(section, "adapters",
           "adapters: a job trains one adapter; write what differs as a matrix");
    layers.push_back({undotted(section), section.place.source});
  }

  /// Keys that the batch itself gives.
  ConfigLayer given(const schema::Place& place,
                    std::vector<std::pair<std::string, ConfigNode>> values) {
    ConfigLayer layer{ConfigNode::map(), place.source};
    layer.tree.place = place;
    for (auto& value : values) layer.tree.add(value.first, std::move(value.second), place);
    return layer;
  }

  /// Null when it cannot be read, which is told.
  std::shared_ptr<void> read(const schema::SectionInfo& info, std::vector<ConfigLayer> layers) {
    try {
      return schema::read_layers(info, std::move(layers), log_);
    } catch (const ConfigError& error) {
      problems_.add_lines(error.what());
      return nullptr;
    }
  }

  void add(const Described& described, const StepPlan& steps) {
    Job job{.name = described.name, .labels = described.labels};
    job.place = described.place.text(batch_.record.file);
    for (const auto& [name, place] : described.after) job.after.push_back(name);
    std::vector<ConfigLayer> layers = common_;
    for (const ConfigNode& section : described.settings) add_own(section, layers);
    layers.push_back(
        given(described.place, {{"output_dir", text_node(batch_.folder.run(job.name).string())}}));
    const schema::SectionInfo& info = *engine_.train;
    std::shared_ptr<void> config = read(info, layers);
    if (config == nullptr) return;
    job.threads = schema::parse_integer(value_of(info, config.get(), "threads")).value_or(0);
    if (job.threads == 0) {
      job.threads = batch_.record.threads;
      layers.push_back(
          given(described.place, {{"threads", ConfigNode::scalar(std::to_string(job.threads))}}));
      config = read(info, layers);
      if (config == nullptr) return;
    }
    job.config = schema::dump_config(info, config.get(), schema::Dump::kFull);
    if (batch_.file.resources.memory) job.memory_bytes = batch_.file.resources.memory->count;
    add_training(job, config.get());
    add_steps(job, steps, value_of(info, config.get(), "base_model"));
    batch_.jobs.push_back(std::move(job));
  }

  void add_training(Job& job, void* config) {
    const schema::SectionInfo& info = *engine_.train;
    Step step{.name = "train",
              .arguments = {"train", (batch_.folder.job(job.name) / "config.yaml").string()},
              .configuration = {},
              .inputs = inputs_of(info, config),
              .outputs = {adapter(job)}};
    const std::string dump = schema::dump_config(info, config, schema::Dump::kMinimal);
    for (const std::string& line : essence_of(dump, step.inputs)) {
      const bool can_change = std::ranges::any_of(engine_.resumable, [&](const std::string& key) {
        return line.starts_with(key + ":") || line.starts_with(key + ".");
      });
      (can_change ? step.extent : step.configuration) += line + "\n";
    }
    job.steps.push_back(std::move(step));
  }

  [[nodiscard]] std::string adapter(const Job& job) const {
    return (batch_.folder.run(job.name) / "adapter").string();
  }

  /// A step with the same options in every folder, whose last arguments name what it writes.
  static Step step(std::string name, std::vector<std::string> options,
                   std::vector<std::string> inputs, const std::string& out, std::int64_t threads) {
    Step made{std::move(name), std::move(options), {}, std::move(inputs), {out}};
    for (const std::string& option : made.arguments)
      made.configuration += without_place(option, made.inputs) + "\n";
    made.arguments.insert(made.arguments.end(),
                          {"--out", out, "--force", "--threads", std::to_string(threads)});
    return made;
  }

  /// "nah-q4_k_m.gguf", "nah-lora-f16.gguf", "ollama-q4_k_m": no two exports write the same.
  static std::string output_of(const std::string& job, const ExportStep& one) {
    const std::string type = one.type.empty() ? "" : "-" + one.type;
    if (one.to == "gguf") return fmt::format("{}{}.gguf", job, type.empty() ? "-gguf" : type);
    if (one.to == "gguf-lora") return fmt::format("{}-lora{}.gguf", job, type);
    return one.to + type;
  }

  void add_steps(Job& job, const StepPlan& steps, const std::string& base) {
    const fs::path folder = batch_.folder.job(job.name);
    const std::string merged = (folder / "merged").string();
    std::vector<std::pair<std::string, std::string>> stages;  // name -> model
    if (steps.merge) {
      std::vector<std::string> options{
          "merge", "--model", base, "--adapter", adapter(job), "--dtype", steps.merge->dtype};
      if (!steps.merge->rounding.empty())
        options.insert(options.end(), {"--rounding", steps.merge->rounding});
      job.steps.push_back(step("merge", options, {base, adapter(job)}, merged, job.threads));
      stages.emplace_back("merged", merged);
    }
    for (const ExportStep& one : steps.exports) {
      const bool from_merged = steps.merge && (one.to == "gguf" || one.to == "ollama");
      std::vector<std::string> options{"export", "--to", one.to};
      std::vector<std::string> inputs;
      if (one.to != "peft") {
        inputs.push_back(from_merged ? merged : base);
        options.insert(options.end(), {"--model", inputs.front()});
      }
      if (!from_merged) {
        options.insert(options.end(), {"--adapter", adapter(job)});
        inputs.push_back(adapter(job));
      }
      if (!one.type.empty()) options.insert(options.end(), {"--type", one.type});
      if (one.imatrix) {
        options.insert(options.end(), {"--imatrix", one.imatrix->string()});
        inputs.push_back(one.imatrix->string());
      }
      const std::string kind = one.type.empty() ? one.to : one.type;
      const std::string out = (folder / output_of(job.name, one)).string();
      job.steps.push_back(step("export " + one.text(), options, inputs, out, job.threads));
      if (one.to == "gguf") stages.emplace_back(kind, out);
    }
    if (steps.evaluation_place.line > 0) add_evaluation(job, steps, base, stages);
  }

  void add_evaluation(Job& job, const StepPlan& steps, const std::string& base,
                      const std::vector<std::pair<std::string, std::string>>& stages) {
    std::vector<ConfigLayer> layers = steps.evaluation;
    for (const ConfigLayer& layer : layers) {
      for (const char* key : {"adapter", "merged", "stages", "output", "ledger", "tag"}) {
        refuse(layer.tree, key,
               fmt::format("{}: the batch gives it for each job; leave it out", key));
      }
    }
    ConfigNode list = ConfigNode::list({stage("base", "", ""), stage("adapter", "", adapter(job))});
    for (const auto& [name, model] : stages) list.items.push_back(stage(name, model, ""));
    const std::string out = (batch_.folder.job(job.name) / "eval.json").string();
    const fs::path ledger = batch_.file.ledger.value_or(batch_.folder.path() / "weft.db");
    layers.push_back(given(steps.evaluation_place,
                           {{"base_model", text_node(base)},
                            {"stages", std::move(list)},
                            {"output", text_node(out)},
                            {"ledger", text_node(ledger.string())},
                            {"threads", ConfigNode::scalar(std::to_string(job.threads))}}));
    const schema::SectionInfo& info = *engine_.evaluation;
    const std::shared_ptr<void> config = read(info, layers);
    if (config == nullptr) return;
    job.eval_config = schema::dump_config(info, config.get(), schema::Dump::kFull);
    Step step{
        .name = "eval",
        .arguments = {"eval", (batch_.folder.job(job.name) / "eval.yaml").string(), "--force"},
        .configuration = {},
        .inputs = inputs_of(info, config.get()),
        .outputs = {out}};
    step.configuration = joined(
        essence_of(schema::dump_config(info, config.get(), schema::Dump::kMinimal), step.inputs));
    job.steps.push_back(std::move(step));
  }

  static ConfigNode stage(const std::string& name, const std::string& model,
                          const std::string& adapter) {
    ConfigNode node = ConfigNode::map();
    node.add("name", text_node(name));
    if (!model.empty()) node.add("model", text_node(model));
    if (!adapter.empty()) node.add("adapter", text_node(adapter));
    return node;
  }

  Batch& batch_;
  const Engine& engine_;
  const core::Log& log_;
  Problems problems_;
  std::vector<ConfigLayer> common_;
};

}  // namespace

Batch load_batch(const fs::path& jobs_file, const Engine& engine, const core::Log& log) {
  JobsFile file = load_jobs_file(jobs_file);
  const fs::path path = fs::absolute(jobs_file).lexically_normal();
  BatchFolder folder(file.output_dir);
  std::optional<BatchRecord> before;
  try {
    before = folder.read(path.string());
  } catch (const InputError& error) {
    throw InputError("{}: {}", file.place_of("output_dir").text(jobs_file.string()), error.what());
  }
  Batch batch{std::move(file), std::move(folder), {.file = path.string(), .jobs = {}}, {}};
  batch.record.threads = batch.file.resources.threads.value_or(
      before && before->threads > 0 ? before->threads : core::allowed_cores());
  batch.record.retries = batch.file.retries;
  // What jobs have in common is told once.
  std::set<std::string> told;
  const core::Log once = [&](core::Level level, std::string_view line) {
    if (told.emplace(line).second) core::tell(log, level, line);
  };
  Composer(batch, engine, once).compose();
  for (const Job& job : batch.jobs) batch.record.jobs.push_back(job.name);
  return batch;
}

void plan_jobs(const std::vector<Job*>& jobs, const Engine& engine,
               const std::function<void(const Job&)>& planned) {
  Problems problems;
  for (Job* job : jobs) {
    try {
      const TrainPlan plan = engine.plan(job->config);
      if (job->memory_bytes == 0) job->memory_bytes = plan.memory_bytes;
      job->updates = plan.updates;
      job->adapter_bytes = plan.adapter_bytes;
      job->run_bytes = plan.run_bytes;
      if (planned) planned(*job);
    } catch (const Error& error) {
      if (error.exit_code() == ExitCode::kInterrupted) throw;
      problems.add_lines(fmt::format("{}: {}: {}", job->place, job->name, error.what()));
    }
  }
  problems.refuse();
}

}  // namespace weft::batch
