#include "merge/merge.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <memory>

#include "cli/adapter_argument.h"
#include "cli/command.h"
#include "cli/interrupt.h"
#include "core/error.h"
#include "core/parallel.h"
#include "core/schema_node.h"
#include "core/terminal.h"
#include "merge/combine.h"

namespace weft::cli {
namespace {

struct Options {
  std::string recipe;
  std::string method = "linear";
  std::vector<std::string> parameters;
  std::string model;
  std::vector<std::string> adapters;
  std::string out;
  std::string dtype = "keep";
  std::string max_shard_size = "5GB";
  std::uint64_t seed = 0;
  bool force = false;
  bool allow_other_base = false;
  bool json = false;
  int threads = 0;
};

std::optional<core::DType> parse_type(const std::string& text) {
  if (text == "keep") return std::nullopt;
  if (const auto dtype = core::parse_dtype(text)) return dtype;
  throw ConfigError("--dtype '{}' is unknown; it is keep, f32, f16 or bf16", text);
}

/// "5GB", "500MB", "2GiB", "1000" (bytes), as huggingface_hub's max_shard_size.
std::uint64_t parse_size(const std::string& text) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string unit(end, static_cast<const char*>(text.data() + text.size()));
  constexpr std::pair<std::string_view, double> kUnits[] = {
      {"", 1},      {"B", 1},        {"KB", 1e3},     {"MB", 1e6},    {"GB", 1e9},
      {"TB", 1e12}, {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}};
  for (const auto& [name, factor] : kUnits) {
    if (error != std::errc() || name != unit) continue;
    const double bytes = number * factor;
    if (bytes >= 1 && bytes < 9e18) return static_cast<std::uint64_t>(bytes);
  }
  throw ConfigError("--max-shard-size '{}' is no size (5GB, 500MB, 2GiB)", text);
}

merge::MergeRequest request_of(const Options& options) {
  merge::MergeRequest request;
  request.model = options.model;
  for (const std::string& adapter : options.adapters) {
    const AdapterArgument parsed = parse_adapter(adapter);
    request.adapters.push_back({parsed.directory, parsed.weight});
  }
  request.out = options.out;
  request.dtype = parse_type(options.dtype);
  request.max_shard_bytes = parse_size(options.max_shard_size);
  request.overwrite = options.force ? core::Overwrite::kReplace : core::Overwrite::kRefuse;
  request.allow_other_base = options.allow_other_base;
  return request;
}

/// A line on the terminal that is redrawn at every whole per cent.
std::function<void(merge::FoldProgress)> progress_line() {
  if (!core::stderr_is_terminal()) return {};
  return [last = -1](merge::FoldProgress progress) mutable {
    const auto percent =
        static_cast<int>(100 * progress.done / std::max<std::uint64_t>(1, progress.total));
    if (percent == last) return;
    last = percent;
    fmt::print(stderr, "\rwriting {} of {} ({} %){}", core::human_bytes(progress.done),
               core::human_bytes(progress.total), percent, percent == 100 ? "\r\x1b[K" : "");
  };
}

/// The sum of weighted updates: what merge_model() does without a recipe.
bool is_plain_sum(const Options& options) {
  return options.method == "linear" || options.method == "cat";
}

/// The method as merge::find_method() knows it. PEFT and mergekit give one name to different
/// numbers, so that it has to be said whose are meant.
std::string adapter_method(const std::string& name) {
  for (const char* ambiguous : {"ties", "dare_ties", "dare_linear"}) {
    if (name != ambiguous) continue;
    throw ConfigError(
        "--method {0} differs between PEFT and mergekit; say {0}:peft or {0}:mergekit", name);
  }
  return name;
}

/// The recipe that --model, --adapter, --method and --parameter amount to.
std::string adapter_recipe(const Options& options) {
  using core::ConfigNode;
  ConfigNode recipe = ConfigNode::map();
  recipe.add("merge_method", ConfigNode::string(adapter_method(options.method)));
  recipe.add("base_model", ConfigNode::string(options.model));
  std::vector<ConfigNode> models;
  for (const std::string& text : options.adapters) {
    const AdapterArgument adapter = parse_adapter(text);
    ConfigNode reference = ConfigNode::map();
    reference.add("model", ConfigNode::string(options.model));
    reference.add("lora", ConfigNode::string(adapter.directory.string()));
    ConfigNode parameters = ConfigNode::map();
    parameters.add("weight", ConfigNode::scalar(fmt::format("{}", adapter.weight)));
    ConfigNode entry = ConfigNode::map();
    entry.add("model", std::move(reference));
    entry.add("parameters", std::move(parameters));
    models.push_back(std::move(entry));
  }
  recipe.add("models", ConfigNode::list(std::move(models)));
  ConfigNode parameters = ConfigNode::map();
  for (const std::string& text : options.parameters) {
    const std::size_t equals = text.find('=');
    if (equals == std::string::npos || parameters.find(text.substr(0, equals)) != nullptr) {
      throw ConfigError("--parameter '{}' is NAME=VALUE, once for each name", text);
    }
    parameters.add(text.substr(0, equals), ConfigNode::scalar(text.substr(equals + 1)));
  }
  if (!parameters.entries.empty()) recipe.add("parameters", std::move(parameters));
  return core::emit_yaml(recipe);
}

merge::Recipe recipe_of(const Options& options) {
  if (options.recipe.empty()) {
    return merge::parse_recipe(adapter_recipe(options), "--method", ".");
  }
  if (!options.model.empty() || !options.adapters.empty() || !is_plain_sum(options) ||
      !options.parameters.empty()) {
    throw ConfigError(
        "a recipe names its models and method itself; leave out --model, --adapter, --method and "
        "--parameter");
  }
  const std::filesystem::path path = options.recipe;
  return merge::parse_recipe(core::read_text(path, 16 << 20), options.recipe, path.parent_path());
}

merge::CombineRequest combine_request_of(const Options& options) {
  merge::CombineRequest request;
  request.recipe = recipe_of(options);
  request.out = options.out;
  request.dtype = parse_type(options.dtype);
  request.seed = options.seed;
  request.max_shard_bytes = parse_size(options.max_shard_size);
  request.overwrite = options.force ? core::Overwrite::kReplace : core::Overwrite::kRefuse;
  request.allow_other_base = options.allow_other_base;
  return request;
}

merge::MergeReport merge_as_asked(const Options& options) {
  const merge::FoldControl control{progress_line(), &catch_interrupts()};
  if (!options.recipe.empty() || (!options.model.empty() && !is_plain_sum(options))) {
    return merge::combine_models(combine_request_of(options), control, stderr_log("merge"));
  }
  if (options.model.empty()) throw ConfigError("give a recipe, or --model");
  if (!options.parameters.empty()) {
    throw ConfigError("--method {} has no parameters but the adapters' weights", options.method);
  }
  return merge::merge_model(request_of(options), control, stderr_log("merge"));
}

int run(const Options& options) {
  core::set_thread_count(options.threads);
  const merge::MergeReport report = merge_as_asked(options);
  if (options.json) {
    fmt::print("{}\n", merge::report_json(report).dump(2));
  } else {
    fmt::print("{}output    {}\n", merge::report_table(report), options.out);
  }
  return static_cast<int>(ExitCode::kDone);
}

}  // namespace

