#include "train/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <iterator>

#include "core/device_name.h"
#include "core/error.h"
#include "text/date.h"
#include "train/foreign_words.h"

namespace weft::train {
namespace {

constexpr std::string_view kAllLinear = "all-linear";

/// PEFT takes a string as "all-linear" or a regular expression and a list as names. In YAML a list
/// of one may be written without brackets, so the characters decide.
lora::Targets targets_of(const std::vector<std::string>& names) {
  lora::Targets targets;
  const auto is_pattern = [](const std::string& name) {
    return name == kAllLinear || name.find_first_of("*+?[](){}|^$\\") != std::string::npos;
  };
  if (names.size() == 1 && is_pattern(names.front())) {
    targets.pattern = names.front();
  } else {
    targets.names = names;
  }
  return targets;
}

std::string text_of(const schema::ConfigNode& node) {
  using Kind = schema::ConfigNode::Kind;
  if (node.kind == Kind::kScalar) return node.text;
  std::string text;
  const auto add = [&](const std::string& part) { text += (text.empty() ? "" : ", ") + part; };
  for (const schema::ConfigNode& item : node.items) add(text_of(item));
  for (const schema::ConfigEntry& entry : node.entries)
    add(entry.key + ": " + text_of(entry.value));
  if (node.kind == Kind::kList) return "[" + text + "]";
  if (node.kind == Kind::kMap) return "{" + text + "}";
  return "(not set)";
}

void flatten_section(const schema::SectionInfo& info, void* object, const std::string& prefix,
                     Fingerprint& flat) {
  for (const schema::FieldInfo& field : info.fields) {
    const std::string key = prefix + field.name;
    if (field.shape == schema::FieldInfo::Shape::kValue) {
      flat[key] = text_of(field.write(object));
      continue;
    }
    const std::vector<void*> present = field.present(object);
    for (std::size_t i = 0; i < present.size(); ++i) {
      const bool is_list = field.shape == schema::FieldInfo::Shape::kSectionList;
      flatten_section(*field.section, present[i],
                      is_list ? fmt::format("{}.{}.", key, i) : key + ".", flat);
    }
  }
}

void describe_learning(schema::Schema<TrainConfig>& s) {
  using C = TrainConfig;
  s.field(
       "tokens_per_update", &C::tokens_per_update,
       "tokens, prompts included, that one update of the adapter learns from: whole rows, as many "
       "as fit, at least one (other programs: micro_batch_size x gradient_accumulation_steps x "
       "tokens of an example)")
      .at_least(1);
  s.field("examples_per_update", &C::examples_per_update,
          "examples that one update learns from, instead of tokens_per_update; needs packing: "
          "false (other programs: micro_batch_size x gradient_accumulation_steps)")
      .at_least(1);
  s.field("learning_rate", &C::learning_rate, "highest learning rate").positive();
  s.choice("lr_scheduler", &C::lr_scheduler,
           {{"constant", SchedulerKind::kConstant},
            {"linear", SchedulerKind::kLinear},
            {"cosine", SchedulerKind::kCosine},
            {"inverse_sqrt", SchedulerKind::kInverseSqrt}},
           "how the learning rate goes after the warm-up")
      .alias("lr_scheduler_type");
  s.field("warmup", &C::warmup,
          "updates in which the learning rate rises from 0: a share of all (3%) or their number")
      .at_least(0)
      .alias("warmup_steps")
      .alias("warmup_updates");
  s.field("weight_decay", &C::weight_decay, "decoupled weight decay of AdamW").at_least(0);
  s.field("adam_beta1", &C::adam_beta1, "decay of the mean of gradients").at_least(0).less_than(1);
  s.field("adam_beta2", &C::adam_beta2, "decay of the mean of squared gradients")
      .at_least(0)
      .less_than(1);
  s.field("adam_epsilon", &C::adam_epsilon, "added to the divisor of a step")
      .at_least(1e-37);  // a normal float
  s.field("max_grad_norm", &C::max_grad_norm,
          "the gradient is scaled down to this Euclidean norm; 0: never")
      .at_least(0);
  s.field(
       "num_epochs", &C::num_epochs,
       "passes over the data; the first limit that is reached ends the run; with neither given: 1")
      .positive()
      .alias("num_train_epochs")
      .alias("epochs");
  s.field("max_updates", &C::max_updates, "updates after which the run ends")
      .at_least(1)
      .alias("max_steps");
}

void describe_running(schema::Schema<TrainConfig>& s) {
  using C = TrainConfig;
  s.section("eval", &C::eval, "when the loss on `validation` is measured");
  s.section("evaluate", &C::evaluate,
            "suites of weft eval, measured on the weights in training (docs/training.md)");
  s.section("save", &C::save, "checkpoints, from which an interrupted run resumes exactly");
  s.section(
      "early_stopping", &C::early_stopping,
      "ends the run when the validation loss, or the figure of evaluate.keep_best_by, gets no "
      "better; absent: never");
  s.section("divergence", &C::divergence, "when a rising loss ends the run");
  s.field("log_every", &C::log_every, "updates between two lines where no terminal shows a bar")
      .at_least(1)
      .alias("logging_steps");
  s.field("threads", &C::threads,
          "threads that compute; 0: the cores that the process may use (its affinity mask and the "
          "quota "
          "of its container). The same number gives the same bits")
      .range(0, 1024);
  s.field(
      "memory_limit", &C::memory_limit,
      "memory the run may take on a machine, all its ranks there together: sets the length of rows "
      "and what is computed twice; absent: what is available, with rows of full length");
  s.choice("gradient_checkpointing", &C::gradient_checkpointing,
           {{"auto", Checkpointing::kAuto},
            {"all", Checkpointing::kAll},
            {"none", Checkpointing::kNone},
            {"true", Checkpointing::kAll},
            {"false", Checkpointing::kNone}},
           "computes activations again in the backward instead of keeping them: the same bits in a "
           "third more time; auto: in as many layers as the memory asks for");
}

void check_held_out(const TrainConfig& c, schema::CheckReport& report) {
  if (!c.validation_share) return;
  const schema::Share& share = *c.validation_share;
  if (!share.relative || share.value <= 0 || share.value >= 1) {
    report.problem("validation_share", "expected a share between 0% and 100%, as in 5%");
  }
  if (c.validation) {
    report.problem("validation_share",
                   "`validation` names data that is measured already; keep one of the two");
  }
}

}  // namespace

void describe(schema::Schema<AdapterSection>& s) {
  using A = AdapterSection;
  s.field("r", &A::r, "rank: width of the adapter's inner layer").range(1, 65536).alias("rank");
  s.field("lora_alpha", &A::lora_alpha, "the adapter's output is multiplied by lora_alpha / r")
      .positive()
      .alias("alpha");
  s.field("lora_dropout", &A::lora_dropout, "share of an adapter's inputs that training sets to 0")
      .at_least(0)
      .less_than(1)
      .alias("dropout");
  s.field("target_modules", &A::target_modules,
          "layers that get an adapter: all-linear, names or endings of names (q_proj), or one "
          "regular expression for whole names; []: none, where target_parameters names some");
  s.field("exclude_modules", &A::exclude_modules, "layers that get none, in the same words");
  s.field(
      "target_parameters", &A::target_parameters,
      "stacks of experts whose every matrix gets an adapter of rank r: names or endings of names "
      "(mlp.experts.gate_up_proj, mlp.experts.down_proj); needs lora_dropout: 0");
  s.check([](const A& a, schema::CheckReport& report) {
    if (a.target_modules.empty() && a.target_parameters.empty())
      report.problem("target_modules", "expected at least one name, or one in target_parameters");
  });
  s.field("use_rslora", &A::use_rslora,
          "multiply by lora_alpha / sqrt(r) instead (rank-stabilised LoRA)");
  s.field("rank_pattern", &A::rank_pattern, "rank by name or regular expression");
  s.field("alpha_pattern", &A::alpha_pattern, "lora_alpha by name or regular expression");
  s.field("layers_to_transform", &A::layers_to_transform,
          "numbers of the layers that get an adapter; empty: all");
  s.field("init_from", &A::init_from,
          "an adapter (PEFT directory) to start from; its rank, alpha and targets are used");
  s.field("allow_other_base", &A::allow_other_base,
          "start from an adapter that was trained on other weights or with another tokenizer");
}

void describe(schema::Schema<EvalSection>& s) {
  s.field("every", &EvalSection::every,
          "distance between two evaluations (100u, 0.5e, 1Mt); null: at the end only");
  s.field("at_start", &EvalSection::at_start, "measure before the first update, too");
}

void describe(schema::Schema<EvaluateSection>& s) {
  using E = EvaluateSection;
  s.field("every", &E::every,
          "distance between two evaluations (200u, 0.5e, 1Mt); null: at the end only");
  s.field("at_start", &E::at_start, "measure before the first update, too");
  s.list("suites", &E::suites, "what is measured, as in weft eval").required();
  s.section("generate", &E::generate,
            "write answers to the instruction data too, and compare them with the data's");
  s.field("keep_best_by", &E::keep_best_by,
          "FIGURE.SUITE, as bits_per_byte.nahuatl: adapter/ is the one that is best by it, and "
          "early_stopping watches it; default: the validation loss")
      .non_empty();
  s.field("sequence_len", &E::sequence_len,
          "tokens read at once; default: the sequence_len of the run")
      .at_least(1);
  s.field("limit", &E::limit,
          "documents, examples or questions per suite at most, spread evenly over the file")
      .at_least(1);
  s.field("ledger", &E::ledger,
          "record of all evaluations; default: the nearest weft.db in the current folder or one "
          "above it, else a new one there");
  s.field("record", &E::record, "write each evaluation into the ledger");
}

void describe(schema::Schema<SaveSection>& s) {
  s.field("every", &SaveSection::every, "distance between two checkpoints (100u, 0.5e, 1Mt)");
  s.field("keep", &SaveSection::keep, "checkpoints that stay; 0: all")
      .at_least(0)
      .alias("save_total_limit");
}

void describe(schema::Schema<EarlyStoppingSection>& s) {
  s.field("patience", &EarlyStoppingSection::patience,
          "evaluations without gain after which the run ends")
      .at_least(1);
  s.field("min_delta", &EarlyStoppingSection::min_delta, "a smaller gain is none").at_least(0);
}

void describe(schema::Schema<DivergenceOptions>& s) {
  s.field("ratio", &DivergenceOptions::ratio,
          "the mean loss of the last updates may be this many times the lowest such mean (and one "
          "nat above it); 0: no limit")
      .at_least(0);
  s.field("window", &DivergenceOptions::window, "updates of that mean").range(1, 10000);
}

void describe(schema::Schema<TrainConfig>& s) {
  using C = TrainConfig;
  s.field("base_model", &C::base_model, "the model to adapt: Hugging Face directory or GGUF file")
      .required()
      .alias("model_name_or_path");
  s.field("output_dir", &C::output_dir, "folder of the run, made by it (docs/run_folder.md)")
      .required();
  s.field("seed", &C::seed, "start of every random choice").at_least(0);
  s.list("datasets", &C::datasets, "what the adapter learns from").required();
  s.section("validation", &C::validation,
            "data whose loss is measured during training and chooses the best adapter");
  s.field(
      "validation_share", &C::validation_share,
      "instead of `validation`: the share of the examples (5%) that is held out of training and "
      "measured; which ones depends on the seed and on each example's tokens alone");
  s.field("sequence_len", &C::sequence_len,
          "most tokens of an example; rows that several share hold as many, or 1024")
      .range(2, 1 << 20)
      .alias("cutoff_len")
      .alias("max_length")
      .alias("max_seq_length");
  s.field("packing", &C::packing, "several examples in a row; they never see each other")
      .alias("sample_packing");
  s.field(
      "share_prefixes", &C::share_prefixes,
      "with packing: what examples of a row have in common at their beginning is computed once; "
      "losses and gradients are the same");
  s.field("shuffle", &C::shuffle, "a new order of the examples in every epoch");
  s.choice(
       "over_length", &C::over_length, data::kOverLengthChoices,
       "what becomes of an example longer than sequence_len: left out, cut to its end (text: to "
       "its start), split (text), or an error")
      .alias("excess_length_strategy");
  s.field("train_on_inputs", &C::train_on_inputs, "learn prompts, too, and not the answers only")
      .alias("train_on_prompt");
  s.choice("train_on_turns", &C::train_on_turns, data::kTurnsChoices,
           "which of a chat's answers are learned");
  s.field("allow_answerless", &C::allow_answerless,
          "leave out examples in which nothing is learned; otherwise they are an error");
  s.field("chat_template", &C::chat_template,
          "file with a Jinja template to use instead of the model's");
  s.field("date", &C::date,
          "the day that the chat template prints as today's, as 2026-11-29; by default that of "
          "SOURCE_DATE_EPOCH, or the day of the start, which a resumed run keeps");
  s.field("special_tokens", &C::special_tokens,
          "tokens that the model has to have as its own, as {eos_token: \"</s>\"}; a model with "
          "others is refused");
  s.field(
      "token_cache", &C::token_cache,
      "keep the tokens in a file that later runs on the same data map; true: in the user's cache "
      "folder");
  s.section("preflight", &C::preflight, "limits that the data has to keep before training starts");
  s.section("adapter", &C::adapter, "what is trained");
  s.field("runs_on", &C::runs_on,
          "programs that will read the adapter as it is written (vllm, llama.cpp, ollama, lorax, "
          "transformers): training is refused when one of them would not, or would compute "
          "something else (docs/export.md)");
  s.field(
      "device", &C::device,
      "what is computed on: cpu, cuda (the first GPU; one for each rank) or cuda:N (docs/gpu.md)");
  s.choice("dtype", &C::dtype,
           {{"auto", DTypeChoice::kAuto},
            {"float32", DTypeChoice::kFloat32},
            {"bfloat16", DTypeChoice::kBFloat16},
            {"f32", DTypeChoice::kFloat32},
            {"fp32", DTypeChoice::kFloat32},
            {"bf16", DTypeChoice::kBFloat16}},
           "numbers of the base and of the products; auto: bfloat16 where the processor or the GPU "
           "has it");
  s.choice("base_quantization", &C::base_quantization,
           {{"none", model::BaseFormat::kDense},
            {"int8", model::BaseFormat::kInt8},
            {"nf4", model::BaseFormat::kNf4}},
           "how the frozen linear layers are kept in memory: nf4 (as QLoRA: 4.1 bits a weight, "
           "scales quantised in turn) or int8 (a scale for each row); the adapter learns on top "
           "of the rounded weights, and records it");
  describe_learning(s);
  describe_running(s);
  s.variants("adapters",
             {"base_model", "output_dir", "device", "dtype", "base_quantization", "threads",
              "memory_limit", "token_cache"},
             "Several adapters that are trained on one base, loaded once, in turns; each equals "
             "the one of a run of its own and has its folder, output_dir/NAME");
  for (const auto& [other, path] : std::initializer_list<std::pair<const char*, const char*>>{
           {"lora_r", "adapter.r"},
           {"lora_rank", "adapter.r"},
           {"lora_alpha", "adapter.lora_alpha"},
           {"lora_dropout", "adapter.lora_dropout"},
           {"lora_target_modules", "adapter.target_modules"},
           {"lora_target", "adapter.target_modules"},
           {"lora_model_dir", "adapter.init_from"},
           {"save_total_limit", "save.keep"},
           {"early_stopping_patience", "early_stopping.patience"}}) {
    s.alias(other, path);
  }
  s.foreign(train_words());
  s.check(check_held_out);
  s.check([](const TrainConfig& c, schema::CheckReport& report) {
    if (auto fault = core::device_name_fault(c.device)) report.problem("device", *std::move(fault));
  });
  s.check([](const TrainConfig& c, schema::CheckReport& report) {
    if (c.examples_per_update && c.packing) {
      report.problem("examples_per_update",
                     "needs packing: false; packed rows are counted by tokens_per_update");
    }
    // A full dump has both keys.
    if (c.examples_per_update && c.tokens_per_update != TrainConfig{}.tokens_per_update) {
      report.problem(
          "tokens_per_update",
          "examples_per_update says how much an update learns from; keep one of the two");
    }
    if (!c.date.empty() && !text::is_date(c.date)) {
      report.problem("date", fmt::format("expected a day, as 2026-11-29, found '{}'", c.date));
    }
    if (c.datasets.empty()) report.problem("datasets", "expected at least one dataset");
    const bool chooses_by_suite = c.evaluate && c.evaluate->keep_best_by;
    if (c.early_stopping && !c.validation && !c.validation_share && !chooses_by_suite) {
      report.problem("early_stopping",
                     "needs `validation` or `validation_share`, the data whose loss it watches, or "
                     "evaluate.keep_best_by");
    }
    if (c.evaluate && c.evaluate->suites.empty()) {
      report.problem("evaluate.suites", "expected at least one suite");
    }
    if (c.tokens_per_update < c.sequence_len && c.packing) {
      report.problem(
          "tokens_per_update",
          fmt::format("{} is less than one packed row of sequence_len ({}); raise it, or "
                      "lower sequence_len",
                      c.tokens_per_update, c.sequence_len));
    }
  });
}

std::vector<schema::Variant<TrainConfig>> load_runs(const std::filesystem::path& file,
                                                    const std::vector<std::string>& overrides,
                                                    const core::Log& log) {
  auto runs = schema::load_variants<TrainConfig>(file, overrides, log);
  for (auto& [name, config, given] : runs) {
    if (name.empty()) continue;
    const bool is_file_name =
        name.front() != '.' && name.size() <= 200 &&
        std::ranges::none_of(name, [](char c) { return c == '/' || (c >= 0 && c < ' '); });
    if (!is_file_name) {
      throw ConfigError(
          "{}: adapters: '{}' is to be the name of a folder; leave out '/' and a dot at its start",
          file.string(), name);
    }
    config.output_dir /= name;
  }
  return runs;
}

lora::AdapterConfig adapter_config(const TrainConfig& config) {
  const AdapterSection& section = config.adapter;
  lora::AdapterConfig adapter;
  adapter.r = section.r;
  adapter.lora_alpha = section.lora_alpha;
  adapter.use_rslora = section.use_rslora;
  adapter.lora_dropout = section.lora_dropout;
  adapter.target_modules = targets_of(section.target_modules);
  adapter.exclude_modules = targets_of(section.exclude_modules);
  adapter.extras.target_parameters = section.target_parameters;
  adapter.layers_to_transform = section.layers_to_transform;
  adapter.rank_pattern.assign(section.rank_pattern.begin(), section.rank_pattern.end());
  adapter.alpha_pattern.assign(section.alpha_pattern.begin(), section.alpha_pattern.end());
  adapter.base_model_name_or_path = config.base_model.string();
  return adapter;
}

data::PromptOptions prompt_options(const TrainConfig& config) {
  data::PromptOptions options;
  options.sequence_len = config.sequence_len;
  options.over_length = config.over_length;
  options.train_on_inputs = config.train_on_inputs;
  options.train_on_turns = config.train_on_turns;
  options.allow_answerless = config.allow_answerless;
  return options;
}

UpdateStreamOptions update_options(const TrainConfig& config, const model::Spec& spec,
                                   std::int64_t row_tokens) {
  UpdateStreamOptions options;
  options.rows.sequence_len = row_tokens;
  options.rows.packing = config.packing;
  // With dynamic scaling a token's rotation depends on how long its example is.
  options.rows.share_prefixes =
      config.share_prefixes && std::ranges::none_of(spec.rotaries, &model::Rope::by_length);
  options.rows.shuffle = config.shuffle;
  options.rows.seed = static_cast<std::uint64_t>(config.seed);
  options.tokens_per_update = config.tokens_per_update;
  options.rows_per_update = config.examples_per_update;
  options.num_epochs = config.num_epochs;
  options.max_updates = config.max_updates;
  return options;
}

model::Compute compute_of(DTypeChoice dtype, const model::ComputeDevice& device) {
  switch (dtype) {
    case DTypeChoice::kFloat32: return model::Compute::kF32;
    case DTypeChoice::kBFloat16: return model::Compute::kBF16;
    case DTypeChoice::kAuto: break;
  }
  return model::best_compute(device);
}

std::string dtype_note(DTypeChoice dtype, model::Compute best) {
  if (dtype != DTypeChoice::kBFloat16 || best == model::Compute::kBF16) return "";
  return "dtype: this processor has no fast products of bfloat16 (AMX, AVX-512 BF16): numbers are "
         "kept in bfloat16 and multiplied in float32, which takes half the memory of dtype: "
         "float32 "
         "and is about as fast";
}

namespace {
/// "evaluate.suites.0.text": where a suite's files lie.
bool is_suite_text(const std::string& key) {
  return key.starts_with("evaluate.suites.") && key.ends_with(".text");
}
}  // namespace

Fingerprint flatten(const TrainConfig& config) {
  Fingerprint flat;
  TrainConfig copy = config;  // `present` of a section wants an object it may change
  flatten_section(*schema::section_info<TrainConfig>(), &copy, "", flat);
  // Where files lie may change; what they hold is compared by digest. What a device's kernels are
  // is compared too, and not which of several it is.
  std::erase_if(flat, [](const auto& entry) {
    return entry.first == "base_model" || entry.first == "device" ||
           entry.first == "adapter.init_from" || entry.first == "adapter.allow_other_base" ||
           entry.first == "chat_template" || is_suite_text(entry.first) ||
           entry.first.ends_with(".path") ||
           // Unknown to runs of version 0.1, where an empty list means the same.
           (entry.first.ends_with(".ignore") && entry.second == "[]") ||
           (entry.first == "special_tokens" && entry.second == "{}") ||
           ((entry.first == "validation_share" || entry.first == "examples_per_update") &&
            entry.second == "(not set)");
  });
  return flat;
}

const std::vector<std::string>& resumable_keys() {
  static const std::vector<std::string> kKeys{"output_dir",
                                              "num_epochs",
                                              "max_updates",
                                              "eval",
                                              "save",
                                              "log_every",
                                              "memory_limit",
                                              "gradient_checkpointing",
                                              "threads",
                                              "program",
                                              "early_stopping",
                                              "preflight",
                                              "token_cache",
                                              "evaluate.every",
                                              "evaluate.at_start",
                                              "evaluate.ledger",
                                              "evaluate.record",
                                              "runs_on",
                                              "date"};
  return kKeys;
}

}  // namespace weft::train
