#include <fmt/format.h>

#include <memory>

#include "cli/adapter_argument.h"
#include "cli/command.h"
#include "cli/interrupt.h"
#include "core/error.h"
#include "core/parallel.h"
#include "core/terminal.h"
#include "export/gguf_lora.h"
#include "export/gguf_model.h"
#include "export/ollama.h"
#include "export/peft.h"
#include "export/readers.h"

namespace weft::cli {
namespace {

struct Options {
  std::string model;
  std::vector<std::string> adapters;
  std::string to;
  std::string type;
  std::string out;
  std::string name;
  std::string pre;
  std::string from;
  std::string profile = "portable";
  std::vector<std::string> check;
  bool force = false;
  bool allow_other_base = false;
  bool json = false;
  int threads = 0;
};

exporting::InputPaths inputs_of(const Options& options) {
  exporting::InputPaths inputs;
  inputs.model = options.model;
  for (const std::string& adapter : options.adapters) {
    const AdapterArgument parsed = parse_adapter(adapter);
    inputs.adapters.push_back({parsed.directory, parsed.weight});
  }
  inputs.allow_other_base = options.allow_other_base;
  return inputs;
}

core::Overwrite overwrite_of(const Options& options) {
  return options.force ? core::Overwrite::kReplace : core::Overwrite::kRefuse;
}

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

void require(const std::string& value, const char* option, const std::string& to) {
  if (value.empty()) throw ConfigError("--to {} needs {}", to, option);
}

int run_gguf(const Options& options) {
  require(options.model, "--model", options.to);
  exporting::GgufRequest request;
  request.inputs = inputs_of(options);
  request.out = options.out;
  request.type = &exporting::find_file_type(options.type.empty() ? "q8_0" : options.type);
  request.name = options.name;
  if (!options.pre.empty()) request.pre = options.pre;
  request.overwrite = overwrite_of(options);
  const exporting::GgufReport report =
      exporting::write_gguf(request, {progress_line(), &catch_interrupts()}, stderr_log("export"));
  if (options.json) {
    fmt::print("{}\n", exporting::report_json(report).dump(2));
  } else {
    fmt::print("{}output    {}\n", exporting::report_table(report), options.out);
  }
  return static_cast<int>(ExitCode::kDone);
}

int print_adapter(const Options& options, const exporting::AdapterReport& report) {
  if (options.json) {
    fmt::print("{}\n", exporting::report_json(report).dump(2));
  } else {
    fmt::print("{}output    {}\n", exporting::report_table(report), options.out);
  }
  return static_cast<int>(ExitCode::kDone);
}

void require_adapter(const Options& options) {
  if (options.adapters.empty()) throw ConfigError("--to {} needs --adapter", options.to);
}

int run_gguf_lora(const Options& options) {
  require(options.model, "--model", options.to);
  require_adapter(options);
  if (options.type != "f32" && options.type != "f16" && !options.type.empty()) {
    throw ConfigError("--to gguf-lora writes --type f32 or f16, not '{}'", options.type);
  }
  exporting::GgufLoraRequest request;
  request.inputs = inputs_of(options);
  request.out = options.out;
  request.half = options.type == "f16";
  request.overwrite = overwrite_of(options);
  return print_adapter(options, exporting::write_gguf_lora(request, stderr_log("export")));
}

int run_peft(const Options& options) {
  require_adapter(options);
  if (options.profile != "portable" && options.profile != "faithful") {
    throw ConfigError("--profile '{}' is unknown; it is portable or faithful", options.profile);
  }
  exporting::PeftRequest request;
  request.adapters = inputs_of(options).adapters;
  request.out = options.out;
  request.profile = options.profile == "faithful" ? exporting::PeftProfile::kFaithful
                                                  : exporting::PeftProfile::kPortable;
  request.overwrite = overwrite_of(options);
  return print_adapter(options, exporting::write_portable_peft(request, stderr_log("export")));
}

int run_ollama(const Options& options) {
  require(options.model, "--model", options.to);
  if (!options.from.empty()) require_adapter(options);
  exporting::OllamaRequest request;
  request.inputs = inputs_of(options);
  request.out = options.out;
  request.type = &exporting::find_file_type(options.type.empty() ? "q8_0" : options.type);
  request.from = options.from;
  request.overwrite = overwrite_of(options);
  const exporting::OllamaReport report = exporting::write_ollama(
      request, {progress_line(), &catch_interrupts()}, stderr_log("export"));
  if (options.json) {
    fmt::print(
        "{}\n",
        nlohmann::json{{"weights", report.weights}, {"chat_template", report.chat_template}}.dump(
            2));
  } else {
    fmt::print("output    {} ({}, Modelfile)\n", options.out, report.weights);
  }
  return static_cast<int>(ExitCode::kDone);
}

/// Exit status 3 when a reader that was asked about does not read the adapter.
int run_check(const Options& options) {
  if (options.adapters.size() != 1) throw ConfigError("--check needs one --adapter");
  const exporting::AdapterTraits adapter =
      exporting::traits_of(parse_adapter(options.adapters.front()).directory);
  std::vector<exporting::ReaderReport> reports;
  bool all = true;
  for (const std::string& reader : options.check) {
    reports.push_back(exporting::check_reader(adapter, reader));
    all = all && reports.back().verdict == exporting::Verdict::kReads;
  }
  if (options.json) {
    fmt::print("{}\n", exporting::report_json(reports).dump(2));
  } else {
    fmt::print("{}", exporting::report_table(reports));
  }
  return static_cast<int>(all ? ExitCode::kDone : ExitCode::kRefused);
}

int run(const Options& options) {
  if (!options.check.empty()) return run_check(options);
  if (options.to.empty()) throw ConfigError("what shall be done? give --to or --check");
  core::set_thread_count(options.threads);
  require(options.out, "--out", options.to);
  if (options.to == "gguf") return run_gguf(options);
  if (options.to == "gguf-lora") return run_gguf_lora(options);
  if (options.to == "peft") return run_peft(options);
  if (options.to == "ollama") return run_ollama(options);
  throw ConfigError("--to '{}' is unknown; it is gguf, gguf-lora, peft or ollama", options.to);
}

}  // namespace

Run add_export(CLI::App& app);
Run add_export(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  app.description("Write a model or an adapter for the programs that run it.");
  app.add_option("--model", options->model, "Hugging Face directory or GGUF file");
  app.add_option("--adapter", options->adapters,
                 "PEFT folder, with an optional weight (DIR:0.5); repeat it to add several")
      ->take_all()
      ->expected(1)
      ->allow_extra_args(false);
  app.add_option("--to", options->to, "gguf, gguf-lora, peft or ollama");
  app.add_option(
      "--type", options->type,
      "of --to gguf: q8_0 (default), f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q4_k_s, q4_k_m, "
      "q5_k_s, q5_k_m, q6_k; of --to gguf-lora: f32 (default), f16");
  app.add_option("--from", options->from,
                 "of --to ollama: a model that Ollama has; the adapter is then not merged");
  app.add_option("--profile", options->profile,
                 "of --to peft: portable (one rank, scales folded in) or faithful")
      ->capture_default_str();
  app.add_option("--out", options->out, "what to write");
  app.add_option("--check", options->check,
                 "tell who reads the adapter as it is: vllm,llama.cpp,ollama,lorax,transformers")
      ->delimiter(',');
  app.add_option("--name", options->name, "general.name of the GGUF file; default: the base's");
  app.add_option("--pre", options->pre,
                 "tokenizer.ggml.pre, where the tokenizer is none that llama.cpp knows");
  app.add_flag("--force", options->force, "replace the output if it exists");
  app.add_flag("--allow-other-base", options->allow_other_base,
               "export even if the adapter records other base weights");
  app.add_flag("--json", options->json, "print the report as JSON");
  app.add_option("--threads", options->threads, "threads; 0 means all cores")
      ->check(whole_number_from(0))
      ->capture_default_str();
  return [options] { return run(*options); };
}

}  // namespace weft::cli
