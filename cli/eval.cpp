#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>

#include "cli/command.h"
#include "cli/computing_model.h"
#include "cli/config_question.h"
#include "cli/device_option.h"
#include "cli/eval_ledger.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "core/error.h"
#include "core/file.h"
#include "core/terminal.h"
#include "eval/report/html.h"
#include "eval/report/report.h"
#include "eval/run/config.h"
#include "eval/run/stages.h"
#include "eval/statistics/gates.h"
#include "model/device.h"
#include "model/runtime.h"
#include "train/memory.h"

namespace weft::cli {
namespace {

/// What the user wrote; options win over the file.
struct EvalArguments {
  std::string config;
  std::vector<std::string> overrides;
  std::string model, adapter, merged, out, report, device, dtype, ledger, tag, against;
  std::vector<std::string> gates;
  std::vector<std::string> text, data, fields;
  std::int64_t sequence_len = 0, limit = 0, generate = 0, threads = -1;
  bool special = false, json = false, allow_other_base = false, force = false, no_ledger = false,
       fresh = false;
  ConfigQuestion question;
};

/// "instruction=Translate: {es}" -> {"instruction", "Translate: {es}"}
std::map<std::string, std::string> parse_fields(const std::vector<std::string>& fields) {
  std::map<std::string, std::string> parsed;
  for (const std::string& field : fields) {
    const std::size_t equals = field.find('=');
    if (equals == std::string::npos || equals == 0) {
      throw ConfigError("--fields {}: expected NAME=TEMPLATE, as in \"output={{nah}}\"", field);
    }
    parsed[field.substr(0, equals)] = field.substr(equals + 1);
  }
  return parsed;
}

eval::EvalConfig configuration(const EvalArguments& arguments, const core::Log& log) {
  eval::EvalConfig config;
  if (!arguments.config.empty()) {
    config = schema::load_config<eval::EvalConfig>(arguments.config, arguments.overrides, log);
  } else if (!arguments.overrides.empty()) {
    throw ConfigError("--set changes a configuration file: name one");
  }
  if (!arguments.model.empty()) config.base_model = arguments.model;
  if (!arguments.adapter.empty()) config.adapter = arguments.adapter;
  if (!arguments.merged.empty()) config.merged = arguments.merged;
  if (!arguments.out.empty()) config.output = arguments.out;
  if (!arguments.report.empty()) config.report = arguments.report;
  if (!arguments.ledger.empty()) config.ledger = arguments.ledger;
  if (!arguments.tag.empty()) config.tag = arguments.tag;
  if (!arguments.against.empty()) config.against = arguments.against;
  config.record &= !arguments.no_ledger;
  config.gates.insert(config.gates.end(), arguments.gates.begin(), arguments.gates.end());
  if (arguments.sequence_len > 0) config.sequence_len = arguments.sequence_len;
  if (arguments.limit > 0) config.limit = arguments.limit;
  if (arguments.threads >= 0) config.threads = arguments.threads;
  if (arguments.generate > 0) {
    if (!config.generate) config.generate.emplace();
    config.generate->examples = arguments.generate;
  }
  config.special_tokens |= arguments.special;
  config.allow_other_base |= arguments.allow_other_base;
  if (!arguments.device.empty()) config.device = arguments.device;
  if (arguments.dtype == "f32") config.dtype = eval::DType::kFloat32;
  if (arguments.dtype == "bf16") config.dtype = eval::DType::kBFloat16;
  if (!arguments.fields.empty() && arguments.data.empty()) {
    throw ConfigError("--fields says what the columns of --data are: give --data FILE, too");
  }
  for (const std::string& file : arguments.text) config.text.emplace_back(file);
  for (const std::string& file : arguments.data) {
    data::DatasetConfig& dataset = config.data.emplace_back();
    dataset.path = {file};
    dataset.fields = parse_fields(arguments.fields);
  }
  eval::validate(config);
  return config;
}

void declare(CommandLine& app, EvalArguments& a) {
  app.description(
      "Measures loss, perplexity and bits per byte on text and on the answers of "
      "instruction data,\nand chrF of generated answers, for a base, the base with an "
      "adapter, and the merged model.");
  app.option("CONFIG", a.config, "YAML file (docs/eval.md)");
  app.option("--set", a.overrides, "PATH=VALUE: change a key of CONFIG").repeated();
  app.option("--model", a.model, "base: Hugging Face directory or GGUF file");
  app.option("--adapter", a.adapter, "PEFT directory: stage 'base+adapter'");
  app.option("--merged", a.merged, "the merged model: stage 'merged'");
  app.option("--text", a.text, "text to score; .jsonl: a document a line, else one document");
  app.option("--data", a.data, "instruction data (.jsonl, .csv, .tsv) whose answers are scored");
  app.option("--fields", a.fields, "NAME=TEMPLATE for --data, e.g. \"output={nah}\"");
  app.option("--generate", a.generate, "answers to generate per data set, for chrF").at_least(1);
  app.option("--sequence-len", a.sequence_len,
             "tokens read at once (default: the smaller of 2048 and the model's limit)")
      .at_least(1);
  app.option("--limit", a.limit, "documents or examples per suite, spread over the file")
      .at_least(1);
  app.flag("--special", a.special, "let the tokenizer add its own BOS/EOS to --text");
  declare_device(app, "--device", a.device, "what computes");
  app.option("--dtype", a.dtype, "f32 (default) or bf16").one_of({"f32", "bf16"});
  app.option("--threads", a.threads, "threads; 0: the cores that the process may use").at_least(0);
  app.flag("--allow-other-base", a.allow_other_base,
           "accept an adapter that was trained on other weights");
  app.flag("--json", a.json, "print JSON instead of tables");
  app.option("--out", a.out, "JSON file for figures, each item's loss and generated answers");
  app.option("--report", a.report, "HTML page with a chart, tables and answers side by side");
  app.option("--gate", a.gates,
             "what has to hold, e.g. \"bits_per_byte.merged - bits_per_byte.adapter <= 0.001\"; "
             "exit status 3 when it does not")
      .repeated();
  app.option("--ledger", a.ledger, "record of all evaluations (default: the nearest weft.db)");
  app.option("--tag", a.tag, "name of this evaluation in the ledger, e.g. v1.2");
  app.option("--against", a.against,
             "compare with an earlier evaluation: ledger:TAG, a number, or latest; exit status 3 "
             "when the same inputs gave other figures");
  app.flag("--no-ledger", a.no_ledger, "do not record this evaluation");
  app.flag("--fresh", a.fresh, "measure again what an evaluation that was killed has finished");
  app.flag("--force", a.force, "overwrite --out and --report");
  declare_question(app, a.question, "docs/eval.md");
}

/// Progress on standard error: one line that is redrawn on a terminal, a line per suite elsewhere.
class ProgressLine {
 public:
  void operator()(const eval::Progress& p) {
    const Clock::time_point now = Clock::now();
    std::string work = fmt::format("{}\n{}\n{}", p.stage, p.suite, p.what);
    if (work != work_) {
      work_ = std::move(work);
      begun_ = now;
    }
    const double seconds = std::chrono::duration<double>(now - begun_).count();
    const bool is_done = p.done == p.total;
    if (!core::stderr_is_terminal()) {
      if (is_done) tell("weft eval: {}\n", eval::progress_text(p, seconds, kLongestLine));
      return;
    }
    if (!is_done && now - drawn_ < std::chrono::milliseconds(100)) return;
    drawn_ = now;
    tell("\r\033[K{}",
         is_done ? "" : eval::progress_text(p, seconds, core::terminal_columns() - 1));
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr int kLongestLine = 200;
  std::string work_;
  Clock::time_point begun_{}, drawn_{};
};

std::vector<eval::GateResult> gate_results(const eval::EvalConfig& config,
                                           const eval::Evaluation& evaluation) {
  std::vector<eval::Gate> gates;
  for (const std::string& text : config.gates) gates.push_back(eval::parse_gate(text));
  std::optional<double> confidence;
  if (config.gate_confidence) confidence = config.gate_confidence->value;
  return eval::check_gates(evaluation, gates, confidence, eval::bootstrap_options(config));
}

/// All that came of an evaluation.
struct Outcome {
  eval::Recorded recorded;
  eval::Analysis analysis;               ///< Of `recorded`, for everything that shows it.
  std::optional<eval::Changes> changes;  ///< Since the evaluation that it is compared with.
  bool is_recorded = true;
  std::string gate_problem{};  ///< What kept the gates from being checked.