Run add_merge(CLI::App& app);
Run add_merge(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  app.description(
      "Fold adapters into a model's weights; combine whole models as a mergekit recipe says; "
      "without adapters, convert a GGUF file to a Hugging Face directory.");
  app.add_option("recipe", options->recipe, "YAML as mergekit reads it, instead of --model");
  app.add_option("--model", options->model, "Hugging Face directory or GGUF file");
  app.add_option("--adapter", options->adapters,
                 "PEFT folder, with an optional weight (DIR:0.5); repeat it to add several")
      ->take_all()
      ->expected(1)
      ->allow_extra_args(false);
  app.add_option("--method", options->method,
                 "how several adapters are combined: linear (or cat), task_arithmetic, ties:peft, "
                 "ties:mergekit, dare_linear:..., dare_ties:..., magnitude_prune, breadcrumbs, "
                 "della, ... (docs/combine.md)")
      ->capture_default_str();
  app.add_option("--parameter", options->parameters, "of the method: density=0.5; may be repeated")
      ->take_all()
      ->expected(1)
      ->allow_extra_args(false);
  app.add_option("--out", options->out, "folder to write")->required();
  app.add_option(
         "--dtype", options->dtype,
         "keep, f32, f16 or bf16; keep writes block-quantised bases as f32, and what a recipe says")
      ->capture_default_str();
  app.add_option("--max-shard-size", options->max_shard_size, "largest safetensors file")
      ->capture_default_str();
  app.add_option("--seed", options->seed, "of recipes that draw (dare, della)")
      ->capture_default_str();
  app.add_flag("--force", options->force, "replace the output folder if it exists");
  app.add_flag("--allow-other-base", options->allow_other_base,
               "fold even if the adapter records other base weights");
  app.add_flag("--json", options->json, "print the report as JSON");
  app.add_option("--threads", options->threads, "threads; 0 means all cores")
      ->check(whole_number_from(0))
      ->capture_default_str();
  return [options] { return run(*options); };
}

}  // namespace weft::cli
