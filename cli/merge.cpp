#include "merge/merge.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <memory>

#include "cli/adapter_argument.h"
#include "cli/command.h"
#include "cli/device_option.h"
#include "cli/fold_engine.h"
#include "cli/interrupt.h"
#include "cli/model_output.h"
#include "cli/output.h"
#include "core/error.h"
#include "core/parallel.h"
#include "core/terminal.h"
#include "merge/combine.h"
#include "merge/combine_adapters.h"
#include "merge/undo.h"
#include "schema/node.h"
#include "schema/types.h"

namespace weft::cli {
namespace {

struct MergeArguments : ModelOutputOptions {
  std::string recipe;
  std::string method = "linear";
  std::vector<std::string> parameters;
  std::string dtype = "keep";
  std::string rounding;  ///< Empty: to nearest, or as the recipe says.
  std::string undo;
  std::string max_shard_size = "5GB";
  std::string device = "cpu";  ///< open_fold_engine()
  std::uint64_t seed = 0;
  std::int64_t rank = 0;
  bool exact_svd = false;
};

std::optional<core::DType> parse_type(const std::string& text) {
  if (text == "keep") return std::nullopt;
  if (const auto dtype = core::parse_dtype(text)) return dtype;
  throw ConfigError("--dtype '{}' is unknown; it is keep, auto, f32, f16 or bf16", text);
}

merge::Rounding rounding_of(const MergeArguments& options) {
  if (options.rounding.empty()) return merge::Rounding::kNearest;
  if (const auto rounding = merge::parse_rounding(options.rounding)) return *rounding;
  throw ConfigError("--rounding '{}' is unknown; it is nearest, stochastic or error_feedback",
                    options.rounding);
}

/// "5GB", "500MB", "2GiB", "1000" (bytes), as huggingface_hub's max_shard_size.
std::uint64_t shard_size(const std::string& text) {
  const std::optional<schema::Bytes> size = schema::parse_bytes(text);
  if (size && size->count > 0) return size->count;
  throw ConfigError("--max-shard-size '{}' is no size (5GB, 500MB, 2GiB)", text);
}

merge::MergeRequest request_of(const MergeArguments& options) {
  merge::MergeRequest request;
  request.model = options.model;
  for (const std::string& adapter : options.adapters) {
    const AdapterArgument parsed = parse_adapter(adapter);
    request.adapters.push_back({parsed.directory, parsed.weight});
  }
  request.out = options.out;
  request.auto_dtype = options.dtype == "auto";
  if (!request.auto_dtype) request.dtype = parse_type(options.dtype);
  request.rounding = rounding_of(options);
  request.seed = options.seed;
  request.max_shard_bytes = shard_size(options.max_shard_size);
  request.overwrite = options.overwrite();
  request.allow_other_base = options.allow_other_base;
  request.undo = options.undo;
  request.also_reads = {options.verify.text};
  return request;
}

/// The sum of weighted updates: what merge_model() does without a recipe.
bool is_plain_sum(const MergeArguments& options) {
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
std::string adapter_recipe(const MergeArguments& options) {
  using schema::ConfigNode;
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
  return schema::emit_yaml(recipe);
}

merge::Recipe recipe_of(const MergeArguments& options) {
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

merge::CombineRequest combine_request_of(const MergeArguments& options) {
  merge::CombineRequest request;
  request.recipe = recipe_of(options);
  request.out = options.out;
  request.dtype = parse_type(options.dtype);
  if (!options.rounding.empty()) request.rounding = rounding_of(options);
  request.seed = options.seed;
  request.max_shard_bytes = shard_size(options.max_shard_size);
  request.overwrite = options.overwrite();
  request.allow_other_base = options.allow_other_base;
  request.recipe_file = options.recipe;
  return request;
}

merge::MergeReport merge_as_asked(const MergeArguments& options) {
  merge::FoldControl control{progress_line(), &catch_interrupts()};
  const core::Log log = stderr_log("merge");
  if (!options.recipe.empty() || (!options.model.empty() && !is_plain_sum(options))) {
    if (options.dtype == "auto") {
      throw ConfigError(
          "--dtype auto is for folding adapters; a recipe's output has the type it names");
    }
    if (!options.undo.empty()) {
      throw ConfigError("--undo is for folding adapters: what is combined keeps its own files");
    }
    if (options.verify.wanted()) {
      throw ConfigError(
          "--verify compares with the base and the sum of its adapters, which this method does not "
          "give; compare stages with weft eval");
    }
    if (options.device != "cpu") {
      throw ConfigError(
          "--device is for folding adapters into a model; a recipe's methods are the processor's");
    }
    return merge::combine_models(combine_request_of(options), control, log);
  }
  if (options.model.empty()) throw ConfigError("give a recipe, or --model");
  if (!options.parameters.empty()) {
    throw ConfigError("--method {} has no parameters but the adapters' weights", options.method);
  }
  merge::MergeRequest request = request_of(options);
  const std::unique_ptr<lora::FoldEngine> engine = open_fold_engine(options.device);
  control.engine = engine.get();
  if (!options.undo.empty()) merge::require_undo_possible(request.model);
  merge::claim_outputs(request);  // Before the base is measured.
  request.verify = start_verification(options, merge::kVerificationLimit, log);
  merge::MergeReport report = merge::merge_model(request, control, log);
  if (!options.undo.empty()) {
    const auto undo =
        merge::write_undo(request.model, request.out, options.undo, request.overwrite);
    core::tell(log, core::Level::kInfo,
               fmt::format("undo file '{}': {} for {} of the base ({:.1f} %)", options.undo,
                           core::human_bytes(undo.undo_bytes), core::human_bytes(undo.base_bytes),
                           100 * static_cast<double>(undo.undo_bytes) /
                               static_cast<double>(std::max<std::uint64_t>(1, undo.base_bytes))));
  }
  return report;
}

/// Without a model there is nothing to fold into: adapters become one adapter.
bool makes_adapter(const MergeArguments& options) {
  return options.recipe.empty() && options.model.empty() && !options.adapters.empty();
}

merge::AdapterRequest adapter_request_of(const MergeArguments& options) {
  merge::AdapterRequest request;
  for (const std::string& adapter : options.adapters) {
    const AdapterArgument parsed = parse_adapter(adapter);
    request.adapters.push_back({parsed.directory, parsed.weight});
  }
  if (options.dtype != "keep") {
    throw ConfigError(
        "without --model the output is an adapter, which is written as f32; leave "
        "out --dtype, or give --model");
  }
  if (!options.undo.empty()) throw ConfigError("--undo is of a merged model; give --model");
  if (options.device != "cpu") {
    throw ConfigError(
        "--device computes a model's weights; adapters are combined by the processor, so leave it "
        "out or give --model");
  }
  if (options.verify.wanted()) {
    throw ConfigError(
        "--verify compares a merged model's predictions; without --model there is none");
  }
  request.method = options.method;
  for (const std::string& text : options.parameters) {
    const std::size_t equals = std::min(text.find('='), text.size());
    double value = 0;
    const char* end = text.data() + text.size();
    const char* begin = text.data() + std::min(equals + 1, text.size());
    const auto [rest, error] = std::from_chars(begin, end, value);
    if (begin == end || error != std::errc() || rest != end || !std::isfinite(value) ||
        !request.parameters.emplace(text.substr(0, equals), value).second) {
      throw ConfigError("--parameter '{}' is NAME=NUMBER, once for each name", text);
    }
  }
  request.rank = options.rank;
  request.svd = options.exact_svd ? merge::Svd::kExact : merge::Svd::kRandomised;
  request.seed = options.seed;
  request.out = options.out;
  request.overwrite = options.overwrite();
  request.allow_other_base = options.allow_other_base;
  return request;
}

template <typename Report>
int show(const Report& report, const MergeArguments& options) {
  if (options.json) {
    print("{}\n",
          merge::report_json(report).dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  } else {
    print("{}output    {}\n", merge::report_table(report), options.out);
  }
  return static_cast<int>(ExitCode::kDone);
}

int run_merge(const MergeArguments& options) {
  core::set_thread_count(options.threads);
  if (makes_adapter(options)) {
    return show(merge::combine_adapters(adapter_request_of(options), stderr_log("merge")), options);
  }
  if (options.rank != 0 || options.exact_svd) {
    throw ConfigError(
        "--rank and --exact-svd are of a combined adapter, which is what comes out "
        "where --model is left out");
  }
  return show(merge_as_asked(options), options);
}

}  // namespace

Run add_merge(CommandLine& app);
Run add_merge(CommandLine& app) {
  const auto options = std::make_shared<MergeArguments>();
  app.description(
      "Fold adapters into a model's weights; combine adapters into one adapter, which is what "
      "comes out where --model is left out; combine whole models as a mergekit recipe says; "
      "without "
      "adapters, convert a GGUF file to a Hugging Face directory.");
  app.option("recipe", options->recipe, "YAML as mergekit reads it, instead of --model");
  declare_model_input(app, *options);
  app.option("--method", options->method,
             "how several adapters are combined: linear (or cat), task_arithmetic, ties:peft, "
             "ties:mergekit, dare_linear:..., dare_ties:..., magnitude_prune, breadcrumbs, "
             "della, ... (docs/combine.md); for an adapter also svd, knots_ties, "
             "peft_factor_linear, ... "
             "(docs/combine_adapters.md)")
      .with_default_shown();
  app.option("--parameter", options->parameters, "of the method: density=0.5; may be repeated")
      .repeated();
  app.option("--dtype", options->dtype,
             "keep, auto, f32, f16 or bf16; keep writes block-quantised bases as f32, and what a "
             "recipe "
             "says; auto widens the type where rounding would leave less than 95 % of the update")
      .with_default_shown();
  app.option("--rounding", options->rounding,
             "of changed tensors of 16 bits: nearest (default, unless a recipe says otherwise), "
             "stochastic (with --seed) or error_feedback, which keep small updates in the mean");
  app.option("--undo", options->undo,
             "also write what weft unmerge needs to restore the base's very files")
      .type("FILE");
  declare_device(app, "--device", options->device, "what folds plain LoRA pairs",
                 ", with the same bytes; the processor computes all else");
  app.option("--max-shard-size", options->max_shard_size, "largest safetensors file")
      .with_default_shown();
  app.option("--seed", options->seed,
             "of recipes that draw (dare, della) and of stochastic rounding")
      .with_default_shown();
  app.option("--rank", options->rank,
             "of a combined adapter; 0: the largest of its parts (linear: their sum)")
      .at_least(0)
      .with_default_shown();
  app.flag("--exact-svd", options->exact_svd,
           "combined adapters: the best approximation, holding one layer's update whole");
  declare_model_output(app, *options, "folder to write").required();
  return [options] { return run_merge(*options); };
}

}  // namespace weft::cli