  [[nodiscard]] ExitCode status() const {
    const bool passed = std::ranges::all_of(recorded.gates, &eval::GateResult::passed);
    if (!passed || (changes && eval::has_drifted(*changes))) return ExitCode::kRefused;
    return is_recorded ? ExitCode::kDone : ExitCode::kFailed;
  }
};

std::string json_text(const Outcome& outcome, eval::Detail detail) {
  const eval::Recorded& recorded = outcome.recorded;
  auto json = eval::to_json(recorded.evaluation, outcome.analysis, detail, recorded.bootstrap);
  if (!recorded.gates.empty()) json["gates"] = eval::to_json(recorded.gates);
  if (outcome.changes) json["against"] = eval::to_json(*outcome.changes);
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

/// Checks the gates, compares, writes and records; what hours have measured is written before
/// anything else can fail.
Outcome conclude(const eval::EvalConfig& config, const EvalRecord& record,
                 eval::Evaluation evaluation, const core::Log& log) {
  Outcome outcome{
      .recorded = record.recorded(std::move(evaluation), {}), .analysis = {}, .changes = {}};
  outcome.analysis = eval::analyse(outcome.recorded.evaluation, outcome.recorded.bootstrap);
  const auto write = [&] {
    if (config.output) core::write_text(*config.output, json_text(outcome, eval::Detail::kItems));
  };
  write();
  eval::Recorded& recorded = outcome.recorded;
  const auto& earlier = record.earlier();
  if (earlier) outcome.changes = eval::compare(*earlier, recorded);
  try {
    recorded.gates =
        gate_results(config, earlier ? eval::with_earlier(recorded.evaluation, earlier->evaluation)
                                     : recorded.evaluation);
  } catch (const ConfigError& error) {
    outcome.gate_problem = error.what();  // What was measured is kept and shown all the same.
  }
  if (outcome.changes || !recorded.gates.empty()) write();
  outcome.is_recorded = record.write(recorded, outcome.analysis, log);
  if (config.report) {
    const std::int64_t examples = config.generate ? config.generate->show : 0;
    core::write_text(*config.report,
                     eval::to_html(recorded.evaluation, outcome.analysis, recorded.gates,
                                   {.title = config.base_model.filename().string(),
                                    .examples = std::max<std::int64_t>(examples, 12),
                                    .bootstrap = recorded.bootstrap}));
  }
  return outcome;
}

void print_outcome(const Outcome& outcome, const eval::EvalConfig& config, bool json) {
  const eval::Recorded& recorded = outcome.recorded;
  const std::string gates = eval::gates_table(recorded.gates);
  if (json) {
    print("{}", json_text(outcome, eval::Detail::kFigures));
    if (outcome.status() == ExitCode::kRefused) tell("{}", gates);
    return;
  }
  print("{}", eval::to_table(recorded.evaluation, outcome.analysis, recorded.bootstrap));
  if (config.generate && config.generate->show > 0) {
    const std::string samples = eval::to_samples(recorded.evaluation, config.generate->show);
    if (!samples.empty()) print("\n{}", samples);
  }
  if (outcome.changes)
    print("\ncompared with {}\n{}", *config.against,
          eval::to_text(*outcome.changes, *config.against));
  if (!gates.empty()) print("\n{}", gates);
  if (config.report) tell("weft eval: report {}\n", config.report->string());
}

int run(const EvalArguments& arguments) {
  if (answer_about_keys<eval::EvalConfig>(arguments.question, "weft eval")) return 0;
  const core::Log log = stderr_log("eval");
  const eval::EvalConfig config = configuration(arguments, log);
  if (answer_about_values(arguments.question, config)) return 0;
  for (const auto& file : {config.output, config.report}) {
    if (!file) continue;
    core::require_writable(*file, core::OutputKind::kFile,
                           arguments.force ? core::Overwrite::kReplace : core::Overwrite::kRefuse);
  }
  const model::ComputeDevice device = model::open_device(config.device);
  const std::filesystem::path named_after =
      arguments.config.empty() ? config.base_model : std::filesystem::path(arguments.config);
  EvalRecord record(config, named_after.stem().string(), log);
  model::prepare_runtime(static_cast<int>(config.threads));
  eval::Hooks hooks{
      .log = log,
      .progress = ProgressLine{},
      .stop = &catch_interrupts(),
      .before_load = [&device](const std::string& what, std::uint64_t weights, std::uint64_t work) {
        train::require_memory(
            {{"weights of " + what, weights, "dtype: bfloat16"}, {"one row", work, "sequence_len"}},
            train::memory_of(device));
      }};
  if (eval::Ledger* ledger = record.ledger())
    hooks.file_digest = [ledger](const auto& file) { return ledger->file_digest(file); };
  if (record.earlier()) hooks.earlier = &record.earlier()->evaluation;
  hooks.parts = record.parts(arguments.fresh, log);
  record.begin(device);
  const Outcome outcome = conclude(config, record, eval::evaluate(config, hooks), log);
  print_outcome(outcome, config, arguments.json);
  if (!outcome.gate_problem.empty()) throw ConfigError("{}", outcome.gate_problem);
  return static_cast<int>(outcome.status());
}

}  // namespace

Run add_eval(CommandLine& app);
Run add_eval(CommandLine& app) {
  auto arguments = std::make_shared<EvalArguments>();
  declare(app, *arguments);
  return [arguments] { return run(*arguments); };
}

}  // namespace weft::cli
